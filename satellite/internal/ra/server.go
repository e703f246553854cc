package ra

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// DefaultRetry is how often the interfaces are looked at: for one without IPv6, and for one that has been replaced.
const DefaultRetry = 10 * time.Second

// DefaultPerSecond bounds the advertisements that one interface sends.
const DefaultPerSecond = 100

// minMulticastInterval is MIN_DELAY_BETWEEN_RAS of RFC 4861 section 10, for advertisements to all nodes.
const minMulticastInterval = 3 * time.Second

// Config holds the collaborators of a Server; zero values are usable.
type Config struct {
	// Interfaces are the names of those to begin with.
	Interfaces []string
	// MaxDelay is the upper end of the random delay before an answer. RFC 4861 section 6.2.6 wants half a second, to keep several
	// routers from answering all in one moment by multicast. Zero, the default, answers at once: our answers go by unicast to the
	// one that asked, and a boot must not wait for them.
	MaxDelay time.Duration
	// PerSecond bounds the advertisements of one interface; zero is DefaultPerSecond.
	PerSecond int
	// Retry: zero is DefaultRetry.
	Retry time.Duration
	// Logger: nil discards.
	Logger *slog.Logger
	// Registerer takes the metrics of the package comment; nil registers none.
	Registerer prometheus.Registerer
}

// A Server answers router solicitations. Its methods are safe for concurrent use.
type Server struct {
	cfg     Config
	metrics metrics
	changed chan struct{}
	ready   chan struct{}

	mu    sync.Mutex
	names []string
}

type metrics struct{ solicitations, invalid, advertisements, limited prometheus.Counter }

// New makes a server; it opens no socket.
func New(cfg Config) (*Server, error) {
	cfg.Retry = cmp.Or(cfg.Retry, DefaultRetry)
	cfg.PerSecond = cmp.Or(cfg.PerSecond, DefaultPerSecond)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "ltsp_satellite_ra_" + name, Help: help})
	}
	s := &Server{
		cfg: cfg, changed: make(chan struct{}, 1), ready: make(chan struct{}), names: slices.Clone(cfg.Interfaces),
		metrics: metrics{
			counter("solicitations_total", "Valid router solicitations received."),
			counter("invalid_total", "Packets discarded as RFC 4861 section 6.1.1 says."),
			counter("advertisements_total", "Router advertisements sent."),
			counter("limited_total", "Solicitations not answered because of the rate limits."),
		},
	}
	if cfg.Registerer != nil {
		for _, c := range []prometheus.Collector{s.metrics.solicitations, s.metrics.invalid, s.metrics.advertisements, s.metrics.limited} {
			if err := cfg.Registerer.Register(c); err != nil {
				return nil, fmt.Errorf("register router advertisement metrics: %w", err)
			}
		}
	}
	return s, nil
}

// SetInterfaces replaces the interfaces. It returns before the sockets are open.
func (s *Server) SetInterfaces(names []string) {
	s.mu.Lock()
	s.names = slices.Clone(names)
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Ready is closed when each of the first interfaces is served or known to have no IPv6.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// String is the name of the task.
func (s *Server) String() string { return "ra" }

// Run serves until ctx ends and returns nil: an interface that can't be served is a line in the log.
func (s *Server) Run(ctx context.Context) error {
	var readers sync.WaitGroup
	links := make(map[string]*link)
	defer func() {
		for _, l := range links {
			_ = l.conn.Close()
		}
		readers.Wait()
	}()
	said := make(map[string]string)
	for first := true; ; first = false {
		s.reconcile(ctx, links, said, &readers)
		if first {
			close(s.ready)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
		case <-time.After(s.cfg.Retry):
		}
	}
}

// reconcile opens and closes links. said holds the last complaint about each interface that isn't served.
func (s *Server) reconcile(ctx context.Context, links map[string]*link, said map[string]string, readers *sync.WaitGroup) {
	s.mu.Lock()
	names := slices.Clone(s.names)
	s.mu.Unlock()
	for name, l := range links {
		if !slices.Contains(names, name) || l.ended() || l.stale() {
			_ = l.conn.Close()
			delete(links, name)
		}
	}
	for _, name := range names {
		if links[name] != nil {
			continue
		}
		l, err := openLink(name)
		if err != nil {
			if said[name] != err.Error() { // once, not every ten seconds
				said[name] = err.Error()
				s.cfg.Logger.Warn("no router advertisements, so iPXE waits 13 s longer", "interface", name, "err", err)
			}
			continue
		}
		delete(said, name)
		links[name] = l
		s.cfg.Logger.Info("answering router solicitations", "interface", name, "addr", l.addr)
		readers.Go(func() {
			defer l.end()
			s.read(ctx, l)
		})
	}
}

// read answers what comes to a link until its socket is closed or broken. It is the only user of the link's limits.
func (s *Server) read(ctx context.Context, l *link) {
	buf := make([]byte, 1500)
	for {
		n, cm, from, err := l.conn.ReadFrom(buf)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded) {
				s.cfg.Logger.Warn("cannot receive router solicitations", "interface", l.nic.Name, "err", err)
			}
			return
		}
		src, _ := netip.AddrFromSlice(addrOf(from))
		if cm == nil || checkSolicitation(buf[:n], src, cm.HopLimit) != nil {
			s.metrics.invalid.Inc()
			continue
		}
		s.metrics.solicitations.Inc()
		if !l.allow(src, s.cfg.PerSecond, time.Now()) {
			s.metrics.limited.Inc()
			continue
		}
		if !s.delay(ctx) {
			return
		}
		if err := l.advertise(src); err != nil {
			s.cfg.Logger.Debug("router advertisement not sent", "interface", l.nic.Name, "addr", src, "err", err)
			continue
		}
		s.metrics.advertisements.Inc()
	}
}

// delay waits a random part of MaxDelay and reports whether the server still runs.
func (s *Server) delay(ctx context.Context) bool {
	if s.cfg.MaxDelay <= 0 {
		return true
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(rand.N(s.cfg.MaxDelay)):
		return true
	}
}
