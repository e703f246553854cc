package delta

import (
	"fmt"
	"io"
	"slices"
	"sort"
)

// Addresses: the content of OLD's files lies from 0 on; plaintexts of declared streams of OLD from expansionBase on, each in a
// range of its own; the content of NEW's files from newBase on.
const (
	expansionBase  = 1 << 56
	expansionShift = 29
	newBase        = 1 << 57
	maxExpansions  = 1 << 20
	maxAddress     = 1 << 58
)

// space reads content by address. It is safe for concurrent use.
type space struct {
	old    *content
	exps   []stream // of OLD, ordered by file and offset
	plains *plains
	neu    *content // nil: no group may refer to NEW
}

// read fills p from address a.
func (s *space) read(p []byte, a int64) error {
	switch {
	case a < expansionBase:
		return s.old.read(p, a)
	case a < newBase:
		return s.readExpansion(p, a-expansionBase)
	case s.neu == nil:
		return fmt.Errorf("reference to content of the new image: %w", ErrFormat)
	default:
		return s.neu.read(p, a-newBase)
	}
}

// offset implements reader.
func (s *space) offset(a int64) int64 {
	c := s.old
	switch {
	case a >= newBase && s.neu != nil:
		c, a = s.neu, a-newBase
	case a >= expansionBase:
		return a & (1<<expansionShift - 1)
	}
	_, off, _ := c.m.fileAt(a)
	return off
}

func (s *space) readExpansion(p []byte, a int64) error {
	i, off := a>>expansionShift, a&(1<<expansionShift-1)
	if i >= int64(len(s.exps)) || off+int64(len(p)) > s.exps[i].plain {
		return fmt.Errorf("no plaintext at %d of stream %d: %w", off, i, ErrFormat)
	}
	st := &s.exps[i]
	return s.plains.read(p, off, i, st, func() io.Reader { return io.NewSectionReader(fileReader{s.old, st.file}, st.off, st.n) })
}

// expansionsOf gives the range of indices of the declared streams of an old file.
func (s *space) expansionsOf(file int32) (lo, hi int) {
	lo = sort.Search(len(s.exps), func(i int) bool { return s.exps[i].file >= file })
	hi = sort.Search(len(s.exps), func(i int) bool { return s.exps[i].file > file })
	return lo, hi
}

func expansionAddr(i int) int64 { return expansionBase + int64(i)<<expansionShift }

// neededSpace is the space as one group may read it: of NEW's content only what lies in copied units or in groups that it needs. So
// no group can wait for itself.
type neededSpace struct {
	*space
	layout *layout
	needs  []int
}

// read implements reader.
func (s *neededSpace) read(p []byte, a int64) error {
	if a >= newBase && s.neu != nil {
		if err := s.check(a-newBase, int64(len(p))); err != nil {
			return err
		}
	}
	return s.space.read(p, a)
}

// check refuses content that is not at hand.
func (s *neededSpace) check(a, n int64) error {
	for n > 0 {
		f, off, ok := s.neu.m.fileAt(a)
		if !ok {
			return fmt.Errorf("no content at address %d of the new image: %w", a, ErrFormat)
		}
		k := min(n, s.neu.m.files[f].Size-off)
		for _, u := range s.neu.m.unitsOf(f, off, k) {
			if g := int(s.layout.group[u]); s.layout.src[u] < 0 && !slices.Contains(s.needs, g) {
				return fmt.Errorf("reference to group %d, which is not needed: %w", g, ErrFormat)
			}
		}
		a, n = a+k, n-k
	}
	return nil
}

// basePredictor predicts that a file of NEW resembles OLD's file of the same path.
type basePredictor struct {
	old, neu *model
	space    *space
}

// predict implements predictor.
func (b *basePredictor) predict(s *shape, p *piece) (int64, bool) {
	if p.file == noFile {
		return 0, false
	}
	base, ok := b.old.samePath(&b.neu.files[p.file])
	if !ok {
		return 0, false
	}
	if p.stream < 0 {
		return b.old.addr[base] + min(p.off, b.old.files[base].Size), true
	}
	lo, hi := b.space.expansionsOf(base)
	if lo == hi {
		return 0, false
	}
	at := s.streams[p.stream].off
	i := lo + sort.Search(hi-lo, func(i int) bool { return b.space.exps[lo+i].off >= at })
	if i == hi || i > lo && at-b.space.exps[i-1].off < b.space.exps[i].off-at {
		i--
	}
	return expansionAddr(i), true
}
