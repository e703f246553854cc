//go:build component

package wake

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

// TestPacketReachesTheRightNetwork sends from a host with two networks; only the named one may hear it.
func TestPacketReachesTheRightNetwork(t *testing.T) {
	lab, err := testnet.New(t.Context(), testnet.Config{Prefix: "wake", Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	var lans []*testnet.Bridge
	for _, name := range []string{"lan", "wrong"} {
		b, err := lab.Bridge(name)
		if err != nil {
			t.Fatal(err)
		}
		lans = append(lans, b)
	}
	host := func(name string, links ...testnet.Link) *testnet.Host {
		t.Helper()
		h, err := lab.Host(name, links...)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	sat := host("sat", lans[0].At("10.9.0.1/24"), lans[1].At("10.8.0.1/24"))
	listen := func(h *testnet.Host) net.PacketConn {
		t.Helper()
		c, err := h.ListenPacket(t.Context(), "udp4", "0.0.0.0:9")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	right, wrong := listen(host("pc", lans[0].At("10.9.0.2/24"))), listen(host("other", lans[1].At("10.8.0.2/24")))
	send := func(mac string, l Link) {
		t.Helper()
		if err := sat.Do(t.Context(), func() error { return Send(t.Context(), mac, []Link{l}) }); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(c net.PacketConn, mac string, times int) {
		t.Helper()
		want, err := Packet(mac)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2000)
		for range times {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(buf[:n], want) {
				t.Errorf("from %s: %x, want %x", from, buf[:n], want)
			}
		}
	}
	send("52:54:00:00:00:01", Link{"lan", netip.MustParsePrefix("10.9.0.1/24")})
	expect(right, "52:54:00:00:00:01", 2) // by both addresses
	send("52:54:00:00:00:02", Link{"wrong", netip.MustParsePrefix("10.8.0.1/24")})
	expect(wrong, "52:54:00:00:00:02", 2) // the first was not heard here
}
