package mixcode

import "slices"

const (
	shiftLevels = 3
	shiftBits   = 14
)

// shiftTables learn how far what lies at an old address was moved, for single addresses and for neighbourhoods.
type shiftTables struct {
	entries [shiftLevels][1 << shiftBits]shiftEntry
}

type shiftEntry struct {
	shift int32
	check uint16
	trust uint8
}

func (t *shiftTables) reset() { *t = shiftTables{} }

func (t *shiftTables) slot(level int, target int64) (*shiftEntry, uint16) {
	h := hash64(uint32(level), uint64(target)>>[shiftLevels]uint{0, 6, 11}[level])
	return &t.entries[level][h>>(32-shiftBits)], uint16(h)
}

func (t *shiftTables) get(level int, target int64) (shift int32, trust uint8) {
	e, check := t.slot(level, target)
	if e.check != check {
		return 0, 0
	}
	return e.shift, e.trust
}

func (t *shiftTables) set(target int64, shift int32) {
	for level := range shiftLevels {
		e, check := t.slot(level, target)
		switch {
		case e.check != check || e.trust == 0:
			*e = shiftEntry{shift, check, 1}
		case e.shift == shift:
			e.trust = min(e.trust+1, 15)
		default:
			e.trust /= 2
			if e.trust == 0 {
				e.shift, e.trust = shift, 1
			}
		}
	}
}

// A shiftMap knows where the patched bytes lie in the old and the new file.
type shiftMap struct {
	segs   []Segment
	starts []int // of segs in the patched bytes
	order  []int // segs by file and old address
	now    int
	one    [1]Segment
}

func (s *shiftMap) start(segs []Segment, n int) {
	if !adds(segs, n) {
		s.one[0] = Segment{Len: n}
		segs = s.one[:]
	}
	s.segs = segs
	s.starts, s.order = s.starts[:0], s.order[:0]
	at := 0
	for i, g := range segs {
		s.starts = append(s.starts, at)
		s.order = append(s.order, i)
		at += g.Len
	}
	slices.SortStableFunc(s.order, func(a, b int) int {
		x, y := &segs[a], &segs[b]
		if x.File != y.File {
			return x.File - y.File
		}
		switch {
		case x.Ref < y.Ref:
			return -1
		case x.Ref > y.Ref:
			return 1
		}
		return 0
	})
	s.now = 0
}

// adds tells whether the segments cover n bytes.
func adds(segs []Segment, n int) bool {
	for _, g := range segs {
		if g.Len < 0 || g.Len > n {
			return false
		}
		n -= g.Len
	}
	return n == 0
}

// advance makes the segment of i the current one.
func (s *shiftMap) advance(i int) {
	for s.now+1 < len(s.segs) && i >= s.starts[s.now+1] {
		s.now++
	}
}

func (s *shiftMap) fromStart(i int) int { return i - s.starts[s.now] }
func (s *shiftMap) toEnd(i int) int     { return s.starts[s.now] + s.segs[s.now].Len - i }

// offset is the old address of i.
func (s *shiftMap) offset(i int) int64 { return s.segs[s.now].Ref + int64(i-s.starts[s.now]) }

// shift is how far the current segment was moved.
func (s *shiftMap) shift() int32 { return int32(s.segs[s.now].New - s.segs[s.now].Ref) }

// at tells how far the bytes at an old address of the current file were moved, when a segment has them.
func (s *shiftMap) at(target int64) (int32, bool) {
	file := s.segs[s.now].File
	lo, hi := 0, len(s.order)
	for lo < hi {
		mid := (lo + hi) / 2
		g := &s.segs[s.order[mid]]
		if g.File < file || g.File == file && g.Ref <= target {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return 0, false
	}
	g := &s.segs[s.order[lo-1]]
	if g.File != file || target-g.Ref >= int64(g.Len) {
		return 0, false
	}
	return int32(g.New - g.Ref), true
}
