package fleet

import (
	"net"
	"net/netip"

	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// MAC is a hardware address in the form aa:bb:cc:dd:ee:ff.
type MAC string

// ParseMAC reads a 48-bit unicast address in any usual form.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return "", invalid("%q is no MAC address: want aa:bb:cc:dd:ee:ff", s)
	}
	if hw[0]&1 == 1 || hw.String() == "00:00:00:00:00:00" {
		return "", invalid("MAC address %s belongs to no single machine", hw)
	}
	return MAC(hw.String()), nil
}

// Client is what an admin configured for a diskless machine. Key: MAC.
type Client struct {
	Site             string     `json:"site"`
	MAC              MAC        `json:"mac"`
	Name             string     `json:"name,omitempty"`
	Address          netip.Addr `json:"address"`                     // fixed address; not valid if there is none
	Boot             string     `json:"boot,omitempty"`              // IMAGE:CHANNEL or IMAGE@NUMBER; empty means the subnet's
	KernelParameters string     `json:"kernel_parameters,omitempty"` // appended to the site's
	Room             string     `json:"room,omitempty"`              // whose policy applies; empty means the subnet's
	Revision         uint64     `json:"revision"`
}

// Check reports the first rule that the client breaks. others and subnets are the site's.
func (c *Client) Check(others []Client, subnets []Subnet, lib Library) error {
	what := "client " + string(c.MAC)
	if c.Name != "" {
		if err := pki.CheckName(c.Name); err != nil {
			return invalid("%s: %v", what, err)
		}
	}
	if err := checkText(what+": kernel parameters", c.KernelParameters); err != nil {
		return err
	}
	if err := checkRoom(what, c.Room); err != nil {
		return err
	}
	if err := checkBoot(what, c.Boot, lib); err != nil {
		return err
	}
	for _, o := range others {
		if o.MAC == c.MAC {
			continue
		}
		if c.Name != "" && o.Name == c.Name {
			return Errorf(ErrExists, "%s: the name %s belongs to client %s", what, c.Name, o.MAC)
		}
		if c.Address.IsValid() && o.Address == c.Address {
			return Errorf(ErrExists, "%s: the address %s belongs to client %s", what, c.Address, o.MAC)
		}
	}
	return c.checkAddress(subnets)
}

func (c *Client) checkAddress(subnets []Subnet) error {
	if !c.Address.IsValid() {
		return nil
	}
	for _, s := range subnets {
		if !s.CIDR.Contains(c.Address) {
			continue
		}
		if s.Mode != Authoritative {
			return invalid("client %s: a fixed address in subnet %s, where the satellite gives no addresses (mode %s)", c.MAC, s.Name, s.Mode)
		}
		if !s.host(c.Address) || c.Address == s.Gateway {
			return invalid("client %s: %s is no address for a client of subnet %s", c.MAC, c.Address, s.Name)
		}
		return nil
	}
	return invalid("client %s: no subnet of site %s holds the address %s", c.MAC, c.Site, c.Address)
}
