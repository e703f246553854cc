package mixcode

import "math/bits"

// The logistic domain: ln(p/(1-p)) in units of 1/256, clamped to +-logitMax.
const logitMax = 2815

// tables hold the two maps between probabilities of 16 bits and the logistic domain. They are made with integers alone.
type tables struct {
	squash  [2*logitMax + 2]uint16 // index logit+logitMax; 1..65535
	stretch [4096]int16            // index p>>4
}

// newTables computes 65536/(1+exp(-x/256)) by repeated multiplication in 62-bit fixed point.
func newTables() *tables {
	t := new(tables)
	const root = 4629735647166717428 // exp(1/256) * 2^62
	e := uint64(1) << 32             // exp(x/256) * 2^32
	for x := 0; x <= logitMax; x++ {
		// p = e/(1+e)
		hi, lo := bits.Mul64(e, 1<<16)
		q, _ := bits.Div64(hi, lo, e+1<<32)
		p := min(max(q, 1), 65535)
		t.squash[logitMax+x] = uint16(p)
		t.squash[logitMax-x] = uint16(65536 - p)
		hi, lo = bits.Mul64(e, root)
		e = hi<<2 | lo>>62
	}
	x := 0
	for i := range t.stretch {
		mid := uint16(i<<4 + 8)
		for x < 2*logitMax && t.squash[x] < mid {
			x++
		}
		t.stretch[i] = int16(x - logitMax)
	}
	return t
}
