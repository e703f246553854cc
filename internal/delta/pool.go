package delta

import (
	"container/list"
	"context"
	"sync"
)

// pool lends memory to groups that are encoded or decoded, and keeps references, the indexed old content that they are compared with, up to
// what the groups leave. Usually that is usual bytes in all, which leaves the garbage collector some room; a group that needs more gets it, up
// to limit, when it is alone. Nobody can wait for ever: a group waits for its own memory before it takes anything, and is let in only if
// the longest of the references that groups may ask for would fit beside them all once the idle ones are dropped. Safe for concurrent use.
type pool struct {
	limit  int64
	usual  int64
	turn   chan struct{} // held by the one group that waits to be let in, so that a large one is not passed by small ones
	mu     sync.Mutex
	claims map[*claim]bool
	work   int64 // of all claims
	used   int64 // by references
	items  map[string]*cachedReference
	idle   *list.List    // of *cachedReference, most recently used first
	freed  chan struct{} // closed and replaced when a claim ends or a reference becomes idle
}

// claim is what a group takes: for itself, and at most for one reference at a time.
type claim struct {
	work, reference int64
}

// cachedReference is a reference that is made, used, or idle.
type cachedReference struct {
	key   string
	size  int64
	users int
	place *list.Element // in idle; nil: has users
	ready chan struct{} // closed when ref or err is set
	ref   *reference
	err   error
}

func newPool(limit int64) *pool {
	return &pool{limit: limit, usual: limit / 100 * 72, turn: make(chan struct{}, 1), claims: make(map[*claim]bool), items: make(map[string]*cachedReference),
		idle: list.New(), freed: make(chan struct{})}
}

// take waits for n bytes, and until a reference of up to the given size could be had beside them; release gives them back and is never nil. More than
// there is at all is ErrLimit. Nobody may call it who holds anything of the pool.
func (p *pool) take(ctx context.Context, n, reference int64) (release func(), err error) {
	if n+reference > p.limit {
		return func() {}, memoryError(n+reference, p.limit)
	}
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return func() {}, ctx.Err()
	}
	defer func() { <-p.turn }()
	c := &claim{n, reference}
	for {
		freed, ok := p.admit(c)
		if ok {
			return func() { p.end(c) }, nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return func() {}, ctx.Err()
		}
	}
}

// admit lets a claim in if there is room; otherwise freed tells when to try again.
func (p *pool) admit(c *claim) (freed chan struct{}, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	longest := c.reference
	for o := range p.claims {
		longest = max(longest, o.reference)
	}
	limit := p.usual
	if len(p.claims) == 0 {
		limit = p.limit
	}
	p.shrink(p.usual - p.work - c.work)
	if p.work+c.work+longest > limit || p.used > p.limit-p.work-c.work {
		return p.freed, false
	}
	p.claims[c] = true
	p.work += c.work
	return nil, true
}

// shrink drops idle references until all take at most limit, as far as that is possible; the caller holds the lock.
func (p *pool) shrink(limit int64) {
	for p.used > limit && p.idle.Len() > 0 {
		p.drop(p.idle.Remove(p.idle.Back()).(*cachedReference))
	}
}

func (p *pool) end(c *claim) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.claims, c)
	p.work -= c.work
	p.wake()
}

func (p *pool) wake() {
	close(p.freed)
	p.freed = make(chan struct{})
}

// get lends the reference of a key, which make makes in about size bytes if it is not there; release gives it back. The caller has taken
// memory for a reference of that size and has none at present. It waits while others use too much.
func (p *pool) get(ctx context.Context, key string, size int64, make func() (*reference, error)) (r *reference, release func(), err error) {
	it, found, err := p.enter(ctx, key, size)
	if err != nil {
		return nil, nil, err
	}
	release = func() { p.leave(it) }
	if !found {
		it.ref, it.err = make()
		close(it.ready)
	}
	select {
	case <-ctx.Done():
		err = ctx.Err()
	case <-it.ready:
		err = it.err
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return it.ref, release, nil
}

// enter registers a user of a key; if it is not found the user has to make it.
func (p *pool) enter(ctx context.Context, key string, size int64) (it *cachedReference, found bool, err error) {
	for {
		p.mu.Lock()
		if it, found = p.items[key]; found {
			if it.users++; it.place != nil {
				p.idle.Remove(it.place)
				it.place = nil
			}
			p.mu.Unlock()
			return it, true, nil
		}
		if p.shrink(p.usual - p.work - size); p.used <= p.limit-p.work-size {
			it = &cachedReference{key: key, size: size, users: 1, ready: make(chan struct{})}
			p.items[key] = it
			p.used += size
			p.mu.Unlock()
			return it, false, nil
		}
		freed := p.freed
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, false, ctx.Err()
		case <-freed:
		}
	}
}

// leave ends a use.
func (p *pool) leave(it *cachedReference) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if it.users--; it.users > 0 {
		return
	}
	if it.err != nil {
		p.drop(it)
	} else {
		it.place = p.idle.PushFront(it)
		p.shrink(p.usual - p.work)
	}
	p.wake()
}

// drop forgets a reference that nobody uses; the caller holds the lock.
func (p *pool) drop(it *cachedReference) {
	delete(p.items, it.key)
	p.used -= it.size
}
