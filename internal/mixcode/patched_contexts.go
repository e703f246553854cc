package mixcode

import "math/bits"

// hash64 hashes a for context i.
func hash64(i uint32, a uint64) uint32 {
	h := (a + uint64(i)*0x3C6EF372FE94F82A) * 0x9E3779B97F4A7C15
	h ^= h >> 29
	return uint32(h * 0xBF58476D1CE4E5B9 >> 32)
}

// flagContexts sets the contexts of whether the byte at i differs.
func (m *patchedModel) flagContexts(i int, prev, next uint64) {
	f := &m.flags
	gap := uint64(min(m.gap, 255))
	gapLog := uint64(bits.Len(uint(m.gap)))
	k := uint64(m.op.at(i))
	op := uint64(m.op.kind)<<4 | k
	says := uint64(m.op.says(i, byte(next)))
	h := &f.index
	h[0] = hash64(0, gap<<16|uint64(min(m.runLen, 7))<<8|op<<24)
	h[1] = hash64(1, says<<8|op)
	h[2] = hash64(2, prev&0xffff<<8|gapLog)
	h[3] = hash64(3, next&0xff<<24|prev&0xff<<16|op<<4|m.differed&3)
	h[4] = hash64(4, m.differed&0xffff)
	h[5] = hash64(5, gap<<32|uint64(min(m.gaps[0], 255))<<16|uint64(min(m.gaps[1], 255)))
	h[6] = hash64(6, next&0xffffffff|op<<32)
	h[7] = hash64(7, m.differed>>7&1|m.differed>>15&1<<1|m.differed>>23&1<<2|m.differed>>3&1<<3|m.differed>>11&1<<4|m.differed&3<<5|uint64(m.segs.offset(i)&7)<<8)
	h[8] = hash64(8, prev&0xffffff<<8|next&0xff)
	h[9] = hash64(9, uint64(min(m.segs.fromStart(i), 15))|uint64(min(m.segs.toEnd(i), 15))<<4|gapLog<<8)
	h[10] = hash64(10, says<<16|prev&0xff|gapLog<<32)
	d1 := byte(0)
	if i > 0 {
		d1 = m.diff[i-1]
	}
	h[11] = hash64(11, uint64(d1)<<16|next&0xff<<8|k|uint64(m.op.delta)<<24)
	f.selector = [maxSets]int{int(says & 255), int(op), int(gapLog)}
}

// valueContexts sets the contexts and guesses of the difference at i.
func (m *patchedModel) valueContexts(i int, prev, next uint64) {
	v := &m.values
	op := &m.op
	k := uint64(op.at(i))
	kk := k | uint64(op.kind)<<4
	var d1, d2 uint64
	if i > 1 {
		d1, d2 = uint64(m.diff[i-1]), uint64(m.diff[i-2])
	}
	back := func(n int) uint64 {
		if i >= n {
			return uint64(m.diff[i-n])
		}
		return 0
	}
	c := before(m.data, i)
	r0 := next & 0xff
	last := &m.last[op.kind]
	h := &v.hash
	h[0] = hash64(0, kk)
	h[1] = hash64(1, d1<<8|k)
	h[2] = hash64(2, d1<<16|d2<<8|k)
	h[3] = hash64(3, r0<<16|d1<<8|k)
	h[4] = hash64(4, uint64(op.old)<<8|k)
	h[5] = hash64(5, uint64(op.target>>8)<<16|k<<8|d1)
	h[6] = hash64(6, uint64(uint32(last[0]))<<16|kk)
	h[7] = hash64(7, prev&0xffff<<16|k<<8|d1)
	h[8] = hash64(8, c&0xffff<<8|r0)
	h[9] = hash64(9, back(8)<<16|back(16)<<8|back(24))
	h[10] = hash64(10, uint64(m.lastVal)<<32|uint64(min(m.gap, 255))<<8|k)
	h[11] = hash64(11, uint64(uint32(last[0]))<<32|uint64(uint32(last[1]))<<8^d1<<4|k)
	h[12] = hash64(12, c&0xff<<16|r0<<8|prev&0xff)
	op.guesses(m, i, byte(next))
	best := 0
	for g := valueGuesses - 1; g >= 0; g-- {
		if v.guess[g].context >= 0 {
			best = g + 1
		}
	}
	v.selector = [maxSets]int{0, best<<2 | int(min(k, 3)), int(kk & 255)}
}
