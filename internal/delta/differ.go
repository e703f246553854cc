package delta

import (
	"bytes"
	"context"
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta/pair"
	"github.com/ltsp-fleet/ltsp-fleet/internal/sqmeta"
)

const (
	// maxBases is how many old files a new one is compared with.
	maxBases = 3
	// maxReference bounds the old content that a piece is compared with.
	maxReference = 64 << 20
	// windowSteps is in how many steps a window passes its own length, over content that is too long to be compared with as a whole: pieces of
	// a long file share its index that way.
	windowSteps = 4
	// streamSlice is how much of a long plaintext is compared at a time: an initrd's is one piece.
	streamSlice = 16 << 20
)

// differ finds the operations for pieces of NEW. It is safe for concurrent use.
type differ struct {
	old, neu *image
	space    *space
	pred     *basePredictor
	pairs    *pair.Table
	memory   int64 // of the whole maker
	refs     *pool
	work     work
}

func newDiffer(old, neu *image, sp *space, memory int64, refs *pool) *differ {
	files := make([]pair.File, len(old.model.files))
	for i, f := range old.model.files {
		files[i] = pair.File{Paths: f.Paths, Size: f.Size}
	}
	return &differ{old: old, neu: neu, space: sp, pred: &basePredictor{old.model, neu.model, sp}, pairs: pair.New(files),
		memory: memory, refs: refs}
}

// extent is a stretch of old content.
type extent struct {
	addr, n int64
}

// diff gives the operations for a piece whose content is data. The caller has taken memory for a reference as long as referenceMemory says.
func (d *differ) diff(ctx context.Context, s *shape, p *piece, data []byte) ([]op, error) {
	if len(data) == 0 {
		return nil, nil
	}
	if at, ok := d.pred.predict(s, p); ok && d.equal(at, data) {
		return []op{{opExact, int64(len(data)), at}}, nil
	}
	if p.stream < 0 {
		return d.diffSlice(ctx, s, p, 0, data)
	}
	var out []op
	for at := 0; at < len(data); at += streamSlice {
		ops, err := d.diffSlice(ctx, s, p, int64(at), data[at:min(at+streamSlice, len(data))])
		if err != nil {
			return nil, err
		}
		out = joinOps(out, ops)
	}
	return out, nil
}

// diffSlice gives the operations for data, which the piece's content has at offset at.
func (d *differ) diffSlice(ctx context.Context, s *shape, p *piece, at int64, data []byte) ([]op, error) {
	ext := d.bases(s, p, at, int64(len(data)))
	if len(ext) == 0 {
		return appendLiteral(nil, int64(len(data))), nil
	}
	ref, release, err := d.reference(ctx, ext)
	if err != nil {
		return nil, err
	}
	defer release()
	ops, err := ref.diff(ctx, data)
	if err != nil {
		return nil, err
	}
	return fineOps(ops, data, ref), nil
}

// equal tells whether the old content at the address is data.
func (d *differ) equal(at int64, data []byte) bool {
	if at < expansionBase {
		f, off, ok := d.old.model.fileAt(at)
		if !ok || off+int64(len(data)) > d.old.model.files[f].Size {
			return false
		}
	}
	var buf [64 << 10]byte
	for len(data) > 0 {
		n := min(len(data), len(buf))
		if d.space.read(buf[:n], at) != nil || !bytes.Equal(buf[:n], data[:n]) {
			return false
		}
		data, at = data[n:], at+int64(n)
	}
	return true
}

// referenceMemory is the most that a reference for one of the pieces takes.
func (d *differ) referenceMemory(s *shape) int64 {
	var most int64
	for i := range s.pieces {
		p := &s.pieces[i]
		n := p.n
		if p.stream >= 0 {
			n = min(n, streamSlice)
		}
		size, _ := d.referenceSize(d.bases(s, p, 0, n))
		most = max(most, size)
	}
	return most
}

// bases gives the old content that n bytes at offset at of a piece are compared with.
func (d *differ) bases(s *shape, p *piece, at, n int64) []extent {
	if p.file == noFile {
		return nil
	}
	f := &d.neu.model.files[p.file]
	if p.stream >= 0 {
		if out := d.streamBases(f, at, n, p.n); len(out) > 0 {
			return out
		}
	}
	var out []extent
	left := d.windowLimit()
	for _, b := range d.pairs.Bases(f.Paths, f.Size, maxBases) {
		e := window(d.old.model.files[b].Size, p.off+at, n, f.Size, left)
		e.addr += d.old.model.addr[b]
		out = append(out, e)
		if left -= e.n; left < 1<<20 {
			break
		}
	}
	return out
}

// windowLimit bounds the old content that a piece is compared with.
func (d *differ) windowLimit() int64 { return min(maxReference, d.memory/8) }

// streamBases gives the plaintexts of the declared streams of the old files that a file resembles, for n bytes at offset at of a plaintext of
// total bytes; of long ones, what lies about there.
func (d *differ) streamBases(f *sqmeta.File, at, n, total int64) []extent {
	var out []extent
	left := d.windowLimit()
	for _, b := range d.pairs.Bases(f.Paths, f.Size, maxBases) {
		lo, hi := d.space.expansionsOf(b)
		for i := lo; i < hi && left >= minStreamFile; i++ {
			e := window(d.space.exps[i].plain, at, n, total, left)
			if e.n == 0 {
				continue
			}
			e.addr += expansionAddr(i)
			out = append(out, e)
			left -= e.n
		}
	}
	return out
}

// window picks at most limit bytes of a base of the given size around the place that corresponds to the piece's.
func window(size, off, n, total, limit int64) extent {
	if size <= limit {
		return extent{0, size}
	}
	middle := int64(float64(off+n/2) / float64(max(total, 1)) * float64(size))
	start := min(max(0, middle-limit/2), size-limit)
	step := max(1, limit/windowSteps)
	return extent{start / step * step, limit}
}

// referenceSize is what a reference takes, and its fine index of that at most.
func (d *differ) referenceSize(ext []extent) (size, index int64) {
	var n int64
	for _, e := range ext {
		n += e.n
	}
	index = d.memory / 8
	return n + indexMemory(n, index), index
}

// reference reads and indexes old content, or finds it in the pool.
func (d *differ) reference(ctx context.Context, ext []extent) (r *reference, release func(), err error) {
	size, index := d.referenceSize(ext)
	return d.refs.get(ctx, fmt.Sprint(ext), size, func() (*reference, error) {
		r := &reference{work: &d.work}
		var end int64
		for _, e := range ext {
			b := make([]byte, e.n)
			if err := d.space.read(b, e.addr); err != nil {
				return nil, err
			}
			end += e.n
			r.parts, r.addrs, r.ends = append(r.parts, b), append(r.addrs, e.addr), append(r.ends, end)
		}
		r.index(index)
		return r, nil
	})
}
