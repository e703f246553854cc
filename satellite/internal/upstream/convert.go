package upstream

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/types/known/durationpb"

	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/hw"
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
	if d.Policies, err = policyLayers(p.GetPolicies()); err != nil {
		d.PoliciesUnusable = err.Error()
		problems = append(problems, fmt.Sprintf("the new policy is ignored, clients keep the one before: %v", err))
	}
	if d.Login, err = loginHost(p.GetLoginHost()); err != nil {
		refuse("login host", p.GetLoginHost().GetAddress(), err)
	}
	d.Commands = p.GetCommands()[:min(len(p.GetCommands()), agentproto.MaxCommands)]
	return d, problems
}

// maxPolicies bounds the levels of a site: the organisation's, its own and its rooms'.
const maxPolicies = 4096

// policyLayers converts all layers or none: clients must not get a part of a policy.
func policyLayers(in []*satellitev1.PolicyLayer) ([]config.PolicyLayer, error) {
	if len(in) > maxPolicies {
		return nil, fmt.Errorf("%d levels, at most %d are allowed", len(in), maxPolicies)
	}
	var out []config.PolicyLayer
	seen := make(map[string]bool)
	for _, l := range in {
		if err := agentproto.CheckScope(l.GetScope()); err != nil {
			return nil, err
		}
		switch {
		case seen[l.GetScope()]:
			return nil, fmt.Errorf("%s is named twice", l.GetScope())
		case len(l.GetSha256()) != sha256.Size:
			return nil, fmt.Errorf("the archive of %s is named by %d bytes", l.GetScope(), len(l.GetSha256()))
		case l.GetNumber() == 0 || l.GetSizeBytes() == 0 || l.GetSizeBytes() > agentproto.MaxBlob:
			return nil, fmt.Errorf("%s is version %d of %d bytes", l.GetScope(), l.GetNumber(), l.GetSizeBytes())
		}
		seen[l.GetScope()] = true
		out = append(out, config.PolicyLayer{Scope: l.GetScope(), Number: l.GetNumber(), SHA256: [sha256.Size]byte(l.GetSha256()), Size: int64(l.GetSizeBytes())})
	}
	return out, nil
}

// maxHostKeys and maxHostKey bound what is pinned: how many keys, and the bytes of one.
const (
	maxHostKeys = 16
	maxHostKey  = 2 << 10
)

func loginHost(p *satellitev1.LoginHost) (config.LoginHost, error) {
	if p.GetAddress() == "" {
		return config.LoginHost{}, nil
	}
	if p.GetPort() > math.MaxUint16 {
		return config.LoginHost{}, fmt.Errorf("port %d", p.GetPort())
	}
	check := agentproto.PolicyState{Version: agentproto.Version, Server: p.GetAddress()}
	if err := check.Validate(); err != nil {
		return config.LoginHost{}, err
	}
	out := config.LoginHost{Address: p.GetAddress(), Port: cmp.Or(uint16(p.GetPort()), config.DefaultLoginPort), User: cmp.Or(p.GetUser(), config.DefaultLoginUser)}
	if len(p.GetHostKeys()) > maxHostKeys {
		return config.LoginHost{}, fmt.Errorf("%d host keys, at most %d are allowed", len(p.GetHostKeys()), maxHostKeys)
	}
	for _, k := range p.GetHostKeys() {
		k = strings.TrimSpace(k)
		if k == "" || len(k) > maxHostKey || strings.ContainsFunc(k, unicode.IsControl) {
			return config.LoginHost{}, fmt.Errorf("host key %.40q is not one", k)
		}
		out.HostKeys = append(out.HostKeys, k)
	}
	return out, nil
}

// clientCommand converts a command; one that is none is an error.
func clientCommand(p *satellitev1.ClientCommand) (config.Command, error) {
	mac, err := hw.ParseMAC(p.GetMac())
	if err != nil {
		return config.Command{}, err
	}
	check := agentproto.Command{ID: p.GetId(), Kind: p.GetKind(), Args: p.GetArgs(), Text: p.GetText(), Timeout: agentproto.Duration(duration(p.GetTimeout()))}
	if err := check.Validate(); err != nil {
		return config.Command{}, err
	}
	return config.Command{ID: p.GetId(), MAC: mac.String(), Kind: p.GetKind(), Args: p.GetArgs(), Text: p.GetText(), Timeout: duration(p.GetTimeout())}, nil
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
		Boot: s.GetBoot(), DHCPSatellite: s.GetDhcpSatellite(), Room: s.GetRoom()}
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
	return config.Client{MAC: mac.String(), Name: c.GetName(), Address: addr, Boot: c.GetBoot(), KernelParameters: c.GetKernelParameters(),
		Room: c.GetRoom()}, nil
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
