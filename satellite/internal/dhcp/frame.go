package dhcp

import (
	"encoding/binary"
	"net/netip"
)

// Sizes of the headers that frame writes.
const (
	ethernetLen = 14
	ipv4Len     = 20
	udpLen      = 8
)

// etherTypeIPv4 and the like are in network order when written.
const (
	etherTypeIPv4 = 0x0800
	protocolUDP   = 17
	frameTTL      = 64
)

// frame builds an Ethernet frame with one UDP datagram in it. A server needs it for clients that have been given an address but
// don't use it yet: they don't answer ARP, so the kernel could not send to them (RFC 2131 section 4.1). The IP header says
// "don't fragment" and has identification zero, which RFC 6864 section 4.1 allows for such datagrams. payload must be shorter than
// 65,500 bytes, addresses IPv4.
func frame(srcMAC, dstMAC [6]byte, src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, ethernetLen+ipv4Len+udpLen+len(payload))
	copy(b[0:], dstMAC[:])
	copy(b[6:], srcMAC[:])
	binary.BigEndian.PutUint16(b[12:], etherTypeIPv4)

	ip := b[ethernetLen:]
	ip[0] = 4<<4 | ipv4Len/4
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	ip[6] = 1 << 6 // don't fragment
	ip[8] = frameTTL
	ip[9] = protocolUDP
	s, d := src.Addr().As4(), dst.Addr().As4()
	copy(ip[12:], s[:])
	copy(ip[16:], d[:])
	binary.BigEndian.PutUint16(ip[10:], ^fold(sum(0, ip[:ipv4Len])))

	udp := ip[ipv4Len:]
	binary.BigEndian.PutUint16(udp[0:], src.Port())
	binary.BigEndian.PutUint16(udp[2:], dst.Port())
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	copy(udp[udpLen:], payload)
	binary.BigEndian.PutUint16(udp[6:], udpChecksum(s, d, udp))
	return b
}

// udpChecksum covers the pseudo header and the datagram, whose checksum field must be zero (RFC 768).
func udpChecksum(src, dst [4]byte, udp []byte) uint16 {
	n := sum(0, src[:])
	n = sum(n, dst[:])
	n += protocolUDP + uint32(len(udp))
	c := ^fold(sum(n, udp))
	if c == 0 { // zero means "no checksum"
		return 0xffff
	}
	return c
}

// sum adds b as big-endian 16-bit words (RFC 1071).
func sum(n uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		n += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		n += uint32(b[0]) << 8
	}
	return n
}

func fold(n uint32) uint16 {
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return uint16(n)
}
