package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// patience bounds waits; it is reached only when something is broken.
const patience = 30 * time.Second

// sat is one satellite of a test on a loopback address of its own.
type sat struct {
	*Cluster
	changed chan struct{}
	cancel  context.CancelFunc
	done    chan struct{}
	s       Settings
}

func key(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func startSat(t *testing.T, n int, port uint16, key []byte) *sat {
	t.Helper()
	addr := netip.AddrFrom4([4]byte{127, 0, 7, byte(n)})
	x := &sat{changed: make(chan struct{}, 1), done: make(chan struct{}),
		s: Settings{Site: "hill", Name: fmt.Sprintf("sat%d", n), Key: key, Advertise: addr, Bind: addr, Port: port}}
	for i := 1; i <= 3; i++ {
		if i != n {
			x.s.Peers = append(x.s.Peers, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 7, byte(i)}), port))
		}
	}
	var err error
	x.Cluster, err = New(Config{Changed: func() { poke(x.changed) }, Local: true, KeyDelay: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	x.cancel = cancel
	go func() { defer close(x.done); _ = x.Run(ctx) }()
	t.Cleanup(x.stop)
	x.SetSettings(x.s)
	return x
}

func (x *sat) stop() { x.cancel(); <-x.done }

// until waits until the members are what want says: "name state versions" per member.
func (x *sat) until(t *testing.T, want ...string) {
	t.Helper()
	deadline := time.After(patience)
	for {
		var got []string
		for _, m := range x.Members() {
			got = append(got, strings.TrimSpace(m.Name+" "+m.State+" "+strings.Join(m.Versions, ",")))
		}
		diff := cmp.Diff(want, got)
		if diff == "" {
			return
		}
		select {
		case <-x.changed:
		case <-deadline:
			t.Fatalf("members of %s (-want +got):\n%s", x.s.Name, diff)
		}
	}
}

// freePort finds a port that is free on the test's addresses.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.7.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func TestThreeSatellites(t *testing.T) {
	port := freePort(t)
	a, b, c := startSat(t, 1, port, key(1)), startSat(t, 2, port, key(1)), startSat(t, 3, port, key(1))
	a.SetVersions([]string{"lab@aa", "ipxe@bb"})
	b.SetVersions([]string{"lab@aa"})
	want := []string{"sat1 alive ipxe@bb,lab@aa", "sat2 alive lab@aa", "sat3 alive"}
	for _, x := range []*sat{a, b, c} {
		x.until(t, want...)
	}
	c.SetVersions([]string{"lab@cc"})
	a.until(t, "sat1 alive ipxe@bb,lab@aa", "sat2 alive lab@aa", "sat3 alive lab@cc")
	b.stop()
	want = []string{"sat1 alive ipxe@bb,lab@aa", "sat2 left", "sat3 alive lab@cc"}
	a.until(t, want...)
	c.until(t, want...)
	b = startSat(t, 2, port, key(1))
	b.SetVersions(nil)
	for _, x := range []*sat{a, b, c} {
		x.until(t, "sat1 alive ipxe@bb,lab@aa", "sat2 alive", "sat3 alive lab@cc")
	}
}

func TestStrangersStayOut(t *testing.T) {
	port := freePort(t)
	a, b := startSat(t, 1, port, key(1)), startSat(t, 2, port, key(2))
	x := startSat(t, 3, port, key(1))
	a.until(t, "sat1 alive", "sat3 alive")
	x.until(t, "sat1 alive", "sat3 alive")
	b.until(t, "sat2 alive")
}

func TestKeyChangesWhileRunning(t *testing.T) {
	port := freePort(t)
	a, b := startSat(t, 1, port, key(1)), startSat(t, 2, port, key(1))
	a.until(t, "sat1 alive", "sat2 alive")
	b.until(t, "sat1 alive", "sat2 alive")
	for _, x := range []*sat{a, b} {
		x.s.Key = key(2)
		x.SetSettings(x.s)
	}
	// A third one knows the new key only.
	c := startSat(t, 3, port, key(2))
	for _, x := range []*sat{a, b, c} {
		x.until(t, "sat1 alive", "sat2 alive", "sat3 alive")
	}
}

func TestNoKeyNoCluster(t *testing.T) {
	port := freePort(t)
	a := startSat(t, 1, port, key(1))
	a.until(t, "sat1 alive")
	a.s.Key = nil
	a.SetSettings(a.s)
	a.until(t)
}

func TestPortTakenIsAProblem(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.7.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	problems := make(chan string, 10)
	c, err := New(Config{Local: true, Problem: func(_, text string) {
		if text != "" {
			problems <- text
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	defer func() { cancel(); <-done }()
	addr := netip.MustParseAddr("127.0.7.1")
	c.SetSettings(Settings{Site: "hill", Name: "sat1", Key: key(1), Advertise: addr, Bind: addr, Port: uint16(l.Addr().(*net.TCPAddr).Port)})
	select {
	case <-problems:
	case <-time.After(patience):
		t.Fatal("no problem was told")
	}
}

func TestDecodeRefuses(t *testing.T) {
	many := make([]node, maxNodes+1)
	for i := range many {
		many[i] = node{Name: "x"}
	}
	tests := map[string][]byte{
		"no JSON":         []byte("hello"),
		"empty":           nil,
		"version":         []byte(`{"v":2,"nodes":[]}`),
		"no name":         []byte(`{"v":1,"nodes":[{"seq":1}]}`),
		"long version":    encode([]node{{Name: "a", Versions: []string{strings.Repeat("x", maxText+1)}}}),
		"many versions":   encode([]node{{Name: "a", Versions: make([]string, maxVersions+1)}}),
		"larger than all": bytes.Repeat([]byte(" "), maxMessageBytes+1),
	}
	for name, b := range tests {
		if _, err := decode(b); !errors.Is(err, errMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if nodes, err := decode(encode(many)); err != nil || len(nodes) != maxNodes {
		t.Errorf("encode does not cut: %d nodes, %v", len(nodes), err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode([]node{{Name: "sat1", Sequence: 7, Versions: []string{"lab@aa"}}, {Name: "sat2", Left: true}}))
	f.Add([]byte(`{"v":1,"nodes":null}`))
	f.Add([]byte(`{"v":1,"nodes":[{"name":"a","seq":18446744073709551615}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		nodes, err := decode(b)
		if err != nil {
			return
		}
		again, err := decode(encode(nodes))
		if err != nil || len(again) != len(nodes) {
			t.Fatalf("what was decoded can't be decoded again: %v", err)
		}
	})
}
