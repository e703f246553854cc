// Package ra answers IPv6 router solicitations with "I am no router": an advertisement with lifetime zero and no prefix. iPXE
// configures IPv6 besides IPv4 and waits 13 seconds for a router that a school's LAN doesn't have; any advertisement ends the
// wait. Hosts take nothing from it: RFC 4861 section 6.3.4 makes lifetime zero mean "not a default router", and the other fields
// are zero, "unspecified". Only the satellite's wiring imports this package.
//
// An interface without IPv6 link-local address can't be served; that is said once and looked at again from time to time.
//
// Metrics:
//
//	ltsp_satellite_ra_solicitations_total      valid router solicitations received
//	ltsp_satellite_ra_invalid_total            packets that RFC 4861 section 6.1.1 says to discard
//	ltsp_satellite_ra_advertisements_total     advertisements sent
//	ltsp_satellite_ra_limited_total            solicitations not answered because of the rate limits
package ra

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
)

// ICMPv6 types and options of RFC 4861 sections 4.1, 4.2 and 4.6.1.
const (
	typeSolicitation  = 133
	typeAdvertisement = 134
	optSourceLinkAddr = 1
	solicitationLen   = 8
	advertisementLen  = 16
)

// hopLimit proves that a packet comes from the link itself: no router forwards it without lowering it.
const hopLimit = 255

// errInvalid says that a packet must be discarded silently.
var errInvalid = errors.New("invalid router solicitation")

// checkSolicitation applies RFC 4861 section 6.1.1 to an ICMPv6 message; its checksum has been verified by the kernel. Options
// other than the source link-layer address are ignored.
func checkSolicitation(msg []byte, src netip.Addr, hops int) error {
	if hops != hopLimit || len(msg) < solicitationLen || msg[0] != typeSolicitation || msg[1] != 0 {
		return errInvalid
	}
	for opts := msg[solicitationLen:]; len(opts) > 0; {
		if len(opts) < 2 || opts[1] == 0 || len(opts) < 8*int(opts[1]) {
			return errInvalid
		}
		if opts[0] == optSourceLinkAddr && src.IsUnspecified() {
			return errInvalid
		}
		opts = opts[8*int(opts[1]):]
	}
	return nil
}

// advertisement is the message that says "no router here", with our hardware address so that nobody has to ask for it. The
// kernel fills in the checksum.
func advertisement(mac net.HardwareAddr) []byte {
	b := make([]byte, advertisementLen, advertisementLen+8)
	b[0] = typeAdvertisement
	binary.BigEndian.PutUint16(b[6:], 0) // router lifetime
	if len(mac) == 6 {
		b = append(b, optSourceLinkAddr, 1)
		b = append(b, mac...)
	}
	return b
}
