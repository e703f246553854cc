package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ErrUnknownExport is what Exports.Open returns for a name that it does not have.
var ErrUnknownExport = errors.New("unknown export")

// ExportInfo describes an export.
type ExportInfo struct {
	// Name is what clients ask for, at most 4096 bytes of UTF-8. Description is text for people, may be empty.
	Name, Description string
	// Size is the size in bytes.
	Size int64
}

// Export is one opened export. Its bytes never change while it is open. ReadAt is called from one goroutine per connection.
// Close is called exactly once, when the connection that opened it has ended: an export with open handles is in use.
type Export interface {
	io.ReaderAt
	io.Closer
	Info() ExportInfo
}

// FileExport is an Export whose bytes lie in one regular file, in one piece. It is served from the page cache without a copy
// in user space; ReadAt is not used. The file must stay open until Close.
type FileExport interface {
	Export
	// File returns the file and where in it the export begins. The server neither closes nor seeks it.
	File() (f *os.File, offset int64)
}

// Waiter is an Export whose bytes are still arriving.
type Waiter interface {
	// Wait returns when length bytes from offset can be read and will not change any more. It is called before each read, from the
	// connection's goroutine: a read that waits holds up the requests behind it on its connection, and no other connection. An error, which
	// says that the bytes did not come in time, ends the connection: the client goes elsewhere.
	Wait(ctx context.Context, offset, length int64) error
}

// Recorder is told what a connection reads.
type Recorder interface {
	// Read is called for each read request before it is answered, from the connection's goroutine: it must be quick. After false no
	// further call comes.
	Read(offset uint64, length uint32) (more bool)
	// Close ends the recording: the connection has ended, or Read returned false.
	Close()
}

// Exports finds exports. It must be safe for concurrent use.
type Exports interface {
	// List returns what NBD_OPT_LIST shows.
	List(ctx context.Context) []ExportInfo
	// Open opens the export with that name (empty: the default export, if there is one). An error other than ErrUnknownExport
	// is logged; the client learns only that the export is not to be had.
	Open(ctx context.Context, name string) (Export, error)
}

// Defaults of Config.
const (
	DefaultMaxConnections   = 1024
	DefaultMaxPerAddr       = 64
	DefaultHandshakeTimeout = 30 * time.Second
	DefaultWriteTimeout     = time.Minute
	DefaultDrainTimeout     = 2 * time.Second
)

