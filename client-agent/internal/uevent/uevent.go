// Package uevent hears the kernel's announcements of devices (NETLINK_KOBJECT_UEVENT), which udev would hear on a running system.
package uevent

import (
	"bytes"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/netlink"
)

// kernelGroup is the multicast group of the kernel's own events.
const kernelGroup = 1

// Event is one announcement.
type Event struct {
	Action    string // add, remove, change, bind, ...
	Subsystem string
	Modalias  string // empty if no driver can be found by it
}

// Listener receives events. It is not safe for concurrent use.
type Listener struct {
	conn *netlink.Conn
}

// Listen starts to receive; what happened before is not heard.
func Listen() (*Listener, error) {
	conn, err := netlink.Dial(unix.NETLINK_KOBJECT_UEVENT, kernelGroup)
	if err != nil {
		return nil, err
	}
	return &Listener{conn: conn}, nil
}

// Close stops receiving.
func (l *Listener) Close() error { return l.conn.Close() }

// Next waits for the next event. The error can be tested for os.ErrDeadlineExceeded.
func (l *Listener) Next(deadline time.Time) (Event, error) {
	data, err := l.conn.ReceiveRaw(deadline)
	if err != nil {
		return Event{}, err
	}
	return parse(data), nil
}

// parse reads NUL-separated words, of which the first is ACTION@DEVPATH and the others are KEY=VALUE. Unknown words are passed over.
func parse(data []byte) Event {
	var e Event
	for word := range bytes.SplitSeq(data, []byte{0}) {
		key, value, ok := strings.Cut(string(word), "=")
		if !ok {
			continue
		}
		switch key {
		case "ACTION":
			e.Action = value
		case "SUBSYSTEM":
			e.Subsystem = value
		case "MODALIAS":
			e.Modalias = value
		}
	}
	return e
}
