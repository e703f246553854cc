package dhcp

import (
	"errors"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

// A datagram is one as it came from a socket.
type datagram struct {
	port uint16 // 67 or 4011
	in   Interface
	src  netip.AddrPort
	// dst is the destination address, the zero value if unknown.
	dst netip.Addr
	at  time.Time
}

// An outcome is what policy decides about a packet. Either drop is set, or there is something to do.
type outcome struct {
	drop drop
	// seen is told at once.
	seen *Event
	// records must be durable before reply is sent.
	records []lease.Record
	reply   *reply
	// probe asks to look for a stranger on the offered address before reply is sent.
	probe bool
	// note is for the log: why nothing happens although somebody wants it.
	note string
}

// leases is what policy needs of lease.Table.
type leases interface {
	Offer(c lease.Client, subnet string, want netip.Addr) (lease.Grant, error)
	Select(c lease.Client, subnet string, addr netip.Addr) (lease.Grant, error)
	Reboot(c lease.Client, subnet string, addr netip.Addr) (lease.Grant, error)
	Renew(c lease.Client, subnet string, addr netip.Addr) (lease.Grant, error)
	Release(c lease.Client, addr netip.Addr) []lease.Record
	Decline(c lease.Client, addr netip.Addr) []lease.Record
	Forgo(c lease.Client)
}

// policy turns packets into outcomes. It has no sockets and no state of its own.
type policy struct {
	leases leases
	boot   Boot
}

// A conversation is one request in its surroundings.
type conversation struct {
	*request
	policy
	settings *Settings
	packet   datagram
	subnet   *Subnet
	server   netip.Addr // our address as the client sees it
}

// handle decides about one packet.
func (p policy) handle(pkt datagram, r *request, s *Settings) outcome {
	c := conversation{request: r, policy: p, settings: s, packet: pkt, server: pkt.in.Addr.Addr()}
	if c.subnet = c.findSubnet(); c.subnet == nil {
		return outcome{drop: dropNoSubnet}
	}
	if c.subnet.Mode == Off {
		return outcome{drop: dropOff}
	}
	if pkt.port == pxePort {
		return c.bootServer()
	}
	if c.subnet.Mode == Proxy {
		return c.proxy()
	}
	switch r.kind {
	case dhcpv4.MessageTypeDiscover:
		return c.discover()
	case dhcpv4.MessageTypeRequest:
		return c.ask()
	case dhcpv4.MessageTypeInform:
		return c.inform()
	case dhcpv4.MessageTypeRelease:
		if c.otherServer() {
			return outcome{drop: dropOtherServer}
		}
		return outcome{records: c.leases.Release(c.client, c.ciaddr)}
	default: // parse lets only DHCPDECLINE pass here
		if c.otherServer() {
			return outcome{drop: dropOtherServer}
		}
		return outcome{records: c.leases.Decline(c.client, c.wanted), note: "client declined its address: somebody else uses it"}
	}
}

// findSubnet selects the subnet as RFC 2131 section 4.3.1 says: the relay's link (RFC 3527) or address, else the interface's. A client
// that talks to us by unicast is where its address is.
func (c *conversation) findSubnet() *Subnet {
	switch {
	case c.giaddr.IsValid() && c.link.IsValid():
		return c.settings.subnet(c.link)
	case c.giaddr.IsValid():
		return c.settings.subnet(c.giaddr)
	case c.ciaddr.IsValid() && c.packet.dst == c.server:
		if s := c.settings.subnet(c.ciaddr); s != nil {
			return s
		}
	}
	return c.settings.subnet(c.server)
}

// otherServer reports whether the client names another server as the one it means.
func (c *conversation) otherServer() bool {
	return c.serverID.IsValid() && c.serverID != c.server && !c.settings.ours(c.serverID)
}

func (c *conversation) discover() outcome {
	seen := c.event(EventDiscover, netip.Addr{})
	g, err := c.leases.Offer(c.client, c.subnet.Name, c.wanted)
	if err != nil {
		return outcome{seen: seen, drop: dropFull, note: err.Error()}
	}
	m := answer(c.request, dhcpv4.MessageTypeOffer, c.server)
	addLease(m, g)
	note := c.configure(m, g.Hostname)
	return outcome{seen: seen, probe: g.Probe, note: note.Detail, reply: c.send(m, EventOffer, g.Addr, note)}
}

// ask answers DHCPREQUEST by the client's state, which RFC 2131 section 4.3.2 infers from what is filled in.
func (c *conversation) ask() outcome {
	var g lease.Grant
	var err error
	switch {
	case c.serverID.IsValid():
		if c.otherServer() {
			c.leases.Forgo(c.client)
			return outcome{drop: dropOtherServer}
		}
		addr := c.wanted
		if !addr.IsValid() { // some clients repeat the address in ciaddr only
			addr = c.ciaddr
		}
		g, err = c.leases.Select(c.client, c.subnet.Name, addr)
	case c.ciaddr.IsValid():
		g, err = c.leases.Renew(c.client, c.subnet.Name, c.ciaddr)
	case c.wanted.IsValid():
		g, err = c.leases.Reboot(c.client, c.subnet.Name, c.wanted)
	default:
		return outcome{drop: dropMalformed}
	}
	switch {
	case errors.Is(err, lease.ErrRefused):
		return c.nak()
	case err != nil:
		return outcome{drop: dropSilent}
	}
	m := answer(c.request, dhcpv4.MessageTypeAck, c.server)
	m.ClientIPAddr = c.msg.ClientIPAddr
	addLease(m, g)
	boot := c.configure(m, g.Hostname)
	return outcome{records: g.Records, note: boot.Detail, reply: c.send(m, EventAck, g.Addr, boot)}
}

// nak tells the client that its address is wrong. RFC 2131 section 4.3.2: to a relay with the broadcast bit, else by broadcast, as
// the client may not be able to receive at the address it believes to have.
func (c *conversation) nak() outcome {
	m := answer(c.request, dhcpv4.MessageTypeNak, c.server)
	m.Options[dhcpv4.OptionMessage.Code()] = []byte("address not available")
	to := destination{addr: netip.AddrPortFrom(broadcastAddr(), clientPort)}
	if c.giaddr.IsValid() {
		m.SetBroadcast()
		to.addr = netip.AddrPortFrom(c.giaddr, serverPort)
	}
	e := c.event(EventNak, c.wanted)
	if !e.Addr.IsValid() {
		e.Addr = c.ciaddr
	}
	return outcome{reply: &reply{msg: m, to: to, event: *e}}
}

// inform answers DHCPINFORM: parameters only (RFC 2131 section 4.3.5), to the address that the client already has.
func (c *conversation) inform() outcome {
	if !c.reachable() {
		return outcome{drop: dropMalformed}
	}
	m := answer(c.request, dhcpv4.MessageTypeAck, c.server)
	m.ClientIPAddr = c.msg.ClientIPAddr
	boot := c.configure(m, "")
	return outcome{note: boot.Detail, reply: c.send(m, EventAck, c.ciaddr, boot)}
}

// configure adds the subnet's parameters and the boot answer in authoritative mode.
func (c *conversation) configure(m *dhcpv4.DHCPv4, hostname string) BootReply {
	addSubnet(m, c.request, c.subnet, hostname)
	if !c.boots() {
		return BootReply{}
	}
	boot := c.loader()
	if c.ipxe {
		addIPXE(m)
	}
	if boot.File == "" {
		return boot
	}
	addBoot(m, c.request, boot, c.server)
	if c.pxe && !c.ipxe && c.arch == ArchBIOS {
		addPXE(m, false)
	}
	return boot
}

// proxy answers DHCPDISCOVER beside somebody else's server: an offer without an address.
func (c *conversation) proxy() outcome {
	if c.kind != dhcpv4.MessageTypeDiscover || !c.boots() {
		return outcome{drop: dropNoBoot}
	}
	seen := c.event(EventDiscover, netip.Addr{})
	boot := c.loader()
	if boot.File == "" {
		return outcome{seen: seen, drop: dropNoBoot, note: boot.Detail}
	}
	m := answer(c.request, dhcpv4.MessageTypeOffer, c.server)
	m.SetBroadcast() // the client has no address that we know of
	switch {
	case c.http && !c.ipxe:
		addBoot(m, c.request, boot, c.server)
	case c.ipxe, c.arch == ArchBIOS:
		addBoot(m, c.request, boot, c.server)
		addPXE(m, false)
	default: // UEFI PXE: see the package comment
		addBoot(m, c.request, BootReply{NextServer: boot.NextServer}, c.server)
		addPXE(m, true)
	}
	return outcome{seen: seen, note: boot.Detail, reply: c.send(m, EventProxyOffer, netip.Addr{}, boot)}
}

// bootServer answers on port 4011. OVMF asks from port 4011, iPXE from port 68; both have an address by now and want the answer there.
func (c *conversation) bootServer() outcome {
	if c.kind != dhcpv4.MessageTypeRequest && c.kind != dhcpv4.MessageTypeInform || !c.boots() {
		return outcome{drop: dropNoBoot}
	}
	if c.otherServer() {
		return outcome{drop: dropOtherServer}
	}
	boot := c.loader()
	if boot.File == "" {
		return outcome{drop: dropNoBoot, note: boot.Detail}
	}
	m := answer(c.request, dhcpv4.MessageTypeAck, c.server)
	m.ClientIPAddr = c.msg.ClientIPAddr
	addBoot(m, c.request, boot, c.server)
	m.ServerHostName = c.server.String()
	if c.pxe || c.ipxe {
		addPXE(m, true)
	}
	out := c.send(m, EventBootAck, c.ciaddr, boot)
	if !c.giaddr.IsValid() && c.reachable() && c.ciaddr == c.packet.src.Addr() {
		out.to.addr = c.packet.src
	}
	return outcome{note: boot.Detail, reply: out}
}

func (c *conversation) loader() BootReply {
	return c.boot.Loader(BootRequest{
		MAC: c.client.MAC, UUID: c.uuid, Arch: c.arch, HTTP: c.http && !c.ipxe, IPXE: c.ipxe, Features: c.features,
		UserClass: c.userClass, Server: c.server, Subnet: c.subnet.Name, Proxy: c.subnet.Mode == Proxy,
		Transaction: c.msg.TransactionID,
	})
}

// send addresses a reply by RFC 2131 section 4.1: relay, client address, broadcast, or yiaddr by a frame to the client's own hardware.
func (c *conversation) send(m *dhcpv4.DHCPv4, kind EventKind, addr netip.Addr, boot BootReply) *reply {
	e := c.event(kind, addr)
	e.Detail = boot.File
	if boot.File == "" {
		e.Detail = boot.Detail
	}
	out := &reply{msg: m, event: *e}
	yiaddr := ip4(m.YourIPAddr)
	switch {
	case c.giaddr.IsValid():
		out.to.addr = netip.AddrPortFrom(c.giaddr, serverPort)
	case c.reachable():
		out.to.addr = netip.AddrPortFrom(c.ciaddr, clientPort)
	case m.IsBroadcast() || !yiaddr.IsValid() || c.client.MAC.IsZero():
		out.to.addr = netip.AddrPortFrom(broadcastAddr(), clientPort)
	default:
		out.to = destination{addr: netip.AddrPortFrom(yiaddr, clientPort), frame: true, mac: c.client.MAC}
	}
	return out
}

// reachable reports whether the client has an address that answers go to. RFC 2131 table 5 wants ciaddr to be zero in the states
// where it doesn't count; an address outside the subnet could be that of somebody who should be flooded.
func (c *conversation) reachable() bool {
	return c.kind != dhcpv4.MessageTypeDiscover && c.ciaddr.IsValid() && c.subnet.Prefix.Contains(c.ciaddr)
}

func (c *conversation) event(kind EventKind, addr netip.Addr) *Event {
	stage := StageSystem
	switch {
	case c.ipxe:
		stage = StageIPXE
	case c.boots():
		stage = StageFirmware
	}
	return &Event{Kind: kind, Stage: stage, MAC: c.client.MAC, UUID: c.uuid, Addr: addr, Arch: c.arch, Subnet: c.subnet.Name, At: c.packet.at}
}

// broadcastAddr is 255.255.255.255.
func broadcastAddr() netip.Addr { return netip.AddrFrom4([4]byte{255, 255, 255, 255}) }
