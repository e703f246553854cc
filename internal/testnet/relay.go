package testnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	relayBuffer      = 32 << 10
	relayDialTimeout = 10 * time.Second
)

// RelayConfig describes a TCP relay. It stands in for a WAN line, because the kernel of a test machine often has no
// traffic control.
type RelayConfig struct {
	From   *Host  // listens here; nil: in the namespace of this process
	Listen string // literal address, port 0 for any
	To     *Host  // dials from here; nil: from the namespace of this process
	Target string // literal address
	// BytesPerSecond caps each direction over all connections together; 0: no cap.
	BytesPerSecond int64
	// Log is told about every change of state; nil discards.
	Log func(format string, args ...any)
}

// relayState says what a relay does with bytes and connections.
type relayState int

const (
	relayOpen   relayState = iota
	relayHeld              // black hole: nothing moves, nobody is told
	relayBroken            // cut: connections are reset
)

// Relay forwards TCP connections and can be slow, silent or cut. Methods are safe for concurrent use.
type Relay struct {
	config   RelayConfig
	listener net.Listener
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	work     sync.WaitGroup
	up, down limiter
	sentUp   atomic.Int64
	sentDown atomic.Int64

	mu      sync.Mutex
	state   relayState
	changed chan struct{} // closed and replaced when state changes
	budget  int64         // bytes to the client until the relay cuts itself; negative: none set
	conns   map[net.Conn]bool
}

// NewRelay starts a relay. The caller must Close it, or close the lab of From, which closes it too.
func NewRelay(ctx context.Context, config RelayConfig) (*Relay, error) {
	if config.Log == nil {
		config.Log = func(string, ...any) {}
	}
	if err := checkLiteral(config.Target); err != nil {
		return nil, fmt.Errorf("relay target: %w", err)
	}
	listen := (&net.ListenConfig{}).Listen
	if config.From != nil {
		listen = config.From.Listen
	}
	listener, err := listen(ctx, "tcp", config.Listen)
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	r := &Relay{config: config, listener: listener, changed: make(chan struct{}), budget: -1, conns: map[net.Conn]bool{}}
	r.up.setRate(config.BytesPerSecond)
	r.down.setRate(config.BytesPerSecond)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.work.Go(r.accept)
	if config.From != nil && !config.From.lab.onClose(r.Close) {
		r.Close()
		return nil, fmt.Errorf("relay: network lab %s is closed", config.From.lab.label)
	}
	return r, nil
}

// Addr is the address that the relay listens on.
func (r *Relay) Addr() netip.AddrPort { return r.listener.Addr().(*net.TCPAddr).AddrPort() }

// Forwarded returns the payload bytes that went to the target (up) and back to the clients (down) so far.
func (r *Relay) Forwarded() (up, down int64) { return r.sentUp.Load(), r.sentDown.Load() }

// SetRate changes the cap of each direction; 0 lifts it.
func (r *Relay) SetRate(bytesPerSecond int64) {
	r.config.Log("relay %s: %d bytes per second", r.Addr(), bytesPerSecond)
	r.up.setRate(bytesPerSecond)
	r.down.setRate(bytesPerSecond)
}

// Cut resets all connections, and every new one until Restore.
func (r *Relay) Cut() { r.setState(relayBroken, "cut") }

// Blackhole stops all bytes without closing anything until Restore; new connections are accepted and hear nothing.
func (r *Relay) Blackhole() { r.setState(relayHeld, "black hole") }

// Restore ends Cut and Blackhole, and forgets a CutAfter that has not happened.
func (r *Relay) Restore() { r.setState(relayOpen, "restored") }

// CutAfter makes the relay Cut itself when n more bytes have gone towards the clients: a cut in the middle of a transfer that
// does not depend on time. As with a real cut, a client may not see the last of them.
func (r *Relay) CutAfter(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.budget = max(n, 0)
}

// Close ends the relay and its connections. It may be called twice.
func (r *Relay) Close() {
	r.cancel()
	r.listener.Close()
	r.mu.Lock()
	r.resetLocked()
	r.mu.Unlock()
	r.work.Wait()
}

