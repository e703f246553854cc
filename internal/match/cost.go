package match

import "math/bits"

// Prices in sixteenths of a byte, fitted to a context-mixing coder of patched bytes.
const (
	unit        = 16
	opPrice     = 20
	addressUnit = 2 // for each bit of the address's distance from where the last copy ended
	diffPrice   = 11
	burstPrice  = 4 // for the first differing byte after an equal one
	litPrice    = 10
)

// Cost estimates how many bytes ops take once coded, so that a caller can choose among references. It is a model, not a
// bound: good to compare descriptions of the same data. Ops must come from Diff with this index and this data; ErrOps if they
// do not fit.
func (ix *Index) Cost(ops []Op, data []byte) (int64, error) {
	m := meter{ref: ix.ref}
	var sum int64
	for _, op := range ops {
		if op.Len <= 0 || op.Len > len(data)-m.at {
			return 0, ErrOps
		}
		if op.Copy && !ix.ref.holds(op) {
			return 0, ErrOps
		}
		sum += m.add(op, data)
	}
	if m.at != len(data) {
		return 0, ErrOps
	}
	return sum / unit, nil
}

// Cost is Index.Cost for a reference in one piece.
func Cost(ops []Op, data, ref []byte) (int64, error) {
	return (&Index{ref: newReference([][]byte{ref})}).Cost(ops, data)
}

// holds reports whether the copy lies within one part.
func (r *reference) holds(op Op) bool {
	if op.Ref < 0 || op.Ref >= r.size || op.Len <= 0 {
		return false
	}
	return int64(op.Len) <= r.starts[r.part(op.Ref)+1]-op.Ref
}

// bytes returns the reference bytes of a copy.
func (r *reference) bytes(op Op) []byte {
	p := r.part(op.Ref)
	j := int(op.Ref - r.starts[p])
	return r.parts[p][j : j+op.Len]
}

// meter adds up the price of ops in order.
type meter struct {
	ref  *reference
	at   int   // data offset
	next int64 // reference offset that costs least
}

func (m *meter) add(op Op, data []byte) int64 {
	x := data[m.at : m.at+op.Len]
	m.at += op.Len
	if !op.Copy {
		m.next += int64(op.Len)
		return opPrice/2 + litPrice*int64(op.Len)
	}
	address := addressPrice(op.Ref - m.next)
	m.next = op.Ref + int64(op.Len)
	return opPrice + address + diffCost(x, m.ref.bytes(op))
}

func addressPrice(distance int64) int64 {
	if distance < 0 {
		distance = -distance
	}
	return addressUnit * int64(bits.Len64(uint64(distance)))
}

// diffCost is the price of the differences of x and y, which are equally long.
func diffCost(x, y []byte) int64 {
	diff, bursts := 0, 0
	carry := uint64(1) << 63 // equal mark of the byte before
	i := 0
	for ; i+8 <= len(x) && i+8 <= len(y); i += 8 {
		eq := equalMask(load(x[i:]), load(y[i:]))
		ne := ^eq & (ones << 7)
		diff += bits.OnesCount64(ne)
		bursts += bits.OnesCount64(ne & (eq<<8 | carry>>56))
		carry = eq & (1 << 63)
	}
	before := carry != 0
	for ; i < len(x) && i < len(y); i++ {
		same := x[i] == y[i]
		if !same {
			diff++
			if before {
				bursts++
			}
		}
		before = same
	}
	return diffPrice*int64(diff) + burstPrice*int64(bursts)
}
