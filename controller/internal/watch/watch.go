// Package watch tells those who look at lists that something has changed: which kinds of things, not what. It coalesces, so a burst of changes
// is one event.
package watch

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Interval is the least time between two events of one watcher.
const Interval = 500 * time.Millisecond

// Kinds of things that can be watched.
const (
	Image     = "image"
	Site      = "site"
	Subnet    = "subnet"
	Satellite = "satellite"
	Client    = "client"
	Policy    = "policy"
	Token     = "token"
)

// Kinds lists all kinds.
func Kinds() []string { return []string{Image, Site, Subnet, Satellite, Client, Policy, Token} }

// Hub passes changes on to watchers. The zero Hub is ready. Safe for concurrent use.
type Hub struct {
	mu       sync.Mutex
	watchers map[*Watcher]bool
}

// Watcher collects changes of some kinds. Next is for one goroutine.
type Watcher struct {
	hub   *Hub
	kinds []string
	wake  chan struct{}
	quiet time.Time // no event before

	mu      sync.Mutex
	pending map[string]bool
}

// Watch begins to collect changes of the kinds; Close ends that.
func (h *Hub) Watch(kinds []string) *Watcher {
	w := &Watcher{hub: h, kinds: kinds, wake: make(chan struct{}, 1), pending: map[string]bool{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.watchers == nil {
		h.watchers = make(map[*Watcher]bool)
	}
	h.watchers[w] = true
	return w
}

// Close ends the watcher.
func (w *Watcher) Close() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	delete(w.hub.watchers, w)
}

// Notify tells watchers that things of the kinds have changed. It does not block.
func (h *Hub) Notify(kinds ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.watchers {
		w.add(kinds)
	}
}

func (w *Watcher) add(kinds []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, kind := range kinds {
		if slices.Contains(w.kinds, kind) {
			w.pending[kind] = true
		}
	}
	if len(w.pending) > 0 {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Next blocks until something has changed, but at least Interval since it returned last, and returns the kinds in order. It returns ctx's error
// when ctx ends.
func (w *Watcher) Next(ctx context.Context) ([]string, error) {
	if wait := time.Until(w.quiet); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	select {
	case <-w.wake:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	w.quiet = time.Now().Add(Interval)
	w.mu.Lock()
	defer w.mu.Unlock()
	kinds := make([]string, 0, len(w.pending))
	for kind := range w.pending {
		kinds = append(kinds, kind)
	}
	clear(w.pending)
	slices.Sort(kinds)
	return kinds, nil
}