// Config configures a Server. Only Exports is required.
type Config struct {
	Exports Exports
	// MaxConnections bounds the open connections; further ones are accepted and closed at once. Zero: DefaultMaxConnections.
	MaxConnections int
	// MaxPerAddr bounds the connections of one client address. Zero: DefaultMaxPerAddr; negative: no bound.
	MaxPerAddr int
	// HandshakeTimeout bounds the negotiation from accept to the first request. Zero: DefaultHandshakeTimeout.
	HandshakeTimeout time.Duration
	// WriteTimeout is how long a client may take no byte of a reply before its connection is closed. Zero: DefaultWriteTimeout.
	WriteTimeout time.Duration
	// DrainTimeout is how long Serve lets replies under way finish after its context ended. Zero: DefaultDrainTimeout.
	DrainTimeout time.Duration
	// Record, if not nil, is asked for each connection that has opened an export who wants to know its reads; it may return nil. It serves
	// for finding out which parts of an image a boot reads.
	Record func(export string, client netip.AddrPort) Recorder
	// OnReadFailure, if not nil, is called when an export can't be read. The connection ends after it; withdraw the export to
	// make its clients go elsewhere.
	OnReadFailure func(export string, err error)
	// Logger receives the log; nil discards it. Metrics receives the metrics of the package comment; nil means none.
	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

// Server serves exports. Its methods are safe for concurrent use.
type Server struct {
	cfg     Config
	log     *slog.Logger
	sources sourceSet
	buffers sync.Pool // *[]byte of copyBuffer bytes, for exports without a file
	metrics *metrics

	mu       sync.Mutex
	sessions map[*session]struct{}
	perAddr  map[netip.Addr]int
	full     bool // the limit was reached and logged
	retired  totals
}

// New returns a Server that serves nothing yet. It fails if cfg makes no sense or its metrics are already registered.
func New(cfg Config) (*Server, error) {
	if cfg.Exports == nil {
		return nil, errors.New("nbd server needs exports")
	}
	if cfg.MaxConnections < 0 || cfg.HandshakeTimeout < 0 || cfg.WriteTimeout < 0 || cfg.DrainTimeout < 0 {
		return nil, errors.New("nbd server has a negative limit or timeout")
	}
	cfg.MaxConnections = orDefault(cfg.MaxConnections, DefaultMaxConnections)
	cfg.MaxPerAddr = orDefault(cfg.MaxPerAddr, DefaultMaxPerAddr)
	cfg.HandshakeTimeout = orDefault(cfg.HandshakeTimeout, DefaultHandshakeTimeout)
	cfg.WriteTimeout = orDefault(cfg.WriteTimeout, DefaultWriteTimeout)
	cfg.DrainTimeout = orDefault(cfg.DrainTimeout, DefaultDrainTimeout)
	s := &Server{
		cfg:      cfg,
		log:      cfg.Logger,
		sessions: make(map[*session]struct{}),
		perAddr:  make(map[netip.Addr]int),
		buffers:  sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.metrics = newMetrics(s)
	if cfg.Metrics != nil {
		if err := cfg.Metrics.Register(s.metrics); err != nil {
			return nil, fmt.Errorf("register nbd metrics: %w", err)
		}
	}
	return s, nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Serve accepts connections of ln until ctx ends; then it closes ln, lets replies under way finish for DrainTimeout, closes all
// connections that it accepted, waits for their goroutines and returns nil. It returns early only if ln is closed by others or
// fails for good. It takes over ln. It may be called for several listeners at once.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	sc := &scope{}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	err := s.accept(serving, ln, sc)
	if ctx.Err() != nil {
		err = nil
	}
	_ = ln.Close()
	cancel() // a read that waits must not hold up the end
	s.drain(sc)
	return err
}

// scope is what belongs to one call of Serve.
type scope struct {
	draining atomic.Bool
	wg       sync.WaitGroup
}

func (s *Server) accept(ctx context.Context, ln net.Listener, sc *scope) error {
	const minPause, maxPause = 5 * time.Millisecond, time.Second
	pause := minPause
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) || !passing(err) {
				return fmt.Errorf("accept nbd connections on %v: %w", ln.Addr(), err)
			}
			s.log.Warn("accepting a connection did not work, will try again", "addr", ln.Addr(), "err", err, "dur", pause)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, maxPause)
			continue
		}
		pause = minPause
		if ss := s.admit(conn, sc); ss != nil {
			sc.wg.Go(func() { s.serve(ctx, ss) })
		}
	}
}

// drain ends the connections of sc. Idle ones end at once, busy ones after the reply under way or the timeout.
func (s *Server) drain(sc *scope) {
	sc.draining.Store(true)
	s.eachIn(sc, func(c net.Conn) {
		_ = c.SetReadDeadline(time.Unix(1, 0)) // wakes a goroutine that waits for a request
	})
	timer := time.AfterFunc(s.cfg.DrainTimeout, func() {
		s.eachIn(sc, func(c net.Conn) { _ = c.Close() })
	})
	defer timer.Stop()
	sc.wg.Wait()
}

