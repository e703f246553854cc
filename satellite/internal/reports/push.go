package reports

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Errors of Command that can be tested for.
var (
	// ErrNotConnected tells that the client has no report stream here, or none that comes from its own address.
	ErrNotConnected = errors.New("the client is not connected to this satellite")
	// ErrLost tells that the stream ended before the client answered; the command may have been carried out.
	ErrLost = errors.New("the client's connection ended before it answered")
	// ErrBusy tells that too many commands wait for this client already.
	ErrBusy = errors.New("too many commands wait for this client")
)

// Bounds of what is pushed.
const (
	maxCommands  = 8                      // of one client at once
	commandGrace = 10 * time.Second       // for the answer to a command, beyond its own time
	noticeGap    = 2 * time.Millisecond   // between two clients that are told of a new policy, on average
	maxSpread    = 500 * time.Millisecond // within which all are told
)

// pushes is what the satellite says on a report stream without being asked. Its goroutine writes, between the answers of the stream's own.
type pushes struct {
	noticed chan time.Duration // the policy may have changed: how long to wait before looking
	wake    chan struct{}      // there are commands
	ended   chan struct{}
	cancel  context.CancelFunc
	done    chan struct{}

	mu      sync.Mutex
	queue   []agentproto.Command
	waiting map[string]chan agentproto.Result // by the command's ID
	over    bool                              // the stream has ended
}

func newPushes() pushes {
	return pushes{noticed: make(chan time.Duration, 1), wake: make(chan struct{}, 1), ended: make(chan struct{}), waiting: make(map[string]chan agentproto.Result)}
}

// start begins to write; stop ends it.
func (p *pushes) start(ctx context.Context, st *stream) {
	ctx, p.cancel = context.WithCancel(ctx)
	p.done = make(chan struct{})
	go func() {
		defer close(p.done)
		if err := p.run(ctx, st); err != nil && ctx.Err() == nil {
			_ = st.conn.NetConn().Close() // ends the stream's reading too
		}
	}()
}

// stop ends the writing, once the stream's own goroutine has nothing more to say.
func (p *pushes) stop(st *stream) {
	p.mu.Lock()
	if !p.over {
		p.over = true
		close(p.ended)
	}
	p.mu.Unlock()
	if p.done == nil {
		return
	}
	p.cancel()
	if st.write.TryLock() {
		st.closed = true
		st.write.Unlock()
	} else {
		_ = st.conn.NetConn().Close() // a write is under way, maybe to a dead peer
	}
	<-p.done
}

func (p *pushes) run(ctx context.Context, st *stream) error {
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case wait := <-p.noticed:
			if due == nil {
				due = time.After(wait)
			}
		case <-due:
			due = nil
			if err := st.notice(); err != nil {
				return err
			}
		case <-p.wake:
			if err := p.sendCommands(st); err != nil {
				return err
			}
		}
	}
}

// notice tells the agent of its policy if that is another than the one it was told last.
func (st *stream) notice() error {
	policy, err := st.server.cfg.Policy(st.mac, st.addr, st.local)
	if err != nil {
		return nil // none is known: the client keeps what it has
	}
	st.write.Lock()
	defer st.write.Unlock()
	if policy.SHA256 == st.told {
		return nil
	}
	st.told = policy.SHA256
	st.server.metrics.notices.Inc()
	return st.writeLocked(agentproto.Message{Notice: &agentproto.Notice{Policy: policy.SHA256}})
}

func (p *pushes) sendCommands(st *stream) error {
	for {
		p.mu.Lock()
		if len(p.queue) == 0 {
			p.mu.Unlock()
			return nil
		}
		c := p.queue[0]
		p.queue = p.queue[1:]
		p.mu.Unlock()
		if err := st.send(agentproto.Message{Command: &c}); errors.Is(err, agentproto.ErrLineTooLong) {
			p.result(agentproto.Result{ID: c.ID, Error: err.Error()})
		} else if err != nil {
			return err
		}
	}
}

// command queues a command and returns where its result will come.
func (p *pushes) command(c agentproto.Command) (<-chan agentproto.Result, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.over:
		return nil, ErrNotConnected
	case len(p.waiting) >= maxCommands:
		return nil, ErrBusy
	case p.waiting[c.ID] != nil:
		return nil, fmt.Errorf("command %s is under way already", c.ID)
	}
	ch := make(chan agentproto.Result, 1)
	p.waiting[c.ID] = ch
	p.queue = append(p.queue, c)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return ch, nil
}

// forget ends the wait for a result.
func (p *pushes) forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, id)
}

// result passes a result on; one for which nobody waits is dropped.
func (p *pushes) result(r agentproto.Result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ch := p.waiting[r.ID]; ch != nil {
		ch <- r // has room for one
		delete(p.waiting, r.ID)
	}
}

// Command has a client do something and returns what it answered. It blocks for the command's own time and a little more at the most. ErrNotConnected,
// ErrLost, ErrBusy, an error of c itself or that of ctx; context.DeadlineExceeded if the client did not answer.
func (s *Server) Command(ctx context.Context, mac string, c agentproto.Command) (agentproto.Result, error) {
	r, err := s.command(ctx, mac, c)
	s.metrics.commanded(err)
	return r, err
}

func (s *Server) command(ctx context.Context, mac string, c agentproto.Command) (agentproto.Result, error) {
	if err := c.Validate(); err != nil {
		return agentproto.Result{}, err
	}
	s.mu.Lock()
	st := s.streams[mac]
	s.mu.Unlock()
	if st == nil || !st.proven {
		return agentproto.Result{}, ErrNotConnected
	}
	answer, err := st.push.command(c)
	if err != nil {
		return agentproto.Result{}, err
	}
	defer st.push.forget(c.ID)
	ctx, cancel := context.WithTimeout(ctx, c.Limit()+commandGrace)
	defer cancel()
	select {
	case r := <-answer:
		return r, nil
	case <-st.push.ended:
		select {
		case r := <-answer: // the answer was the last that came
			return r, nil
		default:
			return agentproto.Result{}, ErrLost
		}
	case <-ctx.Done():
		return agentproto.Result{}, ctx.Err()
	}
}

// PolicyChanged has every connected client told of its policy if that has changed, within maxSpread: not all of them shall fetch at once. It does not
// block.
func (s *Server) PolicyChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	spread := min(time.Duration(len(s.streams))*noticeGap, maxSpread)
	for _, st := range s.streams {
		select {
		case st.push.noticed <- rand.N(spread):
		default: // it will look soon as it is
		}
	}
}
