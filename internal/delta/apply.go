package delta

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Apply makes NEW from OLD and the delta and writes it to out from front to back, every byte once; blocks of zeros that an empty
// file reads anyway are written too. The SHA-256, the digest (also opt.NewDigest) and the proof of every piece are checked. After
// an error out holds garbage: write to a temporary file and rename it after success. Errors match ErrWrongOld, ErrMismatch,
// ErrFormat, ErrVersion or ErrLimit, or come from a file or the context.
func Apply(ctx context.Context, old, delta Source, out io.WriterAt, opt Options) error {
	if err := reconstruct(ctx, old, delta, out, opt); err != nil {
		return fmt.Errorf("apply delta: %w", err)
	}
	return nil
}

// Verify proves that the delta makes NEW from OLD: it does what Apply does, but writes nothing.
func Verify(ctx context.Context, old, delta Source, opt Options) error {
	if err := reconstruct(ctx, old, delta, discard{}, opt); err != nil {
		return fmt.Errorf("verify delta: %w", err)
	}
	return nil
}

// discard writes nothing.
type discard struct{}

// WriteAt implements io.WriterAt.
func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// reconstruct makes NEW. When the result is wrong it looks whether OLD is to blame.
func reconstruct(ctx context.Context, old, delta Source, out io.WriterAt, opt Options) error {
	x, err := ReadIndex(delta)
	if err != nil {
		return err
	}
	if x.DeltaBytes != delta.Size() {
		return fmt.Errorf("delta has %d bytes, its index says %d: %w", delta.Size(), x.DeltaBytes, ErrFormat)
	}
	lazy := &lazyGroups{delta: delta, x: x, cache: newBytesCache(neededMemory(opt))}
	opt.Incoming = lazy
	r, err := NewReceiver(ctx, x, old, opt)
	if err != nil {
		return err
	}
	lazy.use(r)
	err = errors.Join(sequence(ctx, r, delta, out), r.Close())
	if err == nil || ctx.Err() != nil || errors.Is(err, ErrWrongOld) {
		return err
	}
	if sum, herr := hashAll(ctx, old); herr == nil && sum != x.Old.SHA256 {
		return fmt.Errorf("old image has another SHA-256: %w: %w", ErrWrongOld, err)
	}
	return err
}

// sequence writes NEW from front to back while groups further on are decoded.
func sequence(ctx context.Context, r *Receiver, delta Source, out io.WriterAt) error {
	g, ctx := errgroup.WithContext(ctx)
	s := &sequencer{r: r, out: out, check: newChecker(r.idx, r.opt.parallel()), outputs: newBudget(outputMemory(r.opt))}
	s.futures = make(chan *groupFuture, max(1, r.opt.parallel()-1))
	g.Go(func() error { return s.decodeAll(ctx, g, delta) })
	g.Go(func() error { return s.writeAll(ctx) })
	if err := g.Wait(); err != nil {
		return errors.Join(err, s.check.work.Wait())
	}
	return s.check.finish()
}

// groupFuture is a group that is being decoded.
type groupFuture struct {
	done   chan struct{}
	free   func() // gives back the memory for stored
	stored []byte // of all its units, one after the other
	err    error
}

type sequencer struct {
	r       *Receiver
	out     io.WriterAt
	check   *checker
	futures chan *groupFuture
	outputs *budget // for the groups in futures
}

// decodeAll starts one group after the other, as many as the channel takes.
func (s *sequencer) decodeAll(ctx context.Context, g *errgroup.Group, delta Source) error {
	defer close(s.futures)
	for i := range s.r.idx.Groups {
		free, err := s.outputs.take(ctx, min(s.outputs.limit, s.r.idx.Groups[i].Length+s.r.idx.Groups[i].StoredBytes))
		if err != nil {
			return err
		}
		f := &groupFuture{done: make(chan struct{}), free: free}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s.futures <- f:
		}
		g.Go(func() error {
			defer close(f.done)
			f.stored, f.err = s.r.decodeFrom(ctx, delta, i)
			return f.err
		})
	}
	return nil
}

