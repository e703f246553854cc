package netlink

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// replyTimeout bounds the wait for the kernel's answer. The kernel answers at once or not at all.
const replyTimeout = 10 * time.Second

// maxDatagram is what the kernel may send at once (NLMSG_GOODSIZE is below that).
const maxDatagram = 64 << 10

// Conn is a netlink socket. It is not safe for concurrent use, except that Close ends a Receive.
type Conn struct {
	file *os.File
	seq  uint32
	buf  []byte
}

// Dial opens a socket for a netlink protocol such as unix.NETLINK_ROUTE. Groups is the bit mask of the protocol's first 32
// multicast groups to receive.
func Dial(protocol int, groups uint32) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind netlink socket: %w", err)
	}
	return NewConn(os.NewFile(uintptr(fd), "netlink")), nil
}

// NewConn takes over an open non-blocking netlink socket, such as one inherited from the parent process.
func NewConn(file *os.File) *Conn {
	return &Conn{file: file, buf: make([]byte, maxDatagram)}
}

// Close closes the socket.
func (c *Conn) Close() error { return c.file.Close() }

// File returns the socket's file, for handing it to a child process. It stays the Conn's.
func (c *Conn) File() *os.File { return c.file }

// Join adds a multicast group, by its number in a Family.
func (c *Conn) Join(group uint32) error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("join netlink group: %w", err)
	}
	var joinErr error
	err = raw.Control(func(fd uintptr) {
		joinErr = unix.SetsockoptInt(int(fd), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(group))
	})
	if err := errors.Join(err, joinErr); err != nil {
		return fmt.Errorf("join netlink group: %w", err)
	}
	return nil
}

// Execute sends one request and returns what the kernel replies, without the final acknowledgement. Flags are added to
// NLM_F_REQUEST|NLM_F_ACK. The error can be tested for the kernel's error number.
func (c *Conn) Execute(kind uint16, flags uint16, data []byte) ([]Message, error) {
	c.seq++
	m := Message{Type: kind, Flags: flags | unix.NLM_F_REQUEST | unix.NLM_F_ACK, Seq: c.seq, Data: data}
	if _, err := c.file.Write(m.encode()); err != nil {
		return nil, fmt.Errorf("send netlink request: %w", err)
	}
	deadline := time.Now().Add(replyTimeout)
	var replies []Message
	for {
		list, err := c.Receive(deadline)
		if err != nil {
			return nil, fmt.Errorf("await netlink reply: %w", err)
		}
		for _, m := range list {
			switch {
			case m.Seq != c.seq: // an event, or the reply to a request that was given up
			case m.Type == unix.NLMSG_ERROR:
				return replies, m.Err()
			case m.Type == unix.NLMSG_DONE:
				return replies, nil
			default:
				replies = append(replies, m)
			}
		}
	}
}

// Receive returns the messages of the next datagram, which stay valid. The zero deadline waits for ever. The error can be tested for
// os.ErrDeadlineExceeded, os.ErrClosed and unix.ENOBUFS (events were lost).
func (c *Conn) Receive(deadline time.Time) ([]Message, error) {
	data, err := c.ReceiveRaw(deadline)
	if err != nil {
		return nil, err
	}
	return Parse(data)
}

// ReceiveRaw is like Receive for protocols whose datagrams have another form, as those of NETLINK_KOBJECT_UEVENT.
func (c *Conn) ReceiveRaw(deadline time.Time) ([]byte, error) {
	if err := c.file.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	n, err := c.file.Read(c.buf)
	if err != nil {
		return nil, err
	}
	return append([]byte(nil), c.buf[:n]...), nil
}
