// Package config holds what a satellite is told to do: Desired by the controller, Local by the command line. It is plain data with its
// rules: no file, no socket, no generated code. All rooms of the satellite may import it.
package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

// Desired is the state of its site as the controller wants it. The zero Desired serves nothing. It is stored as JSON: renaming a
// field is a migration.
type Desired struct {
	// Revision grows with each change; 0 means that no state was ever received.
	Revision  uint64
	Site      string
	Versions  []Version
	Subnets   []Subnet
	Clients   []Client
	GossipKey []byte // 16, 24 or 32 bytes; empty: no gossip
	Peers     []Peer // the satellites of the site, the first enrolled first, this one included
	Boot      Policy
	Transfer  Transfer
	// Policies are those of the organisation, the site and its rooms, in this order; levels without one are missing.
	Policies []PolicyLayer
	// PoliciesUnusable says why Policies can't be used; then it is empty, and what was in force before must stay.
	PoliciesUnusable string
	Login            LoginHost
	// Commands are the kinds that the site's clients may be told.
	Commands []string
}

// PolicyLayer names the archive (internal/policy) of one level.
type PolicyLayer struct {
	Scope  string // "organisation", "site/NAME" or "room/SITE/NAME"
	Number uint64
	SHA256 policy.Digest
	Size   int64
}

// LoginHost is where the site's users log in. The zero LoginHost means that there is none.
type LoginHost struct {
	// Address is an IP address, a host name, or LocalLogin.
	Address string
	Port    uint16 // of SSH; never 0 if Address is set
	User    string // account for reading the accounts; never empty if Address is set
	// HostKeys are pinned, each as in known_hosts without the names.
	HostKeys []string
}

// LocalLogin is the address of a login host that is the satellite's own machine.
const LocalLogin = "local"

// Defaults of LoginHost.
const (
	DefaultLoginPort = 22
	DefaultLoginUser = "ltsp"
)

// Version is one that the satellite shall hold.
type Version struct {
	Image    string
	Number   uint64
	ID       manifest.ID
	Kind     manifest.Kind
	Channels []string // of the image, that point to it
}

// Mode is how DHCP is done on a subnet.
type Mode string

// Modes.
const (
	Authoritative Mode = "authoritative" // addresses and boot information
	Proxy         Mode = "proxy"         // boot information beside another DHCP server
	Off           Mode = "off"
)

// Subnet is one broadcast domain that the site's satellites serve. Addresses that are not set are the zero netip.Addr.
type Subnet struct {
	Name       string
	CIDR       netip.Prefix
	Mode       Mode
	RangeStart netip.Addr
	RangeEnd   netip.Addr
	Gateway    netip.Addr
	DNS        []netip.Addr
	Domain     string
	LeaseTime  time.Duration // zero: the DHCP server's default
	Boot       string        // IMAGE:CHANNEL; empty: the site's
	// DHCPSatellite names the one satellite that answers DHCP here; empty means all, which suits a site with one.
	DHCPSatellite string
	// Room is that of clients in this subnet that have none of their own.
	Room string
}

// Client is a PC that the controller knows by its MAC.
type Client struct {
	MAC              string // aa:bb:cc:dd:ee:ff
	Name             string
	Address          netip.Addr // fixed address, or zero
	Boot             string     // IMAGE:CHANNEL or IMAGE@NUMBER; empty: the subnet's
	KernelParameters string
	Room             string // empty: the subnet's
}

// Peer is a satellite of the site.
type Peer struct {
	Name      string
	Addresses []netip.Prefix // as it reported them last
}

// Policy is what holds for all boots of the site.
type Policy struct {
	KernelParameters string
	Shell            bool   // a root shell on the console after a failed boot
	Initrd           string // "full" or "school"
	Boot             string // IMAGE:CHANNEL for clients that no subnet or client entry covers
	NBDTimeout       time.Duration
	DeadTimeout      time.Duration
}

// Boot is a parsed IMAGE:CHANNEL or IMAGE@NUMBER; either Channel or Number is set.
type Boot struct {
	Image   string
	Channel string
	Number  uint64
}

// DefaultChannel is the channel of a reference that names only an image.
const DefaultChannel = "stable"

// ParseBoot reads IMAGE:CHANNEL, IMAGE@NUMBER or IMAGE, which stands for IMAGE:stable.
func ParseBoot(s string) (Boot, error) {
	if image, number, ok := strings.Cut(s, "@"); ok {
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil || n == 0 || manifest.CheckName(image) != nil {
			return Boot{}, fmt.Errorf("boot reference %q: want IMAGE:CHANNEL or IMAGE@NUMBER", s)
		}
		return Boot{Image: image, Number: n}, nil
	}
	image, channel, ok := strings.Cut(s, ":")
	if !ok {
		channel = DefaultChannel
	}
	if manifest.CheckName(image) != nil || manifest.CheckName(channel) != nil {
		return Boot{}, fmt.Errorf("boot reference %q: want IMAGE:CHANNEL or IMAGE@NUMBER", s)
	}
	return Boot{Image: image, Channel: channel}, nil
}

// String returns the form that ParseBoot reads.
func (b Boot) String() string {
	if b.Number != 0 {
		return b.Image + "@" + strconv.FormatUint(b.Number, 10)
	}
	return b.Image + ":" + b.Channel
}

// Find returns the version that b names in the desired state, or false.
func (d *Desired) Find(b Boot) (Version, bool) {
	for _, v := range d.Versions {
		if v.Image != b.Image {
			continue
		}
		if b.Number != 0 && v.Number == b.Number || b.Number == 0 && slices.Contains(v.Channels, b.Channel) {
			return v, true
		}
	}
	return Version{}, false
}

// Prefixes returns the CIDRs of the subnets.
func (d *Desired) Prefixes() []netip.Prefix {
	out := make([]netip.Prefix, 0, len(d.Subnets))
	for _, s := range d.Subnets {
		out = append(out, s.CIDR)
	}
	return out
}
