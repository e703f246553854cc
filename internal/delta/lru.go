package delta

import (
	"container/list"
	"sync"
)

// lru keeps values up to a total size; the least recently used go first, but one is always kept. Safe for concurrent use.
type lru[K comparable, V any] struct {
	mu    sync.Mutex
	limit int64
	size  func(V) int64
	used  int64
	order *list.List // of *lruItem, most recent first
	items map[K]*list.Element
	// dropped, if not nil, is called with each value that goes.
	dropped func(V)
}

type lruItem[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](limit int64, size func(V) int64) *lru[K, V] {
	return &lru[K, V]{limit: limit, size: size, order: list.New(), items: make(map[K]*list.Element)}
}

func newBytesCache(limit int64) *lru[int64, []byte] {
	return newLRU[int64, []byte](limit, func(b []byte) int64 { return int64(len(b)) })
}

func (c *lru[K, V]) get(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[key]
	if !ok {
		var none V
		return none, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*lruItem[K, V]).value, true
}

func (c *lru[K, V]) put(key K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[key]; ok {
		return
	}
	c.items[key] = c.order.PushFront(&lruItem[K, V]{key, v})
	c.used += c.size(v)
	for c.used > c.limit && c.order.Len() > 1 {
		c.drop()
	}
}

// shrink gives values up until the others take at most limit.
func (c *lru[K, V]) shrink(limit int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.used > limit && c.order.Len() > 0 {
		c.drop()
	}
}

// drop gives up the least recently used value; the caller holds the lock.
func (c *lru[K, V]) drop() {
	old := c.order.Remove(c.order.Back()).(*lruItem[K, V])
	delete(c.items, old.key)
	c.used -= c.size(old.value)
	if c.dropped != nil {
		c.dropped(old.value)
	}
}
