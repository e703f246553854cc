package rootprep

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/testtree"
)

func TestHostname(t *testing.T) {
	t.Parallel()
	tests := []struct {
		addr  string
		names []string
		want  string
	}{
		{"192.168.67.20/24", nil, "ltsp20"},
		{"10.161.254.38/16", nil, "ltsp65062"},
		{"10.0.1.4/23", nil, "ltsp260"},
		{"10.1.2.3/8", nil, "ltsp66051"},
		{"10.1.2.3/32", nil, "ltsp0"},
		{"192.168.67.20/24", []string{"pc07", "other"}, "pc07"},
		{"192.168.67.20/24", []string{"", "from-dhcp.school.example"}, "from-dhcp"},
		{"192.168.67.20/24", []string{"bad name", "-x", "192 168"}, "ltsp20"},
	}
	for _, tt := range tests {
		if got := Hostname(netip.MustParsePrefix(tt.addr), tt.names...); got != tt.want {
			t.Errorf("%s %v: got %s, want %s", tt.addr, tt.names, got, tt.want)
		}
	}
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	run := t.TempDir()
	if err := Prepare(rootdir.Root(run)); err != nil {
		t.Fatal(err)
	}
	// Read through the link.
	if got := testtree.Read(t, run, "systemd/system/multi-user.target.wants/ltsp-agent.service"); !strings.Contains(got, "ExecStart=/run/ltsp/agent resident\n") {
		t.Errorf("unit: %s", got)
	}
	if got := testtree.Read(t, run, "udev/rules.d/10-ltsp-root.rules"); strings.Count(got, `FLAG}="1"`) != 3 || !strings.Contains(got, `ATTR{dm/name}=="`+RootDevice+`",`) {
		t.Errorf("rules: %s", got)
	}
	if err := Prepare(rootdir.Root(testtree.New(t, map[string]string{"systemd": "a file"}))); err == nil {
		t.Error("no error though nothing can be written")
	}
}
