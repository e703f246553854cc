package reports

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// lingerTime is how long the end of a refused stream is kept for the agent to read why.
const lingerTime = 2 * time.Second

// stream is one agent's connection. Its goroutine reads; what others do to it is said at the fields.
type stream struct {
	server   *Server
	conn     *tls.Conn
	addr     netip.Addr // of the agent
	local    netip.Addr // of this satellite, as the agent reaches it
	mac      string     // empty until the hello was taken
	proven   bool       // the stream comes from the client's own address
	fetching bool       // it is a fetch stream
	replaced atomic.Bool

	lines  int // since window began
	window time.Time

	policy  *Policy // that a fetch stream has handed out last
	fetches int
	bytes   uint64

	push pushes // what the satellite says unasked

	write  sync.Mutex // held while a line is written, with the blob behind it
	told   string     // the policy that the agent was told last; guarded by write
	closed bool       // nothing is written any more; guarded by write
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
	defer st.end()
	for {
		m, err := r.Read()
		if err != nil {
			return st.readFailed(err)
		}
		hello := st.mac == ""
		if reason, err := st.take(m); err != nil {
			return reason, st.refuse(err)
		}
		if m.Fetch != nil {
			err = st.serveFetch(m.Fetch.Name)
		} else {
			err = st.acknowledge()
		}
		if err != nil {
			return "closed", err
		}
		if hello && !st.fetching {
			st.push.start(ctx, st) // not before the answer to the hello
		}
		if err := st.conn.SetReadDeadline(time.Now().Add(3 * cfg.Interval)); err != nil {
			return "closed", err
		}
	}
}

// end gives back what the stream has taken.
func (st *stream) end() {
	st.push.stop(st)
	if st.fetching {
		st.server.endFetch()
	}
}

func (st *stream) readFailed(err error) (string, error) {
	var timeout net.Error
	switch {
	case errors.Is(err, agentproto.ErrLineTooLong), errors.Is(err, agentproto.ErrBadMessage):
		return "line", st.refuse(err)
	case errors.As(err, &timeout) && timeout.Timeout():
		return "silent", err
	case errors.Is(err, io.EOF):
		return "closed", nil
	}
	return "closed", err
}

// take hands one line to who it is for. An error ends the stream; its text goes to the agent.
func (st *stream) take(m agentproto.Message) (reason string, err error) {
	if err := st.count(); err != nil {
		return "rate", err
	}
	switch {
	case m.Hello != nil && st.mac == "":
		return st.takeHello(*m.Hello)
	case st.mac == "":
		return "line", fmt.Errorf("%w: the first line must be a hello", agentproto.ErrBadMessage)
	case st.fetching && m.Fetch == nil:
		return "line", fmt.Errorf("%w: want a fetch", agentproto.ErrBadMessage)
	case st.fetching:
		err = m.Fetch.Validate()
	default:
		err = st.takeLine(m)
	}
	if err != nil {
		return "line", err
	}
	return "", nil
}

func (st *stream) takeHello(h agentproto.Hello) (reason string, err error) {
	s := st.server
	if err := h.Validate(); err != nil {
		return "line", err
	}
	if h.Fetch {
		if err := s.cfg.Registry.Proven(h, st.addr); err != nil {
			return "token", err
		}
		if !s.beginFetch() {
			return "busy", fmt.Errorf("%d clients fetch at present: try again later", s.cfg.MaxFetches)
		}
		st.mac, st.fetching, st.proven = h.MAC, true, true
		s.metrics.lines["hello"].Inc()
		return "", nil
	}
	proof := s.cfg.Registry.Proven(h, st.addr) // before Hello, which makes this address the client's
	if err := s.cfg.Registry.Hello(h, st.addr); err != nil {
		return "token", err
	}
	st.mac, st.proven = h.MAC, proof == nil
	if proof != nil {
		s.log.Warn("reports come from another address than the client's, it gets no commands there", "client", st.mac, "addr", st.addr, "err", proof)
	}
	s.own(st)
	s.metrics.lines["hello"].Inc()
	return "", nil
}

// takeLine takes a line of a report stream that is not the first.
func (st *stream) takeLine(m agentproto.Message) error {
	s := st.server
	kind := ""
	switch {
	case m.Report != nil:
		if err := s.cfg.Registry.Report(st.mac, st.addr, *m.Report); err != nil {
			return err
		}
		kind = "report"
	case m.Failure != nil:
		s.cfg.Registry.Failure(st.mac, st.addr, *m.Failure)
		kind = "failure"
	case m.Result != nil:
		if err := m.Result.Validate(); err != nil {
			return err
		}
		st.push.result(*m.Result)
		kind = "result"
	case m.Event != nil:
		if err := m.Event.Validate(); err != nil {
			return err
		}
		s.cfg.Event(st.mac, *m.Event)
		kind = "event"
	default:
		return fmt.Errorf("%w: want a report, a failure, a result or an event", agentproto.ErrBadMessage)
	}
	s.metrics.lines[kind].Inc()
	return nil
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

// acknowledge answers a line.
func (st *stream) acknowledge() error {
	a := agentproto.Ack{Next: st.server.next()}
	if p, err := st.server.cfg.Policy(st.mac, st.addr, st.local); err == nil {
		a.Policy = p.SHA256
	}
	st.write.Lock()
	defer st.write.Unlock()
	if a.Policy != "" {
		st.told = a.Policy
	}
	return st.writeLocked(agentproto.Message{Ack: &a})
}

// send writes one line.
func (st *stream) send(m agentproto.Message) error {
	st.write.Lock()
	defer st.write.Unlock()
	return st.writeLocked(m)
}

func (st *stream) writeLocked(m agentproto.Message) error {
	if st.closed {
		return net.ErrClosed
	}
	if err := st.conn.SetWriteDeadline(time.Now().Add(st.server.cfg.WriteTimeout)); err != nil {
		return err
	}
	return agentproto.NewWriter(st.conn).Write(m)
}

// refuse tells the agent why and returns that reason. What the agent still sends is read and dropped for a moment: closing with unread data
// would reset the connection, and the answer might be lost.
func (st *stream) refuse(cause error) error {
	if err := st.send(agentproto.Message{Ack: &agentproto.Ack{Next: st.server.next(), Error: cause.Error()}}); err != nil {
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
