package dhcp

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

// Ports of RFC 2131 and of the PXE specification.
const (
	serverPort = 67
	clientPort = 68
	pxePort    = 4011
)

// A reply is a packet that still has to be sent.
type reply struct {
	msg *dhcpv4.DHCPv4
	to  destination
	// event is told when the packet has been sent.
	event Event
}

// A destination is where a reply goes (RFC 2131 section 4.1). If frame is set, addr doesn't answer ARP yet and the server
// addresses mac itself.
type destination struct {
	addr  netip.AddrPort
	frame bool
	mac   lease.MAC
}

// answer starts a reply with what every reply has.
func answer(r *request, kind dhcpv4.MessageType, server netip.Addr) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootReply,
		HWType:        r.msg.HWType,
		TransactionID: r.msg.TransactionID,
		Flags:         r.msg.Flags,
		GatewayIPAddr: r.msg.GatewayIPAddr,
		ClientHWAddr:  r.msg.ClientHWAddr,
		Options:       make(dhcpv4.Options, 16),
	}
	m.Options[dhcpv4.OptionDHCPMessageType.Code()] = []byte{byte(kind)}
	m.Options[dhcpv4.OptionServerIdentifier.Code()] = server.AsSlice()
	// RFC 6842 section 3 for 61, RFC 3046 section 2.2 for 82: echo.
	for _, code := range []uint8{dhcpv4.OptionClientIdentifier.Code(), dhcpv4.OptionRelayAgentInformation.Code()} {
		if v, ok := r.msg.Options[code]; ok {
			m.Options[code] = v
		}
	}
	return m
}

// addLease puts the address and its times into m.
func addLease(m *dhcpv4.DHCPv4, g lease.Grant) {
	m.YourIPAddr = g.Addr.AsSlice()
	m.Options[dhcpv4.OptionIPAddressLeaseTime.Code()] = seconds(g.Duration)
	m.Options[dhcpv4.OptionRenewTimeValue.Code()] = seconds(g.Duration / 2)         // RFC 2131 section 4.4.5
	m.Options[dhcpv4.OptionRebindingTimeValue.Code()] = seconds(g.Duration * 7 / 8) // likewise
}

// addSubnet puts the subnet's parameters into m: mask and router always, the rest if the client asks for it.
func addSubnet(m *dhcpv4.DHCPv4, r *request, s *Subnet, hostname string) {
	mask := net.CIDRMask(s.Prefix.Bits(), 32)
	m.Options[dhcpv4.OptionSubnetMask.Code()] = mask
	if s.Gateway.IsValid() {
		m.Options[dhcpv4.OptionRouter.Code()] = s.Gateway.AsSlice()
	}
	ask := func(c dhcpv4.OptionCode, v []byte) {
		if len(v) > 0 && r.msg.IsOptionRequested(c) {
			m.Options[c.Code()] = v
		}
	}
	ask(dhcpv4.OptionDomainNameServer, addrs(s.DNS))
	ask(dhcpv4.OptionNTPServers, addrs(s.NTP))
	ask(dhcpv4.OptionDomainName, []byte(s.Domain))
	ask(dhcpv4.OptionHostName, []byte(hostname))
	base := s.Prefix.Masked().Addr().As4()
	for i := range base {
		base[i] |= ^mask[i]
	}
	ask(dhcpv4.OptionBroadcastAddress, base[:])
}

// The PXE options inside option 43 (PXE specification 2.1, table 2-1).
const (
	pxeDiscoveryControl = 6
	pxeUseBootFile      = 8 // "if a boot file name is there, take it; don't prompt, don't discover"
	pxeEnd              = 255
)

// maxFileField is what fits into the header's file field with its final zero.
const maxFileField = 127

// addBoot puts the boot file into m: in the header, where every PXE client looks, and in options 66 and 67, where UEFI HTTP boot
// and DHCP proper look. server is what siaddr says unless the reply names another.
func addBoot(m *dhcpv4.DHCPv4, r *request, b BootReply, server netip.Addr) {
	if b.NextServer.IsValid() {
		server = b.NextServer
	}
	m.ServerIPAddr = server.AsSlice()
	if uuid, ok := r.msg.Options[optUUID]; ok { // RFC 4578 section 2.3; PXE clients check it
		m.Options[optUUID] = uuid
	}
	if r.http && !r.ipxe {
		m.Options[dhcpv4.OptionClassIdentifier.Code()] = []byte("HTTPClient") // UEFI 2.10 section 24.7.2: the mark of an HTTP boot offer
	} else {
		m.Options[dhcpv4.OptionTFTPServerName.Code()] = []byte(server.String())
	}
	if len(b.File) <= maxFileField {
		m.BootFileName = b.File
	}
	if b.File != "" {
		m.Options[dhcpv4.OptionBootfileName.Code()] = []byte(b.File)
	}
}

// addPXE marks m as a PXE server's offer. discover says that the client should ask port 4011 for the file.
func addPXE(m *dhcpv4.DHCPv4, discover bool) {
	m.Options[dhcpv4.OptionClassIdentifier.Code()] = []byte("PXEClient")
	if !discover {
		m.Options[optVendorOptions] = []byte{pxeDiscoveryControl, 1, pxeUseBootFile, pxeEnd}
	}
}

// addIPXE tells iPXE not to wait for proxyDHCP offers: option 175, sub-option 176 (no-pxedhcp).
func addIPXE(m *dhcpv4.DHCPv4) { m.Options[optIPXE] = []byte{176, 1, 1, 255} }

// minMessage is the DHCP message that every client takes, in bytes (RFC 2131 section 2: 312 bytes of options after a 236-byte
// header, in a datagram of 576 bytes). maxMessage is what fits into an Ethernet frame.
const (
	minMessage = 548
	maxMessage = 1472
)

// marshal encodes m in at most the bytes that the client takes (option 57 counts the IP and UDP headers for some clients, so we
// count them too). Options that are there for convenience go first; the rest is needed and stays.
func marshal(m *dhcpv4.DHCPv4, r *request) []byte {
	limit := minMessage
	if n, err := r.msg.MaxMessageSize(); err == nil {
		limit = min(max(int(n)-ipv4Len-udpLen, minMessage), maxMessage)
	}
	b := m.ToBytes()
	dispensable := []uint8{
		dhcpv4.OptionTFTPServerName.Code(), dhcpv4.OptionNTPServers.Code(), dhcpv4.OptionBroadcastAddress.Code(),
		dhcpv4.OptionDomainName.Code(), dhcpv4.OptionHostName.Code(), dhcpv4.OptionBootfileName.Code(),
	}
	for _, code := range dispensable {
		if len(b) <= limit {
			break
		}
		if code == dhcpv4.OptionBootfileName.Code() && m.BootFileName == "" {
			continue
		}
		delete(m.Options, code)
		b = m.ToBytes()
	}
	return b
}

// seconds is a duration as options carry it.
func seconds(d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(min(d/time.Second, 0xfffffffe)))
}

func addrs(as []netip.Addr) []byte {
	var b []byte
	for _, a := range as {
		b = append(b, a.AsSlice()...)
	}
	return b
}
