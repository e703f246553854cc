package api

import (
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

// stamp leaves zero times out.
func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// moment reads a time; what is out of range counts as not set.
func moment(t *timestamppb.Timestamp) time.Time {
	if t == nil || !t.IsValid() {
		return time.Time{}
	}
	return t.AsTime()
}

// span leaves zero durations out.
func span(d fleet.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(time.Duration(d))
}

func duration(d *durationpb.Duration) fleet.Duration { return fleet.Duration(d.AsDuration()) }

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// parseAddr reads an address; empty means none.
func parseAddr(what, s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fleet.Errorf(fleet.ErrInvalid, "%s: %q is no IP address", what, s)
	}
	return a.Unmap(), nil
}

func hashBytes(h fleet.Hash) []byte {
	if h.IsZero() {
		return nil
	}
	return h[:]
}

func bootToProto(p fleet.BootPolicy) *satellitev1.BootPolicy {
	return &satellitev1.BootPolicy{
		KernelParameters: p.KernelParameters, Shell: p.Shell, Initrd: p.Initrd, Boot: p.Boot, NbdTimeout: span(p.NBDTimeout), DeadTimeout: span(p.DeadTimeout),
	}
}

func bootFromProto(p *satellitev1.BootPolicy) fleet.BootPolicy {
	return fleet.BootPolicy{
		KernelParameters: p.GetKernelParameters(), Shell: p.GetShell(), Initrd: p.GetInitrd(), Boot: p.GetBoot(),
		NBDTimeout: duration(p.GetNbdTimeout()), DeadTimeout: duration(p.GetDeadTimeout()),
	}
}

func siteFromProto(p *adminv1.Site) fleet.Site {
	return fleet.Site{
		Name: p.GetName(), Description: p.GetDescription(), Images: p.GetImages(), Boot: bootFromProto(p.GetBoot()),
		Transfer: transferFromProto(p.GetTransfer()), LoginHost: loginHostFromProto(p.GetLoginHost()), AllowRun: p.GetAllowRun(), Revision: p.GetRevision(),
	}
}

func siteToProto(s fleet.Site) *adminv1.Site {
	return &adminv1.Site{
		Name: s.Name, Description: s.Description, Images: s.Images, Boot: bootToProto(s.Boot), Transfer: transferToProto(s.Transfer),
		LoginHost: loginHostToProto(s.LoginHost), AllowRun: s.AllowRun, Created: stamp(s.Created), Revision: s.Revision,
	}
}

func modeToProto(m fleet.DHCPMode) satellitev1.DhcpMode {
	switch m {
	case fleet.Authoritative:
		return satellitev1.DhcpMode_DHCP_MODE_AUTHORITATIVE
	case fleet.Proxy:
		return satellitev1.DhcpMode_DHCP_MODE_PROXY
	case fleet.Off:
		return satellitev1.DhcpMode_DHCP_MODE_OFF
	}
	return satellitev1.DhcpMode_DHCP_MODE_UNSPECIFIED
}

func modeFromProto(m satellitev1.DhcpMode) fleet.DHCPMode {
	switch m {
	case satellitev1.DhcpMode_DHCP_MODE_UNSPECIFIED:
		return ""
	case satellitev1.DhcpMode_DHCP_MODE_AUTHORITATIVE:
		return fleet.Authoritative
	case satellitev1.DhcpMode_DHCP_MODE_PROXY:
		return fleet.Proxy
	case satellitev1.DhcpMode_DHCP_MODE_OFF:
		return fleet.Off
	}
	return fleet.DHCPMode(m.String()) // refused by the check, with the number in the message
}

func subnetToProto(s fleet.Subnet) *satellitev1.Subnet {
	p := &satellitev1.Subnet{
		Name: s.Name, Cidr: s.CIDR.String(), Mode: modeToProto(s.Mode), RangeStart: addrText(s.Start), RangeEnd: addrText(s.End), Gateway: addrText(s.Gateway),
		Domain: s.Domain, LeaseTime: span(s.LeaseTime), Boot: s.Boot, DhcpSatellite: s.Satellite,
		Room: s.Room,
	}
	for _, a := range s.DNS {
		p.Dns = append(p.Dns, a.String())
	}
	return p
}

