package rebuild

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// scan finds what an earlier rebuild left in the files: groups on the wire, and dirty pieces that are right.
func (r *Rebuild) scan(ctx context.Context) error {
	r.kept = make([]bool, r.geo.pieces)
	r.resumed = !r.hole(0, r.geo.data)
	wire := make([]bool, len(r.cfg.Groups))
	var dirty []int
	for p, is := range r.board.dirty {
		if is && r.resumed {
			dirty = append(dirty, p)
		}
	}
	err := r.share(ctx, len(dirty), func(i int, d *desk) {
		p := dirty[i]
		sum, err := r.readPiece(p, d)
		want, _ := r.expected(p)
		r.kept[p] = err == nil && sum == want // what can't be read is made anew
	})
	if err != nil {
		return err
	}
	if err := r.share(ctx, len(wire), func(g int, d *desk) { wire[g] = r.wireRight(g, d) }); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.board.restore(func(g int) bool { return wire[g] }, func(p int) bool { return r.kept[p] })
	for _, is := range wire {
		if is {
			r.cfg.Metrics.group("kept")
		}
	}
	return nil
}

// share calls do for 0 to n-1 from all workers.
func (r *Rebuild) share(ctx context.Context, n int, do func(i int, d *desk)) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(r.cfg.Workers, n) {
		g.Go(func() error {
			d := new(desk)
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if err := ctx.Err(); err != nil {
					return err
				}
				do(int(i), d)
			}
			return nil
		})
	}
	return g.Wait()
}

// wireRight tells whether a group's bytes on the wire lie in the delta file.
func (r *Rebuild) wireRight(g int, d *desk) bool {
	info := &r.cfg.Groups[g]
	if f := fileOf(r.cfg.Delta); f != nil {
		data, err := unix.Seek(int(f.Fd()), info.Offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && data >= info.Offset+info.Length {
			return false
		}
	}
	h := sha256.New()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, io.NewSectionReader(r.cfg.Delta, info.Offset, info.Length), d.data[:])
	return err == nil && n == info.Length && hash(h.Sum(nil)) == info.SHA256
}
