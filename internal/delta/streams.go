package delta

import (
	"cmp"
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/ltsp-fleet/ltsp-fleet/internal/nested"
)

const (
	// minStreamFile is the shortest one: less does not pay.
	minStreamFile = 64
	// maxHeld bounds what it takes to unpack a stream of OLD that has to be held in memory for that, beside the group that asks for it.
	maxHeld = DefaultMemoryBytes / 16 * 3
)

// findStreams looks for nested streams in the files of the changed units and declares those of the old files that they resemble.
// joined tells of each changed unit whether it must be in the group of the one before; streams lists the streams whose first
// changed unit it is.
func (m *maker) findStreams(ctx context.Context) (joined []bool, streams [][]stream, err error) {
	files := m.changedFiles()
	found := make([][]stream, len(files))
	bases := make([][]int32, len(files))
	err = m.eachParallel(ctx, len(files), func(i int) (err error) {
		if found[i], err = m.newStreams(ctx, files[i]); err == nil && len(found[i]) > 0 {
			f := &m.neu.model.files[files[i]]
			bases[i] = m.differ.pairs.Bases(f.Paths, f.Size, maxBases)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	if err := m.declareStreams(ctx, bases); err != nil {
		return nil, nil, err
	}
	joined, streams = m.placeStreams(found)
	return joined, streams, nil
}

// eachParallel calls f for 0 to n-1 from several goroutines.
func (m *maker) eachParallel(ctx context.Context, n int, f func(i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(m.opt.parallel())
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return f(i)
		})
	}
	return g.Wait()
}

// changedFiles lists the files of NEW that lie in changed units and in one piece: either in data blocks or in a fragment block.
func (m *maker) changedFiles() []int32 {
	var out []int32
	seen := make(map[int32]bool)
	var spans []span
	for _, u := range m.layout.changed {
		if m.neu.model.units[u].gap {
			continue
		}
		spans = m.neu.model.unitSpans(spans[:0], u)
		for _, s := range spans {
			if s.file == noFile || seen[s.file] {
				continue
			}
			seen[s.file] = true
			f := &m.neu.model.files[s.file]
			if f.Size >= minStreamFile && f.Size <= m.searchLimit() && (f.Fragment < 0 || len(f.Blocks) == 0) {
				out = append(out, s.file)
			}
		}
	}
	return out
}

// searchLimit is the length of the longest file that is searched for nested streams.
func (m *maker) searchLimit() int64 { return m.searching.limit / 3 }

// newStreams finds the streams of a file of NEW, if OLD does not have the same file.
func (m *maker) newStreams(ctx context.Context, file int32) ([]stream, error) {
	f := &m.neu.model.files[file]
	return m.search(ctx, m.neu, file, nested.Limits{MaxPlain: maxNestedPlain}, func(data []byte) bool {
		b, ok := m.old.model.samePath(f)
		return ok && m.old.model.files[b].Size == f.Size && m.differ.equal(m.old.model.addr[b], data)
	})
}

// search finds the streams in a file, unless skip says that it is not worth it.
func (m *maker) search(ctx context.Context, im *image, file int32, limits nested.Limits, skip func(data []byte) bool) ([]stream, error) {
	var need int64
	err := m.withFile(ctx, im, file, 0, func(data []byte) {
		if !skip(data) {
			need = nested.FindMemory(data, limits)
		}
	})
	if err != nil || need == 0 || need > m.searching.limit-im.model.files[file].Size {
		return nil, err
	}
	// Few files come so far: they are read once more rather than kept while others are searched.
	var out []stream
	err = m.withFile(ctx, im, file, need, func(data []byte) {
		for _, s := range nested.Find("", data, limits) {
			out = append(out, stream{file: file, off: s.Offset, n: s.Length, plain: s.PlainLength, codec: s.Codec, params: s.Params})
		}
	})
	return out, err
}

// withFile calls f with the content of a file when there is memory for it and as much again as extra says.
func (m *maker) withFile(ctx context.Context, im *image, file int32, extra int64, f func(data []byte)) error {
	size := im.model.files[file].Size
	release, err := m.searching.take(ctx, size+extra)
	if err != nil {
		return err
	}
	defer release()
	data := make([]byte, size)
	if err := im.content.readFile(data, file, 0); err != nil {
		return err
	}
	f(data)
	return nil
}

// declareStreams opens the old files that resemble files with streams, so that their plaintexts can be referred to.
func (m *maker) declareStreams(ctx context.Context, bases [][]int32) error {
	var files []int32
	for _, b := range bases {
		files = append(files, b...)
	}
	slices.Sort(files)
	files = slices.Compact(files)
	found := make([][]stream, len(files))
	err := m.eachParallel(ctx, len(files), func(i int) error {
		f := &m.old.model.files[files[i]]
		if f.Size < minStreamFile || f.Size > m.searchLimit() {
			return nil
		}
		var err error
		limits := nested.Limits{MaxPlain: maxNestedPlain, Unproved: true}
		found[i], err = m.search(ctx, m.old, files[i], limits, func([]byte) bool { return false })
		return err
	})
	if err != nil {
		return err
	}
	var exps []stream
	for _, f := range found {
		for _, st := range f {
			if st.codec == nested.XZ && st.n+st.plain > min(maxHeld, m.opt.memory()/16*3) {
				continue
			}
			exps = append(exps, st)
		}
	}
	if len(exps) > maxExpansions {
		exps = exps[:maxExpansions]
	}
	m.rec.groups.space.(*space).exps = exps
	m.index.expansions = packExpansions(exps, m.old.model)
	return nil
}

// placeStreams finds the changed units of each stream. A stream that lies in copied blocks alone is left out.
func (m *maker) placeStreams(found [][]stream) (joined []bool, streams [][]stream) {
	neu := m.neu.model
	position := make(map[int32]int, len(m.layout.changed)) // of a unit in the list of changed ones
	for i, u := range m.layout.changed {
		position[u] = i
	}
	joined = make([]bool, len(m.layout.changed))
	streams = make([][]stream, len(m.layout.changed))
	end, chain, encoder := -1, int64(0), int64(0) // last unit of the streams that hang together, and what they take
	limit := min(groupMemory(m.opt), groupMemory(Options{}))
	for _, list := range found {
		for _, st := range list {
			first, last := -1, -1
			for _, u := range neu.unitsOf(st.file, st.off, st.n) {
				if i, ok := position[u]; ok && neu.holds(u, st.file) {
					if first < 0 {
						first = i
					}
					last = i
				}
			}
			if first < 0 {
				continue
			}
			if first > end {
				chain, encoder = 0, 0
			}
			need, packing := 2*st.n+st.plain, max(encoder, nested.EncodeMemory(st.described()))
			if chain+need+packing > limit {
				continue // its bytes are compared as they are
			}
			chain, encoder, end = chain+need, packing, max(end, last)
			streams[first] = append(streams[first], st)
			for i := first + 1; i <= last; i++ {
				joined[i] = true
			}
		}
	}
	for _, l := range streams {
		slices.SortStableFunc(l, m.byPlace)
	}
	return joined, streams
}

// byPlace orders streams of one unit as their files lie in it.
func (m *maker) byPlace(a, b stream) int {
	fa, fb := &m.neu.model.files[a.file], &m.neu.model.files[b.file]
	if a.file != b.file {
		return cmp.Or(cmp.Compare(fa.FragmentOffset, fb.FragmentOffset), cmp.Compare(a.file, b.file))
	}
	return cmp.Compare(a.off, b.off)
}
