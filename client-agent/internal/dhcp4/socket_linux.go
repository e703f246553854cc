package dhcp4

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	clientPort = 68
	serverPort = 67
)

// Socket is a UDP socket on the client port of one NIC. It works before the NIC has an address: limited broadcasts go out from 0.0.0.0 and come in.
type Socket struct {
	conn *net.UDPConn
}

// Listen opens the client port on the named NIC. The address may be in use by a DHCP client on another NIC.
func Listen(ctx context.Context, nic string) (*Socket, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var setErr error
		err := raw.Control(func(fd uintptr) {
			setErr = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.BindToDevice(int(fd), nic))
		})
		return errors.Join(err, setErr)
	}}
	conn, err := lc.ListenPacket(ctx, "udp4", fmt.Sprintf("0.0.0.0:%d", clientPort))
	if err != nil {
		return nil, fmt.Errorf("open DHCP client port on %s: %w", nic, err)
	}
	return &Socket{conn: conn.(*net.UDPConn)}, nil
}

// Send implements Conn.
func (s *Socket) Send(packet []byte, to netip.Addr) error {
	_, err := s.conn.WriteToUDPAddrPort(packet, netip.AddrPortFrom(to, serverPort))
	return err
}

// Receive implements Conn.
func (s *Socket) Receive(deadline time.Time) ([]byte, error) {
	if err := s.conn.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	b := make([]byte, MaxPacket)
	n, _, err := s.conn.ReadFromUDPAddrPort(b)
	return b[:n], err
}

// Close ends a Receive that is going on.
func (s *Socket) Close() error { return s.conn.Close() }
