package nbdclient

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"
)

// Keepalive lets an idle connection to a satellite that has vanished die within about 20 seconds, so that the next read does not have to
// find out.
var keepalive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 3 * time.Second, Count: 3}

// Target is an export on a server.
type Target struct {
	Addr   string // host:port
	Export string
	// SizeBytes is what the export must have; anything else is refused.
	SizeBytes uint64
}

// Open connects to the target, negotiates and checks what it is offered. It blocks until ctx ends at most. The caller closes the file, which the
// kernel can be given; it is in transmission phase.
func Open(ctx context.Context, t Target) (*os.File, Info, error) {
	d := net.Dialer{KeepAliveConfig: keepalive}
	conn, err := d.DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return nil, Info{}, fmt.Errorf("connect to NBD server: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	info, err := Negotiate(conn, t.Export)
	if err == nil {
		err = info.Check(t.SizeBytes)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", ctx.Err(), err)
		}
		return nil, Info{}, fmt.Errorf("NBD server %s: %w", t.Addr, err)
	}
	// File duplicates the descriptor, so closing conn does not end the connection.
	file, err := conn.(*net.TCPConn).File()
	if err != nil {
		return nil, Info{}, fmt.Errorf("NBD server %s: %w", t.Addr, err)
	}
	return file, info, nil
}
