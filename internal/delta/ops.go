package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta/wire"
)

// opKind says how an operation makes its bytes. The numbers are part of the format.
type opKind uint8

const (
	opLiteral opKind = iota // from the group's literals
	opExact                 // equal to what lies at the address
	opPatched               // like what lies at the address, with differences coded in the group
)

// op makes n bytes of content.
type op struct {
	kind opKind
	n    int64
	addr int64
}

// maxGroupOps bounds the operations of a group.
const maxGroupOps = 1 << 20

// Piece modes. The numbers are part of the format.
const (
	modeWhole = 0 // one exact copy of the whole piece from where it is predicted
	modeOps   = 1
)

// predictor tells where the content of a piece probably lies: both sides compute it from the two images' file lists.
type predictor interface {
	// predict gives the address for the first byte of the piece; ok is false if there is no base.
	predict(s *shape, p *piece) (addr int64, ok bool)
}

// opInts are a group's operations as lists of numbers.
type opInts struct {
	modes, kinds []uint64
	lens         [3][]uint64 // by opKind
	places       []uint64    // of copies: which of the tracked places, or newPlace
	addrs        []uint64    // of copies at a new place: the distance from the first tracked one
}

// append codes the lists.
func (x *opInts) append(out []byte) []byte {
	out = binary.AppendUvarint(out, uint64(len(x.kinds)))
	out = packInts(out, x.modes)
	out = packInts(out, x.kinds)
	for _, l := range x.lens {
		out = packInts(out, l)
	}
	out = packInts(out, x.places)
	out = binary.AppendUvarint(out, uint64(len(x.addrs)))
	return packInts(out, x.addrs)
}

// readOpInts inverts append.
func readOpInts(r *fields, pieces int) (*opInts, error) {
	x := &opInts{}
	n := r.Int("number of operations", maxGroupOps)
	x.modes = r.ints(pieces)
	x.kinds = r.ints(n)
	var counts [3]int
	for _, k := range x.kinds {
		if k > uint64(opPatched) {
			return nil, fmt.Errorf("operation %d: %w", k, ErrFormat)
		}
		counts[k]++
	}
	for k := range x.lens {
		x.lens[k] = r.ints(counts[k])
	}
	x.places = r.ints(counts[opExact] + counts[opPatched])
	x.addrs = r.ints(r.Int("number of addresses", len(x.places)))
	if r.Err() != nil {
		return nil, fmt.Errorf("operations: %w", errors.Join(r.Err(), ErrFormat))
	}
	return x, nil
}

// tracker predicts from where the next copy comes: from where the last one ended, or from where the content would lie if it was
// aligned as in one of the last copies.
type tracker struct {
	pos    int64 // in the content
	next   int64
	shifts [trackedShifts]int64 // address minus position, the latest first
}

const (
	trackedShifts = 6
	newPlace      = 1 + trackedShifts
)

// begin sets the predicted address for a new piece.
func (t *tracker) begin(addr int64) {
	t.next = addr
	t.use(addr - t.pos)
}

// use moves a shift to the front.
func (t *tracker) use(shift int64) {
	i := 0
	for i < trackedShifts-1 && t.shifts[i] != shift {
		i++
	}
	copy(t.shifts[1:i+1], t.shifts[:i])
	t.shifts[0] = shift
}

// place gives the number of the tracked place that is addr.
func (t *tracker) place(addr int64) (uint64, bool) {
	if addr == t.next {
		return 0, true
	}
	for i, s := range t.shifts {
		if t.pos+s == addr {
			return uint64(1 + i), true
		}
	}
	return newPlace, false
}

// at gives the address of a tracked place.
func (t *tracker) at(place uint64) int64 {
	if place == 0 {
		return t.next
	}
	return t.pos + t.shifts[place-1]
}

// copied notes a copy.
func (t *tracker) copied(addr, n int64) {
	t.use(addr - t.pos)
	t.pos += n
	t.next = addr + n
}

// encodeOps turns the operations of each piece, which cover it exactly, into numbers.
func encodeOps(s *shape, perPiece [][]op, pred predictor) opInts {
	var x opInts
	var t tracker
	for i := range s.pieces {
		ops := perPiece[i]
		if at, ok := pred.predict(s, &s.pieces[i]); ok {
			t.begin(at)
		}
		if len(ops) == 0 || len(ops) == 1 && ops[0].kind == opExact && ops[0].addr == t.next {
			x.modes = append(x.modes, modeWhole)
			t.copied(t.next, s.pieces[i].n)
			continue
		}
		x.modes = append(x.modes, modeOps)
		for k, o := range ops {
			n := o.n
			if k == len(ops)-1 {
				n = 0
			}
			x.encode(o, uint64(n), &t)
		}
	}
	return x
}

// encode appends one operation whose length is coded as n.
func (x *opInts) encode(o op, n uint64, t *tracker) {
	x.kinds = append(x.kinds, uint64(o.kind))
	x.lens[o.kind] = append(x.lens[o.kind], n)
	if o.kind == opLiteral {
		t.pos += o.n
		return
	}
	place, ok := t.place(o.addr)
	x.places = append(x.places, place)
	if !ok {
		x.addrs = append(x.addrs, wire.Zigzag(o.addr-t.at(1)))
	}
	t.copied(o.addr, o.n)
}

// decode inverts encodeOps. The operations are those of all pieces, one after the other.
func (x *opInts) decode(s *shape, pred predictor) ([]op, error) {
	var ops []op
	var t tracker
	for i := range s.pieces {
		p := &s.pieces[i]
		if at, ok := pred.predict(s, p); ok {
			t.begin(at)
		}
		if x.modes[i] == modeWhole {
			if p.n > 0 {
				ops = append(ops, op{opExact, p.n, t.next})
			}
			t.copied(t.next, p.n)
			continue
		}
		for left := p.n; left > 0; {
			o, err := x.next(left, &t)
			if err != nil {
				return nil, err
			}
			left -= o.n
			ops = append(ops, o)
		}
	}
	if len(x.kinds) > 0 {
		return nil, fmt.Errorf("%d operations are left over: %w", len(x.kinds), ErrFormat)
	}
	return ops, nil
}

// take removes the first number of a list; a missing one is larger than every limit.
func take(list *[]uint64) uint64 {
	l := *list
	if len(l) == 0 {
		return math.MaxUint64
	}
	*list = l[1:]
	return l[0]
}

// next takes one operation of at most left bytes from the lists.
func (x *opInts) next(left int64, t *tracker) (op, error) {
	kind := take(&x.kinds)
	if kind > uint64(opPatched) {
		return op{}, fmt.Errorf("operation missing or unknown: %w", ErrFormat)
	}
	o := op{kind: opKind(kind), n: left}
	switch n := take(&x.lens[kind]); {
	case n > uint64(left):
		return op{}, fmt.Errorf("operation's length is missing or too long: %w", ErrFormat)
	case n > 0:
		o.n = int64(n)
	}
	if o.kind == opLiteral {
		t.pos += o.n
		return o, nil
	}
	switch place := take(&x.places); {
	case place < newPlace:
		o.addr = t.at(place)
	case place == newPlace && len(x.addrs) > 0:
		o.addr = t.at(1) + wire.Unzigzag(take(&x.addrs))
	default:
		return op{}, fmt.Errorf("operation's place is missing or unknown: %w", ErrFormat)
	}
	if o.addr < 0 || o.addr >= maxAddress {
		return op{}, fmt.Errorf("operation's address %d: %w", o.addr, ErrFormat)
	}
	t.copied(o.addr, o.n)
	return o, nil
}
