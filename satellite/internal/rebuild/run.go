package rebuild

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
)

// Run works until every piece can be read, and then returns nil. It goes on while the source is away. Other errors: ErrWrong, ErrBase,
// ErrSource, ErrGone, what the files gave, or ctx's. After ErrWrong nothing more can come of this rebuild; after any other error Run may be
// called again, but not while it runs.
func (r *Rebuild) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.cond.Broadcast()
	})
	defer stop()
	g.Go(r.recheck)
	g.Go(func() error { return r.lane(ctx, true) })
	for range r.cfg.Lanes {
		g.Go(func() error { return r.lane(ctx, false) })
	}
	for range r.cfg.Workers {
		g.Go(func() error { return r.work(ctx) })
	}
	err := g.Wait()
	if errors.Is(err, ErrWrong) {
		r.fail(err)
	}
	return err
}

// recheck takes up the pieces that a former Run could not bring to their end.
func (r *Rebuild) recheck() error {
	var pieces []int
	r.putBack(func(b *board) {
		for p := range b.pieces {
			if b.ready(p) {
				pieces = append(pieces, p)
			}
		}
	})
	if pieces == nil {
		return nil
	}
	return r.checkPieces(pieces, new(desk))
}

// work proves spans and decodes groups until all pieces are done.
func (r *Rebuild) work(ctx context.Context) error {
	d := new(desk)
	for {
		s, g := r.nextJob(ctx)
		var err error
		switch {
		case s >= 0:
			if err = r.proveSpan(s, d); err != nil {
				r.putBack(func(b *board) { b.unprove(s) })
			}
		case g >= 0:
			if err = r.decode(ctx, g, d); err != nil {
				r.putBack(func(b *board) { b.undecode(g) })
			}
		default:
			return ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// nextJob waits for a span or a group to work on; both -1 if nothing is left to do, or ctx has ended. What somebody waits for comes first,
// spans before groups: they cost no line.
func (r *Rebuild) nextJob(ctx context.Context) (s, g int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ctx.Err() == nil && !r.board.complete() {
		if s, ok := r.board.nextSpan(len(r.board.urgentGroups) == 0); ok {
			return s, -1
		}
		if g, ok := r.board.nextDecode(); ok {
			return -1, g
		}
		if s, ok := r.board.nextSpan(true); ok {
			return s, -1
		}
		r.cond.Wait()
	}
	return -1, -1
}

func (r *Rebuild) putBack(fn func(*board)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn(r.board)
	r.cond.Broadcast()
}

// decode writes what a group brings, and proves the pieces that lack nothing then.
func (r *Rebuild) decode(ctx context.Context, g int, d *desk) error {
	info := &r.cfg.Groups[g]
	wire := d.wireBuffer(info.Length)
	if _, err := r.cfg.Delta.ReadAt(wire, info.Offset); err != nil {
		return r.reread(g, fmt.Errorf("read group %d of the delta: %w", g, err))
	}
	if r.cfg.Heavy(g, wire) && r.postpone(g) {
		return nil
	}
	e := emission{b: r.board, g: g}
	start := time.Now()
	var own error // of our own making, not the decoder's
	err := r.cfg.DecodeGroup(ctx, g, wire, func(off int64, stored []byte) error {
		own = r.emitted(&e, off, stored, d)
		return own
	})
	switch {
	case err == nil && e.bytes != r.board.groups[g].bytes:
		return fmt.Errorf("%w: group %d brought %d bytes", ErrWrong, g, e.bytes)
	case err == nil:
	case own != nil || ctx.Err() != nil:
		return err
	case errors.Is(err, delta.ErrMismatch):
		return r.reread(g, err) // the bytes on the wire rotted on our disk
	case errors.Is(err, delta.ErrFormat), errors.Is(err, delta.ErrLimit), errors.Is(err, delta.ErrVersion):
		return fmt.Errorf("%w: group %d: %w", ErrWrong, g, err)
	default:
		return fmt.Errorf("%w: decode group %d: %w", ErrBase, g, err)
	}
	r.cfg.Metrics.group("decoded")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.board.groups[g].state = decoded
	r.meter.decodedRaw += info.RawBytes
	r.meter.decodedTime += time.Since(start)
	r.cond.Broadcast()
	return nil
}

// postpone is the board's.
func (r *Rebuild) postpone(g int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cond.Broadcast()
	return r.board.postpone(g)
}

// emitted takes one block of a group.
func (r *Rebuild) emitted(e *emission, off int64, stored []byte, d *desk) error {
	if err := e.check(off, int64(len(stored))); err != nil {
		return err
	}
	if err := r.write(off, stored); err != nil {
		return err
	}
	r.mu.Lock()
	ready := r.board.wrote(e.g, off, int64(len(stored)))
	r.mu.Unlock()
	return r.checkPieces(ready, d)
}

// reread has a group fetched again whose bytes in the delta file are of no use.
func (r *Rebuild) reread(g int, err error) error {
	r.log.Warn("group of a delta can't be used", "group", g, "err", err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cond.Broadcast()
	return r.refuseLocked(g)
}

// wireBuffer returns n bytes that are used until the next call. A buffer that a rare long group needed is not kept.
func (d *desk) wireBuffer(n int64) []byte {
	const usual = 8 << 20
	if n > usual {
		return make([]byte, n)
	}
	if int64(cap(d.wire)) < n {
		d.wire = make([]byte, n)
	}
	return d.wire[:n]
}
