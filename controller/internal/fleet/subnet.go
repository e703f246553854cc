package fleet

import (
	"encoding/binary"
	"net/netip"
	"regexp"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// DHCPMode says what a satellite's DHCP server does on a subnet.
type DHCPMode string

// Modes.
const (
	Authoritative DHCPMode = "authoritative" // it gives addresses
	Proxy         DHCPMode = "proxy"         // addresses come from somebody else, boot information from it
	Off           DHCPMode = "off"           // it stays silent
)

// MaxRange bounds the addresses of a range.
const MaxRange = 1 << 16

// Subnet is one broadcast domain of a site. Key: Site and Name.
type Subnet struct {
	Site      string       `json:"site"`
	Name      string       `json:"name"`
	CIDR      netip.Prefix `json:"cidr"`
	Mode      DHCPMode     `json:"mode"`
	Start     netip.Addr   `json:"range_start"` // both ends belong to the range; not valid if there is none
	End       netip.Addr   `json:"range_end"`
	Gateway   netip.Addr   `json:"gateway"`
	DNS       []netip.Addr `json:"dns,omitempty"`
	Domain    string       `json:"domain,omitempty"`
	LeaseTime Duration     `json:"lease_time,omitempty"` // 0: the satellite's default
	Boot      string       `json:"boot,omitempty"`       // IMAGE:CHANNEL
	// Satellite answers DHCP here; empty means the first enrolled.
	Satellite string `json:"dhcp_satellite,omitempty"`
	Room      string `json:"room,omitempty"` // of clients here that have none of their own
	Revision  uint64 `json:"revision"`
}

// Key returns SITE/NAME.
func (s *Subnet) Key() string { return s.Site + "/" + s.Name }

// Default fills what was left open: authoritative if there is a range, else proxy.
func (s *Subnet) Default() {
	if s.Mode == "" {
		s.Mode = Proxy
		if s.Start.IsValid() {
			s.Mode = Authoritative
		}
	}
}

// Check reports the first rule that the subnet breaks. others are the other subnets of the site; satellites are the site's.
func (s *Subnet) Check(others []Subnet, satellites []Satellite, lib Library) error {
	if err := pki.CheckName(s.Name); err != nil {
		return invalid("subnet %v", err)
	}
	for _, check := range []func() error{s.checkCIDR, s.checkMode, s.checkOptions} {
		if err := check(); err != nil {
			return err
		}
	}
	for _, o := range others {
		if o.Name != s.Name && o.CIDR.Overlaps(s.CIDR) {
			return invalid("subnet %s: %s overlaps %s of subnet %s", s.Name, s.CIDR, o.CIDR, o.Name)
		}
	}
	if err := checkChannelBoot("subnet "+s.Name, s.Boot, lib); err != nil {
		return err
	}
	if err := checkRoom("subnet "+s.Name, s.Room); err != nil {
		return err
	}
	return s.checkSatellite(satellites)
}

func (s *Subnet) checkCIDR() error {
	if !s.CIDR.IsValid() || !s.CIDR.Addr().Is4() {
		return invalid("subnet %s: want an IPv4 network such as 10.1.2.0/24", s.Name)
	}
	if s.CIDR.Masked() != s.CIDR {
		return invalid("subnet %s: %s has host bits; did you mean %s?", s.Name, s.CIDR, s.CIDR.Masked())
	}
	if b := s.CIDR.Bits(); b < 8 || b > 30 {
		return invalid("subnet %s: prefix length /%d: want /8 to /30", s.Name, b)
	}
	if s.Gateway.IsValid() && !s.host(s.Gateway) {
		return invalid("subnet %s: gateway %s is no host address of %s", s.Name, s.Gateway, s.CIDR)
	}
	return nil
}

// host tells whether a is an address of the subnet other than the network's own and the broadcast address.
func (s *Subnet) host(a netip.Addr) bool {
	return a.Is4() && s.CIDR.Contains(a) && a != s.CIDR.Addr() && a != broadcast(s.CIDR)
}

func broadcast(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	n := binary.BigEndian.Uint32(a[:]) | (1<<(32-p.Bits()) - 1)
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

func (s *Subnet) checkMode() error {
	switch s.Mode {
	case Authoritative:
		return s.checkRange()
	case Proxy, Off:
		if s.Start.IsValid() || s.End.IsValid() {
			return invalid("subnet %s: a range in mode %s, which gives no addresses", s.Name, s.Mode)
		}
		return nil
	}
	return invalid("subnet %s: DHCP mode %q: want authoritative, proxy or off", s.Name, s.Mode)
}

func (s *Subnet) checkRange() error {
	if !s.Start.IsValid() || !s.End.IsValid() {
		return invalid("subnet %s: mode authoritative wants a range of addresses (first and last)", s.Name)
	}
	if !s.host(s.Start) || !s.host(s.End) {
		return invalid("subnet %s: range %s-%s does not lie within the host addresses of %s", s.Name, s.Start, s.End, s.CIDR)
	}
	if s.End.Less(s.Start) {
		return invalid("subnet %s: range %s-%s ends before it begins", s.Name, s.Start, s.End)
	}
	if n := distance(s.Start, s.End) + 1; n > MaxRange {
		return invalid("subnet %s: range of %d addresses, at most %d are allowed", s.Name, n, MaxRange)
	}
	if s.Gateway.IsValid() && !s.Gateway.Less(s.Start) && !s.End.Less(s.Gateway) {
		return invalid("subnet %s: gateway %s lies in the range %s-%s", s.Name, s.Gateway, s.Start, s.End)
	}
	return nil
}

func distance(a, b netip.Addr) uint32 {
	x, y := a.As4(), b.As4()
	return binary.BigEndian.Uint32(y[:]) - binary.BigEndian.Uint32(x[:])
}

var domainRule = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)

func (s *Subnet) checkOptions() error {
	if len(s.DNS) > 4 {
		return invalid("subnet %s: %d DNS servers, at most 4 are allowed", s.Name, len(s.DNS))
	}
	for _, a := range s.DNS {
		if !a.Is4() || a.IsUnspecified() || a.IsMulticast() {
			return invalid("subnet %s: DNS server %s: want an IPv4 address", s.Name, a)
		}
	}
	if s.Domain != "" && !domainRule.MatchString(s.Domain) {
		return invalid("subnet %s: domain %q: want letters, digits, '-' and '.'", s.Name, s.Domain)
	}
	if s.LeaseTime != 0 && (s.LeaseTime < Duration(time.Minute) || s.LeaseTime > Duration(30*24*time.Hour)) {
		return invalid("subnet %s: lease time %s: want 1m to 720h, or 0 for the default", s.Name, s.LeaseTime)
	}
	return nil
}

func (s *Subnet) checkSatellite(satellites []Satellite) error {
	if s.Satellite == "" {
		return nil
	}
	for _, o := range satellites {
		if o.Name == s.Satellite && !o.Revoked {
			return nil
		}
	}
	return invalid("subnet %s: site %s has no satellite %s in good standing", s.Name, s.Site, s.Satellite)
}
