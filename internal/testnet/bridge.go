package testnet

import (
	"context"
	"fmt"
	"regexp"
	"strings"
)

// shortName is the rule for bridges and hosts: the port of a host on a bridge is called HOST-BRIDGE, and an interface name
// has at most 15 characters.
var shortName = regexp.MustCompile(`^[a-z][a-z0-9]{0,6}$`)

// tapName is the rule for taps.
var tapName = regexp.MustCompile(`^[a-z][a-z0-9]{0,14}$`)

// Bridge is one Ethernet segment: a learning switch without spanning tree that forwards from the first frame on.
type Bridge struct {
	Name string // also the name of the interface in the switch namespace

	lab *Lab
}

// Bridge adds a segment. The name has one to seven lower-case letters and digits, a letter first.
func (l *Lab) Bridge(name string) (*Bridge, error) {
	if err := l.reserve("bridge", name, shortName); err != nil {
		return nil, err
	}
	b := &Bridge{Name: name, lab: l}
	if err := b.ip("link", "add", name, "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"); err != nil {
		return nil, fmt.Errorf("bridge %s: %w", name, err)
	}
	if err := b.ip("link", "set", name, "up"); err != nil {
		return nil, fmt.Errorf("bridge %s: %w", name, err)
	}
	return b, nil
}

// At returns a link to this bridge with the given addresses ("192.168.67.1/24", "fd67::1/64"), for Lab.Host. Without
// addresses the interface is up and waits for DHCP.
func (b *Bridge) At(addrs ...string) Link {
	return Link{Bridge: b, Addr: strings.Join(addrs, ",")}
}

// Tap is a port of a bridge for one virtual machine. The machine must be started in Namespace.
type Tap struct {
	Name   string // interface name
	Bridge *Bridge
}

// Tap adds a port for a virtual machine. The name has one to fifteen lower-case letters and digits, a letter first.
func (b *Bridge) Tap(name string) (*Tap, error) {
	if err := b.lab.reserve("tap", name, tapName); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"tuntap", "add", "dev", name, "mode", "tap"},
		{"link", "set", name, "master", b.Name, "up"},
	} {
		if err := b.ip(args...); err != nil {
			return nil, fmt.Errorf("tap %s on bridge %s: %w", name, b.Name, err)
		}
	}
	return &Tap{Name: name, Bridge: b}, nil
}

// Namespace is the name of the namespace that holds the tap.
func (t *Tap) Namespace() string { return t.Bridge.lab.SwitchNamespace() }

// Down unplugs the machine from the switch; frames in both directions are lost.
func (t *Tap) Down() error { return t.Bridge.ip("link", "set", t.Name, "down") }

// Up plugs it in again.
func (t *Tap) Up() error { return t.Bridge.ip("link", "set", t.Name, "up") }

// ip runs an ip(8) command in the switch namespace.
func (b *Bridge) ip(args ...string) error {
	return b.lab.ip(context.Background(), append([]string{"-n", b.lab.SwitchNamespace()}, args...)...)
}
