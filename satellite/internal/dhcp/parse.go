package dhcp

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

// Options that the codec knows by number only.
const (
	optVendorOptions = 43
	optArch          = 93
	optUUID          = 97
	optIPXE          = 175
)

// A request is a client's packet with all that policy asks about it already read.
type request struct {
	msg    *dhcpv4.DHCPv4
	kind   dhcpv4.MessageType
	client lease.Client
	// The addresses that the client or its relay gives; the zero value is none.
	ciaddr, giaddr, wanted, serverID, link netip.Addr

	pxe, http, ipxe bool
	arch            Arch
	features        Features
	uuid            string
	userClass       string
}

// boots reports whether the client wants to hear of a boot file.
func (r *request) boots() bool { return r.pxe || r.http || r.ipxe }

// drop is why a packet gets no answer; a metric label.
type drop string

const (
	dropMalformed   drop = "malformed"    // no DHCP packet
	dropNoRequest   drop = "no-request"   // a reply, or a type that only servers send
	dropNoClient    drop = "no-client"    // neither an Ethernet address nor an identifier
	dropRate        drop = "rate"         // one client sends too much
	dropBusy        drop = "busy"         // too much in flight
	dropNoSubnet    drop = "no-subnet"    // no configured subnet matches
	dropOff         drop = "off"          // the subnet is switched off
	dropNoBoot      drop = "no-boot"      // proxy mode: no boot client, or nothing to boot
	dropOtherServer drop = "other-server" // meant for another server
	dropFull        drop = "full"         // no free address
	dropSilent      drop = "silent"       // RFC 2131 asks for silence
	dropNone        drop = ""
)

// maxEcho bounds what a client or relay can make us send back, in bytes per option. RFC 3396 lets an option be longer than 255 by
// repeating it; for these two nobody does.
const maxEcho = 255

// parse reads a packet. It copies what it keeps.
func parse(data []byte) (*request, drop) {
	msg, err := dhcpv4.FromBytes(data)
	if err != nil {
		return nil, dropMalformed
	}
	r := &request{msg: msg, kind: msg.MessageType()}
	if msg.OpCode != dhcpv4.OpcodeBootRequest {
		return nil, dropNoRequest
	}
	switch r.kind {
	case dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeDecline, dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeInform:
	default:
		return nil, dropNoRequest
	}
	if msg.HWType == iana.HWTypeEthernet && len(msg.ClientHWAddr) == 6 && msg.ClientHWAddr[0]&1 == 0 {
		r.client.MAC = lease.MAC(msg.ClientHWAddr)
	}
	r.client.ID = string(msg.Options[dhcpv4.OptionClientIdentifier.Code()])
	r.client.Hostname = printable(msg.Options[dhcpv4.OptionHostName.Code()])
	if len(r.client.ID) > maxEcho || len(msg.Options[dhcpv4.OptionRelayAgentInformation.Code()]) > maxEcho {
		return nil, dropMalformed
	}
	if r.client.MAC.IsZero() && r.client.ID == "" {
		return nil, dropNoClient
	}
	r.ciaddr = ip4(msg.ClientIPAddr)
	r.giaddr = ip4(msg.GatewayIPAddr)
	r.wanted = ip4(msg.Options[dhcpv4.OptionRequestedIPAddress.Code()])
	r.serverID = ip4(msg.Options[dhcpv4.OptionServerIdentifier.Code()])
	if relay := msg.RelayAgentInfo(); relay != nil { // RFC 3527
		r.link = ip4(relay.Options[dhcpv4.LinkSelectionSubOption.Code()])
	}
	r.parseBoot()
	return r, dropNone
}

// parseBoot reads what says how the client boots (RFC 4578, iPXE's own options).
func (r *request) parseBoot() {
	opts := r.msg.Options
	class := string(opts[dhcpv4.OptionClassIdentifier.Code()])
	r.pxe = strings.HasPrefix(class, "PXEClient")
	r.http = strings.HasPrefix(class, "HTTPClient")
	r.arch = parseArch(opts[optArch], class)
	r.userClass = userClass(opts[dhcpv4.OptionUserClassInformation.Code()])
	encapsulated, is175 := opts[optIPXE]
	r.ipxe = is175 || r.userClass == "iPXE" || r.userClass == "gPXE"
	r.features = parseFeatures(encapsulated)
	r.uuid = parseUUID(opts[optUUID])
}

