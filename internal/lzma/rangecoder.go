package lzma

// maxChunk is the greatest size of a chunk's data in bytes.
const maxChunk = 1 << 16

// rangeEncoder turns bits with their probabilities into the bytes of one chunk.
type rangeEncoder struct {
	low   uint64
	width uint32
	cache uint8 // last byte that is not written yet, because a carry may change it
	held  int   // that byte and the 0xff after it
	n     int   // bytes in buf
	buf   [maxChunk]byte
}

func (r *rangeEncoder) reset() {
	r.low, r.width, r.cache, r.held = 0, 1<<32-1, 0, 1
}

// size is what the chunk would have if it ended here.
func (r *rangeEncoder) size() int { return r.n + r.held + 4 }

func (r *rangeEncoder) shift() {
	if uint32(r.low) < 0xff000000 || r.low>>32 != 0 {
		carry := uint8(r.low >> 32)
		b := r.cache
		for ; r.held > 0; r.held-- {
			r.buf[r.n&(maxChunk-1)] = b + carry
			r.n++
			b = 0xff
		}
		r.cache = uint8(r.low >> 24)
	}
	r.held++
	r.low = r.low & 0x00ffffff << 8
}

// bit encodes a bit with a probability, which learns from it. The range is made wide enough before a bit, not after, because size
// tells when a chunk ends.
func (r *rangeEncoder) bit(p *uint16, bit uint32) {
	if r.width < topRange {
		r.shift()
		r.width <<= 8
	}
	prob := uint32(*p)
	bound := r.width >> probBits * prob
	if bit == 0 {
		r.width = bound
		*p = uint16(prob + (probOne-prob)>>moveBits)
		return
	}
	r.low += uint64(bound)
	r.width -= bound
	*p = uint16(prob - prob>>moveBits)
}

// tree encodes the n low bits of v, the highest first.
func (r *rangeEncoder) tree(probs []uint16, n int, v uint32) {
	node := uint32(1)
	for n--; n >= 0; n-- {
		bit := v >> n & 1
		r.bit(&probs[node], bit)
		node = node<<1 | bit
	}
}

// reverse encodes the n low bits of v, the lowest first.
func (r *rangeEncoder) reverse(probs []uint16, n int, v uint32) {
	node := uint32(1)
	for ; n > 0; n-- {
		bit := v & 1
		v >>= 1
		r.bit(&probs[node], bit)
		node = node<<1 | bit
	}
}

// direct encodes the n low bits of v as equally likely ones, the highest first.
func (r *rangeEncoder) direct(n int, v uint32) {
	for n--; n >= 0; n-- {
		if r.width < topRange {
			r.shift()
			r.width <<= 8
		}
		r.width >>= 1
		if v>>n&1 != 0 {
			r.low += uint64(r.width)
		}
	}
}

// finish writes what a decoder needs to read to the end, and starts the next chunk. The bytes of this one stay in buf[:n].
func (r *rangeEncoder) finish() {
	if r.width < topRange {
		r.shift()
	}
	for range 5 {
		r.shift()
	}
	r.reset()
}
