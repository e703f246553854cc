// Package dhcp4 is a DHCP client (RFC 2131) as small as an initrd wants it: the packet codec, a socket, and the acquisition of a first address.
// Renewal is decided elsewhere.
package dhcp4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Message types (RFC 2132 section 9.6) that a client sends or understands.
const (
	Discover = 1
	Offer    = 2
	Request  = 3
	Ack      = 5
	Nak      = 6
)

// Options (RFC 2132) that a client sends or understands.
const (
	OptMask        = 1
	OptRouter      = 3
	OptDNS         = 6
	OptHostname    = 12
	OptDomain      = 15
	OptRequestedIP = 50
	OptLeaseTime   = 51
	optOverload    = 52
	OptMessageType = 53
	OptServerID    = 54
	OptParameters  = 55
	OptMessage     = 56
	OptMaxSize     = 57
	OptT1          = 58
	OptT2          = 59
	OptClass       = 60
	OptClientID    = 61

	optPad = 0
	optEnd = 255
)

const (
	opRequest  = 1
	opReply    = 2
	etherType  = 1 // hardware type Ethernet
	fixedLen   = 240
	minLen     = 300 // RFC 1542 section 2.1: shorter requests are dropped by some relays
	cookie     = 0x63825363
	flagBcast  = 1 << 15
	snameStart = 44
	fileStart  = 108
	fileEnd    = 236
	// MaxPacket is the largest reply that is read: what we ask for by OptMaxSize.
	MaxPacket = 1472
)

// Infinite is the lease time that never ends (RFC 2131 section 3.3).
const Infinite = time.Duration(1<<63 - 1)

// ErrMalformed is wrapped by the errors of Parse.
var ErrMalformed = errors.New("malformed DHCP packet")

// Packet is a DHCP packet without what a client has no use for. Addresses that are 0.0.0.0 on the wire are not valid here.
type Packet struct {
	reply     bool
	XID       uint32
	Broadcast bool
	ClientIP  netip.Addr // ciaddr
	YourIP    netip.Addr // yiaddr
	MAC       net.HardwareAddr
	// Options by code. Pieces of one option are joined (RFC 3396).
	Options map[byte][]byte
}