// ip4 is an IPv4 address from 4 bytes; the zero value if it is 0.0.0.0 or no address.
func ip4(b []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(b)
	if a = a.Unmap(); !ok || !a.Is4() || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// printable keeps a host name for reports: what isn't a plain character becomes '?', the end of 255 bytes is the end.
func printable(b []byte) string {
	return strings.Map(func(c rune) rune {
		if c == 0 {
			return -1
		}
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, string(b[:min(len(b), 255)]))
}

// Arch is a client system architecture of option 93 (RFC 4578, IANA "Processor Architecture Types").
type Arch uint16

// The architectures that matter here. ArchNone stands for a client that names none.
const (
	ArchBIOS        Arch = 0
	ArchEFI32       Arch = 6
	ArchEFI64       Arch = 7
	ArchEFIBC       Arch = 9 // EFI byte code; x86-64 firmware says it too
	ArchARM64       Arch = 11
	ArchEFI32HTTP   Arch = 15
	ArchEFI64HTTP   Arch = 16
	ArchARM64HTTP   Arch = 19
	ArchNone        Arch = 0xffff
	archClassPrefix      = "Client:Arch:"
)

// String gives the number and, where there is one, a name.
func (a Arch) String() string {
	switch a {
	case ArchBIOS:
		return "0 (BIOS)"
	case ArchEFI32, ArchEFI32HTTP:
		return strconv.Itoa(int(a)) + " (IA32 EFI)"
	case ArchEFI64, ArchEFIBC, ArchEFI64HTTP:
		return strconv.Itoa(int(a)) + " (x86-64 EFI)"
	case ArchARM64, ArchARM64HTTP:
		return strconv.Itoa(int(a)) + " (ARM64 EFI)"
	case ArchNone:
		return "none"
	}
	return strconv.Itoa(int(a))
}

// parseArch takes option 93's first entry, else the number in the vendor class "PXEClient:Arch:00007:UNDI:...".
func parseArch(option []byte, class string) Arch {
	if len(option) >= 2 {
		return Arch(binary.BigEndian.Uint16(option))
	}
	if _, after, ok := strings.Cut(class, archClassPrefix); ok && len(after) >= 5 {
		if n, err := strconv.ParseUint(after[:5], 10, 16); err == nil {
			return Arch(n)
		}
	}
	return ArchNone
}

// userClass reads option 77. RFC 3004 wants each class with a length byte before it; iPXE sends the bare text.
func userClass(b []byte) string {
	if len(b) > 1 && int(b[0]) < len(b) && b[0] > 0 && b[0] < ' ' {
		return string(b[1 : 1+b[0]])
	}
	return printable(b)
}

// Features is what an iPXE says it can do in option 175; bit N is its sub-option N.
type Features uint64

// Sub-options of option 175 (iPXE's src/include/ipxe/features.h) that the boot answer depends on.
const (
	FeatureHTTP    = 19
	FeatureBzImage = 24
	FeaturePXE     = 33
	FeatureEFI     = 36
	FeatureMenu    = 39
)

// Has reports whether all of the features are there.
func (f Features) Has(features ...int) bool {
	for _, n := range features {
		if n < 0 || n > 63 || f&(1<<n) == 0 {
			return false
		}
	}
	return true
}

// parseFeatures reads the encapsulated options of option 175. A truncated one ends the list. A feature is there if its value
// isn't zero.
func parseFeatures(b []byte) Features {
	var f Features
	for len(b) >= 2 && b[0] != 255 {
		if b[0] == 0 { // padding
			b = b[1:]
			continue
		}
		code, n := b[0], int(b[1])
		if len(b) < 2+n {
			break
		}
		if code < 64 && n > 0 && b[2] != 0 {
			f |= 1 << code
		}
		b = b[2+n:]
	}
	return f
}

// parseUUID reads option 97 (RFC 4578 section 2.3). Firmware copies the 16 bytes from SMBIOS, where the first three fields are
// little-endian; iPXE does the same (seen with QEMU's ROM and Debian 12's snponly.efi). An all-zero or all-one UUID is a placeholder.
func parseUUID(b []byte) string {
	if len(b) != 17 || b[0] != 0 {
		return ""
	}
	u := [16]byte(b[1:])
	u[0], u[1], u[2], u[3] = u[3], u[2], u[1], u[0]
	u[4], u[5] = u[5], u[4]
	u[6], u[7] = u[7], u[6]
	h := hex.EncodeToString(u[:])
	if strings.Trim(h, "0") == "" || strings.Trim(h, "f") == "" {
		return ""
	}
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
