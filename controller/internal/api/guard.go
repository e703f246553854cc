package api

import (
	"context"
	"crypto/tls"
	"net"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	"github.com/ltsp-fleet/ltsp-fleet/internal/rawcodec"
)

// connInfo is what a call knows of its connection: the TLS state, and the connection itself, so that it can be cut.
type connInfo struct {
	credentials.TLSInfo
	conn net.Conn
}

// serverCredentials adds the connection to what TLS tells about it.
type serverCredentials struct {
	credentials.TransportCredentials
	guard *guard
}

func newServerCredentials(cfg *tls.Config, g *guard) credentials.TransportCredentials {
	return &serverCredentials{TransportCredentials: rawcodec.ServerCredentials(cfg), guard: g}
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *serverCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	tracked := &trackedConn{Conn: secured, guard: c.guard}
	c.guard.opened()
	return tracked, connInfo{TLSInfo: info.(credentials.TLSInfo), conn: raw}, nil
}

// Clone implements credentials.TransportCredentials.
func (c *serverCredentials) Clone() credentials.TransportCredentials {
	return &serverCredentials{TransportCredentials: c.TransportCredentials.Clone(), guard: c.guard}
}

// trackedConn counts open connections.
type trackedConn struct {
	net.Conn
	guard *guard
	once  sync.Once
}

// Close implements net.Conn.
func (c *trackedConn) Close() error {
	c.once.Do(c.guard.closed)
	return c.Conn.Close()
}

// guard counts the calls of each identity and knows the connections that they came by.
type guard struct {
	perIdentity int
	anonymous   int

	mu     sync.Mutex
	open   int
	active map[pki.Identity]map[net.Conn]int // calls under way
}

func newGuard(l Limits) *guard {
	return &guard{perIdentity: l.StreamsPerIdentity, anonymous: l.Anonymous, active: make(map[pki.Identity]map[net.Conn]int)}
}

func (g *guard) opened() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open++
}

func (g *guard) closed() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
}

func (g *guard) connections() float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return float64(g.open)
}

// enter counts a call; leave must be called when it has ended.
func (g *guard) enter(id pki.Identity, conn net.Conn) (leave func(), err error) {
	limit := g.perIdentity
	if id == (pki.Identity{}) {
		limit = g.anonymous
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	conns := g.active[id]
	calls := 0
	for _, n := range conns {
		calls += n
	}
	if calls >= limit {
		return nil, status.Errorf(codes.ResourceExhausted, "%d calls at once, no more are allowed; try again later", calls)
	}
	if conns == nil {
		conns = make(map[net.Conn]int)
		g.active[id] = conns
	}
	conns[conn]++
	var once sync.Once
	return func() { once.Do(func() { g.leave(id, conn) }) }, nil
}

func (g *guard) leave(id pki.Identity, conn net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	conns := g.active[id]
	if conns[conn]--; conns[conn] <= 0 {
		delete(conns, conn)
	}
	if len(conns) == 0 {
		delete(g.active, id)
	}
}

// cut closes all connections on which the identity has calls under way; what it calls on others is judged anew.
func (g *guard) cut(id pki.Identity) {
	g.mu.Lock()
	var conns []net.Conn
	for conn := range g.active[id] {
		conns = append(conns, conn)
	}
	g.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close() // it may be gone already
	}
}

// onClosing returns a context that also ends when the server begins to drain.
func (s *Server) onClosing(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.closing, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}
