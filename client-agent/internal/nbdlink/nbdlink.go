// Package nbdlink drives the kernel's nbd driver by generic netlink (<linux/nbd-netlink.h>): it hands negotiated sockets to the
// kernel and hears when one of them has died.
package nbdlink

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/netlink"
)

const (
	familyName = "nbd"
	groupName  = "nbd_mc_group"
	version    = 1

	cmdConnect     = 1
	cmdDisconnect  = 2
	cmdReconfigure = 3
	cmdLinkDead    = 4

	attrIndex       = 1
	attrSize        = 2
	attrBlockSize   = 3
	attrTimeout     = 4
	attrServerFlags = 5
	attrSockets     = 7
	attrDeadTimeout = 8
	attrBackend     = 10

	sockItem = 1
	sockFD   = 1
)

// Device describes one block device /dev/nbdINDEX.
type Device struct {
	Index     uint32
	SizeBytes uint64
	BlockSize uint64
	// Flags are the transmission flags of the export.
	Flags uint16
	// Timeout is how long a request may be unanswered; zero would wait for ever and is refused. DeadTimeout is how long the device
	// holds requests while it has no connection. The kernel counts both in seconds; parts of a second are rounded up.
	Timeout     time.Duration
	DeadTimeout time.Duration
	// Backend identifies the bytes: the image's digest. The kernel refuses to reconnect with another one (EINVAL).
	Backend string
}

// Path is the device's node.
func (d Device) Path() string { return fmt.Sprintf("/dev/nbd%d", d.Index) }

// Link speaks to the driver. It is not safe for concurrent use.
type Link struct {
	exec   netlink.Executor
	close  func() error
	family netlink.Family
}

// Open finds the driver; the nbd module must be loaded.
func Open() (*Link, error) {
	conn, err := netlink.Dial(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return nil, err
	}
	family, err := netlink.LookupFamily(conn, familyName)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &Link{exec: conn, close: conn.Close, family: family}, nil
}

// Close closes the link; connections that the kernel holds go on.
func (l *Link) Close() error { return l.close() }

// Connect makes the device from the socket, which is in transmission phase and stays the caller's: the kernel takes its own reference.
func (l *Link) Connect(d Device, sock *os.File) error {
	return l.request(cmdConnect, d, sock)
}

// Reconfigure gives a device whose connection has died another one; the kernel sends unanswered requests again. If the old connection
// lives, the kernel ignores the new one and says nothing.
func (l *Link) Reconfigure(d Device, sock *os.File) error {
	return l.request(cmdReconfigure, d, sock)
}

// Disconnect ends the connection of a device that nothing uses any more; the kernel gives it back.
func (l *Link) Disconnect(index uint32) error {
	var a netlink.Attrs
	a.Uint32(attrIndex, index)
	if _, err := l.exec.Execute(l.family.ID, 0, netlink.Generic(cmdDisconnect, version, a.Bytes())); err != nil {
		return fmt.Errorf("nbd device %d: disconnect: %w", index, err)
	}
	return nil
}

func (l *Link) request(command uint8, d Device, sock *os.File) error {
	if d.Timeout <= 0 || d.DeadTimeout <= 0 {
		return fmt.Errorf("nbd device %d: timeouts must be positive, got %v and %v", d.Index, d.Timeout, d.DeadTimeout)
	}
	raw, err := sock.SyscallConn()
	if err != nil {
		return fmt.Errorf("nbd device %d: %w", d.Index, err)
	}
	var execErr error
	err = raw.Control(func(fd uintptr) {
		_, execErr = l.exec.Execute(l.family.ID, 0, netlink.Generic(command, version, encode(command, d, uint32(fd))))
	})
	if err := errors.Join(err, execErr); err != nil {
		return fmt.Errorf("nbd device %d: netlink command %d: %w", d.Index, command, err)
	}
	return nil
}

// encode writes the attributes of CONNECT or RECONFIGURE; the latter leaves out what cannot change.
func encode(command uint8, d Device, fd uint32) []byte {
	var a netlink.Attrs
	a.Uint32(attrIndex, d.Index)
	if command == cmdConnect {
		a.Uint64(attrSize, d.SizeBytes)
		a.Uint64(attrBlockSize, d.BlockSize)
		a.Uint64(attrServerFlags, uint64(d.Flags))
	}
	a.Uint64(attrTimeout, seconds(d.Timeout))
	a.Uint64(attrDeadTimeout, seconds(d.DeadTimeout))
	a.String(attrBackend, d.Backend)
	a.Nested(attrSockets, func(list *netlink.Attrs) {
		list.Nested(sockItem, func(item *netlink.Attrs) { item.Uint32(sockFD, fd) })
	})
	return a.Bytes()
}

func seconds(d time.Duration) uint64 { return uint64((d + time.Second - 1) / time.Second) }
