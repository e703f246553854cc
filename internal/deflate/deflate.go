// Package deflate compresses (RFC 1951) with exactly the output of two well-known programs: GNU gzip and zlib. It is the
// inverse that lets a delta look into a compressed stream: what was unpacked can be packed again to the same bytes.
//
// A deflate stream depends on more than the level: on which matches are found and taken, on where blocks end, and on how ties in
// the Huffman codes are broken. Even the position of data in the encoder's window shows: a block whose start has left the window
// cannot be stored, and GNU gzip, which does not bound its search by the end of the input, compares what an earlier turn left in the
// window behind it. So this encoder works in a window of the same size, filled and moved at the same moments.
//
// The exactness is tested against the programs themselves; see the component tests.
package deflate

import (
	"encoding/binary"
	"hash/adler32"
)

const (
	minMatch     = 3
	maxMatch     = 258
	minLookahead = maxMatch + minMatch + 1
	tooFar       = 4096 // a match of three bytes from further away costs more than three literals
	maxWindow    = 1 << 15
	maxPosition  = 1 << 31
)

// Encoder compresses one buffer after the other with the same parameters and without allocating, about 1 MB large. Not safe for
// concurrent use.
type Encoder struct {
	params  Params
	effort  effort
	gnu     bool
	shift   uint32 // of the rolling hash, per byte
	hashMax uint32
	window  int // size; the buffer is twice that
	reach   int // greatest distance of a match

	input []byte // not yet in buf
	ended bool   // GNU gzip has seen the end of the input

	// Positions are counted on from one input to the next so that what earlier inputs left in head and prev is out of reach.
	// base is the position of buf[0], which, like everything below, is never a candidate.
	base uint32
	pos  int // next byte of buf to encode
	look int // bytes of buf from pos on
	from int // start of the current block in buf; negative when it has left buf

	syms    [maxSymbols]uint32 // literals, or distance<<16 | length
	count   int
	ask     int // count at which blockEnds must be asked
	limit   int // count at which a block ends at the latest
	matches int // among syms

	huff    huffman
	out     bitWriter
	scratch []byte // of Equal
	check   []byte // what out has to be like; only when checking
	judge   bool
	wrong   bool

	head [1 << 16]uint32
	prev [maxWindow]uint32
	buf  [2*maxWindow + maxMatch + 16]byte
}

// NewEncoder returns an encoder, or ErrParams.
func NewEncoder(p Params) (*Encoder, error) {
	e := new(Encoder)
	if err := e.Reset(p); err != nil {
		return nil, err
	}
	return e, nil
}

// Reset makes e an encoder for p, as NewEncoder would, but without allocating. After an error e is as it was.
func (e *Encoder) Reset(p Params) error {
	p, err := p.complete()
	if err != nil {
		return err
	}
	hashBits := uint32(p.MemLevel + 7)
	e.params, e.effort, e.gnu = p, efforts(p.Level), p.Variant == GNUGzip
	e.limit = 1<<(p.MemLevel+6) - 1
	if e.gnu {
		hashBits = 15
		e.limit = maxSymbols - 1
	}
	e.shift = (hashBits + minMatch - 1) / minMatch
	e.hashMax = 1<<hashBits - 1
	e.window = 1 << p.WindowBits
	e.reach = e.window - minLookahead
	return nil
}

// Compress appends the raw deflate stream of src to dst.
func (e *Encoder) Compress(dst, src []byte) ([]byte, error) {
	e.start(src, dst)
	e.run()
	dst, e.out.bytes = e.out.bytes, nil
	return dst, nil
}

// CompressZlib appends what zlib's compress2 would write: the stream of Compress between the header and the Adler-32 of RFC 1950.
func (e *Encoder) CompressZlib(dst, src []byte) ([]byte, error) {
	flevel := 3
	switch {
	case e.params.Strategy >= StrategyHuffman || e.params.Level < 2:
		flevel = 0
	case e.params.Level < 6:
		flevel = 1
	case e.params.Level == 6:
		flevel = 2
	}
	header := uint16(e.params.WindowBits-8)<<12 | 8<<8 | uint16(flevel)<<6
	header += 31 - header%31
	dst = binary.BigEndian.AppendUint16(dst, header)
	dst, err := e.Compress(dst, src)
	if err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint32(dst, adler32.Checksum(src)), nil
}

// Equal tells whether Compress(nil, src) would give stream. It stops at the first block that differs, hence costs little (some 64 KiB
// of src) when the stream was made by another encoder.
func (e *Encoder) Equal(stream, src []byte) bool {
	e.start(src, e.scratch[:0])
	e.check, e.judge = stream, true
	e.run()
	equal := !e.wrong && len(e.check) == 0
	e.check, e.judge, e.wrong = nil, false, false
	e.scratch, e.out.bytes = e.out.bytes[:0], nil
	return equal
}

// Compress appends the raw deflate stream of src to dst. Use an Encoder for more than one buffer.
func Compress(dst, src []byte, p Params) ([]byte, error) {
	e, err := NewEncoder(p)
	if err != nil {
		return nil, err
	}
	return e.Compress(dst, src)
}

// start forgets the previous input.
func (e *Encoder) start(src, dst []byte) {
	e.input, e.ended = src, false
	e.base = (e.base + 3*maxWindow - 1) &^ (maxWindow - 1)
	if e.base > maxPosition {
		e.base = 0
		clear(e.head[:])
		clear(e.prev[:])
	}
	e.pos, e.look, e.from = 0, 0, 0
	if e.gnu {
		clear(e.buf[:]) // what lies behind the input matters
	}
	e.out = bitWriter{bytes: dst}
	e.newBlock()
}

// run encodes the input.
func (e *Encoder) run() {
	switch {
	case e.params.Strategy == StrategyHuffman:
		e.literals()
	case e.params.Strategy == StrategyRLE:
		e.runs()
	case e.effort.wait:
		e.lazy()
	default:
		e.greedy()
	}
	if !e.wrong {
		e.flush(e.pos, true)
	}
	e.input = nil
}
