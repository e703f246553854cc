package dhcp

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

// probeTime is how long a stranger has to answer on a LAN.
const probeTime = 50 * time.Millisecond

const (
	arpLen     = 28
	arpRequest = 1
	arpReply   = 2
)

// arpProbe is an ARP request by nobody for addr (RFC 5227 section 2.1.1): it changes no cache.
func arpProbe(src [6]byte, addr netip.Addr) []byte {
	b := make([]byte, ethernetLen+arpLen)
	copy(b[0:], "\xff\xff\xff\xff\xff\xff")
	copy(b[6:], src[:])
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_ARP)
	a := b[ethernetLen:]
	binary.BigEndian.PutUint16(a[0:], 1) // Ethernet
	binary.BigEndian.PutUint16(a[2:], etherTypeIPv4)
	a[4], a[5] = 6, 4
	binary.BigEndian.PutUint16(a[6:], arpRequest)
	copy(a[8:], src[:])
	copy(a[24:], addr.AsSlice())
	return b
}

// arpOwner says whose address an ARP reply announces.
func arpOwner(frame []byte) (lease.MAC, netip.Addr, bool) {
	if len(frame) < ethernetLen+arpLen {
		return lease.MAC{}, netip.Addr{}, false
	}
	a := frame[ethernetLen:]
	if binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_ARP || binary.BigEndian.Uint16(a[2:]) != etherTypeIPv4 ||
		a[4] != 6 || a[5] != 4 || binary.BigEndian.Uint16(a[6:]) != arpReply {
		return lease.MAC{}, netip.Addr{}, false
	}
	return lease.MAC(a[8:14]), netip.AddrFrom4([4]byte(a[14:18])), true
}

// probe is wire's. Each probe has a socket of its own: they are rare, and nothing listens to ARP between them.
func (l *link) probe(addr netip.Addr, client lease.MAC) (bool, error) {
	conn, err := packet.Listen(l.nic, packet.Raw, unix.ETH_P_ARP, nil)
	if err != nil {
		return false, fmt.Errorf("open ARP socket on %s: %w", l.Name, err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetReadDeadline(time.Now().Add(probeTime)); err != nil {
		return false, fmt.Errorf("probe %s: %w", addr, err)
	}
	src := [6]byte(l.nic.HardwareAddr)
	if _, err := conn.WriteTo(arpProbe(src, addr), &packet.Addr{HardwareAddr: net.HardwareAddr("\xff\xff\xff\xff\xff\xff")}); err != nil {
		return false, fmt.Errorf("probe %s: %w", addr, err)
	}
	buf := make([]byte, 128)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil { // the deadline, or the interface is gone: nobody has answered
			return false, nil
		}
		if owner, a, ok := arpOwner(buf[:n]); ok && a == addr && owner != client {
			return true, nil
		}
	}
}
