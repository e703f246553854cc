package mixcode

// An adaptive is a probability (22 bits) with the number of times it was trained (10 bits): it moves fast at first.
type adaptive uint32

const adaptiveHalf adaptive = 1 << 31

// p16 is the probability of a one in 16 bits, never 0 and never 65536.
func (a adaptive) p16() uint32 { return min(uint32(a)>>16|1, 65535) }

// reciprocals[n] is 16384/(n+1.5)/2.
type reciprocals [1024]int32

func newReciprocals() *reciprocals {
	r := new(reciprocals)
	for i := range r {
		r[i] = int32(16384 / (2*i + 3))
	}
	return r
}

// train moves a towards bit by 1/(n+1.5), n no more than limit.
func (a *adaptive) train(r *reciprocals, bit uint32, limit uint32) {
	v := uint32(*a)
	n := v & 1023
	d := (int32(bit<<22) - int32(v>>10)) >> 3
	if n < limit {
		v++
	}
	v += uint32(d*r[n]) &^ 1023
	*a = adaptive(v)
}

// fixed makes an adaptive of a probability of 16 bits that counts as trained n times.
func fixed(p16, n uint32) adaptive { return adaptive(p16<<16 | n) }
