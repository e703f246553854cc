package bootmenu

import (
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// server is a satellite as one client reaches it.
type server struct {
	name string
	addr netip.Addr
}

// servers returns the satellites of the site for one client: this one by the address on which it was asked, then the others in an order that
// the MAC turns, so that the clients of a dead satellite spread over the rest. It is empty only if no address of this
// satellite is known and no other satellite has one.
func (m *Menu) servers(r Request, subnet *config.Subnet) []server {
	var own netip.Addr
	var others []server
	for _, p := range m.state.Desired.Peers {
		if pki.CheckName(p.Name) != nil {
			continue
		}
		addr, ok := reachable(p.Addresses, r.Client, subnet)
		switch {
		case !ok:
		case p.Name == m.state.Satellite:
			own = addr
		default:
			others = append(others, server{p.Name, addr})
		}
	}
	if local := r.Local.Unmap(); local.IsValid() && !local.IsUnspecified() && !local.IsMulticast() {
		own = local
	}
	list := rotate(others, r.MAC)
	if own.IsValid() {
		list = slices.Insert(list, 0, server{m.state.Satellite, own})
	}
	return list[:min(len(list), agentproto.MaxSatellites)]
}

func rotate(list []server, mac string) []server {
	if len(list) < 2 || mac == "" {
		return list
	}
	h := fnv.New32a()
	h.Write([]byte(mac))
	n := int(h.Sum32() % uint32(len(list)))
	return slices.Concat(list[n:], list[:n])
}

// reachable picks the address of a satellite that a client reaches best: one in the client's own subnet, else the first that is no loopback
// or link-local address.
func reachable(addrs []netip.Prefix, client netip.Addr, subnet *config.Subnet) (netip.Addr, bool) {
	var first netip.Addr
	for _, p := range addrs {
		a := p.Addr().Unmap()
		if !a.IsGlobalUnicast() {
			continue
		}
		if subnet != nil && subnet.CIDR.Contains(a) || client.IsValid() && p.Masked().Contains(client.Unmap()) {
			return a, true
		}
		if !first.IsValid() {
			first = a
		}
	}
	return first, first.IsValid()
}