func (s *Server) eachIn(sc *scope, f func(net.Conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ss := range s.sessions {
		if ss.scope == sc {
			f(ss.conn)
		}
	}
}

// admit registers a connection, or closes it and returns nil if there are too many.
func (s *Server) admit(conn net.Conn, sc *scope) *session {
	ss := &session{srv: s, scope: sc, conn: conn, since: time.Now(), remote: remoteAddr(conn)}
	addr := ss.remote.Addr()
	s.mu.Lock()
	reason, warn := refusedNot, false
	switch {
	case len(s.sessions) >= s.cfg.MaxConnections:
		reason, warn = refusedLimit, !s.full
		s.full = true
	case s.cfg.MaxPerAddr > 0 && s.perAddr[addr] >= s.cfg.MaxPerAddr:
		reason = refusedAddrLimit
	default:
		s.full = false
		s.sessions[ss] = struct{}{}
		s.perAddr[addr]++
	}
	s.mu.Unlock()
	if reason == refusedNot {
		s.metrics.accepted.Add(1)
		return ss
	}
	s.metrics.refused[reason].Add(1)
	if warn {
		s.log.Warn("nbd connections refused: limit reached", "addr", addr, "limit", s.cfg.MaxConnections)
	} else {
		s.log.Debug("nbd connection refused", "addr", addr, "reason", reason.String())
	}
	_ = conn.Close()
	return nil
}

func (s *Server) dismiss(ss *session) {
	addr := ss.remote.Addr()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, ss)
	if s.perAddr[addr]--; s.perAddr[addr] <= 0 {
		delete(s.perAddr, addr)
	}
	s.retired.add(&ss.tally)
}

// serve runs one connection from greeting to end.
func (s *Server) serve(ctx context.Context, ss *session) {
	defer s.dismiss(ss)
	defer ss.conn.Close()
	log := s.log.With("addr", ss.remote)
	export, err := ss.negotiate(ctx)
	if err != nil {
		if reason := failureOf(err); reason != failedNot && !ss.scope.draining.Load() {
			s.metrics.failed[reason].Add(1)
		}
		log.Debug("nbd negotiation ended without an export", "err", err)
		return
	}
	info := export.Info()
	s.mu.Lock()
	ss.export = info.Name
	s.mu.Unlock()
	log = log.With("export", info.Name)
	log.Debug("nbd connection opened")
	err = ss.transmit(ctx, export, info)
	if cerr := export.Close(); cerr != nil {
		log.Warn("closing an export did not work", "err", cerr)
	}
	if late, ok := errors.AsType[*lateRead](err); ok && !ss.scope.draining.Load() {
		s.metrics.lateReads.Add(1)
		log.Warn("nbd connection ended: what it read has not arrived", "err", late.err)
	}
	if rf, ok := errors.AsType[*readFailure](err); ok {
		s.metrics.readFailures.Add(1)
		log.Error("reading an export does not work", "err", rf.err)
		if s.cfg.OnReadFailure != nil {
			s.cfg.OnReadFailure(info.Name, rf.err)
		}
	}
	log.Debug("nbd connection ended", "err", err, "dur", time.Since(ss.since), "bytes", ss.tally.bytes.Load())
}

// ConnInfo is one open connection.
type ConnInfo struct {
	// Addr is the client's address and port; the zero value if the connection has no IP address.
	Addr netip.AddrPort
	// Export is the export's name; empty while it is being negotiated.
	Export string
	// Since is when the connection was accepted.
	Since time.Time
	// Reads and SentBytes count the read requests answered and their payload.
	Reads, SentBytes uint64
}

// Connections returns the open connections in no particular order, at most Config.MaxConnections.
func (s *Server) Connections() []ConnInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]ConnInfo, 0, len(s.sessions))
	for ss := range s.sessions {
		list = append(list, ConnInfo{
			Addr: ss.remote, Export: ss.export, Since: ss.since,
			Reads: ss.tally.reads.Load(), SentBytes: ss.tally.bytes.Load(),
		})
	}
	return list
}

// remoteAddr returns the peer's address without a zone and with IPv4 as IPv4.
func remoteAddr(c net.Conn) netip.AddrPort {
	tcp, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	a := tcp.AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
