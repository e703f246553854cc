package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/health"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/state/identity"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream"
)

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	root := newRoot(&out, io.Discard)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestCommands(t *testing.T) {
	dir := t.TempDir()
	tests := []struct {
		args []string
		is   error
		text string
	}{
		{[]string{"serve", "--data-dir", dir}, identity.ErrNotJoined, "ltsp-satellite join"},
		{[]string{"serve", "--data-dir", dir, "--log-level", "loud"}, nil, "log level"},
		{[]string{"serve", "--data-dir", dir, "--nbd-port", "80"}, nil, "must differ"},
		{[]string{"status", "--data-dir", dir}, identity.ErrNotJoined, ""},
		{[]string{"status", "--data-dir", dir, "-o", "xml"}, nil, "want table or json"},
		{[]string{"join", "--data-dir", dir, "--controller", "127.0.0.1:1", "--token", "x"}, upstream.ErrToken, "ltspctl token create"},
		{[]string{"join", "--data-dir", dir}, nil, "required flag"},
		{[]string{"fly"}, nil, "unknown command"},
	}
	for _, tt := range tests {
		_, err := run(t, tt.args...)
		if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%v: %v", tt.args, err)
		}
	}
	for _, args := range [][]string{{"version"}, {"accounts-script"}, {"completion", "bash"}, {"--help"}} {
		if out, err := run(t, args...); err != nil || out == "" {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
}

func TestPrintStatus(t *testing.T) {
	var out bytes.Buffer
	err := printStatus(&out, health.Status{Site: "hill", Satellite: "sat1", Controller: "c:7400", Connected: true, DiskSizeBytes: 2_000_000_000, DiskFreeBytes: 999,
		Clients:  map[string]int{"healthy": 3, "lost": 0, "booting": 1},
		Versions: []health.Version{{Image: "lab", Number: 2, State: "fetching", BytesDone: 500_000, BytesTotal: 2_000_000, Channels: []string{"stable"}}},
		Subnets:  []health.Subnet{{Name: "room1", State: "serving", Leases: 1, RangeSize: 10}}, Members: []health.Member{{Name: "sat2", State: "dead"}},
		Problems:  []string{"port 80 is taken"},
		Policy:    health.Policy{Revision: 7, Levels: 3, Missing: 1},
		LoginHost: health.LoginHost{Address: "10.0.0.5", State: "denied", Error: "no key", PublicKey: "ssh-ed25519 AAAA sat1"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"sat1 of site hill", "c:7400, connected", "999 B free of 2.0 GB", "1 booting, 3 healthy", "25% of 2.0 MB", "1 of 10", "dead", "port 80 is taken",
		"of revision 7, 3 levels; a newer one lacks 1 archives", "10.0.0.5, denied (no key), no accounts yet", "ssh-ed25519 AAAA sat1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
}
