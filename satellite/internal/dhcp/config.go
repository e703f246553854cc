package dhcp

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

// Mode is what the satellite does in a subnet.
type Mode string

// The modes of a subnet.
const (
	Authoritative Mode = "authoritative" // gives addresses and boot answers
	Proxy         Mode = "proxy"         // boot answers only; somebody else gives addresses
	Off           Mode = "off"           // silence
)

// DefaultLeaseTime is a subnet's lease time if it names none.
const DefaultLeaseTime = 12 * time.Hour

// An Interface is a network card that the server listens on. Two entries must not have one Name.
type Interface struct {
	Name string
	// Index: zero means whichever interface has the name, also when it vanishes and comes back.
	Index int
	// Addr is the satellite's address on it with the prefix length; it is the server identifier and the boot server's address.
	Addr netip.Prefix
}

// A Subnet is one broadcast domain, on an interface or behind a relay.
type Subnet struct {
	Name   string
	Prefix netip.Prefix
	Mode   Mode
	// RangeStart and RangeEnd bound the dynamic range, inclusive. Both zero: only reservations get an address.
	RangeStart, RangeEnd netip.Addr
	// Gateway is the default router; the zero value sends none.
	Gateway netip.Addr
	DNS     []netip.Addr // at most maxServers
	NTP     []netip.Addr // at most maxServers
	Domain  string
	// LeaseTime is DefaultLeaseTime if zero; at least a minute.
	LeaseTime time.Duration
	// Exclude lists further addresses of the range that are never leased.
	Exclude []netip.Addr
}

// maxServers bounds the DNS and NTP servers of a subnet, so that a reply fits into every client's buffer.
const maxServers = 8

// Settings is what changes while the server runs.
type Settings struct {
	Interfaces   []Interface
	Subnets      []Subnet
	Reservations []lease.Reservation
}

// Limits bounds what clients can cause; a zero value is the default.
type Limits struct {
	// InFlight bounds the answers that wait for the disk, for a probe or for the network. Default 8192. Beyond it requests are
	// dropped and counted; the client asks again.
	InFlight int
	// Probes bounds the ARP probes under way; beyond it addresses are offered unprobed. Default 64.
	Probes int
	// Burst and PerSecond bound the packets of one client (a token bucket). Defaults 30 and 5.
	Burst, PerSecond float64
	// Clients bounds the clients that the rate limit remembers. Default 16384.
	Clients int
	// Offers bounds the addresses held for clients that were offered one. Default lease.DefaultMaxOffers.
	Offers int
}

// Config holds the collaborators of a Server.
type Config struct {
	// Settings are those to begin with; they may be empty.
	Settings Settings
	// Log keeps the leases. It must not be nil.
	Log lease.Log
	// Boot says what a client boots; nil is NewLoaders(LoaderConfig{}).
	Boot Boot
	// OnEvent hears of each step of a client's way to an address, for its boot timeline; nil ignores them. It is called by several
	// goroutines and must not block.
	OnEvent func(Event)
	// Logger: nil discards.
	Logger *slog.Logger
	// Registerer takes the metrics of the package comment; nil registers none.
	Registerer prometheus.Registerer
	Limits     Limits
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// NoProbe switches ARP probes before the reuse of an address off.
	NoProbe bool
}

func (c *Config) fill() error {
	if c.Log == nil {
		return errors.New("dhcp server needs a lease log")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Boot == nil {
		c.Boot = NewLoaders(LoaderConfig{Now: c.Now})
	}
	if c.OnEvent == nil {
		c.OnEvent = func(Event) {}
	}
	l := &c.Limits
	l.InFlight = cmp.Or(l.InFlight, 8192)
	l.Probes = cmp.Or(l.Probes, 64)
	l.Burst = cmp.Or(l.Burst, 30)
	l.PerSecond = cmp.Or(l.PerSecond, 5)
	l.Clients = cmp.Or(l.Clients, 16384)
	l.Offers = cmp.Or(l.Offers, lease.DefaultMaxOffers)
	return nil
}

// check completes the settings and refuses what can't work. The result shares nothing with s that the caller may change.
func (s Settings) check() (Settings, error) {
	s = Settings{slices.Clone(s.Interfaces), slices.Clone(s.Subnets), slices.Clone(s.Reservations)}
	for i, n := range s.Interfaces {
		switch {
		case n.Name == "" || n.Index < 0:
			return s, fmt.Errorf("interface %q, index %d: no such thing", n.Name, n.Index)
		case !n.Addr.IsValid() || !n.Addr.Addr().Is4():
			return s, fmt.Errorf("interface %q: %s is no IPv4 address with a prefix length", n.Name, n.Addr)
		case slices.ContainsFunc(s.Interfaces[:i], func(o Interface) bool { return o.Name == n.Name }):
			return s, fmt.Errorf("interface %q is there twice", n.Name)
		}
	}
	for i := range s.Subnets {
		if err := s.Subnets[i].check(); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (n *Subnet) check() error {
	n.LeaseTime = cmp.Or(n.LeaseTime, DefaultLeaseTime)
	switch n.Mode {
	case Authoritative, Proxy, Off:
	default:
		return fmt.Errorf("subnet %q: mode %q is none of authoritative, proxy, off", n.Name, n.Mode)
	}
	switch {
	case n.Gateway.IsValid() && !n.Prefix.Contains(n.Gateway):
		return fmt.Errorf("subnet %q: gateway %s lies outside %s", n.Name, n.Gateway, n.Prefix)
	case len(n.DNS) > maxServers || len(n.NTP) > maxServers:
		return fmt.Errorf("subnet %q: more than %d DNS or NTP servers", n.Name, maxServers)
	case len(n.Domain) > 253: // RFC 1035 section 2.3.4
		return fmt.Errorf("subnet %q: domain of %d bytes", n.Name, len(n.Domain))
	case n.LeaseTime > 1<<31*time.Second:
		return fmt.Errorf("subnet %q: lease time %s", n.Name, n.LeaseTime)
	}
	for _, a := range slices.Concat(n.DNS, n.NTP) {
		if !a.Is4() {
			return fmt.Errorf("subnet %q: server address %s is not IPv4", n.Name, a)
		}
	}
	return nil
}

// leaseSubnets is the part of the settings that package lease decides by. Proxy and silent subnets have no leases.
func (s Settings) leaseSubnets() ([]lease.Subnet, []lease.Reservation) {
	var subnets []lease.Subnet
	for _, n := range s.Subnets {
		if n.Mode != Authoritative {
			continue
		}
		exclude := append(slices.Clone(n.Exclude), n.DNS...)
		if n.Gateway.IsValid() {
			exclude = append(exclude, n.Gateway)
		}
		for _, i := range s.Interfaces {
			exclude = append(exclude, i.Addr.Addr())
		}
		subnets = append(subnets, lease.Subnet{
			Name: n.Name, Prefix: n.Prefix.Masked(), First: n.RangeStart, Last: n.RangeEnd, Exclude: exclude, LeaseTime: n.LeaseTime,
		})
	}
	return subnets, s.Reservations
}

// subnet gives the subnet that a is in, nil if there is none.
func (s *Settings) subnet(a netip.Addr) *Subnet {
	for i := range s.Subnets {
		if s.Subnets[i].Prefix.Contains(a) {
			return &s.Subnets[i]
		}
	}
	return nil
}

// ours reports whether a is one of the satellite's addresses.
func (s *Settings) ours(a netip.Addr) bool {
	return slices.ContainsFunc(s.Interfaces, func(i Interface) bool { return i.Addr.Addr() == a })
}
