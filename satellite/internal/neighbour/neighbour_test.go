package neighbour

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/hw"
)

const table = `IP address       HW type     Flags       HW address            Mask     Device
10.0.0.5         0x1         0x2         52:54:00:AA:00:05     *        eth0
10.0.0.6         0x1         0x0         00:00:00:00:00:00     *        eth0
10.0.0.7         0x1         0x6         52:54:00:aa:00:07     *        eth0
10.0.0.8         0x1         0x2         00:00:00:00:00:00     *        eth0
10.0.0.50        0x1         0x2         52:54:00:aa:00:50     *        eth0
10.0.0.9         0x1         junk        52:54:00:aa:00:09     *        eth0
10.0.0.4
`

func TestFind(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"10.0.0.5": "52:54:00:aa:00:05", "10.0.0.7": "52:54:00:aa:00:07", "10.0.0.50": "52:54:00:aa:00:50",
		"10.0.0.6": "", "10.0.0.8": "", "10.0.0.9": "", "10.0.0.4": "", "10.0.0.1": "", "fd00::1": "",
	} {
		if got, err := find(strings.NewReader(table), netip.MustParseAddr(addr)); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", addr, got, err, want)
		}
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	if mac, err := Lookup(netip.MustParseAddr("::ffff:127.0.0.1")); err != nil || mac != "" {
		t.Errorf("this machine: %q, %v", mac, err)
	}
}

func FuzzFind(f *testing.F) {
	f.Add(table, "10.0.0.5")
	f.Fuzz(func(t *testing.T, table, text string) {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return
		}
		mac, err := find(strings.NewReader(table), addr)
		if err != nil || mac == "" {
			return
		}
		if again, err := hw.ParseMAC(mac); err != nil || again.String() != mac {
			t.Errorf("found %q", mac)
		}
	})
}
