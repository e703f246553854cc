package bootfiles

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/bootmenu"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/clients"
)

// Defaults of Config.
const (
	DefaultMaxConnections    = 1024
	DefaultMaxPerAddress     = 16
	DefaultHeaderTimeout     = 10 * time.Second
	DefaultIdleTimeout       = 30 * time.Second
	DefaultStallTimeout      = 30 * time.Second
	DefaultMinBytesPerSecond = 16 << 10
	DefaultDrainTimeout      = 5 * time.Second
)

// slack is the time that a transfer has beyond the one that its size allows.
const slack = time.Minute

// Config configures a Server. Zero values are the defaults.
type Config struct {
	Tree              *Tree
	MaxConnections    int           // at once; also bounds the requests, for HTTP/1.1 serves one per connection
	MaxPerAddress     int           // connections at once of one client address
	HeaderTimeout     time.Duration // for reading one request
	IdleTimeout       time.Duration // between two requests of a connection
	StallTimeout      time.Duration // how long a client may acknowledge nothing
	MinBytesPerSecond int64         // slower transfers end at some time
	DrainTimeout      time.Duration // how long transfers may go on when Serve ends
	// Clients counts clients by state, for /status; nil leaves them out.
	Clients func() map[clients.State]int
	Logger  *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Server serves a Tree by HTTP. Its methods are safe for concurrent use.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	limit   *connLimit
}

// NewServer returns a server for cfg.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Tree == nil {
		return nil, errors.New("HTTP server needs a tree of boot files")
	}
	setDefaults(&cfg)
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	return &Server{
		cfg: cfg, log: cfg.Logger, metrics: m,
		limit: &connLimit{total: cfg.MaxConnections, perAddr: cfg.MaxPerAddress, metrics: m, conns: make(map[net.Conn]netip.Addr), addrs: make(map[netip.Addr]int)},
	}, nil
}

func setDefaults(c *Config) {
	orDefault(&c.MaxConnections, DefaultMaxConnections)
	orDefault(&c.MaxPerAddress, DefaultMaxPerAddress)
	orDefault(&c.HeaderTimeout, DefaultHeaderTimeout)
	orDefault(&c.IdleTimeout, DefaultIdleTimeout)
	orDefault(&c.StallTimeout, DefaultStallTimeout)
	orDefault(&c.MinBytesPerSecond, DefaultMinBytesPerSecond)
	orDefault(&c.DrainTimeout, DefaultDrainTimeout)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

func orDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Serve answers on l until ctx ends; then it stops accepting, lets transfers go on for Config.DrainTimeout and returns nil. It closes l. Several
// listeners may be served at once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler: s, ReadHeaderTimeout: s.cfg.HeaderTimeout, IdleTimeout: s.cfg.IdleTimeout, MaxHeaderBytes: 16 << 10,
		ConnState: s.limit.watch, ConnContext: s.connContext,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve boot files on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
	defer cancel()
	if err := srv.Shutdown(drain); err != nil {
		s.log.Info("boot file transfers were cut off", "addr", l.Addr(), "err", err)
		_ = srv.Close() // nothing more can be done
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		s.log.Debug("boot file server ended", "addr", l.Addr(), "err", err)
	}
	return nil
}

// connContext lets the kernel drop peers that acknowledge nothing: dead PCs would hold their connections for a quarter of an hour.
func (s *Server) connContext(ctx context.Context, c net.Conn) context.Context {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return ctx
	}
	raw, err := tcp.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(s.cfg.StallTimeout.Milliseconds())) // without it only a dead peer is noticed later
		})
	}
	if err != nil {
		s.log.Debug("connection options", "addr", c.RemoteAddr(), "err", err)
	}
	return ctx
}

// ServeHTTP is http.Handler's. Paths are taken as they are: no redirect for doubled slashes.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD are served here", http.StatusMethodNotAllowed)
		s.metrics.requests[kindNone].Inc()
		return
	}
	switch r.URL.Path {
	case "/healthz":
		s.serveHealth(w)
	case "/status":
		s.serveStatus(w)
	default:
		s.serveFile(w, r)
	}
}

func (s *Server) serveFile(w http.ResponseWriter, r *http.Request) {
	req := Request{
		Name: r.URL.Path, Query: r.URL.RawQuery, Peek: r.Method == http.MethodHead,
		Client: addrOf(r.RemoteAddr), Local: localAddr(r),
	}
	f, err := s.cfg.Tree.Open(req)
	if err != nil {
		s.metrics.requests[kindNone].Inc()
		s.refuse(w, r, err)
		return
	}
	defer func() { _ = f.Close() }() // it was only read
	s.metrics.requests[f.kind].Inc()
	s.send(w, r, f)
}

func (s *Server) send(w http.ResponseWriter, r *http.Request, f *File) {
	h := w.Header()
	switch f.kind {
	case kindScript:
		h.Set("Content-Type", "text/plain; charset=utf-8")
	default:
		h.Set("Content-Type", "application/octet-stream")
	}
	if f.Tag != "" {
		h.Set("ETag", `"`+f.Tag+`"`)
	} else {
		h.Set("Cache-Control", "no-store")
	}
	s.setDeadline(w, f.Size)
	http.ServeContent(w, r, "", f.Created, content(f))
	pos, err := f.Seek(0, 1)
	if err != nil || r.Method != http.MethodGet {
		return
	}
	whole := pos == f.Size && f.Size > 0
	if r.Header.Get("Range") == "" {
		s.metrics.sent.Add(float64(pos))
		if whole {
			s.metrics.delivered[f.kind].Inc()
			f.Delivered()
		}
	}
	s.log.Debug("boot file request", "method", r.Method, "path", r.URL.Path, "addr", r.RemoteAddr, "bytes", pos, "whole", whole)
}

// setDeadline gives the transfer the time that the slowest client we wait for needs.
func (s *Server) setDeadline(w http.ResponseWriter, size int64) {
	allowed := slack + time.Duration(size/s.cfg.MinBytesPerSecond)*time.Second
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(allowed)); err != nil {
		s.log.Debug("no deadline for a transfer", "err", err)
	}
}

// refuse answers a request for which there is no file.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	s.setDeadline(w, 0)
	w.Header().Set("Cache-Control", "no-store")
	code, text := http.StatusInternalServerError, "this satellite cannot read the file; see its log"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		code, text = http.StatusNotFound, "file not found"
	case errors.Is(err, bootmenu.ErrRequest):
		code, text = http.StatusBadRequest, "the query is not what iPXE sends"
	case errors.Is(err, ErrNotReady):
		code, text = http.StatusServiceUnavailable, err.Error()
		w.Header().Set("Retry-After", "10")
	}
	level := slog.LevelDebug
	if !IsExpected(err) {
		level = slog.LevelError
	}
	s.log.Log(r.Context(), level, "boot file request refused", "method", r.Method, "path", r.URL.Path, "addr", r.RemoteAddr, "code", code, "err", err)
	http.Error(w, text, code)
}

func addrOf(hostport string) netip.Addr {
	ap, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

func localAddr(r *http.Request) netip.Addr {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		return addrOf(a.String())
	}
	return netip.Addr{}
}
