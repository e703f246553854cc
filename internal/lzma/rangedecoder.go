package lzma

import "encoding/binary"

// codeBytes is the number of bytes at the start of a chunk that fill the range decoder; the first is 0.
const codeBytes = 5

// symbolBytes is more than a symbol can take of a chunk: of its 22 modelled bits none shrinks the range by more than a factor of 67,
// and there are at most 26 further bits.
const symbolBytes = 24

// rangeDecoder reads bits from a chunk. Within a symbol it does not ask whether there is something to read: see guard.
type rangeDecoder struct {
	in    []byte
	next  int // in in
	end   int // of what is the chunk's in in
	width uint32
	code  uint32
	last  bool // in is tail
	tail  [2 * symbolBytes]byte
}

// start returns false when the chunk cannot be one.
func (r *rangeDecoder) start(chunk []byte) bool {
	if len(chunk) < codeBytes || chunk[0] != 0 {
		return false
	}
	r.in, r.next, r.end, r.width, r.last = chunk, codeBytes, len(chunk), 1<<32-1, false
	r.code = binary.BigEndian.Uint32(chunk[1:])
	return true
}

// guard is called when less than symbolBytes are left. It moves them to where zeros follow. The second time, more bytes than there
// were have been read, and it returns false.
func (r *rangeDecoder) guard() bool {
	if r.last {
		return false
	}
	r.tail = [len(r.tail)]byte{}
	r.end = copy(r.tail[:], r.in[r.next:])
	r.in, r.next, r.last = r.tail[:], 0, true
	return true
}

// finished tells whether the whole chunk was read and it ended as an encoder ends it.
func (r *rangeDecoder) finished() bool {
	if r.width < topRange {
		if r.next >= r.end {
			return false
		}
		r.code = r.code<<8 | uint32(r.in[r.next])
		r.next++
	}
	return r.next == r.end && r.code == 0
}

func (r *rangeDecoder) bit(p *uint16) uint32 {
	if r.width < topRange {
		r.width <<= 8
		r.code = r.code<<8 | uint32(r.in[r.next])
		r.next++
	}
	prob := uint32(*p)
	bound := r.width >> probBits * prob
	if r.code < bound {
		r.width = bound
		*p = uint16(prob + (probOne-prob)>>moveBits)
		return 0
	}
	r.width -= bound
	r.code -= bound
	*p = uint16(prob - prob>>moveBits)
	return 1
}

// roundUp makes the shift of a probability that grows round as it does when the difference to probOne is shifted.
const roundUp = 1<<32 + 1<<moveBits - 1 - probOne

// tree reads n bits, the highest first. Most bits of a tree cannot be foreseen, so they are read without a branch: zero is all ones
// for a 0.
func (r *rangeDecoder) tree(probs []uint16, n int) uint32 {
	in, next, width, code := r.in, r.next, r.width, r.code
	node := uint32(1)
	for range n {
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
	r.next, r.width, r.code = next, width, code
	return node - 1<<n
}

// reverse reads n bits, the lowest first.
func (r *rangeDecoder) reverse(probs []uint16, n int) (v uint32) {
	node := uint32(1)
	for i := range n {
		bit := r.bit(&probs[node])
		node = node<<1 | bit
		v |= bit << i
	}
	return v
}

// direct reads n bits that are not modelled, the highest first.
func (r *rangeDecoder) direct(n int) (v uint32) {
	for range n {
		if r.width < topRange {
			r.width <<= 8
			r.code = r.code<<8 | uint32(r.in[r.next])
			r.next++
		}
		r.width >>= 1
		v <<= 1
		if r.code >= r.width {
			r.code -= r.width
			v |= 1
		}
	}
	return v
}

func (r *rangeDecoder) length(m *lengthModel, ps int) int {
	if r.bit(&m.choice) == 0 {
		return minMatch + int(r.tree(m.low[ps][:], 3))
	}
	if r.bit(&m.choice2) == 0 {
		return minMatch + lenLow + int(r.tree(m.mid[ps][:], 3))
	}
	return minMatch + lenLow + lenMid + int(r.tree(m.high[:], 8))
}
