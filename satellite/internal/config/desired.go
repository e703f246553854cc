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
}

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
}

// Client is a PC that the controller knows by its MAC.
type Client struct {
	MAC              string // aa:bb:cc:dd:ee:ff
	Name             string
	Address          netip.Addr // fixed address, or zero
	Boot             string     // IMAGE:CHANNEL or IMAGE@NUMBER; empty: the subnet's
	KernelParameters string
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
