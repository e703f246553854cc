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

// exchangeTimeout bounds connecting with hello, and each line with its acknowledgement.
const exchangeTimeout = 10 * time.Second

// ErrRefused is wrapped by the error of a line that the satellite answered with an error.
var ErrRefused = errors.New("the satellite refused")

// Session is an open report stream behind its hello. It is not safe for concurrent use.
type Session struct {
	conn net.Conn
	r    *agentproto.Reader
	w    *agentproto.Writer
	// First is the satellite's answer to the hello.
	First agentproto.Ack
}

// Dial connects to a satellite and says hello. It blocks for ten seconds at most.
func Dial(ctx context.Context, sat agentproto.Satellite, cfg *tls.Config, hello agentproto.Hello) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	addr := net.JoinHostPort(sat.Addr, strconv.Itoa(int(sat.ReportPort)))
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to satellite: %w", err)
	}
	s, err := Start(ctx, conn, cfg, hello)
	if err != nil {
		return nil, fmt.Errorf("satellite %s: %w", addr, err)
	}
	return s, nil
}

// Start makes a session of a fresh connection, which it closes on error.
func Start(ctx context.Context, conn net.Conn, cfg *tls.Config, hello agentproto.Hello) (*Session, error) {
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	s := &Session{conn: secure, r: agentproto.NewReader(secure), w: agentproto.NewWriter(secure)}
	ack, err := s.Send(ctx, agentproto.Message{Hello: &hello})
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("hello: %w", err)
	}
	s.First = ack
	return s, nil
}

// Send sends one line and waits for its acknowledgement, ten seconds at most. After an error the session is of no more use.
func (s *Session) Send(ctx context.Context, m agentproto.Message) (agentproto.Ack, error) {
	if err := s.conn.SetDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		return agentproto.Ack{}, err
	}
	stop := context.AfterFunc(ctx, func() { s.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := s.w.Write(m); err != nil {
		return agentproto.Ack{}, err
	}
	answer, err := s.r.Read()
	switch {
	case err != nil:
		return agentproto.Ack{}, err
	case answer.Ack == nil:
		return agentproto.Ack{}, fmt.Errorf("%w: it sent no acknowledgement", agentproto.ErrBadMessage)
	case answer.Ack.Error != "":
		return agentproto.Ack{}, fmt.Errorf("%w: %.200q", ErrRefused, answer.Ack.Error)
	}
	return *answer.Ack, nil
}

// Peer is the satellite's address and port.
func (s *Session) Peer() string { return s.conn.RemoteAddr().String() }

// Close ends the stream.
func (s *Session) Close() error { return s.conn.Close() }
