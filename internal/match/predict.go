package match

import (
	"encoding/binary"
	"math/bits"
)

const (
	deltaBits = 12
	// stride is how many bytes lie between two points at which alignments are compared.
	stride = 8
	// knownBytes of predicted bytes are as good as four whose difference is known.
	knownBytes = 3
)

// deltas remembers by how much 32-bit words differed of late on the current alignment. What moves in a file shifts every address that
// refers to it by the same amount, so a known difference costs the coder next to nothing. A place for 0 is free: words
// that differ never do by 0.
type deltas [1 << deltaBits]uint32

func deltaOf(x, y []byte) uint32 {
	return binary.LittleEndian.Uint32(x) - binary.LittleEndian.Uint32(y)
}

func (d *deltas) slot(delta uint32) *uint32 { return &d[delta*0x9e3779b1>>(32-deltaBits)] }

// learn notes the difference of x and y at their start, if there is one, and reports whether it was known.
func (d *deltas) learn(x, y []byte) bool {
	if len(x) < 4 || len(y) < 4 || x[0] == y[0] {
		return false
	}
	v := deltaOf(x, y)
	slot := d.slot(v)
	if *slot == v {
		return true
	}
	*slot = v
	return false
}

// predict counts the bytes of x that y predicts from offset p up to end, adds them to score and returns that and the offset
// reached, which is past end when a word lies across it.
func (d *deltas) predict(x, y []byte, p, end, score int) (sum, next int) {
	n := min(len(x), len(y))
	for p < end {
		if p+8 > n {
			for ; p < end && p < n; p++ {
				if x[p] == y[p] {
					score++
				}
			}
			return score, end
		}
		e := min(bits.TrailingZeros64(load(x[p:])^load(y[p:]))/8, end-p)
		score += e
		if p += e; p >= end {
			break
		}
		if p+4 <= n {
			if v := deltaOf(x[p:], y[p:]); *d.slot(v) == v {
				score += knownBytes
				p += 4
				continue
			}
		}
		p++
	}
	return score, p
}

// outlook holds how many bytes the current alignment predicts from some data offset on, at every stride.
type outlook struct{ sums []int }

func (o *outlook) fill(known *deltas, x, y []byte, horizon int) {
	o.sums = o.sums[:0]
	score, p := 0, 0
	for end := stride; end < min(len(x), horizon)+stride; end += stride {
		score, p = known.predict(x, y, p, end, score)
		o.sums = append(o.sums, score)
	}
}

// missed returns how many bytes are not predicted up to stride k.
func (o *outlook) missed(k int) int { return (k+1)*stride - o.sums[k] }

// most returns the largest gain that any other alignment can bring in.
func (o *outlook) most() int { return o.missed(len(o.sums) - 1) }
