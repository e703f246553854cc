package rebuild

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// waiter is one reader that waits.
type waiter struct {
	left          int // pieces and spans that it lacks
	pieces, spans []int
	ready         chan struct{} // closed when left is 0 or err is set
	err           error
}

// waiters finds the readers that wait for a piece or a span. The zero value is ready; Rebuild.mu guards it.
type waiters struct {
	pieces, spans map[int][]*waiter
	count         int
}

func (ws *waiters) add(w *waiter) {
	if ws.pieces == nil {
		ws.pieces, ws.spans = make(map[int][]*waiter), make(map[int][]*waiter)
	}
	w.left = len(w.pieces) + len(w.spans)
	for _, p := range w.pieces {
		ws.pieces[p] = append(ws.pieces[p], w)
	}
	for _, s := range w.spans {
		ws.spans[s] = append(ws.spans[s], w)
	}
	ws.count++
}

// remove forgets a waiter.
func (ws *waiters) remove(w *waiter) {
	drop := func(m map[int][]*waiter, keys []int) {
		for _, k := range keys {
			m[k] = slices.DeleteFunc(m[k], func(o *waiter) bool { return o == w })
			if len(m[k]) == 0 {
				delete(m, k)
			}
		}
	}
	drop(ws.pieces, w.pieces)
	drop(ws.spans, w.spans)
	ws.count--
}

// release tells those who wait for key that it is there.
func release(m map[int][]*waiter, key int) {
	for _, w := range m[key] {
		if w.left--; w.left == 0 {
			close(w.ready)
		}
	}
	delete(m, key)
}

// fail ends all waits.
func (ws *waiters) fail(err error) {
	seen := make(map[*waiter]bool)
	for _, m := range []map[int][]*waiter{ws.pieces, ws.spans} {
		for _, list := range m {
			for _, w := range list {
				if !seen[w] && w.left > 0 {
					seen[w] = true
					w.err = err
					close(w.ready)
				}
			}
		}
		clear(m)
	}
}

// Wait returns when n bytes of the disk from off, data or tree, are in the file and proven. What is lacking goes before all else. It
// blocks for Config.Wait at most, then the error is ErrLate; ErrEnded or ErrWrong tell that waiting is of no use; else it is ctx's. When all is
// there it costs an atomic load.
func (r *Rebuild) Wait(ctx context.Context, off, n int64) error {
	if r.whole.Load() {
		return nil
	}
	w, err := r.enlist(off, n)
	if w == nil {
		return err
	}
	start := time.Now()
	err = r.await(ctx, w)
	r.cfg.Metrics.waited(time.Since(start), err)
	if err != nil {
		return fmt.Errorf("read %d bytes at %d: %w", n, off, err)
	}
	return nil
}

// enlist registers a reader for what it lacks; nil if that is nothing.
func (r *Rebuild) enlist(off, n int64) (*waiter, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := &waiter{ready: make(chan struct{})}
	data, leaves, spans := r.geo.needs(off, n)
	for _, pieces := range [][2]int{data, leaves} {
		for p := pieces[0]; p < pieces[1]; p++ {
			if r.board.pieces[p] != done {
				w.pieces = append(w.pieces, p)
			}
		}
	}
	for s := spans[0]; s < spans[1]; s++ {
		if r.board.spans[s] != proven {
			w.spans = append(w.spans, s)
		}
	}
	slices.Sort(w.pieces)
	w.pieces = slices.Compact(w.pieces)
	switch {
	case len(w.pieces)+len(w.spans) == 0:
		return nil, nil
	case r.failed != nil:
		return nil, r.failed
	}
	for _, p := range w.pieces {
		r.board.want(p)
	}
	for _, s := range w.spans {
		r.board.wantSpan(s)
	}
	r.waiters.add(w)
	r.hurryLocked()
	r.cond.Broadcast()
	return w, nil
}

func (r *Rebuild) await(ctx context.Context, w *waiter) error {
	limit := time.NewTimer(time.Duration(r.wait.Load()))
	defer limit.Stop()
	var err error
	select {
	case <-w.ready:
		err = w.err
	case <-limit.C:
		err = ErrLate
	case <-ctx.Done():
		err = ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiters.remove(w)
	if err == ErrLate && r.trouble != nil { //nolint:errorlint // set four lines above
		err = fmt.Errorf("%w: %w", ErrLate, r.trouble)
	}
	return err
}
