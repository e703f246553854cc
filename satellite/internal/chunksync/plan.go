package chunksync

import (
	"bytes"
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// A copyRun is one chunk that a version on the disk has: where to read it.
type copyRun struct {
	ref      chunk.Ref
	artifact string
	offset   uint64
}

// planner sorts missing chunks into those that some version on the disk has and those that must be fetched. It does no I/O.
type planner struct {
	missing []chunk.Ref // in the order in which they are wanted
	sorted  []uint32    // indices of missing, by chunk ID
	found   []bool      // by index of missing
}

func newPlanner(missing []chunk.Ref) *planner {
	p := &planner{missing: missing, sorted: make([]uint32, len(missing)), found: make([]bool, len(missing))}
	for i := range p.sorted {
		p.sorted[i] = uint32(i)
	}
	slices.SortFunc(p.sorted, func(a, b uint32) int { return bytes.Compare(missing[a].ID[:], missing[b].ID[:]) })
	return p
}

// offer looks through a version that is on the disk and returns what to copy from it, in the order of its files. A chunk is taken from
// the first version that offers it.
func (p *planner) offer(m *manifest.Manifest) []copyRun {
	var runs []copyRun
	for i := range m.Artifacts {
		a := &m.Artifacts[i]
		var off uint64
		for _, ref := range a.Chunks {
			if n, ok := p.index(ref.ID); ok && !p.found[n] && p.missing[n].Size == ref.Size {
				p.found[n] = true
				runs = append(runs, copyRun{ref: ref, artifact: a.Name, offset: off})
			}
			off += uint64(ref.Size)
		}
	}
	return runs
}

func (p *planner) index(id chunk.ID) (uint32, bool) {
	i, ok := slices.BinarySearchFunc(p.sorted, id, func(n uint32, id chunk.ID) int { return bytes.Compare(p.missing[n].ID[:], id[:]) })
	if !ok {
		return 0, false
	}
	return p.sorted[i], true
}

// batches cuts chunks into requests of at most maxChunks chunks and, unless a single one is larger, maxBytes bytes.
func batches(refs []chunk.Ref, maxChunks int, maxBytes uint64) [][]chunk.Ref {
	var out [][]chunk.Ref
	for len(refs) > 0 {
		n, size := 1, uint64(refs[0].Size)
		for n < len(refs) && n < maxChunks && size+uint64(refs[n].Size) <= maxBytes {
			size += uint64(refs[n].Size)
			n++
		}
		out = append(out, refs[:n])
		refs = refs[n:]
	}
	return out
}
