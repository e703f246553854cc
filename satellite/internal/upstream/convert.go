package upstream

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// desired converts a desired state. An entry that makes no sense is left out and named in problems: one bad subnet must not stop the others.
func desired(p *satellitev1.DesiredState) (d *config.Desired, problems []string) {
	d = &config.Desired{Revision: p.GetRevision(), Site: p.GetSite(), GossipKey: p.GetGossipKey()}
	refuse := func(what, name string, err error) {
		problems = append(problems, fmt.Sprintf("%s %q is ignored: %v", what, name, err))
	}
	for _, v := range p.GetVersions() {
		if version, err := desiredVersion(v); err != nil {
			refuse("version of image", v.GetImage(), err)
		} else {
			d.Versions = append(d.Versions, version)
		}
	}
	for _, s := range p.GetSubnets() {
		if subnet, err := desiredSubnet(s); err != nil {
			refuse("subnet", s.GetName(), err)
		} else {
			d.Subnets = append(d.Subnets, subnet)
		}
	}
	for _, c := range p.GetClients() {
		if client, err := desiredClient(c); err != nil {
			refuse("client", c.GetMac(), err)
		} else {
			d.Clients = append(d.Clients, client)
		}
	}
	for _, peer := range p.GetPeers() {
		d.Peers = append(d.Peers, config.Peer{Name: peer.GetName(), Addresses: prefixes(peer.GetAddresses())})
	}
	switch len(d.GossipKey) {
	case 0, 16, 24, 32:
	default:
		refuse("gossip key", "", fmt.Errorf("it has %d bytes", len(d.GossipKey)))
		d.GossipKey = nil
	}
	d.Boot = policy(p.GetBoot())
	transfer, err := transferPolicy(p.GetTransfer())
	if err != nil {
		refuse("transfer window", p.GetTransfer().GetWindow(), err)
	}
	d.Transfer = transfer
	return d, problems
}

func policy(b *satellitev1.BootPolicy) config.Policy {
	return config.Policy{KernelParameters: b.GetKernelParameters(), Shell: b.GetShell(), Initrd: b.GetInitrd(), Boot: b.GetBoot(),
		NBDTimeout: duration(b.GetNbdTimeout()), DeadTimeout: duration(b.GetDeadTimeout())}
}

// transferPolicy converts a policy. With an unusable window the rest holds, and any time will do.
func transferPolicy(t *satellitev1.TransferPolicy) (config.Transfer, error) {
	window, err := config.ParseWindow(t.GetWindow())
	return config.Transfer{BytesPerSecond: t.GetBytesPerSecond(), Window: window, LazyWait: duration(t.GetLazyWait()),
		CompleteOnly: t.GetCompleteOnly()}, err
}

// duration is 0 for nil and for what is negative.
func duration(d *durationpb.Duration) time.Duration { return max(d.AsDuration(), 0) }

func desiredVersion(v *satellitev1.DesiredVersion) (config.Version, error) {
	id, err := manifest.IDFromBytes(v.GetId())
	if err != nil {
		return config.Version{}, err
	}
	if err := manifest.CheckName(v.GetImage()); err != nil {
		return config.Version{}, err
	}
	kind := manifest.Kind(v.GetKind())
	if kind != manifest.Image && kind != manifest.Bootloaders {
		return config.Version{}, fmt.Errorf("unknown kind %q", kind)
	}
	return config.Version{Image: v.GetImage(), Number: v.GetNumber(), ID: id, Kind: kind, Channels: v.GetChannels()}, nil
}

func desiredSubnet(s *satellitev1.Subnet) (config.Subnet, error) {
	cidr, err := netip.ParsePrefix(s.GetCidr())
	if err != nil {
		return config.Subnet{}, err
	}
	out := config.Subnet{Name: s.GetName(), CIDR: cidr.Masked(), Domain: s.GetDomain(), LeaseTime: duration(s.GetLeaseTime()),
		Boot: s.GetBoot(), DHCPSatellite: s.GetDhcpSatellite()}
	switch s.GetMode() {
	case satellitev1.DhcpMode_DHCP_MODE_AUTHORITATIVE:
		out.Mode = config.Authoritative
	case satellitev1.DhcpMode_DHCP_MODE_PROXY:
		out.Mode = config.Proxy
	case satellitev1.DhcpMode_DHCP_MODE_OFF:
		out.Mode = config.Off
	default:
		return config.Subnet{}, fmt.Errorf("unknown DHCP mode %s", s.GetMode())
	}
	for _, a := range []struct {
		to   *netip.Addr
		text string
	}{{&out.RangeStart, s.GetRangeStart()}, {&out.RangeEnd, s.GetRangeEnd()}, {&out.Gateway, s.GetGateway()}} {
		if *a.to, err = address(a.text); err != nil {
			return config.Subnet{}, err
		}
	}
	for _, text := range s.GetDns() {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return config.Subnet{}, err
		}
		out.DNS = append(out.DNS, a)
	}
	return out, nil
}

// address reads an address; empty gives the zero Addr.
func address(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	return netip.ParseAddr(text)
}

func desiredClient(c *satellitev1.Client) (config.Client, error) {
	mac, err := net.ParseMAC(c.GetMac())
	if err != nil {
		return config.Client{}, err
	}
	addr, err := address(c.GetAddress())
	if err != nil {
		return config.Client{}, err
	}
	return config.Client{MAC: mac.String(), Name: c.GetName(), Address: addr, Boot: c.GetBoot(), KernelParameters: c.GetKernelParameters()}, nil
}

// prefixes reads CIDRs and drops what is none: a peer's report is no reason to fail.
func prefixes(texts []string) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range texts {
		if p, err := netip.ParsePrefix(t); err == nil {
			out = append(out, p)
		}
	}
	return out
}
