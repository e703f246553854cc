package match

import (
	"context"
	"math/bits"
)

const (
	// pollEvery is how many lookups are made between two looks at the context.
	pollEvery = 1 << 14
	// longRun is from when on a run of one byte is treated as a whole.
	longRun = 64
	// dropOff ends a comparison once a candidate has fallen that far behind its best.
	dropOff = 16
	// solid is how many equal bytes in a row belong to the current copy without further question.
	solid = 48
	// badland is how many bytes without solid may lie within a copy before it is asked whether they are better a literal.
	badland = 64 << 10
	// patience is after how many bytes without a match lookups become sparser, by one byte per patience up to maxStride.
	patience  = 4096
	maxStride = 8
)

// Diff describes data as copies and literals that cover it exactly and in order. No two neighbouring ops are literals, no copy leaves
// its part of the reference. The only error is that of the context.
func (ix *Index) Diff(ctx context.Context, data []byte) ([]Op, error) {
	s := &scanner{known: new(deltas), ix: ix, data: data, skip: ix.opt.Window + 4}
	if ix.ref.size > 0 && len(data) > 0 {
		s.cur = ix.ref.align(0, 0)
	}
	if err := s.scan(ctx); err != nil {
		return nil, err
	}
	s.finish()
	return ix.bridge(s.ops, data), nil
}

// scanner walks over the data with one current alignment.
type scanner struct {
	ix     *Index
	data   []byte
	skip   int // equal bytes that are passed without a lookup
	ops    []Op
	cur    alignment
	begin  int // data before it is covered by ops
	sure   int // data from begin to it belongs to the current alignment
	best   alignment
	gain   int
	known  *deltas
	ahead  outlook
	looked bool // whether ahead is about the present data offset
}

func (s *scanner) scan(ctx context.Context) error {
	w, stride := s.ix.opt.Window, maxStride
	if s.ix.opt.Sample > 1 {
		stride = 1 // most windows are passed over already
	}
	last := 0 // end of the last bytes that matched
	for i, n := 0, 0; i+w <= len(s.data); n++ {
		if n%pollEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if e := equalPrefix(s.data[i:], s.cur.from(i)); e >= s.skip {
			i += e
			last = i
			if e >= solid {
				s.confirm(i - e)
				s.sure = i
			}
			continue
		}
		if s.looked = false; s.settled(i) {
			i = s.coast(i, i+s.ix.opt.Horizon/2)
			last = i
			continue
		}
		s.candidates(i)
		run := runLength(s.data[i:min(i+longRun, len(s.data))])
		if run >= longRun {
			run = runLength(s.data[i:])
		}
		if s.gain > 0 && (run < longRun || s.coversRun(i, run)) {
			s.adopt(i)
			last = i
			i += max(1, equalPrefix(s.data[i:], s.cur.from(i)))
			continue
		}
		if run >= longRun {
			i += run - w + 1
			continue
		}
		if s.known.learn(s.data[i:], s.cur.from(i)) {
			last = i
		}
		i += min(1+(i-last)/patience, stride)
	}
	return nil
}

// settled reports whether the current alignment predicts so much from i on that no candidate can beat it.
func (s *scanner) settled(i int) bool {
	const glance = 32
	horizon := s.ix.opt.Horizon
	if len(s.data)-i <= max(horizon, glance) || equalCount(s.data[i:i+glance], s.cur.from(i)) < glance/2 {
		return false
	}
	s.look(i)
	return s.ahead.most() <= s.ix.opt.MinMatch
}

// look fills ahead once for each data offset.
func (s *scanner) look(i int) {
	if !s.looked {
		s.ahead.fill(s.known, s.data[i:], s.cur.from(i), s.ix.opt.Horizon)
		s.looked = true
	}
}

// coast passes the data from i to end, where no candidate can beat the current alignment, and learns its differences.
func (s *scanner) coast(i, end int) int {
	for i < end {
		i += equalPrefix(s.data[i:end], s.cur.from(i))
		if i < end {
			s.known.learn(s.data[i:], s.cur.from(i))
			i++
		}
	}
	return max(i, end)
}

// confirm decides over the bytes before data offset i, from where on the current alignment is equal again: part of the copy, or
// in the midst of them a literal.
func (s *scanner) confirm(i int) {
	if i-max(s.begin, s.sure) > badland {
		s.best = s.cur
		s.adopt(i)
	}
}

// coversRun reports whether the best candidate is worth an op in the midst of a run of one byte, which costs next to nothing
// as a literal.
func (s *scanner) coversRun(i, run int) bool {
	e := equalPrefix(s.data[i:], s.best.from(i))
	return e >= run/2 || e >= 1<<16
}

// candidates sets best and gain to the candidate at data offset i that predicts most beyond the current alignment and the
// price of changing over; gain is 0 if there is none.
func (s *scanner) candidates(i int) {
	s.gain = 0
	want := s.cur.ref(i)
	s.ix.near(s.data[i:], want, s.ix.opt.MaxCandidates, func(pos int64) {
		s.look(i)
		if s.ahead.most() <= s.ix.opt.MinMatch+s.gain {
			return
		}
		a := s.ix.ref.align(pos, i)
		if a.same(s.cur) {
			return
		}
		if g := s.forwardGain(a, i) - s.price(pos-want); g > s.gain {
			s.gain, s.best = g, a
		}
	})
}

// price is what a change of the alignment by distance has to bring in.
func (s *scanner) price(distance int64) int {
	if distance < 0 {
		distance = -distance
	}
	return s.ix.opt.MinMatch + bits.Len64(uint64(distance))/8
}

// forwardGain returns how many bytes more a predicts than the current alignment from i on, at the best end. It is 0 if a does
// not share the window.
func (s *scanner) forwardGain(a alignment, i int) int {
	x, y := s.data[i:], a.from(i)
	w := s.ix.opt.Window
	if len(y) < w || equalPrefix(x[:w], y) < w {
		return 0
	}
	score, best, p := 0, 0, 0
	enough := s.ix.opt.MinMatch + s.gain
	for k, sum := range s.ahead.sums {
		score, p = s.known.predict(x, y, p, (k+1)*stride, score)
		gain := score - sum
		best = max(best, gain)
		if gain < best-dropOff || best <= enough && gain+s.ahead.most()-s.ahead.missed(k) <= enough {
			break
		}
	}
	return best
}
