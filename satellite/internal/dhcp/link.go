package dhcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// receiveBuffer is asked of the kernel for each socket: a classroom that is switched on in one second must fit.
const receiveBuffer = 4 << 20

// maxDatagram is the longest request that is read, in bytes; more is cut off and then malformed.
const maxDatagram = 2048

// batch is how many datagrams are read with one system call.
const batch = 32

// A link is an interface that is being served: two UDP sockets and one for frames.
type link struct {
	Interface
	nic *net.Interface
	udp map[uint16]*net.UDPConn // by port
	raw *packet.Conn            // nil if not permitted
	oob []byte                  // control message: our address as source
}

// openLink opens the sockets of an interface.
func openLink(i Interface) (*link, error) {
	nic, err := findNIC(i)
	if err != nil {
		return nil, err
	}
	cm := ipv4.ControlMessage{Src: i.Addr.Addr().AsSlice(), IfIndex: nic.Index}
	l := &link{Interface: i, nic: nic, udp: make(map[uint16]*net.UDPConn, 2), oob: cm.Marshal()}
	if err := l.open(); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *link) open() error {
	for _, port := range []uint16{serverPort, pxePort} {
		conn, err := listen(l.Name, port)
		if err != nil {
			return err
		}
		l.udp[port] = conn
	}
	// Protocol zero receives nothing: the socket is for sending only.
	raw, err := packet.Listen(l.nic, packet.Raw, 0, nil)
	switch {
	case errors.Is(err, unix.EPERM): // l.raw stays nil
	case err != nil:
		return fmt.Errorf("open packet socket on %s: %w", l.Name, err)
	default:
		l.raw = raw
	}
	return nil
}

func findNIC(i Interface) (*net.Interface, error) {
	nic, err := net.InterfaceByName(i.Name)
	switch {
	case err != nil:
		return nil, fmt.Errorf("interface %s: %w", i.Name, err)
	case i.Index != 0 && nic.Index != i.Index:
		return nil, fmt.Errorf("interface %s has index %d, not %d", i.Name, nic.Index, i.Index)
	case len(nic.HardwareAddr) != 6:
		return nil, fmt.Errorf("interface %s has no Ethernet address", i.Name)
	}
	return nic, nil
}

// stale reports whether the interface is another one than when the link was opened: its sockets are deaf then.
func (l *link) stale() bool {
	nic, err := findNIC(l.Interface)
	return err != nil || nic.Index != l.nic.Index || !bytes.Equal(nic.HardwareAddr, l.nic.HardwareAddr)
}

func listen(nic string, port uint16) (*net.UDPConn, error) {
	cfg := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) { err = setOptions(int(fd), nic) }); e != nil {
			return e
		}
		return err
	}}
	conn, err := cfg.ListenPacket(context.Background(), "udp4", ":"+strconv.Itoa(int(port)))
	if err != nil {
		if errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("listen on %s port %d (is another DHCP server running on this machine?): %w", nic, port, err)
		}
		return nil, fmt.Errorf("listen on %s port %d: %w", nic, port, err)
	}
	return conn.(*net.UDPConn), nil
}

func setOptions(fd int, nic string) error {
	if err := unix.BindToDevice(fd, nic); err != nil {
		return fmt.Errorf("bind to device: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1); err != nil {
		return fmt.Errorf("ask for destination addresses: %w", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		// Without CAP_NET_ADMIN the kernel's limit applies; that is still a working server.
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	return nil
}

func (l *link) close() {
	for _, c := range l.udp {
		_ = c.Close()
	}
	if l.raw != nil {
		_ = l.raw.Close()
	}
}

// send is wire's.
func (l *link) send(port uint16, to destination, msg []byte) error {
	if to.frame && l.raw != nil {
		src := netip.AddrPortFrom(l.Addr.Addr(), port)
		b := frame([6]byte(l.nic.HardwareAddr), to.mac, src, to.addr, msg)
		_, err := l.raw.WriteTo(b, &packet.Addr{HardwareAddr: to.mac[:]})
		return err
	}
	if to.frame {
		to.addr = netip.AddrPortFrom(broadcastAddr(), to.addr.Port())
	}
	_, _, err := l.udp[port].WriteMsgUDPAddrPort(msg, l.oob, to.addr)
	return err
}

// read calls f for each datagram that comes to port until the socket is closed or its read deadline passes; other errors go
// to fail, which may end the loop by returning false.
func (l *link) read(port uint16, f func(data []byte, src netip.AddrPort, dst netip.Addr), fail func(error) bool) {
	conn := ipv4.NewPacketConn(l.udp[port])
	ms := make([]ipv4.Message, batch)
	for i := range ms {
		ms[i].Buffers = [][]byte{make([]byte, maxDatagram)}
		ms[i].OOB = ipv4.NewControlMessage(ipv4.FlagDst | ipv4.FlagInterface)
	}
	for {
		n, err := conn.ReadBatch(ms, 0)
		if err != nil && !fail(err) {
			return
		}
		for _, m := range ms[:max(n, 0)] {
			var dst netip.Addr
			var cm ipv4.ControlMessage
			if cm.Parse(m.OOB[:m.NN]) == nil {
				dst = ip4(cm.Dst)
			}
			src, _ := m.Addr.(*net.UDPAddr)
			if src != nil {
				a := src.AddrPort()
				f(m.Buffers[0][:m.N], netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), dst)
			}
		}
	}
}

// stopReading ends the read loops and leaves the sockets open for what is still to be sent.
func (l *link) stopReading() {
	for _, c := range l.udp {
		_ = c.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed socket, whose readers end anyway
	}
}
