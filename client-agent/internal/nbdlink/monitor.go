package nbdlink

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/netlink"
)

// Monitor hears the driver's events. Open it before Connect, so that no event can be missed; its socket can be handed to another
// process, whose NewMonitor takes it over with what has queued up in it.
type Monitor struct {
	conn *netlink.Conn
}

// OpenMonitor joins the driver's multicast group.
func (l *Link) OpenMonitor() (*Monitor, error) {
	group, ok := l.family.Groups[groupName]
	if !ok {
		return nil, fmt.Errorf("the kernel's nbd driver has no multicast group %s", groupName)
	}
	conn, err := netlink.Dial(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return nil, err
	}
	if err := conn.Join(group); err != nil {
		conn.Close()
		return nil, err
	}
	return &Monitor{conn: conn}, nil
}

// NewMonitor takes over a socket that another process's OpenMonitor made.
func NewMonitor(file *os.File) *Monitor { return &Monitor{conn: netlink.NewConn(file)} }

// File is the socket; it stays the Monitor's.
func (m *Monitor) File() *os.File { return m.conn.File() }

// Close ends a wait that is going on.
func (m *Monitor) Close() error { return m.conn.Close() }

// WaitDead blocks until a connection of the device has died. It may also return nil when none has: after lost events it is better to try
// (Reconfigure does no harm then).
func (m *Monitor) WaitDead(index uint32) error {
	for {
		list, err := m.conn.Receive(time.Time{})
		if isOverrun(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("await nbd event: %w", err)
		}
		for _, msg := range list {
			if got, ok := deadIndex(msg.Data); ok && got == index {
				return nil
			}
		}
	}
}

// deadIndex reads an NBD_CMD_LINK_DEAD event.
func deadIndex(data []byte) (uint32, bool) {
	command, attrs, err := netlink.ParseGeneric(data)
	if err != nil || command != cmdLinkDead {
		return 0, false
	}
	for _, a := range attrs {
		if a.Type == attrIndex {
			return a.Uint32()
		}
	}
	return 0, false
}
