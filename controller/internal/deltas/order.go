package deltas

import (
	"context"
	"fmt"
	"io"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/sqmeta"
)

// maxFirst bounds the groups that are named as wanted first.
const maxFirst = 4096

// First lists the groups of a delta that booting clients will want first, in that order: by what clients of the new version itself read, if
// any has booted it, then by what clients of the old one did, file by file. Traces may be empty; without both the result is nil.
func (m *Maker) First(ctx context.Context, p Pair, ofNew, ofOld fleet.Trace) ([]uint32, error) {
	if len(ofNew.Ranges)+len(ofOld.Ranges) == 0 {
		return nil, nil
	}
	r, err := m.Open(p, [32]byte{})
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // it was only read
	index, err := delta.ReadIndex(io.NewSectionReader(r, 0, int64(r.Info.Size)))
	if err != nil {
		return nil, err
	}
	old, _, err := m.cfg.Library.Open(ctx, p.From)
	if err != nil {
		return nil, err
	}
	receiver, err := delta.NewReceiver(ctx, index, old, delta.Options{MemoryBytes: m.cfg.MemoryBytes, TempDir: m.cfg.Dir})
	if err != nil {
		return nil, err
	}
	defer func() { _ = receiver.Close() }()
	o := order{receiver: receiver, seen: make([]bool, len(index.Groups))}
	for _, t := range ofNew.Ranges {
		o.want(int64(t.Offset), int64(t.Length))
	}
	if len(ofOld.Ranges) == 0 {
		return o.list, nil
	}
	moved, err := m.moves(ctx, p, old)
	if err != nil {
		return o.list, err
	}
	for _, t := range ofOld.Ranges {
		for _, b := range moved.touched(int64(t.Offset), int64(t.Length)) {
			o.want(b.Offset, int64(b.Stored))
		}
	}
	return o.list, nil
}

// order collects groups, each once.
type order struct {
	receiver *delta.Receiver
	seen     []bool
	list     []uint32
}

func (o *order) want(off, length int64) {
	for _, g := range o.receiver.GroupsAt(off, length) {
		if !o.seen[g] && len(o.list) < maxFirst {
			o.seen[g] = true
			o.list = append(o.list, uint32(g))
		}
	}
}

// moves tells where the content of a stored block of the old image lies in the new one: the same part of the file of the same name.
type moves struct {
	old  []sqmeta.Block
	to   [][]int32 // by old block: blocks of the new image
	next []sqmeta.Block
}

func (m *Maker) moves(ctx context.Context, p Pair, old delta.Source) (*moves, error) {
	next, _, err := m.cfg.Library.Open(ctx, p.To)
	if err != nil {
		return nil, err
	}
	before, err := sqmeta.Parse(old, old.Size())
	if err != nil {
		return nil, fmt.Errorf("metadata of %s: %w", p.From, err)
	}
	after, err := sqmeta.Parse(next, next.Size())
	if err != nil {
		return nil, fmt.Errorf("metadata of %s: %w", p.To, err)
	}
	byPath := make(map[string]*sqmeta.File)
	files := after.Files()
	for i := range files {
		for _, path := range files[i].Paths {
			byPath[path] = &files[i]
		}
	}
	mv := &moves{old: before.Blocks(), next: after.Blocks()}
	mv.to = make([][]int32, len(mv.old))
	for _, f := range before.Files() {
		for _, path := range f.Paths {
			if g := byPath[path]; g != nil {
				mv.pair(&f, g)
				break
			}
		}
	}
	return mv, nil
}

// maxTails bounds where the tails of one fragment block may have gone.
const maxTails = 64

func (mv *moves) pair(f, g *sqmeta.File) {
	add := func(from, to int32) {
		if from >= 0 && to >= 0 && len(mv.to[from]) < maxTails {
			mv.to[from] = append(mv.to[from], to)
		}
	}
	for k, block := range f.Blocks {
		if k < len(g.Blocks) {
			add(block, g.Blocks[k])
		}
	}
	add(f.Fragment, g.Fragment)
}

// touched lists the new blocks for a range of the old image.
func (mv *moves) touched(off, length int64) []sqmeta.Block {
	first, last := 0, len(mv.old)
	for first < last { // the first block that ends behind off
		mid := (first + last) / 2
		if mv.old[mid].Offset+int64(mv.old[mid].Stored) <= off {
			first = mid + 1
		} else {
			last = mid
		}
	}
	var out []sqmeta.Block
	for i := first; i < len(mv.old) && mv.old[i].Offset < off+length; i++ {
		for _, to := range mv.to[i] {
			out = append(out, mv.next[to])
		}
	}
	return out
}
