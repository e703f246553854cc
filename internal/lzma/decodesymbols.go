package lzma

import "encoding/binary"

// symbols unpacks a chunk up to the byte end of the output, and returns false when that cannot be. It keeps the range decoder in
// variables of its own, and gives it back around match.
func (d *decoder) symbols(end int) bool {
	out, at, state := d.out, d.at, d.state
	posMask, literalMask := 1<<d.pb-1, 1<<d.lp-1
	in, next, width, code := d.in, d.next, d.width, d.code
	for at < end {
		if next+symbolBytes > len(in) {
			d.next = next
			if !d.guard() {
				return false
			}
			in, next = d.in, d.next
		}
		ps := (at - d.start) & posMask
		if width < topRange {
			width <<= 8
			code = code<<8 | uint32(in[next])
			next++
		}
		isMatch := &d.isMatch[state][ps&(posStates-1)]
		prob := uint32(*isMatch)
		bound := width >> probBits * prob
		if code >= bound {
			*isMatch = uint16(prob - prob>>moveBits)
			d.next, d.width, d.code = next, width-bound, code-bound
			d.state, d.at = state, at
			if !d.match(ps, end) {
				return false
			}
			next, width, code, state, at = d.next, d.width, d.code, d.state, d.at
			continue
		}
		width = bound
		*isMatch = uint16(prob + (probOne-prob)>>moveBits)

		before := 0
		if at > d.start {
			before = int(out[at-1])
		}
		context := (at-d.start)&literalMask<<d.lc + before>>(8-d.lc)
		probs := (*[0x300]uint16)(d.literal[context*0x300:])
		node := uint32(1)
		if state >= literalStates {
			other, offset := uint32(out[at-1-int(d.reps[0])]), uint32(0x100)
			for node < 0x100 {
				if width < topRange {
					width <<= 8
					code = code<<8 | uint32(in[next])
					next++
				}
				other <<= 1
				p := &probs[offset+other&offset+node]
				prob := uint32(*p)
				bound := width >> probBits * prob
				zero := uint32((int64(code) - int64(bound)) >> 63)
				width -= bound
				width ^= zero & (width ^ bound)
				code -= bound &^ zero
				*p = uint16(prob - uint32(int32(prob+zero&roundUp)>>moveBits))
				node = node<<1 + 1 + zero
				offset &= other ^ zero
			}
		}
		for node < 0x100 {
			if width < topRange {
				width <<= 8
				code = code<<8 | uint32(in[next])
				next++
			}
			p := &probs[node]
			prob := uint32(*p)
			bound := width >> probBits * prob
			zero := uint32((int64(code) - int64(bound)) >> 63)
			width -= bound
			width ^= zero & (width ^ bound)
			code -= bound &^ zero
			*p = uint16(prob - uint32(int32(prob+zero&roundUp)>>moveBits))
			node = node<<1 + 1 + zero
		}
		out[at] = byte(node)
		at++
		state = nextLiteral[state&15]
	}
	d.at, d.state = at, state
	d.next, d.width, d.code = next, width, code
	return d.at == end
}

// match unpacks a match or a repetition, and returns false when it cannot be.
func (d *decoder) match(ps, end int) bool {
	s := d.state
	if d.bit(&d.isRep[s]) == 0 {
		length := d.length(&d.matchLen, ps)
		d.state = afterMatch(s)
		d.reps = [4]uint32{d.distance(length), d.reps[0], d.reps[1], d.reps[2]}
		return d.copy(length, end)
	}
	if which := d.which(s); which != 0 {
		d.reps = promote(&d.reps, which)
	} else if d.bit(&d.isRep0Long[s][ps]) == 0 {
		d.state = afterShort(s)
		return d.copy(1, end)
	}
	d.state = afterRep(s)
	return d.copy(d.length(&d.repLen, ps), end)
}

// which reads which of the last distances comes again.
func (d *decoder) which(s uint8) int {
	if d.bit(&d.isRep0[s]) == 0 {
		return 0
	}
	if d.bit(&d.isRep1[s]) == 0 {
		return 1
	}
	return 2 + int(d.bit(&d.isRep2[s]))
}

func (d *decoder) distance(length int) uint32 {
	slot := d.tree(d.slot[distState(length)][:], slotBits)
	if slot < firstFooter {
		return slot
	}
	n, base := footer(slot)
	if slot < firstDirect {
		return base + d.reverse(d.special[base-slot:], n)
	}
	high := d.direct(n - alignBits)
	return base + high<<alignBits + d.reverse(d.align[:], alignBits)
}

// copy repeats bytes at the last distance, and returns false when there are none or no room.
func (d *decoder) copy(n, end int) bool {
	dist := int(d.reps[0]) + 1
	out, at := d.out, d.at
	if dist > at-d.start || n > end-at {
		return false
	}
	d.at += n
	if dist >= 8 && at+n+8 <= len(out) {
		for to := at + n; at < to; at += 8 {
			binary.LittleEndian.PutUint64(out[at:], binary.LittleEndian.Uint64(out[at-dist:]))
		}
		return true
	}
	to := out[at : at+n]
	from := out[at-dist : at-dist+n]
	for i := range to {
		to[i] = from[i]
	}
	return true
}
