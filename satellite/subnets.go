package satellite

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/dhcp"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

// States of a subnet as reports name them.
const (
	subnetServing     = "serving"
	subnetOff         = "off"
	subnetNoInterface = "no-interface"
)

// serveDHCP gives the DHCP server its subnets and fixed addresses.
func (d *director) serveDHCP(desired *config.Desired, links []config.Link, missing []config.Subnet) {
	states := make(map[string]subnetState)
	want := dhcp.Settings{Reservations: reservations(desired)}
	var names []string
	// Where this satellite answers nobody, it leaves the DHCP ports to others.
	silent := !slices.ContainsFunc(desired.Subnets, d.answers)
	for _, l := range links {
		i := dhcpInterface(l)
		if !silent && !slices.ContainsFunc(want.Interfaces, func(o dhcp.Interface) bool { return o.Name == i.Name }) {
			want.Interfaces = append(want.Interfaces, i)
		}
		states[l.Subnet.Name] = subnetState{subnetServing, l.Interface.Name}
		if d.answers(l.Subnet) {
			names = append(names, l.Interface.Name)
		}
	}
	for _, s := range missing {
		states[s.Name] = subnetState{subnetNoInterface, ""}
	}
	for _, s := range desired.Subnets {
		n := dhcpSubnet(s)
		if !d.answers(s) {
			n.Mode = dhcp.Off
			states[s.Name] = subnetState{subnetOff, states[s.Name].iface}
		}
		want.Subnets = append(want.Subnets, n)
	}
	d.applyDHCP(want, states)
	slices.Sort(names)
	d.sat.ra.SetInterfaces(slices.Compact(names))
	d.tellSubnets(states)
}

// applyDHCP hands the settings over. If the server refuses them, what it refuses alone is left out and named, and the rest is in force.
func (d *director) applyDHCP(want dhcp.Settings, states map[string]subnetState) {
	if reflect.DeepEqual(want, d.dhcp.wanted) {
		maps.Copy(states, d.dhcp.refused)
		return
	}
	d.dhcp = dhcpState{wanted: want, refused: make(map[string]subnetState)}
	problem := ""
	if err := d.sat.dhcp.SetConfig(want); err != nil {
		d.log.Warn("part of the DHCP settings is unusable", "err", err)
		problem = d.applyOneByOne(want, states)
	}
	d.sat.board.Set("dhcp/reservations", problem)
	maps.Copy(states, d.dhcp.refused)
}

// applyOneByOne adds subnet after subnet and fixed address after fixed address. It returns a line about addresses that are not in force.
func (d *director) applyOneByOne(want dhcp.Settings, states map[string]subnetState) (problem string) {
	got := dhcp.Settings{Interfaces: want.Interfaces}
	for _, n := range want.Subnets {
		with := got
		with.Subnets = append(slices.Clone(got.Subnets), n)
		if err := d.sat.dhcp.SetConfig(with); err != nil {
			d.dhcp.refused[n.Name] = subnetState{"error: " + err.Error(), states[n.Name].iface}
			continue
		}
		got = with
	}
	var last error
	for _, r := range want.Reservations {
		with := got
		with.Reservations = append(slices.Clone(got.Reservations), r)
		if err := d.sat.dhcp.SetConfig(with); err != nil {
			last = err
			continue
		}
		got = with
	}
	if last == nil {
		return ""
	}
	return fmt.Sprintf("%d of %d fixed addresses are not in force: %v", len(want.Reservations)-len(got.Reservations), len(want.Reservations), last)
}

// dhcpState is what the director knows of the DHCP server.
type dhcpState struct {
	wanted  dhcp.Settings
	refused map[string]subnetState // subnets that the server does not take
}

// answers tells whether this satellite does DHCP on a subnet.
func (d *director) answers(s config.Subnet) bool {
	return s.Mode != config.Off && (s.DHCPSatellite == "" || s.DHCPSatellite == d.sat.id.Name())
}

func dhcpInterface(l config.Link) dhcp.Interface {
	return dhcp.Interface{Name: l.Interface.Name, Index: l.Interface.Index, Addr: l.Address}
}

func dhcpSubnet(s config.Subnet) dhcp.Subnet {
	return dhcp.Subnet{Name: s.Name, Prefix: s.CIDR, Mode: dhcp.Mode(s.Mode), RangeStart: s.RangeStart, RangeEnd: s.RangeEnd, Gateway: s.Gateway,
		DNS: s.DNS, Domain: s.Domain, LeaseTime: s.LeaseTime}
}

// reservations returns the fixed addresses; the first entry of a MAC or an address counts.
func reservations(desired *config.Desired) []lease.Reservation {
	var out []lease.Reservation
	macs := make(map[lease.MAC]bool)
	addrs := make(map[netip.Addr]bool)
	for _, c := range desired.Clients {
		mac, err := lease.ParseMAC(c.MAC)
		if err != nil || !c.Address.IsValid() || macs[mac] || addrs[c.Address] {
			continue
		}
		macs[mac], addrs[c.Address] = true, true
		out = append(out, lease.Reservation{MAC: mac, Addr: c.Address, Hostname: c.Name})
	}
	return out
}

// tellSubnets remembers the states for reports and names those that a person should look at.
func (d *director) tellSubnets(states map[string]subnetState) {
	desired := d.current()
	d.mu.Lock()
	old := d.subnets
	d.subnets = states
	d.mu.Unlock()
	for name := range old {
		if _, ok := states[name]; !ok {
			d.sat.board.Set("subnet/"+name, "")
		}
	}
	for _, s := range slices.SortedFunc(slices.Values(desired.Subnets), compareSubnets) {
		text := ""
		switch st := states[s.Name].state; {
		case st == subnetNoInterface && (s.DHCPSatellite != "" || len(desired.Peers) < 2):
			text = fmt.Sprintf("subnet %s (%s): no interface of this satellite has an address in it", s.Name, s.CIDR)
		case strings.HasPrefix(st, "error:"):
			text = fmt.Sprintf("subnet %s: %s", s.Name, st)
		}
		d.sat.board.Set("subnet/"+s.Name, text)
	}
}

// subnetStates returns the states by name.
func (d *director) subnetStates() map[string]subnetState {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.subnets)
}
