package satellite

import (
	"net"
	"net/netip"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// interfaces lists the machine's network interfaces with their addresses, in the kernel's order.
func interfaces() ([]config.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	out := make([]config.Interface, 0, len(all))
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			continue // it has gone since
		}
		x := config.Interface{Name: i.Name, Index: i.Index, MAC: i.HardwareAddr.String(), Up: i.Flags&net.FlagUp != 0}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				x.Addresses = append(x.Addresses, netip.PrefixFrom(p.Addr().Unmap(), p.Bits()))
			}
		}
		out = append(out, x)
	}
	return out, nil
}