func (r *Relay) setState(state relayState, word string) {
	r.config.Log("relay %s: %s", r.Addr(), word)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.setStateLocked(state)
}

func (r *Relay) setStateLocked(state relayState) {
	r.state, r.budget = state, -1
	close(r.changed)
	r.changed = make(chan struct{})
	if state == relayBroken {
		r.resetLocked()
	}
}

// resetLocked closes every connection with a TCP reset.
func (r *Relay) resetLocked() {
	for conn := range r.conns {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		conn.Close()
	}
	clear(r.conns)
}

// adopt remembers conn so that a cut reaches it. While the relay is cut or closed it resets conn at once and returns false.
func (r *Relay) adopt(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns[conn] = true
	if r.state == relayBroken || r.ctx.Err() != nil {
		r.resetLocked()
		return false
	}
	return true
}

// release closes conn in the ordinary way.
func (r *Relay) release(conn net.Conn) {
	r.mu.Lock()
	delete(r.conns, conn)
	r.mu.Unlock()
	conn.Close()
}

func (r *Relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			if r.ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				r.config.Log("relay %s: %v", r.Addr(), err)
			}
			return
		}
		if r.adopt(client) {
			r.work.Go(func() { r.serve(client) })
		}
	}
}

// serve forwards one connection until both directions have ended.
func (r *Relay) serve(client net.Conn) {
	defer r.release(client)
	if r.pass(r.ctx) != nil {
		return
	}
	dial := (&net.Dialer{}).DialContext
	if r.config.To != nil {
		dial = r.config.To.Dial
	}
	ctx, cancel := context.WithTimeout(r.ctx, relayDialTimeout)
	defer cancel()
	target, err := dial(ctx, "tcp", r.config.Target)
	if err != nil {
		r.config.Log("relay %s: %v", r.Addr(), err)
		return
	}
	defer r.release(target)
	if !r.adopt(target) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { r.pump(target, client, &r.up, &r.sentUp, false) })
	both.Go(func() { r.pump(client, target, &r.down, &r.sentDown, true) })
	both.Wait()
}

// pass blocks while the relay is a black hole; nil means that bytes may go.
func (r *Relay) pass(ctx context.Context) error {
	for {
		r.mu.Lock()
		state, changed := r.state, r.changed
		r.mu.Unlock()
		switch state {
		case relayOpen:
			return ctx.Err()
		case relayBroken:
			return net.ErrClosed
		case relayHeld:
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pump copies one direction and passes on its end.
func (r *Relay) pump(to, from net.Conn, line *limiter, sent *atomic.Int64, towardsClient bool) {
	buffer := make([]byte, relayBuffer)
	for {
		n, err := from.Read(buffer[:line.piece(len(buffer))])
		if n > 0 && !r.send(to, buffer[:n], line, sent, towardsClient) {
			break
		}
		if err != nil {
			break
		}
	}
	if tcp, ok := to.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
}

// send delivers data as the line allows it; false ends the direction.
func (r *Relay) send(to net.Conn, data []byte, line *limiter, sent *atomic.Int64, towardsClient bool) bool {
	if line.wait(r.ctx, len(data)) != nil || r.pass(r.ctx) != nil {
		return false
	}
	last := false
	if towardsClient {
		data, last = r.spend(data)
	}
	sent.Add(int64(len(data))) // before the receiver can act on it
	n, err := to.Write(data)
	sent.Add(int64(n - len(data)))
	if last {
		r.Cut()
	}
	return err == nil && !last
}

// spend takes data out of the budget of CutAfter and returns what may still go, and whether the cut follows.
func (r *Relay) spend(data []byte) (rest []byte, last bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.budget < 0 {
		return data, false
	}
	if int64(len(data)) < r.budget {
		r.budget -= int64(len(data))
		return data, false
	}
	data = data[:r.budget]
	r.budget = 0
	return data, true
}
