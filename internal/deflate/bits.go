package deflate

import (
	"encoding/binary"
	"slices"
)

// bitWriter appends bits to bytes, the lowest of a value first (RFC 1951 section 3.1.1).
type bitWriter struct {
	bytes []byte
	acc   uint64 // bits not yet in bytes
	n     uint   // number of them, below 8 between calls of flush
}

// reserve makes room for n more bytes.
func (w *bitWriter) reserve(n int) { w.bytes = slices.Grow(w.bytes, n) }

// put appends the low n <= 32 bits of v.
func (w *bitWriter) put(v uint64, n uint) {
	w.acc |= v << w.n
	w.n += n
	for w.n >= 8 {
		w.bytes = append(w.bytes, byte(w.acc))
		w.acc >>= 8
		w.n -= 8
	}
}

// align fills the last byte with zero bits.
func (w *bitWriter) align() {
	if w.n > 0 {
		w.put(0, 8-w.n)
	}
}

// stored appends the body of a stored block; the writer is aligned.
func (w *bitWriter) stored(data []byte) {
	w.bytes = binary.LittleEndian.AppendUint16(w.bytes, uint16(len(data)))
	w.bytes = binary.LittleEndian.AppendUint16(w.bytes, ^uint16(len(data)))
	w.bytes = append(w.bytes, data...)
}

// symbols appends the symbols of a block and the end mark. What they take has been reserved, and 16 bytes more.
func (w *bitWriter) symbols(syms []uint32, lit *[litSyms]huffCode, dist *[distanceSyms]huffCode) {
	at := len(w.bytes)
	buf := w.bytes[:cap(w.bytes)]
	acc, n := w.acc, w.n
	for _, s := range syms {
		if s < 1<<16 {
			c := lit[uint8(s)]
			acc |= uint64(c.bits) << (n & 63)
			n += uint(c.length)
		} else {
			length, distance := s&0xffff-minMatch, s>>16
			code := lengthCodes[uint8(length)]
			c := lit[endOfBlock+1+int(code)]
			acc |= uint64(c.bits) << (n & 63)
			n += uint(c.length)
			acc |= uint64(length-uint32(lengthBase[code])) << (n & 63)
			n += uint(lengthExtra[code])
			code = distanceCode(distance)
			c = dist[code]
			acc |= uint64(c.bits) << (n & 63)
			n += uint(c.length)
			acc |= uint64(distance-1-uint32(distanceBase[code])) << (n & 63)
			n += uint(distanceExtra[code])
		}
		binary.LittleEndian.PutUint64(buf[at:], acc)
		at += int(n >> 3)
		acc >>= n &^ 7 & 63
		n &= 7
	}
	w.bytes, w.acc, w.n = buf[:at], acc, n
	end := lit[endOfBlock]
	w.put(uint64(end.bits), uint(end.length))
}
