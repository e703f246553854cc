package config

import (
	"net/netip"
	"slices"
)

// Interface is a network interface of this machine.
type Interface struct {
	Name      string
	Index     int
	MAC       string
	Addresses []netip.Prefix
	Up        bool
}

// Link is a subnet that this machine is attached to: through which interface and with which address of its own.
type Link struct {
	Subnet    Subnet
	Interface Interface
	Address   netip.Prefix
}

// Match finds the interface of each subnet: one that is up, is named in only (if only is not empty) and has an address inside the
// subnet's CIDR. The first in the order of ifaces wins. Subnets without one are returned in missing; both results keep the
// order of subnets.
func Match(subnets []Subnet, ifaces []Interface, only []string) (links []Link, missing []Subnet) {
	for _, s := range subnets {
		if l, ok := match(s, ifaces, only); ok {
			links = append(links, l)
		} else {
			missing = append(missing, s)
		}
	}
	return links, missing
}

func match(s Subnet, ifaces []Interface, only []string) (Link, bool) {
	for _, i := range ifaces {
		if !i.Up || len(only) > 0 && !slices.Contains(only, i.Name) {
			continue
		}
		for _, a := range i.Addresses {
			if s.CIDR.Contains(a.Addr().Unmap()) {
				return Link{Subnet: s, Interface: i, Address: a}, true
			}
		}
	}
	return Link{}, false
}
