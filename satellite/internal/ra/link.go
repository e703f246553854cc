package ra

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// A link is an interface being served.
type link struct {
	nic  *net.Interface
	addr netip.Addr // link-local, with zone
	conn *ipv6.PacketConn

	done chan struct{}
	// limits: see allow
	tokens    float64
	refilled  time.Time
	multicast time.Time
}

func (l *link) end() { close(l.done) }

func (l *link) ended() bool {
	select {
	case <-l.done:
		return true
	default:
		return false
	}
}

// stale reports whether the interface or its address is another one than when the link was opened.
func (l *link) stale() bool {
	nic, err := net.InterfaceByName(l.nic.Name)
	if err != nil || nic.Index != l.nic.Index || !bytes.Equal(nic.HardwareAddr, l.nic.HardwareAddr) {
		return true
	}
	addr, err := linkLocal(nic)
	return err != nil || addr != l.addr
}

// allow bounds the answers: perSecond in all, and one in minMulticastInterval to those without an address.
func (l *link) allow(src netip.Addr, perSecond int, now time.Time) bool {
	if src.IsUnspecified() {
		if now.Sub(l.multicast) < minMulticastInterval {
			return false
		}
		l.multicast = now
	}
	l.tokens = min(float64(perSecond), l.tokens+max(0, now.Sub(l.refilled).Seconds())*float64(perSecond))
	l.refilled = now
	if l.tokens < 1 {
		return false
	}
	l.tokens--
	return true
}

// advertise sends to the one that asked, or to all nodes if it has no address yet. RFC 4861 section 6.1.2: from a link-local
// address, hop limit 255.
func (l *link) advertise(to netip.Addr) error {
	if to.IsUnspecified() {
		to = netip.IPv6LinkLocalAllNodes()
	}
	cm := &ipv6.ControlMessage{HopLimit: hopLimit, Src: l.addr.AsSlice(), IfIndex: l.nic.Index}
	_, err := l.conn.WriteTo(advertisement(l.nic.HardwareAddr), cm, &net.IPAddr{IP: to.AsSlice(), Zone: l.nic.Name})
	return err
}

// openLink opens the socket of an interface that has a usable link-local address.
func openLink(name string) (*link, error) {
	nic, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	addr, err := linkLocal(nic)
	if err != nil {
		return nil, err
	}
	cfg := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), name) }); e != nil {
			return e
		}
		return err
	}}
	raw, err := cfg.ListenPacket(context.Background(), "ip6:ipv6-icmp", "::")
	if err != nil {
		return nil, fmt.Errorf("open ICMPv6 socket on %s: %w", name, err)
	}
	l := &link{nic: nic, addr: addr, conn: ipv6.NewPacketConn(raw), done: make(chan struct{})}
	if err := l.setOptions(); err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("set up ICMPv6 socket on %s: %w", name, err)
	}
	return l, nil
}

func (l *link) setOptions() error {
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterSolicitation)
	return errors.Join(
		l.conn.SetICMPFilter(&only),
		l.conn.SetControlMessage(ipv6.FlagHopLimit, true),
		l.conn.SetMulticastLoopback(false),
		l.conn.JoinGroup(l.nic, &net.IPAddr{IP: netip.IPv6LinkLocalAllRouters().AsSlice()}),
	)
}

// linkLocal gives the interface's link-local address.
func linkLocal(nic *net.Interface) (netip.Addr, error) {
	addrs, err := nic.Addrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("addresses of %s: %w", nic.Name, err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() == nil && n.IP.IsLinkLocalUnicast() {
			addr, _ := netip.AddrFromSlice(n.IP)
			return addr.WithZone(nic.Name), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("interface %s has no IPv6 link-local address (is IPv6 switched off?)", nic.Name)
}

// addrOf is the address of a raw socket's peer.
func addrOf(a net.Addr) net.IP {
	if ip, ok := a.(*net.IPAddr); ok {
		return ip.IP
	}
	return nil
}
