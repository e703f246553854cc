package reports

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// lingerTime is how long the end of a refused stream is kept for the agent to read why.
const lingerTime = 2 * time.Second

// stream is one agent's connection. Its goroutine alone uses it, but for conn.NetConn and replaced.
type stream struct {
	server   *Server
	conn     *tls.Conn
	addr     netip.Addr
	mac      string // empty until the hello was taken
	replaced atomic.Bool

	lines  int // since window began
	window time.Time
}

// run returns why the stream ended: a value of the metric's label, and the error if there is one.
func (st *stream) run(ctx context.Context) (reason string, err error) {
	cfg := st.server.cfg
	if err := st.conn.SetDeadline(time.Now().Add(cfg.HandshakeTimeout)); err != nil {
		return "closed", err
	}
	if err := st.conn.HandshakeContext(ctx); err != nil {
		return "handshake", err
	}
	r := agentproto.NewReader(st.conn)
	w := agentproto.NewWriter(st.conn)
	for {
		m, err := r.Read()
		if err != nil {
			return st.readFailed(w, err)
		}
		if reason, err := st.take(m); err != nil {
			return reason, st.refuse(w, err)
		}
		if err := st.answer(w, agentproto.Ack{Next: st.server.next()}); err != nil {
			return "closed", err
		}
		if err := st.conn.SetReadDeadline(time.Now().Add(3 * cfg.Interval)); err != nil {
			return "closed", err
		}
	}
}

func (st *stream) readFailed(w *agentproto.Writer, err error) (string, error) {
	var timeout net.Error
	switch {
	case errors.Is(err, agentproto.ErrLineTooLong), errors.Is(err, agentproto.ErrBadMessage):
		return "line", st.refuse(w, err)
	case errors.As(err, &timeout) && timeout.Timeout():
		return "silent", err
	case errors.Is(err, io.EOF):
		return "closed", nil
	}
	return "closed", err
}

// take hands one line to the registry. An error ends the stream; its text goes to the agent.
func (st *stream) take(m agentproto.Message) (reason string, err error) {
	s := st.server
	if err := st.count(); err != nil {
		return "rate", err
	}
	switch {
	case m.Hello != nil && st.mac == "":
		if err := m.Hello.Validate(); err != nil {
			return "line", err
		}
		if err := s.cfg.Registry.Hello(*m.Hello, st.addr); err != nil {
			return "token", err
		}
		st.mac = m.Hello.MAC
		s.own(st)
		s.metrics.lines["hello"].Inc()
	case st.mac == "":
		return "line", fmt.Errorf("%w: the first line must be a hello", agentproto.ErrBadMessage)
	case m.Report != nil:
		if err := s.cfg.Registry.Report(st.mac, st.addr, *m.Report); err != nil {
			return "line", err
		}
		s.metrics.lines["report"].Inc()
	case m.Failure != nil:
		s.cfg.Registry.Failure(st.mac, st.addr, *m.Failure)
		s.metrics.lines["failure"].Inc()
	default:
		return "line", fmt.Errorf("%w: want a report or a failure", agentproto.ErrBadMessage)
	}
	return "", nil
}

// count bounds the lines per interval.
func (st *stream) count() error {
	cfg := st.server.cfg
	if now := time.Now(); now.Sub(st.window) >= cfg.Interval {
		st.window, st.lines = now, 0
	}
	if st.lines++; st.lines > cfg.MaxLines {
		return fmt.Errorf("more than %d lines in %s", cfg.MaxLines, cfg.Interval)
	}
	return nil
}

func (st *stream) answer(w *agentproto.Writer, a agentproto.Ack) error {
	if err := st.conn.SetWriteDeadline(time.Now().Add(st.server.cfg.WriteTimeout)); err != nil {
		return err
	}
	return w.Write(agentproto.Message{Ack: &a})
}

// refuse tells the agent why and returns that reason. What the agent still sends is read and dropped for a moment: closing with unread data
// would reset the connection, and the answer might be lost.
func (st *stream) refuse(w *agentproto.Writer, cause error) error {
	if err := st.answer(w, agentproto.Ack{Next: st.server.next(), Error: cause.Error()}); err != nil {
		return errors.Join(cause, err)
	}
	if err := st.conn.CloseWrite(); err != nil {
		return errors.Join(cause, err)
	}
	if err := st.conn.SetReadDeadline(time.Now().Add(lingerTime)); err != nil {
		return errors.Join(cause, err)
	}
	_, _ = io.CopyN(io.Discard, st.conn, 4*agentproto.MaxLine) // ends by EOF, deadline or length
	return cause
}
