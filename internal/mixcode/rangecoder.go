package mixcode

import (
	"encoding/binary"
	"math/bits"
)

// A rangeCoder codes binary decisions, both ways: a model asks for a bit by code, and the bit given is ignored when it decodes. Thus a
// model is written once and cannot differ between its two sides.
//
// The interval has 64 bits and is moved on by 32 bits at a time, most significant byte first. The end of a stream is cut to the shortest
// that names the interval; a decoder reads zeros there, at most 8 bytes of them.
type rangeCoder struct {
	low, width uint64
	value      uint64 // decoding: distance of the coded number from low
	out        []byte
	start      int // out[start:] is ours
	in         []byte
	pos        int // bytes of in that were read, virtual zeros included
	decoding   bool
}

const tailZeros = 8

func (c *rangeCoder) encodeTo(dst []byte) {
	*c = rangeCoder{width: 1<<64 - 1, out: dst, start: len(dst)}
}

func (c *rangeCoder) decodeFrom(src []byte) {
	*c = rangeCoder{width: 1<<64 - 1, in: src, decoding: true}
	c.value = uint64(c.next32())<<32 | uint64(c.next32())
}

// bit codes b, which is 1 with a probability of p/65536; 0 < p < 65536.
func (c *rangeCoder) bit(b, p uint32) uint32 {
	split := (c.width >> 16) * uint64(p)
	if c.decoding {
		if c.value < split {
			b = 1
			c.width = split
		} else {
			b = 0
			c.value -= split
			c.width -= split
		}
	} else if b != 0 {
		c.width = split
	} else {
		var carry uint64
		c.low, carry = bits.Add64(c.low, split, 0)
		if carry != 0 {
			c.carry()
		}
		c.width -= split
	}
	if c.width < 1<<32 {
		c.shift()
	}
	return b
}

func (c *rangeCoder) shift() {
	c.width <<= 32
	if c.decoding {
		c.value = c.value<<32 | uint64(c.next32())
		return
	}
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(c.low>>32))
	c.low <<= 32
}

func (c *rangeCoder) carry() {
	for i := len(c.out) - 1; i >= c.start; i-- {
		c.out[i]++
		if c.out[i] != 0 {
			return
		}
	}
}

func (c *rangeCoder) next32() uint32 {
	at := c.pos
	c.pos += 4
	if at+4 <= len(c.in) {
		return binary.BigEndian.Uint32(c.in[at:])
	}
	var v uint32
	for i := at; i < at+4; i++ {
		v <<= 8
		if i < len(c.in) {
			v |= uint32(c.in[i])
		}
	}
	return v
}

// overrun tells whether the decoder has read more than an encoder leaves out at its end.
func (c *rangeCoder) overrun() bool { return c.pos > len(c.in)+tailZeros }

// finish ends the stream and gives dst with the stream behind it.
func (c *rangeCoder) finish() []byte {
	last := c.low + c.width - 1
	carried := last < c.low
	for keep := 0; keep <= 64; keep += 8 {
		// The numbers with 64-keep trailing zero bits: the largest that is not above last.
		v := last
		if keep < 64 {
			v = last >> (64 - keep) << (64 - keep)
		}
		if carried || v >= c.low {
			if carried {
				c.carry()
			}
			for i := 0; i < keep; i += 8 {
				c.out = append(c.out, byte(v>>(56-i)))
			}
			break
		}
	}
	return c.out
}

// finishDecoding says what is wrong with the stream as a whole.
func (c *rangeCoder) finishDecoding() error {
	switch {
	case c.overrun():
		return ErrTruncated
	case c.pos < len(c.in):
		return ErrTrailing
	}
	return nil
}
