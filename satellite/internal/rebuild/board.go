package rebuild

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
)

type groupState uint8

const (
	missing  groupState = iota
	fetching            // a lane has it
	here                // its bytes on the wire are in the delta file, and right
	decoding            // a worker has it
	decoded             // its blocks are in the disk file
)

type spanState uint8

const (
	untouched spanState = iota
	proving             // a worker has it
	proven              // its piece hashes are known and all but its groups' bytes are in the disk file
)

type pieceState uint8

const (
	pending  pieceState = iota
	checking            // a worker has it
	done                // readers may have it
)

// board is what is known and what is to be done: a state machine without I/O. Rebuild.mu guards it.
type board struct {
	geo     geometry
	info    []delta.Group
	layout  []delta.Region
	regions [][]int32 // of each group, indices of layout in ascending order

	groups []group
	spans  []spanState
	pieces []pieceState
	left   []int64 // bytes of each piece that groups have still to bring
	dirty  []bool  // pieces of which groups bring bytes
	order  []int32 // groups, the first wanted first

	urgentSpans  []int // in the order in which they were asked for
	urgentGroups []int
	donePieces   int
	doneBytes    int64
	wireBytes    int64 // of the groups that are here or further
}

type group struct {
	state   groupState
	urgent  bool
	heavy   bool  // its decoding keeps others from theirs
	refused int   // times that wrong bytes came
	bytes   int64 // of the disk that it brings
	upTo    int64 // bytes of it below this offset of the disk are counted off
}

// newBoard checks what the decoder says before anything relies on it. first are the groups to begin with; numbers that are none and repetitions are
// passed over.
func newBoard(geo geometry, info []delta.Group, layout []delta.Region, first []uint32) (*board, error) {
	b := &board{geo: geo, info: info, layout: layout, regions: make([][]int32, len(info)), groups: make([]group, len(info)),
		spans: make([]spanState, geo.spans), pieces: make([]pieceState, geo.pieces), left: make([]int64, geo.pieces),
		dirty: make([]bool, geo.pieces)}
	var at int64
	for i, reg := range layout {
		if reg.Off != at || reg.Len <= 0 || reg.Len > geo.size-at {
			return nil, fmt.Errorf("%w: region of %d bytes at %d, want one at %d", ErrWrong, reg.Len, reg.Off, at)
		}
		at += reg.Len
		if reg.Kind != delta.RegionGroup {
			continue
		}
		if reg.Group < 0 || reg.Group >= len(info) {
			return nil, fmt.Errorf("%w: region at %d of group %d, there are %d", ErrWrong, reg.Off, reg.Group, len(info))
		}
		b.regions[reg.Group] = append(b.regions[reg.Group], int32(i))
		b.groups[reg.Group].bytes += reg.Len
		b.count(reg.Off, reg.Len, 1)
	}
	if at != geo.size {
		return nil, fmt.Errorf("%w: regions of %d bytes, the squashfs has %d", ErrWrong, at, geo.size)
	}
	for p, n := range b.left {
		b.dirty[p] = n > 0
	}
	b.setOrder(first)
	return b, b.checkGroups()
}

// checkGroups refuses groups that could never be decoded.
func (b *board) checkGroups() error {
	for g := range b.info {
		for _, need := range b.info[g].Needs {
			if need < 0 || need >= len(b.info) || len(b.info[need].Needs) > 0 {
				return fmt.Errorf("%w: group %d needs group %d", ErrWrong, g, need)
			}
		}
		if b.info[g].Length <= 0 || b.info[g].Offset < 0 {
			return fmt.Errorf("%w: group %d has %d bytes at %d", ErrWrong, g, b.info[g].Length, b.info[g].Offset)
		}
	}
	return nil
}

func (b *board) setOrder(first []uint32) {
	seen := make([]bool, len(b.info))
	add := func(g int) {
		if !seen[g] {
			seen[g] = true
			b.order = append(b.order, int32(g))
		}
	}
	for _, g := range first {
		if uint64(g) < uint64(len(b.info)) {
			add(int(g))
		}
	}
	for g := range b.info {
		add(g)
	}
}

// count adds n bytes at off, times sign, to what the pieces lack.
func (b *board) count(off, n, sign int64) {
	for n > 0 {
		p := off / pieceBytes
		part := min(n, (p+1)*pieceBytes-off)
		b.left[p] += sign * part
		off, n = off+part, n-part
	}
}

// complete tells whether all pieces can be read.
func (b *board) complete() bool { return b.donePieces == len(b.pieces) }

