// Package lzma compresses with exactly the output of XZ Utils (liblzma 5.2 to 5.4, one thread), and decompresses: LZMA2 streams, the
// x86 filter, and .xz files of one block. It is the inverse that lets a delta look into an xz payload, such as a kernel's: what was
// unpacked can be packed again to the same bytes.
//
// A stream depends on more than the parameters: on which matches the index yields and forgets, which is why its tables have the same
// sizes; on prices of bits that are worked out anew at certain moments only, and rounded; on ties between sequences of equal price;
// and on how far the choice has looked ahead when a chunk ends. On the other hand, liblzma's window, which is filled in steps, does
// not show: it always has enough bytes in front of the position, or else the end of the input.
//
// The exactness is tested against xz itself; see the component tests.
package lzma

import (
	"fmt"
	"unsafe"
)

const (
	// maxPlain is the greatest number of input bytes in a chunk.
	maxPlain = 1 << 21
	// horizon is the number of bytes that a sequence of matches is chosen for at once.
	horizon = 1 << 12
	// chunkRoom is left in a chunk when it ends: liblzma is cautious.
	chunkRoom = horizon + 1
)

// Control bytes of LZMA2 chunks.
const (
	ctlEnd         = 0x00
	ctlCopyReset   = 0x01 // the decoder forgets what it has unpacked
	ctlCopy        = 0x02
	ctlLZMA        = 0x80 // with bits 16 to 20 of the plain size - 1
	ctlState       = 0x20 // the decoder forgets its state
	ctlProperties  = 0x40 // and gets new properties
	ctlForget      = 0x60 // and forgets what it has unpacked
	copyHeader     = 3
	lzmaHeader     = 5
	propertiesSize = 1
)

// Encoder compresses one buffer after the other. It takes EncoderMemory(...), much of it outside of the garbage collector's heap, and
// keeps that until Close. The zero value is ready for Reset. Not safe for concurrent use.
type Encoder struct {
	params Params
	finder
	rangeEncoder
	model
	prices

	state uint8
	reps  [4]uint32 // the last distances, counted from 0
	ahead int       // bytes before finder.read that are not encoded yet

	// longest is the length of the longest match at the byte before finder.read.
	longest int
	// The nodes from taken to planned are a sequence that is chosen but not encoded yet.
	taken, planned int
	// last is the last node with a price.
	last  int
	nodes [horizon]node
}

// Reset makes e an encoder for p, or returns ErrParams and leaves e as it was.
func (e *Encoder) Reset(p Params) error {
	if err := p.Check(); err != nil {
		return err
	}
	e.params = p.complete()
	return nil
}

// Close gives back the memory. e can be used again.
func (e *Encoder) Close() { e.finder.free() }

// EncoderMemory returns the bytes that an Encoder takes for an input of n bytes, beside the input and the output.
func EncoderMemory(p Params, n int64) int64 {
	heads, links := p.entries(int(min(n, MaxInput)))
	return 4*int64(heads+links) + int64(unsafe.Sizeof(Encoder{}))
}

// AppendLZMA2 appends the LZMA2 stream of src, at most MaxInput bytes, to dst.
func (e *Encoder) AppendLZMA2(dst, src []byte) ([]byte, error) {
	if e.params.Dict == 0 {
		return nil, fmt.Errorf("%w: encoder without parameters", ErrParams)
	}
	if len(src) > MaxInput {
		return nil, fmt.Errorf("lzma: input of %d bytes, more than %d", len(src), MaxInput)
	}
	if err := e.finder.start(e.params, src); err != nil {
		return nil, err
	}
	e.forget()
	next := byte(ctlForget) // what the next chunk tells a decoder to forget
	for first := true; e.avail()+e.ahead > 0; first = false {
		start := e.read - e.ahead
		e.chunk(first)
		if plain := e.read - e.ahead - start; e.n < plain {
			dst = e.appendChunk(dst, next, plain)
			next = 0
			continue
		}
		plain := src[start:e.read]
		e.ahead = 0
		ctl := byte(ctlCopy)
		if first {
			ctl = ctlCopyReset
		}
		size := len(plain) - 1
		dst = append(dst, ctl, byte(size>>8), byte(size))
		dst = append(dst, plain...)
		switch next {
		case ctlForget:
			next = ctlProperties
		case 0:
			next = ctlState
		}
		e.forget()
	}
	e.finder.end()
	return append(dst, ctlEnd), nil
}

// appendChunk appends the chunk in the range encoder, which holds that many bytes of the input.
func (e *Encoder) appendChunk(dst []byte, reset byte, plain int) []byte {
	size, plain := e.n-1, plain-1
	dst = append(dst, ctlLZMA|reset|byte(plain>>16), byte(plain>>8), byte(plain), byte(size>>8), byte(size))
	if reset >= ctlProperties {
		dst = append(dst, e.params.properties())
	}
	return append(dst, e.buf[:e.n]...)
}

// forget makes everything but the index as in the beginning.
func (e *Encoder) forget() {
	e.state, e.reps = 0, [4]uint32{}
	e.taken, e.planned = 0, 0
	e.rangeEncoder.reset()
	e.model.reset(e.params.LC + e.params.LP)
	if e.params.Mode == Fast {
		return
	}
	e.slotCount = 2 * e.params.dictBits()
	e.slotAge, e.alignAge = unpriced, unpriced
	e.prices.matchLen.size = e.params.Nice + 1 - minMatch
	e.prices.repLen.size = e.prices.matchLen.size
	for ps := range 1 << e.params.PB {
		e.prices.matchLen.update(&e.model.matchLen, ps)
		e.prices.repLen.update(&e.model.repLen, ps)
	}
}

// chunk encodes until the chunk is full or the input ends.
func (e *Encoder) chunk(first bool) {
	limit := e.read - e.ahead + maxPlain - maxMatch
	e.n = 0
	if first {
		e.skip(1) // there is nothing that could be repeated
		e.bit(&e.isMatch[0][0], 0)
		e.tree(e.literal[:0x100], 8, uint32(e.src[0]))
	}
	for {
		at := e.read - e.ahead
		if at >= limit || e.size() >= maxChunk-chunkRoom || at == len(e.src) {
			break
		}
		var back uint32
		var length int
		if e.params.Mode == Fast {
			back, length = e.glance()
		} else {
			back, length = e.choose()
		}
		e.symbol(at, back, length)
		e.ahead -= length
	}
	e.finish()
}
