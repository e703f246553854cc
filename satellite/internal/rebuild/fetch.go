package rebuild

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	stdhash "hash"
	"math/rand/v2"
	"slices"
	"time"
)

// lane fetches groups until all pieces are here: the urgent lane only those that somebody waits for. It copes with a source that is away.
func (r *Rebuild) lane(ctx context.Context, urgent bool) error {
	failures := 0
	for {
		run, wanted := r.nextRun(ctx, urgent)
		if run == nil {
			return ctx.Err()
		}
		err, ours := r.fetchRun(ctx, run, wanted)
		switch {
		case err == nil || errors.Is(err, errPreempted):
			failures = 0
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case ours || errors.Is(err, ErrGone):
			return err
		}
		failures++
		r.log.Warn("part of a delta can't be fetched", "err", err)
		r.pause(ctx, failures, urgent)
	}
}

// nextRun waits for something to fetch; nil if there is nothing left to do, or ctx has ended. wanted tells that somebody waits for it.
func (r *Rebuild) nextRun(ctx context.Context, urgent bool) (run []int, wanted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ctx.Err() == nil && !r.board.complete() {
		if urgent || r.fill {
			if run := r.board.nextFetch(urgent, r.meter.batch); run != nil {
				r.meter.begin()
				return run, r.board.groups[run[0]].urgent
			}
		}
		r.cond.Wait()
	}
	return nil, false
}

// pause waits after a failure: a random part of a doubling bound, until Kick.
func (r *Rebuild) pause(ctx context.Context, failures int, urgent bool) {
	bound := min(backoffFirst<<min(failures-1, 10), backoffLast)
	if urgent {
		bound = min(bound, backoffUrgent)
	}
	t := time.NewTimer(bound/2 + rand.N(bound/2))
	defer t.Stop()
	r.mu.Lock()
	kick := r.kick
	r.mu.Unlock()
	select {
	case <-t.C:
	case <-kick:
	case <-ctx.Done():
	}
}

// errPreempted ends a request because somebody waits for a group in it, which is fetched at once instead.
var errPreempted = errors.New("groups that are waited for come first")

// delivery is one request under way: neighbouring groups.
type delivery struct {
	r       *Rebuild
	run     []int // groups that have not arrived; guarded by Rebuild.mu
	urgent  bool
	cancel  context.CancelCauseFunc
	hurried bool  // guarded by Rebuild.mu
	pos     int64 // in the delta
	hash    stdhash.Hash
	err     error // of our own files, or a source that can't be trusted
}

// hurryLocked sees to it that groups that somebody waits for do not stay long in requests that nobody hurries with: the line may be slow, or
// the source may hold them back.
func (r *Rebuild) hurryLocked() {
	for d := range r.runs {
		if d.urgent || d.hurried || !d.wantedLocked() {
			continue
		}
		d.hurried = true
		time.AfterFunc(patience, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			d.hurried = false
			if d.wantedLocked() {
				d.cancel(errPreempted)
			}
		})
	}
}

func (d *delivery) wantedLocked() bool {
	return slices.ContainsFunc(d.run, func(g int) bool { return d.r.board.groups[g].urgent })
}

// fetchRun fetches groups that nextRun gave. ours says that the error is not one of the line.
func (r *Rebuild) fetchRun(ctx context.Context, run []int, urgent bool) (err error, ours bool) {
	first, last := &r.cfg.Groups[run[0]], &r.cfg.Groups[run[len(run)-1]]
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d := &delivery{r: r, run: run, urgent: urgent, cancel: cancel, pos: first.Offset, hash: sha256.New()}
	r.mu.Lock()
	r.runs[d] = struct{}{}
	r.hurryLocked()
	r.mu.Unlock()
	start := time.Now()
	err = r.cfg.Fetch(ctx, first.Offset, last.Offset+last.Length-first.Offset, urgent, d.take)
	r.mu.Lock()
	delete(r.runs, d)
	switch {
	case d.err != nil:
		err = d.err
	case err == nil && len(d.run) > 0:
		err = errors.New("the answer ended early")
	case err != nil && errors.Is(context.Cause(ctx), errPreempted):
		err = errPreempted
	}
	for _, g := range d.run {
		r.board.lost(g)
	}
	d.run = nil
	r.meter.end(d.pos-first.Offset, time.Since(start))
	if d.err == nil && ctx.Err() == nil {
		r.trouble = err
	}
	r.cond.Broadcast()
	r.mu.Unlock()
	if err == nil {
		err = r.save()
		return err, err != nil
	}
	return err, d.err != nil
}

// take writes what comes and looks at each group when it is whole.
func (d *delivery) take(p []byte) error {
	for len(p) > 0 {
		if len(d.run) == 0 {
			return errors.New("more came than was asked for")
		}
		g := d.run[0]
		info := &d.r.cfg.Groups[g]
		part := p[:min(int64(len(p)), info.Offset+info.Length-d.pos)]
		if _, err := d.r.cfg.Delta.WriteAt(part, d.pos); err != nil {
			d.err = fmt.Errorf("write %d bytes at %d of the delta: %w", len(part), d.pos, err)
			return d.err
		}
		_, _ = d.hash.Write(part) // never fails
		d.pos, p = d.pos+int64(len(part)), p[len(part):]
		if d.pos < info.Offset+info.Length {
			break
		}
		right := hash(d.hash.Sum(nil)) == info.SHA256
		d.hash.Reset()
		if d.err = d.arrived(g, right); d.err != nil {
			return d.err
		}
	}
	return nil
}

// arrived notes that a group has come. One that is not what the index says comes again, a few times.
func (d *delivery) arrived(g int, right bool) error {
	r := d.r
	r.mu.Lock()
	defer r.mu.Unlock()
	d.run = d.run[1:]
	r.cond.Broadcast()
	length := r.cfg.Groups[g].Length
	r.cfg.Metrics.arrived(int(length))
	r.unsaved += length
	if right {
		r.cfg.Metrics.group("fetched")
		r.board.arrived(g)
		return nil
	}
	return r.refuseLocked(g)
}

// refuseLocked has a group fetched again whose bytes are wrong.
func (r *Rebuild) refuseLocked(g int) error {
	r.cfg.Metrics.group("refused")
	r.board.lost(g)
	r.board.groups[g].refused++
	r.log.Warn("group of a delta is damaged, it will be fetched again", "group", g)
	if n := r.board.groups[g].refused; n >= maxRefusals {
		return fmt.Errorf("%w: group %d came wrong %d times", ErrSource, g, n)
	}
	return nil
}

// save makes what arrived survive a loss of power, now and then.
func (r *Rebuild) save() error {
	r.mu.Lock()
	due := r.unsaved >= syncBytes
	if due {
		r.unsaved = 0
	}
	r.mu.Unlock()
	if !due {
		return nil
	}
	if err := r.cfg.Delta.Sync(); err != nil {
		return fmt.Errorf("sync the delta: %w", err)
	}
	return nil
}

func (m *meter) begin() {
	if m.lanesBusy++; m.lanesBusy == 1 {
		m.busySince = time.Now()
	}
}

// end counts n bytes that came in d, and sets the size of requests so that each takes about batchSeconds.
func (m *meter) end(n int64, d time.Duration) {
	if m.lanesBusy--; m.lanesBusy == 0 {
		m.fetchTime += time.Since(m.busySince)
	}
	m.fetched += n
	if n < minBatch || d <= 0 {
		return
	}
	rate := float64(n) / d.Seconds() * batchSeconds
	m.batch = min(max(minBatch, (m.batch+int64(min(rate, maxBatch)))/2), maxBatch)
}