// at returns the regions that overlap a part of the squashfs.
func (b *board) at(off, n int64) []delta.Region {
	first, _ := slices.BinarySearchFunc(b.layout, off, func(r delta.Region, off int64) int { return cmp.Compare(r.Off+r.Len-1, off) })
	end := first
	for end < len(b.layout) && b.layout[end].Off < off+n {
		end++
	}
	return b.layout[first:end]
}

// want puts what a piece lacks in front of all else.
func (b *board) want(p int) {
	if b.pieces[p] == done {
		return
	}
	b.wantSpan(p / piecesPerSpan)
	if b.left[p] == 0 {
		return
	}
	off, n := b.geo.piece(p)
	for _, reg := range b.at(off, n) {
		if reg.Kind == delta.RegionGroup {
			b.wantGroup(reg.Group)
		}
	}
}

func (b *board) wantSpan(s int) {
	if b.spans[s] == untouched && !slices.Contains(b.urgentSpans, s) {
		b.urgentSpans = append(b.urgentSpans, s)
	}
}

func (b *board) wantGroup(g int) {
	if b.groups[g].urgent || b.groups[g].state == decoded {
		return
	}
	for _, need := range b.info[g].Needs {
		b.wantGroup(need)
	}
	b.groups[g].urgent = true
	b.urgentGroups = append(b.urgentGroups, g)
}

// nextSpan hands out a span to be proven: an urgent one, else with anyOne the next of the disk; the last and the first, which hold the metadata, come
// before the others.
func (b *board) nextSpan(anyOne bool) (s int, ok bool) {
	for len(b.urgentSpans) > 0 && !ok {
		s, b.urgentSpans = b.urgentSpans[0], b.urgentSpans[1:]
		ok = b.spans[s] == untouched
	}
	if !ok && anyOne {
		s = len(b.spans) - 1
		if b.spans[s] != untouched {
			s = slices.Index(b.spans, untouched)
		}
		ok = s >= 0
	}
	if ok {
		b.spans[s] = proving
	}
	return s, ok
}

// nextDecode hands out a group to be decoded: of those that nobody waits for, the heavy ones last, when they keep no other from anything.
func (b *board) nextDecode() (g int, ok bool) {
	ready := func(g int) bool {
		return b.groups[g].state == here && !slices.ContainsFunc(b.info[g].Needs, func(n int) bool { return b.groups[n].state != decoded })
	}
	b.urgentGroups = slices.DeleteFunc(b.urgentGroups, func(g int) bool { return b.groups[g].state == decoded })
	if i := slices.IndexFunc(b.urgentGroups, ready); i >= 0 {
		g = b.urgentGroups[i]
	} else if i := slices.IndexFunc(b.order, func(g int32) bool { return ready(int(g)) && !b.groups[g].heavy }); i >= 0 {
		g = int(b.order[i])
	} else if i := slices.IndexFunc(b.order, func(g int32) bool { return ready(int(g)) }); i >= 0 && !b.comingGroups() {
		g = int(b.order[i])
	} else {
		return 0, false
	}
	b.groups[g].state = decoding
	return g, true
}

// nextFetch hands out groups to be fetched in one request: neighbours on the wire, of at most limit bytes unless a single one is longer.
// With urgent only urgent ones. While urgent ones are on their way it hands out no others: the line is theirs.
func (b *board) nextFetch(urgent bool, limit int64) []int {
	first := -1
	if slices.ContainsFunc(b.urgentGroups, func(g int) bool { return b.groups[g].state == fetching }) {
		urgent = true
	}
	if i := slices.IndexFunc(b.urgentGroups, func(g int) bool { return b.groups[g].state == missing }); i >= 0 {
		first = b.urgentGroups[i]
	} else if i := slices.IndexFunc(b.order, func(g int32) bool { return b.groups[g].state == missing }); i >= 0 && !urgent {
		first = int(b.order[i])
	}
	if first < 0 {
		return nil
	}
	run := []int{first}
	b.groups[first].state = fetching
	for size, g := b.info[first].Length, first+1; g < len(b.info); g++ {
		size += b.info[g].Length
		follows := b.info[g].Offset == b.info[g-1].Offset+b.info[g-1].Length
		if !follows || size > limit || b.groups[g].state != missing || urgent && !b.groups[g].urgent {
			break
		}
		run = append(run, g)
		b.groups[g].state = fetching
	}
	return run
}

// unprove and undecode give back what nextSpan and nextDecode handed out.
func (b *board) unprove(s int) {
	if b.spans[s] == proving {
		b.spans[s] = untouched
	}
}

func (b *board) undecode(g int) {
	if b.groups[g].state == decoding {
		b.groups[g].state = here
	}
}