// Parse reads a packet. Options may overflow into the sname and file fields (RFC 2131 section 4.1).
func Parse(b []byte) (Packet, error) {
	if len(b) < fixedLen {
		return Packet{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	if binary.BigEndian.Uint32(b[236:]) != cookie || b[1] != etherType || b[2] != 6 {
		return Packet{}, fmt.Errorf("%w: no DHCP over Ethernet", ErrMalformed)
	}
	p := Packet{
		reply: b[0] == opReply, XID: binary.BigEndian.Uint32(b[4:]), Broadcast: binary.BigEndian.Uint16(b[10:])&flagBcast != 0,
		ClientIP: addr(b[12:16]), YourIP: addr(b[16:20]), MAC: slices.Clone(b[28:34]), Options: map[byte][]byte{},
	}
	if err := p.addOptions(b[fixedLen:]); err != nil {
		return Packet{}, err
	}
	overload := byte(0)
	if v := p.Options[optOverload]; len(v) == 1 {
		overload = v[0]
	}
	if overload&1 != 0 {
		if err := p.addOptions(b[fileStart:fileEnd]); err != nil {
			return Packet{}, err
		}
	}
	if overload&2 != 0 {
		if err := p.addOptions(b[snameStart:fileStart]); err != nil {
			return Packet{}, err
		}
	}
	return p, nil
}

func (p *Packet) addOptions(b []byte) error {
	for len(b) > 0 {
		code := b[0]
		b = b[1:]
		if code == optPad {
			continue
		}
		if code == optEnd {
			return nil
		}
		if len(b) == 0 || len(b) < 1+int(b[0]) {
			return fmt.Errorf("%w: option %d is cut", ErrMalformed, code)
		}
		n := int(b[0])
		p.Options[code] = append(p.Options[code], b[1:1+n]...)
		b = b[1+n:]
	}
	return nil // without an end option: firmware does that
}

func addr(b []byte) netip.Addr {
	a := netip.AddrFrom4([4]byte(b))
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// Encode writes p as a client's request. Options longer than 255 bytes are cut into pieces.
func (p Packet) Encode() []byte {
	b := make([]byte, fixedLen, minLen)
	b[0], b[1], b[2] = opRequest, etherType, 6
	if p.reply {
		b[0] = opReply
	}
	binary.BigEndian.PutUint32(b[4:], p.XID)
	if p.Broadcast {
		binary.BigEndian.PutUint16(b[10:], flagBcast)
	}
	putAddr(b[12:], p.ClientIP)
	putAddr(b[16:], p.YourIP)
	copy(b[28:34], p.MAC)
	binary.BigEndian.PutUint32(b[236:], cookie)
	codes := make([]byte, 0, len(p.Options))
	for code := range p.Options {
		codes = append(codes, code)
	}
	slices.SortFunc(codes, func(x, y byte) int { // the message type first: some servers look no further
		return (int(x) - int(y)) + 256*(first(y)-first(x))
	})
	for _, code := range codes {
		b = appendOption(b, code, p.Options[code])
	}
	b = append(b, optEnd)
	return append(b, make([]byte, max(0, minLen-len(b)))...)
}

func first(code byte) int {
	if code == OptMessageType {
		return 1
	}
	return 0
}

func appendOption(b []byte, code byte, v []byte) []byte {
	for {
		n := min(len(v), 255)
		b = append(b, code, byte(n))
		b = append(b, v[:n]...)
		if v = v[n:]; len(v) == 0 {
			return b
		}
	}
}

func putAddr(b []byte, a netip.Addr) {
	if a.Is4() {
		v := a.As4()
		copy(b, v[:])
	}
}

// Type returns the message type, 0 if there is none.
func (p Packet) Type() byte {
	if v := p.Options[OptMessageType]; len(v) == 1 {
		return v[0]
	}
	return 0
}

// Addr returns the first address of an option; it is not valid if there is none.
func (p Packet) Addr(code byte) netip.Addr {
	if list := p.Addrs(code); len(list) > 0 {
		return list[0]
	}
	return netip.Addr{}
}

// Addrs returns the addresses of an option, without 0.0.0.0.
func (p Packet) Addrs(code byte) []netip.Addr {
	var list []netip.Addr
	for v := p.Options[code]; len(v) >= 4; v = v[4:] {
		if a := addr(v[:4]); a.IsValid() {
			list = append(list, a)
		}
	}
	return list
}

// Duration returns an option that counts seconds, and whether it is there. All ones is Infinite.
func (p Packet) Duration(code byte) (time.Duration, bool) {
	v := p.Options[code]
	if len(v) != 4 {
		return 0, false
	}
	n := binary.BigEndian.Uint32(v)
	if n == 1<<32-1 {
		return Infinite, true
	}
	return time.Duration(n) * time.Second, true
}

// Answers tells whether p is a server's reply to the request with that transaction number from that MAC address.
func (p Packet) Answers(xid uint32, mac net.HardwareAddr) bool {
	return p.reply && p.XID == xid && slices.Equal(p.MAC, mac)
}

// NewRequest returns a client packet with what every message of ours carries: the type, the client identifier in the form that iPXE uses
// (hardware type and MAC), the largest reply that is read, and the options that we want.
func NewRequest(kind byte, xid uint32, mac net.HardwareAddr) Packet {
	return Packet{XID: xid, MAC: mac, Options: map[byte][]byte{
		OptMessageType: {kind},
		OptClientID:    append([]byte{etherType}, mac...),
		OptMaxSize:     binary.BigEndian.AppendUint16(nil, MaxPacket),
		OptClass:       []byte("ltsp-agent"),
		OptParameters:  {OptMask, OptRouter, OptDNS, OptHostname, OptDomain, OptLeaseTime, OptServerID, OptT1, OptT2},
	}}
}
