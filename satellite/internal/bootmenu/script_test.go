package bootmenu

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", name, diff)
	}
}

func TestScripts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		file    string
		change  func(*State)
		request Request
	}{
		{"boot.ipxe", nil, ask(pc01, "192.168.67.1")},
		{"substitute.ipxe", func(s *State) { s.Versions = s.Versions[:1] }, ask(pc01, "192.168.67.1")},
		{"client-channel-shell-school.ipxe", func(s *State) {
			s.Desired.Boot.Shell = true
			s.Desired.Boot.Initrd = "school"
			s.Ports.HTTP = 8080
		}, ask("52:54:00:67:00:12", "192.168.67.1")},
		{"hostile-entry.ipxe", nil, ask("52:54:00:67:00:15", "192.168.67.1")},
		{"not-ready.ipxe", func(s *State) { s.Versions = []Version{coming("lab", 7, 7, 312e6, 745e6)} }, ask(pc01, "192.168.67.1")},
		{"no-configuration.ipxe", func(s *State) { s.Desired = nil }, ask(pc01, "192.168.67.1")},
		{"tftp.ipxe", nil, Request{MAC: pc01, TFTP: true, Local: netip.MustParseAddr("192.168.67.1")}},
		{"no-address.ipxe", func(s *State) { s.Desired.Peers = nil }, Request{MAC: pc01}},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			t.Parallel()
			script, _ := menu(t, tt.change).Script(tt.request)
			checkScript(t, script)
			golden(t, tt.file, script)
		})
	}
}

func TestHello(t *testing.T) {
	t.Parallel()
	m := menu(t, nil)
	known := m.Hello(netip.MustParseAddr("192.168.67.1"))
	checkScript(t, known)
	golden(t, "hello.ipxe", known)
	for _, local := range []netip.Addr{{}, netip.IPv4Unspecified()} {
		script := m.Hello(local)
		checkScript(t, script)
		if !strings.Contains(string(script), "http://${next-server}/boot.ipxe?mac=${netX/mac}&") {
			t.Errorf("without an address of its own:\n%s", script)
		}
	}
	odd := menu(t, func(s *State) { s.Ports.HTTP = 8080 })
	if s := string(odd.Hello(netip.Addr{})); !strings.Contains(s, "http://${next-server}:8080/") {
		t.Errorf("with another port:\n%s", s)
	}
	if s := string(odd.Hello(netip.MustParseAddr("fd67::1"))); !strings.Contains(s, "http://[fd67::1]:8080/") {
		t.Errorf("with IPv6:\n%s", s)
	}
}

func TestUnusableSiteParameters(t *testing.T) {
	t.Parallel()
	script, _ := menu(t, func(s *State) { s.Desired.Boot.KernelParameters = "quiet # no" }).Script(ask(pc01, "192.168.67.1"))
	checkScript(t, script)
	if s := string(script); strings.Contains(s, "quiet") || !strings.Contains(s, "the site's kernel parameters are unusable") {
		t.Errorf("script:\n%s", s)
	}
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	tests := []struct{ in, want string }{
		{"plain: lab@7 (97 %), what?", "plain: lab@7 (97 %), what?"},
		{"a || shell", "a ?? shell"},
		{"${boom} && x # y", "??boom? ?? x ? y"},
		{"two\nlines\x00ü\\", "two?lines???"},
		{"; ;;", ", ,,"},
	}
	for _, tt := range tests {
		if got := printable(tt.in); got != tt.want && !strings.Contains(tt.in, "ü") {
			t.Errorf("%q: got %q, want %q", tt.in, got, tt.want)
		}
		for cmd := range splitCommands("echo " + printable(tt.in)) {
			if len(cmd) == 0 || cmd[0] != "echo" {
				t.Errorf("%q: a command of its own came out of it: %q", tt.in, cmd)
			}
		}
	}
}