// comingGroups tells whether there are groups that are not heavy, as far as is known, and may have to be decoded before anything else is.
func (b *board) comingGroups() bool {
	return slices.ContainsFunc(b.groups, func(g group) bool {
		return !g.heavy && (g.state == missing || g.state == fetching || g.state == decoding)
	})
}

// postpone gives back a group that nextDecode handed out, because it is heavy; it tells whether that is so, and nobody waits for it.
func (b *board) postpone(g int) bool {
	if b.groups[g].heavy || b.groups[g].urgent {
		return false
	}
	b.groups[g].heavy = true
	b.undecode(g)
	return true
}

// missingGroups tells whether there is anything to fetch.
func (b *board) missingGroups() bool {
	return slices.ContainsFunc(b.groups, func(g group) bool { return g.state == missing || g.state == fetching })
}

// arrived notes that a group's bytes on the wire are here.
func (b *board) arrived(g int) {
	b.groups[g].state = here
	b.wireBytes += b.info[g].Length
}

// lost notes that a group has to be fetched (again).
func (b *board) lost(g int) {
	if b.groups[g].state >= here {
		b.wireBytes -= b.info[g].Length
	}
	b.groups[g].state = missing
}

// emission checks the blocks of one run of a decoder over a group: each inside a region of the group, in ascending order.
type emission struct {
	b     *board
	g     int
	end   int64 // of the last block
	bytes int64
}

// check refuses a block that does not belong to the group.
func (e *emission) check(off, n int64) error {
	regions := e.b.regions[e.g]
	i, _ := slices.BinarySearchFunc(regions, off, func(r int32, off int64) int {
		reg := &e.b.layout[r]
		return cmp.Compare(reg.Off+reg.Len-1, off)
	})
	if i == len(regions) || n <= 0 || off < e.end {
		return fmt.Errorf("%w: group %d brings %d bytes at %d", ErrWrong, e.g, n, off)
	}
	if reg := &e.b.layout[regions[i]]; off < reg.Off || n > reg.Off+reg.Len-off {
		return fmt.Errorf("%w: group %d brings %d bytes at %d", ErrWrong, e.g, n, off)
	}
	e.end = off + n
	e.bytes += n
	return nil
}

// wrote counts a block off that is in the file now and returns the pieces that are to be checked. A decoder that runs for the second time over
// a group brings what was counted before.
func (b *board) wrote(g int, off, n int64) (ready []int) {
	from := max(off, b.groups[g].upTo)
	if n -= from - off; n <= 0 {
		return nil
	}
	b.count(from, n, -1)
	b.groups[g].upTo = from + n
	for p := int(from / pieceBytes); p <= int((from+n-1)/pieceBytes); p++ {
		if b.ready(p) {
			ready = append(ready, p)
		}
	}
	return ready
}

// ready hands out a piece to be checked if nothing of it is lacking.
func (b *board) ready(p int) bool {
	if b.pieces[p] != pending || b.left[p] != 0 || b.spans[p/piecesPerSpan] != proven {
		return false
	}
	b.pieces[p] = checking
	return true
}

// proved notes that a span is proven: its clean pieces are done with it, and of the others those are returned that are to be checked.
func (b *board) proved(s int) (made, ready []int) {
	b.spans[s] = proven
	first, end := b.geo.span(s)
	for p := first; p < end; p++ {
		if !b.dirty[p] {
			b.finish(p)
			made = append(made, p)
		} else if b.ready(p) {
			ready = append(ready, p)
		}
	}
	return made, ready
}

// finish notes that a piece can be read.
func (b *board) finish(p int) {
	if b.pieces[p] == done {
		return
	}
	b.pieces[p] = done
	b.donePieces++
	_, n := b.geo.piece(p)
	b.doneBytes += n
}

// restore takes over what lay in the files: groups whose bytes on the wire are right, and pieces that are as the index says. A group all of
// whose pieces are right need not be fetched.
func (b *board) restore(wire func(g int) bool, right func(p int) bool) {
	for g := range b.groups {
		kept := len(b.regions[g]) > 0
		for _, i := range b.regions[g] {
			reg := &b.layout[i]
			for p := reg.Off / pieceBytes; p <= (reg.Off+reg.Len-1)/pieceBytes; p++ {
				kept = kept && right(int(p))
			}
		}
		if wire(g) || kept {
			b.arrived(g)
		}
		if !kept {
			continue
		}
		b.groups[g].state = decoded
		for _, i := range b.regions[g] {
			b.count(b.layout[i].Off, b.layout[i].Len, -1)
		}
	}
}
