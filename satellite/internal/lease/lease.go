package lease

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// What a decision may end in besides a lease.
var (
	// ErrRangeFull says that every address of the range is leased, offered, quarantined or reserved.
	ErrRangeFull = errors.New("address range full")
	// ErrRefused says that the client must not use the address it asks for; DHCP answers DHCPNAK.
	ErrRefused = errors.New("address not valid for this client")
	// ErrNotOurs says that another server may know better; RFC 2131 section 4.3.2 asks for silence.
	ErrNotOurs = errors.New("no record of this client")
	// ErrUnknownSubnet says that the subnet is not in the table.
	ErrUnknownSubnet = errors.New("unknown subnet")
)

// A MAC is an Ethernet address. The zero value means "none".
type MAC [6]byte

// ParseMAC reads the forms that net.ParseMAC reads, 48 bits only.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil {
		return MAC{}, fmt.Errorf("parse Ethernet address %q: %w", s, err)
	}
	if len(hw) != 6 {
		return MAC{}, fmt.Errorf("parse Ethernet address %q: %d bytes, want 6", s, len(hw))
	}
	return MAC(hw), nil
}

// String gives aa:bb:cc:dd:ee:ff.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// IsZero reports whether m is "none".
func (m MAC) IsZero() bool { return m == MAC{} }

// MarshalText gives String, or nothing for "none".
func (m MAC) MarshalText() ([]byte, error) {
	if m.IsZero() {
		return nil, nil
	}
	return []byte(m.String()), nil
}

// UnmarshalText reads what MarshalText wrote.
func (m *MAC) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*m = MAC{}
		return nil
	}
	v, err := ParseMAC(string(b))
	if err != nil {
		return err
	}
	*m = v
	return nil
}

// A Client is who asks.
type Client struct {
	MAC MAC
	// ID is the raw client identifier (option 61), empty if none was sent. It identifies the client only when MAC is zero.
	ID string
	// Hostname is what the client calls itself (option 12); kept for reports, never trusted.
	Hostname string
}

// key is the client's identity in the table; "" means that it has none.
type key string

func (c Client) key() key {
	if !c.MAC.IsZero() {
		return key("m" + string(c.MAC[:]))
	}
	if c.ID != "" {
		return key("i" + c.ID)
	}
	return ""
}

// A State is what is known about an address.
type State string

// The states of an address. Offered and Expired are never written to a Log; Free only there.
const (
	Offered  State = "offered"  // held for a client that has not yet asked for it
	Bound    State = "bound"    // leased
	Expired  State = "expired"  // was leased; its last client gets it again if nobody else needs it
	Released State = "released" // given back; otherwise like Expired
	Declined State = "declined" // somebody else uses it: quarantined
	Free     State = "free"     // the record of this address is to be deleted
)

// A Lease is one address as reports show it.
type Lease struct {
	Addr     netip.Addr
	Client   Client
	Subnet   string // name; empty if no configured subnet holds the address any more
	State    State
	Reserved bool
	// Since is when this client got this address first.
	Since time.Time
	// Expires is the end of the lease, of the hold (Offered) or of the quarantine (Declined), or the moment of the release.
	Expires time.Time
}

// A Record is what a Log keeps about one address; a later record for the same address replaces an earlier one.
type Record struct {
	Addr     netip.Addr `json:"addr"`
	MAC      MAC        `json:"mac,omitzero"`
	ClientID []byte     `json:"client_id,omitempty"`
	Hostname string     `json:"hostname,omitempty"`
	State    State      `json:"state"`
	Since    time.Time  `json:"since"`
	Expires  time.Time  `json:"expires"`
}

// A Subnet is the part of a subnet's configuration that decides about addresses.
type Subnet struct {
	Name   string
	Prefix netip.Prefix
	// First and Last bound the range, both inclusive. Both zero: reservations only.
	First, Last netip.Addr
	// Exclude lists addresses inside the range that are never leased (the satellites', the gateway's).
	Exclude   []netip.Addr
	LeaseTime time.Duration
}

// A Reservation fixes the address of one client. It need not lie in a range.
type Reservation struct {
	MAC      MAC
	Addr     netip.Addr
	Hostname string // sent to the client; may be empty
}

// A Grant is a positive decision.
type Grant struct {
	Addr     netip.Addr
	Duration time.Duration
	Hostname string // of the reservation
	// Records must be durable before the client hears of the grant. Empty for an offer.
	Records []Record
	// Probe says that somebody else had this address before: look whether it is really free before offering it.
	Probe bool
}
