package uplink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

const (
	// exchangeTimeout bounds connecting with hello, and each line with its answer.
	exchangeTimeout = 10 * time.Second
	// A satellite that has gone away without a word is noticed after half a minute: no command would arrive meanwhile.
	keepAliveIdle     = 15 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 3
)

// ErrRefused is wrapped by the error of a line that the satellite answered with an error.
var ErrRefused = errors.New("the satellite refused")

var errSilent = fmt.Errorf("no answer for %v", exchangeTimeout)

// dial connects to a satellite's report port. It blocks until ctx ends at most.
func dial(ctx context.Context, sat agentproto.Satellite) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount}}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(sat.Addr, strconv.Itoa(int(sat.ReportPort))))
	if err != nil {
		return nil, fmt.Errorf("connect to satellite: %w", err)
	}
	return conn, nil
}

// secure does the TLS handshake. It closes conn on error.
func secure(ctx context.Context, conn net.Conn, cfg *tls.Config) (*tls.Conn, error) {
	c := tls.Client(conn, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return c, nil
}

// judge returns an acknowledgement's error.
func judge(ack agentproto.Ack) error {
	if ack.Error != "" {
		return fmt.Errorf("%w: %.200q", ErrRefused, ack.Error)
	}
	return nil
}
