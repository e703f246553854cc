// Package reports takes the report and fetch streams of client agents (internal/agentproto, FORMAT.md): it hands what they say to the registry of
// clients, tells them of new policies and commands, and gives them what their policy state names. Only the satellite's wiring imports it.
//
// A stream is TLS 1.3 with this satellite's certificate; agents show none, their boot's token identifies them. Since a token can be read in the classroom's
// network, commands go only to, and policies only over, streams that come from the client's own address (Registry.Proven).
//
// A stream has one goroutine that reads and answers; a report stream has another for what the satellite says unasked. What agents may cause is
// bounded: streams in all and per address, fetch streams, the time for handshake, first line and each piece of an answer, the silence between two lines, lines
// per interval, the length of a line (by the protocol), fetches and bytes of a fetch stream, commands at once. A client's new report stream ends its older one,
// unless the older one comes from the client's address and the new one does not.
//
//	ltsp_satellite_reports_connections            gauge
//	ltsp_satellite_reports_refused_total{reason}  connections closed at once: total, address
//	ltsp_satellite_reports_lines_total{kind}      lines taken: hello, report, failure, result, event, fetch
//	ltsp_satellite_reports_ended_total{reason}    streams by how they ended: closed, handshake, silent, line, token, rate, replaced, busy
//	ltsp_satellite_reports_notices_total          notices of a policy sent
//	ltsp_satellite_reports_commands_total{result} commands by their end: answered, absent, lost, busy, timeout, refused
//	ltsp_satellite_reports_fetching               fetch streams
//	ltsp_satellite_reports_fetches_total{result}  fetches: ok, refused, error
//	ltsp_satellite_reports_fetched_bytes_total    bytes of blobs sent
package reports

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// Defaults of Config.
const (
	DefaultMaxConnections   = 2048
	DefaultMaxPerAddress    = 8
	DefaultInterval         = 10 * time.Second
	DefaultHandshakeTimeout = 10 * time.Second
	DefaultWriteTimeout     = 10 * time.Second
	DefaultMaxLines         = 60
	DefaultMaxFetches       = 512
	DefaultMaxStreamFetches = 128
	DefaultMaxStreamBytes   = 512 << 20
)

// acceptPause is how long no connection is accepted after accepting failed, for want of file descriptors mostly.
const acceptPause = 100 * time.Millisecond

// Registry is where reports go; clients.Registry is one. It must be safe for concurrent use.
type Registry interface {
	// Proven tells by its error why a hello does not prove that its stream is the client's: the token, or the address is not its own. It changes nothing.
	Proven(h agentproto.Hello, addr netip.Addr) error
	// Hello checks the token of a client; an error refuses the stream.
	Hello(h agentproto.Hello, addr netip.Addr) error
	// Report takes a report; an error refuses the line and ends the stream.
	Report(mac string, addr netip.Addr, r agentproto.Report) error
	Failure(mac string, addr netip.Addr, f agentproto.Failure)
}

// Config configures a Server. Zero values are the defaults.
type Config struct {
	Registry    Registry
	Certificate *pki.Holder // this satellite's; may be renewed while streams are open
	// Policy returns what a client should be told to be; addr is its address, local this satellite's as the client reaches it. nil: there are no policies.
	Policy func(mac string, addr, local netip.Addr) (Policy, error)
	// Event takes what happened on a client; it must not block. nil: events are dropped.
	Event func(mac string, e agentproto.Event)
	// MaxConnections and MaxPerAddress bound the streams at once, in all and of one address.
	MaxConnections int
	MaxPerAddress  int
	// Interval is when agents are asked to report next, give or take a fifth. A stream is silent after three.
	Interval         time.Duration
	HandshakeTimeout time.Duration // for TLS and the first line
	WriteTimeout     time.Duration // for one answer
	MaxLines         int           // per Interval; more end the stream
	// MaxFetches bounds the fetch streams at once, MaxStreamFetches and MaxStreamBytes what one of them may ask for.
	MaxFetches       int
	MaxStreamFetches int
	MaxStreamBytes   uint64
	Logger           *slog.Logger // nil discards
	Metrics          prometheus.Registerer
}

// Server takes report streams.
type Server struct {
	cfg     Config
	log     *slog.Logger
	tls     *tls.Config
	metrics *metrics

	mu       sync.Mutex
	conns    map[net.Conn]netip.Addr
	addrs    map[netip.Addr]int
	streams  map[string]*stream // report streams by MAC
	fetching int                // fetch streams
}

