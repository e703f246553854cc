package delta

import (
	"container/list"
	"context"
	"sync"
)

// referenceCache keeps references up to a total size, and lets those that are used at the same time take no more than that either,
// unless a single one does. Safe for concurrent use.
type referenceCache struct {
	limit int64
	mu    sync.Mutex
	used  int64
	items map[string]*cachedReference
	idle  *list.List    // of *cachedReference, most recently used first
	freed chan struct{} // closed and replaced when one becomes idle
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

func newReferenceCache(limit int64) *referenceCache {
	return &referenceCache{limit: limit, items: make(map[string]*cachedReference), idle: list.New(), freed: make(chan struct{})}
}

// get lends the reference of a key, which make makes in about size bytes if it is not there; release gives it back. It waits while
// others use too much memory: nobody may call it who has not released the last one.
func (c *referenceCache) get(ctx context.Context, key string, size int64, make func() (*reference, error)) (r *reference, release func(), err error) {
	it, found, err := c.enter(ctx, key, size)
	if err != nil {
		return nil, nil, err
	}
	release = func() { c.leave(it) }
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
func (c *referenceCache) enter(ctx context.Context, key string, size int64) (it *cachedReference, found bool, err error) {
	for {
		c.mu.Lock()
		if it, found = c.items[key]; found {
			if it.users++; it.place != nil {
				c.idle.Remove(it.place)
				it.place = nil
			}
			c.mu.Unlock()
			return it, true, nil
		}
		for c.used > c.limit-size && c.idle.Len() > 0 {
			c.drop(c.idle.Remove(c.idle.Back()).(*cachedReference))
		}
		if c.used <= c.limit-size || c.used == 0 {
			it = &cachedReference{key: key, size: size, users: 1, ready: make(chan struct{})}
			c.items[key] = it
			c.used += size
			c.mu.Unlock()
			return it, false, nil
		}
		freed := c.freed
		c.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, false, ctx.Err()
		case <-freed:
		}
	}
}

// leave ends a use.
func (c *referenceCache) leave(it *cachedReference) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if it.users--; it.users > 0 {
		return
	}
	if it.err != nil {
		c.drop(it)
	} else {
		it.place = c.idle.PushFront(it)
	}
	close(c.freed)
	c.freed = make(chan struct{})
}

// drop forgets a reference that nobody uses; the caller holds the lock.
func (c *referenceCache) drop(it *cachedReference) {
	delete(c.items, it.key)
	c.used -= it.size
}
