// Package wake switches PCs on over the network: it sends the packet for which a sleeping network card looks (AMD, Magic Packet Technology, 1995), by UDP port
// 9 as broadcast. Only the satellite's wiring imports it.
package wake

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/internal/hw"
)

// port is the discard port, which no PC answers.
const port = 9

// Link is a network that this machine is attached to.
type Link struct {
	Interface string
	// Address is this machine's on that network, with the network's length.
	Address netip.Prefix
}

// Packet returns the payload for a MAC address: six times 0xff, then sixteen times the address.
func Packet(mac string) ([]byte, error) {
	addr, err := hw.ParseMAC(mac)
	if err != nil {
		return nil, err
	}
	return append(bytes.Repeat([]byte{0xff}, 6), bytes.Repeat(addr, 16)...), nil
}

// Send sends the packet on each of the links. The error tells that it went out on none.
func Send(ctx context.Context, mac string, links []Link) error {
	packet, err := Packet(mac)
	if err != nil {
		return fmt.Errorf("wake %s: %w", mac, err)
	}
	errs := []error{errors.New("no network of the client is attached")}
	for i, l := range links {
		if i == 0 {
			errs = nil
		}
		if err := send(ctx, packet, l); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 && len(errs) >= len(links) {
		return fmt.Errorf("wake %s: %w", mac, errors.Join(errs...))
	}
	return nil
}

// send broadcasts on one link: to all, and to the network's own broadcast address, for cards that want the one or the other.
func send(ctx context.Context, packet []byte, l Link) error {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) {
			err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1), unix.BindToDevice(int(fd), l.Interface))
		}); e != nil {
			return e
		}
		return err
	}}
	conn, err := lc.ListenPacket(ctx, "udp4", netip.AddrPortFrom(l.Address.Addr(), 0).String())
	if err != nil {
		return fmt.Errorf("broadcast on %s: %w", l.Interface, err)
	}
	defer conn.Close()
	for _, to := range []netip.Addr{netip.AddrFrom4([4]byte{255, 255, 255, 255}), broadcast(l.Address)} {
		if _, err := conn.WriteTo(packet, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, port))); err != nil {
			return fmt.Errorf("broadcast on %s: %w", l.Interface, err)
		}
	}
	return nil
}

// broadcast is the highest address of an IPv4 network.
func broadcast(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(a)
}
