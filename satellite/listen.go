package satellite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/health"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/nbd"
)

// tftpPort is where firmware asks; it can't be told another.
const tftpPort = 69

// relisten is how long a port that can't be had is left alone.
const relisten = 5 * time.Second

// service is one server on one port of each served address.
type service struct {
	name    string
	network string // tcp or udp
	port    uint16
	// listen opens the port and returns what serves it until its context ends.
	listen func(ctx context.Context, addr netip.AddrPort) (serve func(context.Context) error, err error)
}

// listeners keeps every service on every served address, and no other. A port that is taken is a problem of which people are told, not the end.
type listeners struct {
	board    *health.Board
	log      *slog.Logger
	services []service
	changed  chan struct{}

	mu    sync.Mutex
	addrs []netip.Addr
}

func newListeners(board *health.Board, log *slog.Logger, services ...service) *listeners {
	return &listeners{board: board, log: log, services: services, changed: make(chan struct{}, 1)}
}

// setAddrs replaces the addresses; it returns at once.
func (l *listeners) setAddrs(addrs []netip.Addr) {
	l.mu.Lock()
	l.addrs = addrs
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

func (l *listeners) run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	ends := make(map[netip.Addr]context.CancelFunc)
	for {
		l.mu.Lock()
		wanted := make(map[netip.Addr]bool)
		for _, a := range l.addrs {
			wanted[a] = true
		}
		l.mu.Unlock()
		for a, end := range ends {
			if !wanted[a] {
				end()
				delete(ends, a)
			}
		}
		for a := range wanted {
			if ends[a] != nil {
				continue
			}
			actx, end := context.WithCancel(ctx)
			ends[a] = end
			for _, s := range l.services {
				running.Go(func() { l.keep(actx, s, netip.AddrPortFrom(a, s.port)) })
			}
		}
		select {
		case <-ctx.Done():
			for _, end := range ends {
				end()
			}
			return ctx.Err()
		case <-l.changed:
		}
	}
}

// keep serves one service on one address until ctx ends, and tries again when that fails.
func (l *listeners) keep(ctx context.Context, s service, addr netip.AddrPort) {
	key := fmt.Sprintf("port/%s/%s", s.name, addr)
	defer l.board.Set(key, "")
	for ctx.Err() == nil {
		serve, err := s.listen(ctx, addr)
		if err == nil {
			l.board.Set(key, "")
			l.log.Info("serving", "service", s.name, "addr", addr)
			err = serve(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		text := fmt.Sprintf("%s is not served on %s: %v", s.name, addr, err)
		if errors.Is(err, syscall.EADDRINUSE) {
			text = fmt.Sprintf("%s is not served: port %d/%s of %s is taken by %s", s.name, s.port, s.network, addr.Addr(), owner(s))
		}
		l.log.Warn("service can't be had", "service", s.name, "addr", addr, "err", err)
		l.board.Set(key, text)
		select {
		case <-ctx.Done():
		case <-time.After(relisten):
		}
	}
}

func owner(s service) string {
	if name := health.PortOwner(s.network, s.port); name != "" {
		return name
	}
	return "another program"
}

// listenTCP makes a service's listen from a server's Serve.
func listenTCP(serve func(context.Context, net.Listener) error) func(context.Context, netip.AddrPort) (func(context.Context) error, error) {
	return func(ctx context.Context, addr netip.AddrPort) (func(context.Context) error, error) {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", addr.String())
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) error { return serve(ctx, l) }, nil
	}
}

func (s *Satellite) listenNBD(ctx context.Context, addr netip.AddrPort) (func(context.Context) error, error) {
	l, err := nbd.Listen(ctx, addr.String(), s.room("nbd"))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return s.nbd.Serve(ctx, l) }, nil
}

func (s *Satellite) listenTFTP(_ context.Context, addr netip.AddrPort) (func(context.Context) error, error) {
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return s.tftp.Serve(ctx, conn) }, nil
}