// New returns a server for cfg; Registry and Certificate must be set.
func New(cfg Config) (*Server, error) {
	if cfg.Registry == nil || cfg.Certificate == nil {
		return nil, errors.New("report server needs a registry and a certificate")
	}
	cfg.MaxConnections = positive(cfg.MaxConnections, DefaultMaxConnections)
	cfg.MaxPerAddress = positive(cfg.MaxPerAddress, DefaultMaxPerAddress)
	cfg.Interval = positive(cfg.Interval, DefaultInterval)
	cfg.HandshakeTimeout = positive(cfg.HandshakeTimeout, DefaultHandshakeTimeout)
	cfg.WriteTimeout = positive(cfg.WriteTimeout, DefaultWriteTimeout)
	cfg.MaxLines = positive(cfg.MaxLines, DefaultMaxLines)
	cfg.MaxFetches = positive(cfg.MaxFetches, DefaultMaxFetches)
	cfg.MaxStreamFetches = positive(cfg.MaxStreamFetches, DefaultMaxStreamFetches)
	cfg.MaxStreamBytes = positive(cfg.MaxStreamBytes, DefaultMaxStreamBytes)
	if cfg.Policy == nil {
		cfg.Policy = func(string, netip.Addr, netip.Addr) (Policy, error) {
			return Policy{}, errors.New("there are no policies here")
		}
	}
	if cfg.Event == nil {
		cfg.Event = func(string, agentproto.Event) {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	// Agents have no certificate: none is asked for, so no CA is needed to judge one.
	conf := pki.ServerTLS(cfg.Certificate, nil)
	conf.ClientAuth = tls.NoClientCert
	return &Server{
		cfg: cfg, log: cfg.Logger, tls: conf, metrics: m,
		conns: make(map[net.Conn]netip.Addr), addrs: make(map[netip.Addr]int), streams: make(map[string]*stream),
	}, nil
}

func positive[T cmp.Ordered](v, def T) T {
	var zero T
	if v <= zero {
		return def
	}
	return v
}

// Serve takes streams on l until ctx ends; then it closes l and all streams (agents reconnect by themselves, here or elsewhere) and
// returns nil.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // ends Accept
	defer stop()
	var streams sync.WaitGroup
	defer streams.Wait()
	for {
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("take reports on %s: %w", l.Addr(), err)
		case err != nil:
			s.log.Warn("report connection not accepted", "err", err)
			pause(ctx, acceptPause)
			continue
		}
		if reason := s.admit(c); reason != "" {
			s.metrics.refused.WithLabelValues(reason).Inc()
			s.log.Warn("report connection refused", "addr", c.RemoteAddr(), "err", "limit reached: "+reason)
			_ = c.Close()
			continue
		}
		streams.Go(func() {
			defer s.release(c)
			stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // ends the stream
			defer stop()
			s.serve(ctx, c)
		})
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// serve runs one stream from the handshake to its end and closes it.
func (s *Server) serve(ctx context.Context, c net.Conn) {
	addr := addrOf(c.RemoteAddr())
	st := &stream{server: s, conn: tls.Server(c, s.tls), addr: addr, local: addrOf(c.LocalAddr()), push: newPushes()}
	reason, err := st.run(ctx)
	s.forget(st)
	if st.replaced.Load() {
		reason = "replaced"
	}
	if ctx.Err() == nil {
		s.metrics.ended.WithLabelValues(reason).Inc()
	}
	level := slog.LevelDebug
	if reason == "token" || reason == "rate" {
		level = slog.LevelWarn
	}
	s.log.Log(ctx, level, "report stream ended", "client", st.mac, "addr", addr, "reason", reason, "err", err)
	_ = st.conn.Close() // it may be closed already
}

// admit counts a connection, or returns the limit that is reached.
func (s *Server) admit(c net.Conn) string {
	addr := addrOf(c.RemoteAddr())
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.conns) >= s.cfg.MaxConnections:
		return "total"
	case s.addrs[addr] >= s.cfg.MaxPerAddress:
		return "address"
	}
	s.conns[c] = addr
	s.addrs[addr]++
	s.metrics.connections.Inc()
	return ""
}

func (s *Server) release(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	addr, ok := s.conns[c]
	if !ok {
		return
	}
	delete(s.conns, c)
	s.metrics.connections.Dec()
	if s.addrs[addr]--; s.addrs[addr] == 0 {
		delete(s.addrs, addr)
	}
}

// own makes st the report stream of its client and ends the one before. A stream from an address that is not the client's does not take the place of one that is.
func (s *Server) own(st *stream) {
	s.mu.Lock()
	old := s.streams[st.mac]
	if old != nil && old.proven && !st.proven {
		s.mu.Unlock()
		return
	}
	s.streams[st.mac] = st
	s.mu.Unlock()
	if old != nil {
		old.replaced.Store(true)
		_ = old.conn.NetConn().Close() // without the lock and without TLS's farewell, which could wait for a dead peer
	}
}

func (s *Server) forget(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.mac != "" && s.streams[st.mac] == st {
		delete(s.streams, st.mac)
	}
}

// next is when an agent shall report again: the interval give or take a fifth, so that a class that was started at once does not
// report at once for ever.
func (s *Server) next() agentproto.Duration {
	fifth := int64(s.cfg.Interval / 5)
	return agentproto.Duration((s.cfg.Interval + time.Duration(rand.Int64N(2*fifth+1)-fifth)).Round(time.Millisecond))
}

func addrOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}
