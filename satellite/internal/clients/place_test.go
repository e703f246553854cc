package clients

import (
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/state"
)

func TestProven(t *testing.T) {
	t.Parallel()
	const thief = "52:54:00:67:00:66"
	var leased, asked, other = addr, netip.MustParseAddr("192.168.67.30"), netip.MustParseAddr("192.168.67.40")
	lease := Sighting{MAC: pc, Addr: leased, Step: StepAck, Leased: true}
	script := func(a netip.Addr) Sighting { return Sighting{MAC: pc, Addr: a, Step: StepScript} }
	tests := []struct {
		name  string
		seen  []Sighting
		table map[netip.Addr]string
		from  netip.Addr
		want  error
	}{
		{"neighbour", nil, map[netip.Addr]string{other: pc}, other, nil},
		{"another's neighbour", []Sighting{lease}, map[netip.Addr]string{other: thief}, other, ErrAddress},
		{"the client's address on another machine", []Sighting{lease}, map[netip.Addr]string{leased: thief}, leased, ErrAddress},
		{"asked in the client's name", []Sighting{script(other)}, map[netip.Addr]string{other: thief}, other, ErrAddress},
		{"behind a router, leased", []Sighting{lease}, nil, leased, nil},
		{"behind a router, elsewhere", []Sighting{lease}, nil, other, ErrAddress},
		{"behind a router, asked", []Sighting{script(asked)}, nil, asked, nil},
		{"behind a router, leased and asked by another", []Sighting{lease, script(other)}, nil, other, ErrAddress},
		{"behind a router, leased and asked", []Sighting{lease, script(asked)}, nil, leased, nil},
		{"offered only", []Sighting{{MAC: pc, Addr: leased, Step: StepOffer}}, nil, leased, ErrAddress},
		{"lease renewed by the running system", []Sighting{lease, {MAC: pc, Addr: other, Leased: true}}, nil, other, nil},
		{"never seen", nil, nil, leased, ErrAddress},
		{"lease of the boot before", []Sighting{lease, script(leased), {MAC: pc, Addr: leased, Step: StepKernel}, {MAC: pc, Step: StepDiscover}}, nil, leased, ErrAddress},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, func(c *Config) { c.Neighbour = func(a netip.Addr) (string, error) { return tt.table[a], nil } })
			for _, s := range tt.seen {
				r.Saw(s)
			}
			token, err := r.IssueToken(pc)
			if err != nil {
				t.Fatal(err)
			}
			h := agentproto.Hello{Version: 1, MAC: pc, Token: token}
			before := r.List()
			if err := r.Proven(h, netip.AddrFrom16(tt.from.As16())); !errors.Is(err, tt.want) || err != nil && tt.want == nil {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if diff := cmp.Diff(before, r.List(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("the question changed something:\n%s", diff)
			}
			h.Token = strings.Repeat("0", 32)
			if err := r.Proven(h, tt.from); !errors.Is(err, ErrToken) {
				t.Errorf("wrong token: %v", err)
			}
			// A report stream with a good token makes an address the client's for reports, but proves nothing.
			h.Token = token
			if err := r.Hello(h, other); err != nil {
				t.Fatal(err)
			}
			if err := r.Proven(h, tt.from); !errors.Is(err, tt.want) || err != nil && tt.want == nil {
				t.Errorf("after a hello from elsewhere: got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestProvenWithoutNeighbours(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, func(c *Config) {
		c.Neighbour = func(netip.Addr) (string, error) { return "", errors.New("no table") }
	})
	token, err := r.IssueToken(pc)
	if err != nil {
		t.Fatal(err)
	}
	h := agentproto.Hello{Version: 1, MAC: pc, Token: token}
	if err := r.Proven(h, addr); !errors.Is(err, ErrAddress) {
		t.Errorf("unknown place: %v", err)
	}
	r.Saw(Sighting{MAC: pc, Addr: addr, Step: StepAck, Leased: true})
	if err := r.Proven(h, addr); err != nil {
		t.Errorf("leased: %v", err)
	}
}

func TestPlaceSurvivesARestart(t *testing.T) {
	t.Parallel()
	db, err := state.Open(filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	r := newRegistry(t, func(c *Config) { c.Store = db })
	r.Saw(Sighting{MAC: pc, Addr: addr, Step: StepAck, Leased: true})
	token, err := r.IssueToken(pc)
	if err != nil {
		t.Fatal(err)
	}
	r.save()
	again := newRegistry(t, func(c *Config) { c.Store = db })
	if err := again.Proven(agentproto.Hello{Version: 1, MAC: pc, Token: token}, addr); err != nil {
		t.Error(err)
	}
}

func TestPolicyReportIsCleaned(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, nil)
	long := strings.Repeat("x", 1000)
	err := r.Report(pc, addr, agentproto.Report{State: "healthy",
		Policy:   &agentproto.PolicyReport{State: long, Pending: []string{"a\x1b[31mb"}, Errors: make([]string, 99), Took: -1},
		Sessions: append([]agentproto.Session{{Kind: "login", User: "an\nna", Host: long}}, make([]agentproto.Session, 99)...)})
	if err != nil {
		t.Fatal(err)
	}
	c, _ := r.Get(pc)
	p := c.Report.Policy
	if len(p.State) != maxName || p.Pending[0] != "a [31mb" || len(p.Errors) != maxLines || p.Took != 0 {
		t.Errorf("policy %+v", p)
	}
	if s := c.Report.Sessions; len(s) != agentproto.MaxSessions || s[0].User != "an na" || len(s[0].Host) != maxName {
		t.Errorf("%d sessions, the first %+v", len(s), s[0])
	}
}