func subnetFromProto(p *adminv1.Subnet) (fleet.Subnet, error) {
	n := p.GetSubnet()
	s := fleet.Subnet{
		Site: p.GetSite(), Name: n.GetName(), Mode: modeFromProto(n.GetMode()), Domain: n.GetDomain(), LeaseTime: duration(n.GetLeaseTime()),
		Boot: n.GetBoot(), Satellite: n.GetDhcpSatellite(), Room: n.GetRoom(), Revision: p.GetRevision(),
	}
	var err error
	if s.CIDR, err = netip.ParsePrefix(n.GetCidr()); err != nil {
		return s, fleet.Errorf(fleet.ErrInvalid, "subnet %s: %q is no network: want ADDRESS/BITS", s.Name, n.GetCidr())
	}
	for _, f := range []struct {
		what string
		text string
		addr *netip.Addr
	}{{"range start", n.GetRangeStart(), &s.Start}, {"range end", n.GetRangeEnd(), &s.End}, {"gateway", n.GetGateway(), &s.Gateway}} {
		if *f.addr, err = parseAddr("subnet "+s.Name+": "+f.what, f.text); err != nil {
			return s, err
		}
	}
	for _, text := range n.GetDns() {
		a, err := parseAddr("subnet "+s.Name+": DNS server", text)
		if err != nil {
			return s, err
		}
		s.DNS = append(s.DNS, a)
	}
	return s, nil
}

func clientToProto(c fleet.Client) *satellitev1.Client {
	return &satellitev1.Client{
		Mac: string(c.MAC), Name: c.Name, Address: addrText(c.Address), Boot: c.Boot, KernelParameters: c.KernelParameters, Room: c.Room,
	}
}

func clientFromProto(site string, revision uint64, p *satellitev1.Client) (fleet.Client, error) {
	mac, err := fleet.ParseMAC(p.GetMac())
	if err != nil {
		return fleet.Client{}, err
	}
	address, err := parseAddr("client "+string(mac), p.GetAddress())
	return fleet.Client{
		Site: site, MAC: mac, Name: p.GetName(), Address: address, Boot: p.GetBoot(), KernelParameters: p.GetKernelParameters(),
		Room: p.GetRoom(), Revision: revision,
	}, err
}

func tokenToProto(t fleet.Token, now time.Time) *adminv1.Token {
	return &adminv1.Token{
		Id: t.ID, Site: t.Site, State: t.State(now), Created: stamp(t.Created), Expires: stamp(t.Expires), CreatedBy: t.CreatedBy, UsedBy: t.UsedBy, Role: string(t.Role),
	}
}

func auditToProto(e store.AuditEntry) *adminv1.AuditEntry {
	return &adminv1.AuditEntry{
		Sequence: e.Sequence, Time: stamp(e.Time), Actor: e.Actor, Action: e.Action, Object: e.Object,
		Before: string(e.Before), After: string(e.After), Hash: e.Hash[:],
	}
}

func channelToProto(c fleet.Channel) *adminv1.Channel {
	return &adminv1.Channel{Name: c.Name, Version: c.Version, Previous: c.Previous(), Changed: stamp(c.Changed)}
}

func desiredToProto(d fleet.DesiredState) *satellitev1.DesiredState {
	p := &satellitev1.DesiredState{
		Revision: d.Revision, Site: d.Site, GossipKey: d.GossipKey, Boot: bootToProto(d.Boot), Transfer: transferToProto(d.Transfer),
		Policies: layersToProto(d.Policies), LoginHost: loginHostToProto(d.LoginHost), Commands: commandsToProto(d.Commands),
	}
	for _, v := range d.Versions {
		p.Versions = append(p.Versions, &satellitev1.DesiredVersion{Image: v.Image, Number: v.Number, Id: v.ID[:], Kind: string(v.Kind), Channels: v.Channels})
	}
	for _, s := range d.Subnets {
		p.Subnets = append(p.Subnets, subnetToProto(s))
	}
	for _, c := range d.Clients {
		p.Clients = append(p.Clients, clientToProto(c))
	}
	for _, peer := range d.Peers {
		p.Peers = append(p.Peers, &satellitev1.Peer{Name: peer.Name, Addresses: peer.Addresses})
	}
	return p
}