// decodeFrom reads and decodes a group of the delta.
func (r *Receiver) decodeFrom(ctx context.Context, delta Source, g int) ([]byte, error) {
	d := &r.idx.Groups[g]
	if limit := outputMemory(r.opt) + groupMemory(r.opt); d.Length > limit || d.StoredBytes > limit-d.Length {
		return nil, fmt.Errorf("group %d has %d bytes for %d: %w", g, d.Length, d.StoredBytes, ErrLimit)
	}
	wire := make([]byte, d.Length)
	if err := readAt(delta, wire, d.Offset); err != nil {
		return nil, fmt.Errorf("read group %d: %w", g, err)
	}
	stored := make([]byte, 0, d.StoredBytes)
	err := r.DecodeGroup(ctx, g, wire, func(_ int64, b []byte) error {
		stored = append(stored, b...)
		return nil
	})
	return stored, err
}

// writeAll writes the regions in order.
func (s *sequencer) writeAll(ctx context.Context) error {
	var stored []byte
	group, free := -1, func() {}
	buf := make([]byte, 1<<20)
	for _, reg := range s.r.Layout() {
		if reg.Kind == RegionGroup && reg.Group != group {
			stored = nil
			free()
			f := <-s.futures
			if f == nil {
				return context.Canceled
			}
			<-f.done
			if f.err != nil {
				return f.err
			}
			group, stored, free = reg.Group, f.stored, f.free
		}
		for off := reg.Off; off < reg.Off+reg.Len; {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := buf[:min(int64(len(buf)), reg.Off+reg.Len-off)]
			switch reg.Kind {
			case RegionBytes:
				copy(b, s.r.Bytes(reg)[off-reg.Off:])
			case RegionCopy:
				if err := readAt(s.r.old, b, reg.OldOff+off-reg.Off); err != nil {
					return fmt.Errorf("read old image: %w", err)
				}
			default:
				stored = stored[copy(b, stored):]
			}
			if err := s.write(ctx, b, off); err != nil {
				return err
			}
			off += int64(len(b))
		}
	}
	return nil
}

func (s *sequencer) write(ctx context.Context, b []byte, off int64) error {
	if err := s.check.add(ctx, b); err != nil {
		return err
	}
	if _, err := s.out.WriteAt(b, off); err != nil {
		return fmt.Errorf("write %d bytes at %d: %w", len(b), off, err)
	}
	return nil
}

// lazyGroups reads bytes of NEW that groups make, decoding them when they are asked for: what dependent groups refer to.
type lazyGroups struct {
	delta Source
	x     *Index
	r     *Receiver  // nil: no group needs another
	mu    sync.Mutex // held while a group is decoded
	cache *lru[int64, []byte]
}

// use sets the receiver. Needed groups are decoded while others wait for them, so they have a part of the memory of their own.
func (l *lazyGroups) use(r *Receiver) {
	if !slices.ContainsFunc(l.x.Groups, func(g Group) bool { return len(g.Needs) > 0 }) {
		return
	}
	needed := *r
	needed.groups.memory = newPool(groupMemory(r.opt) / 4)
	r.groups.memory = newPool(groupMemory(r.opt) / 4 * 3)
	l.r = &needed
}

// ReadAt implements io.ReaderAt within one region of a group.
func (l *lazyGroups) ReadAt(p []byte, off int64) (int, error) {
	if l.r == nil {
		return 0, fmt.Errorf("reference to a group that is not needed: %w", ErrFormat)
	}
	reg := l.r.regionAt(off)
	stored, err := l.stored(reg.Group)
	if err != nil {
		return 0, err
	}
	n := copy(p, stored[l.r.layout.storedBefore(reg.Group, off):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// stored gives the bytes that a needed group makes, one group at a time.
func (l *lazyGroups) stored(g int) ([]byte, error) {
	d := &l.x.Groups[g]
	if len(d.Needs) > 0 {
		return nil, fmt.Errorf("group %d is needed but needs others: %w", g, ErrFormat)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if b, ok := l.cache.get(int64(g)); ok {
		return b, nil
	}
	if limit := neededMemory(l.r.opt); d.Length+d.StoredBytes > limit {
		return nil, fmt.Errorf("needed group %d of %d bytes for %d: %w", g, d.Length, d.StoredBytes, ErrLimit)
	}
	b, err := l.r.decodeFrom(context.Background(), l.delta, g)
	if err == nil {
		l.cache.put(int64(g), b)
	}
	return b, err
}
