package uplink

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// ErrClosed is the error of a session that was closed.
var ErrClosed = errors.New("the stream is closed")

// Session is an open report stream behind its hello. Send is for one goroutine at a time; the rest is safe for concurrent use.
type Session struct {
	conn     *tls.Conn
	w        *agentproto.Writer
	incoming func(agentproto.Message)
	// First is the satellite's answer to the hello.
	First agentproto.Ack

	pending atomic.Bool // a line is without its acknowledgement
	closed  atomic.Bool // by us
	acks    chan agentproto.Ack
	done    chan struct{} // closed when nothing more is read
	err     error         // why; set before done is closed
}

// Dial connects to a satellite and says hello. It blocks for ten seconds at most. Incoming gets each Notice and Command as it comes, from one
// goroutine; it must not block and not close the session. Nil ignores them.
func Dial(ctx context.Context, sat agentproto.Satellite, cfg *tls.Config, hello agentproto.Hello, incoming func(agentproto.Message)) (*Session, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	conn, err := dial(ctx, sat)
	if err != nil {
		return nil, err
	}
	s, err := Start(ctx, conn, cfg, hello, incoming)
	if err != nil {
		return nil, fmt.Errorf("satellite %s: %w", conn.RemoteAddr(), err)
	}
	return s, nil
}

// Start makes a session of a fresh connection, which it closes on error.
func Start(ctx context.Context, conn net.Conn, cfg *tls.Config, hello agentproto.Hello, incoming func(agentproto.Message)) (*Session, error) {
	c, err := secure(ctx, conn, cfg)
	if err != nil {
		return nil, err
	}
	s := &Session{conn: c, w: agentproto.NewWriter(c), incoming: incoming, acks: make(chan agentproto.Ack, 1), done: make(chan struct{})}
	go s.read() // ends with the connection; Close waits for it
	ack, err := s.Send(ctx, agentproto.Message{Hello: &hello})
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("hello: %w", err)
	}
	s.First = ack
	return s, nil
}

// read takes what the satellite sends until the connection ends.
func (s *Session) read() {
	defer close(s.done)
	r := agentproto.NewReader(s.conn)
	for {
		m, err := r.Read()
		if err == nil {
			err = s.take(m)
		}
		if err != nil {
			s.err = err
			s.conn.NetConn().Close() // without farewell: nobody listens
			return
		}
	}
}

func (s *Session) take(m agentproto.Message) error {
	switch {
	case m.Ack != nil:
		if !s.pending.CompareAndSwap(true, false) {
			return fmt.Errorf("%w: an acknowledgement of nothing", agentproto.ErrBadMessage)
		}
		s.acks <- *m.Ack // has room: one is pending at most
	case m.Notice != nil || m.Command != nil:
		if s.incoming != nil {
			s.incoming(m)
		}
	default:
		return fmt.Errorf("%w: it is not for an agent", agentproto.ErrBadMessage)
	}
	return nil
}

// Send sends one line and waits for its acknowledgement, ten seconds at most. After an error the session is of no more use. The error wraps
// ErrRefused if the satellite has refused the line.
func (s *Session) Send(ctx context.Context, m agentproto.Message) (agentproto.Ack, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, exchangeTimeout, errSilent)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	s.pending.Store(true)
	if err := s.w.Write(m); err != nil {
		return agentproto.Ack{}, s.reason(ctx, err)
	}
	select {
	case ack := <-s.acks:
		return ack, judge(ack)
	case <-ctx.Done():
		return agentproto.Ack{}, context.Cause(ctx)
	case <-s.done:
	}
	select {
	case ack := <-s.acks: // came with the end
		return ack, judge(ack)
	default:
		return agentproto.Ack{}, s.err
	}
}

// reason prefers why the stream has ended to what a write into it says.
func (s *Session) reason(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case <-s.done:
		return s.err
	default:
		return err
	}
}

// Done is closed when the satellite has ended the stream, or Close was called.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err tells why the stream has ended. It may be called once Done is closed.
func (s *Session) Err() error {
	if s.closed.Load() {
		return ErrClosed
	}
	return s.err
}

// Peer is the satellite's address and port.
func (s *Session) Peer() string { return s.conn.RemoteAddr().String() }

// Close ends the stream and waits until nothing more comes in.
func (s *Session) Close() error {
	s.closed.Store(true)
	err := s.conn.Close()
	<-s.done
	return err
}
