package bootmenu

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

const token = "00112233445566778899aabbccddeeff"

var noon = time.Date(2026, 11, 24, 12, 0, 0, 123456789, time.FixedZone("CET", 3600))

func TestBootConfig(t *testing.T) {
	t.Parallel()
	m := menu(t, func(s *State) {
		s.Desired.Boot.NBDTimeout = 1500 * time.Millisecond
		s.Desired.Boot.DeadTimeout = 48 * time.Hour
		s.Desired.Boot.Shell = true
		s.Ports.NBD = 10810
	})
	got, choice, err := m.BootConfig(ask(pc01, "192.168.67.1"), token, noon)
	if err != nil {
		t.Fatal(err)
	}
	digest := "d1" + strings.Repeat("0", 60) + "07"
	want := agentproto.BootConfig{
		Version: 1, Site: "school", Image: "lab", Number: 7, Digest: digest, Export: "lab@" + digest,
		SizeBytes: 205795328, DataBytes: 204173312,
		Satellites: []agentproto.Satellite{
			{Name: "a1", Addr: "192.168.67.1", NBDPort: 10810, ReportPort: 7443},
			{Name: "a2", Addr: "192.168.67.2", NBDPort: 10810, ReportPort: 7443},
		},
		TrustAnchor: anchor, Token: token, Now: time.Date(2026, 11, 24, 11, 0, 0, 123000000, time.UTC),
		Hostname: "pc01", DNS: []string{"192.168.67.1"}, SearchDomain: "school.example",
		NBDTimeout: agentproto.Duration(2 * time.Second), DeadTimeout: agentproto.Duration(24 * time.Hour), Verity: true, Shell: true,
	}
	if diff := cmp.Diff(want, got); diff != "" || choice.Version.Number != 7 {
		t.Errorf("(-want +got):\n%s", diff)
	}
	text, err := EncodeBootConfig(got)
	if err != nil {
		t.Fatal(err)
	}
	back, err := agentproto.ParseBootConfig(text)
	if err != nil {
		t.Fatalf("the agent refuses it: %v", err)
	}
	if diff := cmp.Diff(&want, back); diff != "" {
		t.Errorf("as the agent reads it (-want +got):\n%s", diff)
	}
}

func TestBootConfigLeavesOutWhatIsUnusable(t *testing.T) {
	t.Parallel()
	m := menu(t, func(s *State) {
		s.Desired.Clients[0].Name = "PC number 1"
		s.Desired.Subnets[0].Domain = "no domain!"
		for range 20 {
			s.Desired.Subnets[0].DNS = append(s.Desired.Subnets[0].DNS, netip.Addr{}, netip.MustParseAddr("9.9.9.9"))
		}
	})
	got, _, err := m.BootConfig(ask(pc01, "192.168.67.1"), token, noon)
	if err != nil {
		t.Fatal(err)
	}
	if got.Hostname != "" || got.SearchDomain != "" || len(got.DNS) != agentproto.MaxDNS {
		t.Errorf("host name %q, domain %q, %d DNS servers", got.Hostname, got.SearchDomain, len(got.DNS))
	}
}

func TestBootConfigErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		change func(*State)
		token  string
		want   error
	}{
		{"nothing to boot", func(s *State) { s.Versions = nil }, token, ErrNothingToBoot},
		{"no trust anchor", func(s *State) { s.TrustAnchor = "" }, token, agentproto.ErrBadConfig},
		{"no address", func(s *State) { s.Desired.Peers = nil }, token, agentproto.ErrBadConfig},
		{"bad token", nil, "x", agentproto.ErrBadConfig},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if _, _, err := menu(t, tt.change).BootConfig(Request{MAC: pc01}, tt.token, noon); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}
