//go:build component

package neighbour

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

// TestKernelKnowsItsPeers connects two hosts; each must see in its table who the other is, also when the other takes a third one's address.
func TestKernelKnowsItsPeers(t *testing.T) {
	lab, err := testnet.New(t.Context(), testnet.Config{Prefix: "nb", Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	lan, err := lab.Bridge("lan")
	if err != nil {
		t.Fatal(err)
	}
	host := func(name, addr string) *testnet.Host {
		t.Helper()
		h, err := lab.Host(name, lan.At(addr))
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	sat, pc, thief := host("sat", "10.7.0.1/24"), host("pc", "10.7.0.2/24"), host("thief", "10.7.0.3/24")
	l, err := sat.Listen(t.Context(), "tcp", "10.7.0.1:7443")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// connect returns the address that a host comes from and the MAC that the satellite's kernel has for it.
	connect := func(h *testnet.Host) (from netip.Addr, mac string) {
		t.Helper()
		c, err := h.Dial(t.Context(), "tcp", "10.7.0.1:7443")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		from = netip.MustParseAddrPort(s.RemoteAddr().String()).Addr()
		if err := sat.Do(t.Context(), func() error { mac, err = Lookup(from); return err }); err != nil {
			t.Fatal(err)
		}
		return from, mac
	}
	own := func(h *testnet.Host) string {
		t.Helper()
		text, err := h.Output(t.Context(), "cat", "/sys/class/net/lan/address")
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	for _, h := range []*testnet.Host{pc, thief} {
		if from, mac := connect(h); mac != own(h) {
			t.Errorf("%s is %s for the kernel, and has %s", from, mac, own(h))
		}
	}
	// The PC is off, the thief takes its address.
	if err := pc.LinkDown(lan); err != nil {
		t.Fatal(err)
	}
	for _, h := range []struct {
		host *testnet.Host
		args []string
	}{{thief, []string{"address", "flush", "dev", "lan"}}, {thief, []string{"address", "add", "10.7.0.2/24", "dev", "lan"}}, {sat, []string{"neighbour", "flush", "all"}}} {
		if err := h.host.IP(h.args...); err != nil {
			t.Fatal(err)
		}
	}
	if from, mac := connect(thief); from != netip.MustParseAddr("10.7.0.2") || mac != own(thief) {
		t.Errorf("%s is %s for the kernel, though it is the thief, %s", from, mac, own(thief))
	}
}
