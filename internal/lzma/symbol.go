package lzma

// What is encoded is told by a number: one of the last four distances by its index, another distance by itself plus freshDist.
const (
	freshDist = 4
	noMatch   = 1<<32 - 1 // a literal
)

// literalProbs returns the probabilities for the literal at a position after a byte.
func (e *Encoder) literalProbs(at int, before byte) *[0x300]uint16 {
	context := at&(1<<e.params.LP-1)<<e.params.LC + int(before)>>(8-e.params.LC)
	return (*[0x300]uint16)(e.literal[context*0x300:])
}

// symbol encodes a literal, a match, or a repetition.
func (e *Encoder) symbol(at int, back uint32, length int) {
	ps := at & (1<<e.params.PB - 1)
	match := &e.isMatch[e.state][ps]
	switch {
	case back == noMatch:
		e.bit(match, 0)
		e.encodeLiteral(at)
	case back < freshDist:
		e.bit(match, 1)
		e.bit(&e.isRep[e.state], 1)
		e.encodeRep(ps, int(back), length)
	default:
		e.bit(match, 1)
		e.bit(&e.isRep[e.state], 0)
		e.encodeMatch(ps, back-freshDist, length)
	}
}

func (e *Encoder) encodeLiteral(at int) {
	probs := e.literalProbs(at, e.src[at-1])
	v := uint32(e.src[at])
	if e.state < literalStates {
		e.tree(probs[:], 8, v)
	} else {
		other, offset := uint32(e.src[at-1-int(e.reps[0])]), uint32(0x100)
		for v |= 0x100; v < 1<<16; {
			other <<= 1
			e.bit(&probs[offset+other&offset+v>>8], v>>7&1)
			v <<= 1
			offset &^= other ^ v
		}
	}
	e.state = afterLiteral(e.state)
}

func (e *Encoder) encodeMatch(ps int, dist uint32, length int) {
	e.state = afterMatch(e.state)
	e.encodeLength(&e.model.matchLen, &e.prices.matchLen, ps, length)
	slot := slotOf(dist)
	e.tree(e.model.slot[distState(length)][:], slotBits, slot)
	if slot >= firstFooter {
		n, base := footer(slot)
		if slot < firstDirect {
			e.reverse(e.special[base-slot:], n, dist-base)
		} else {
			e.direct(n-alignBits, (dist-base)>>alignBits)
			e.reverse(e.model.align[:], alignBits, dist&(aligns-1))
			e.alignAge++
		}
	}
	e.reps = [4]uint32{dist, e.reps[0], e.reps[1], e.reps[2]}
	e.slotAge++
}

func (e *Encoder) encodeRep(ps, which, length int) {
	s := e.state
	if which == 0 {
		e.bit(&e.isRep0[s], 0)
		long := uint32(1)
		if length == 1 {
			long = 0
		}
		e.bit(&e.isRep0Long[s][ps], long)
	} else {
		e.bit(&e.isRep0[s], 1)
		if which == 1 {
			e.bit(&e.isRep1[s], 0)
		} else {
			e.bit(&e.isRep1[s], 1)
			e.bit(&e.isRep2[s], uint32(which-2))
		}
		e.reps = promote(&e.reps, which)
	}
	if length == 1 {
		e.state = afterShort(s)
		return
	}
	e.encodeLength(&e.model.repLen, &e.prices.repLen, ps, length)
	e.state = afterRep(s)
}

// promote returns the distances with that one first.
func promote(reps *[4]uint32, which int) [4]uint32 {
	r := *reps
	switch which {
	case 1:
		r[0], r[1] = r[1], r[0]
	case 2:
		r[0], r[1], r[2] = r[2], r[0], r[1]
	case 3:
		r[0], r[1], r[2], r[3] = r[3], r[0], r[1], r[2]
	}
	return r
}

func (e *Encoder) encodeLength(m *lengthModel, c *lengthCoder, ps, length int) {
	// liblzma writes a symbol's bits later: the prices do not know of this length yet.
	if c.left[ps]--; c.left[ps] == 0 && e.params.Mode != Fast {
		c.update(m, ps)
	}
	v := uint32(length - minMatch)
	switch {
	case v < lenLow:
		e.bit(&m.choice, 0)
		e.tree(m.low[ps][:], 3, v)
	case v < lenLow+lenMid:
		e.bit(&m.choice, 1)
		e.bit(&m.choice2, 0)
		e.tree(m.mid[ps][:], 3, v-lenLow)
	default:
		e.bit(&m.choice, 1)
		e.bit(&m.choice2, 1)
		e.tree(m.high[:], 8, v-lenLow-lenMid)
	}
}
