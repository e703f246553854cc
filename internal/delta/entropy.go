package delta

import (
	"errors"
	"fmt"
	"sync"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta/wire"
	"github.com/ltsp-fleet/ltsp-fleet/internal/encoder"
	"github.com/ltsp-fleet/ltsp-fleet/internal/lzma"
	"github.com/ltsp-fleet/ltsp-fleet/internal/mixcode"
)

// Codecs of literals. The numbers are part of the format.
const (
	codecStored = 0
	codecZstd   = 1
	codecMix    = 2
	codecCalls  = 3 // zstd of x86 code with turned calls
	// From version 2 on, which writes no zstd any more.
	codecLZMA      = 4
	codecLZMACalls = 5 // of x86 code with turned calls
	codecs         = 6
)

const (
	// maxMixedLiterals is how many literal bytes of a group are coded by mixcode, which is the best and the slowest coder. More of
	// them are new software rather than an update; LZMA then keeps the receiver's time in the proportion of compressing the blocks.
	maxMixedLiterals = 1 << 20
	// minMixedLiterals: fewer are stored.
	minMixedLiterals = 8
	blobLevel        = 19
	// minGain: a coder that saves less than this part of the literals is not worth the receiver's time.
	minGain = 64
	// minTested is from which length on literals are tried with a quick coder first.
	minTested = 256 << 10
)

// literalParams are those of xz's default preset. A dictionary as long as the longest group would save two bytes in a thousand and take twice the memory.
func literalParams() lzma.Params {
	p, err := lzma.Preset(6, false)
	if err != nil {
		panic(err) // it is a constant
	}
	return p
}

// literalMemory is what coding n bytes of literals takes, beside them and their code.
func literalMemory(n int64) int64 {
	if n <= maxMixedLiterals {
		return 0
	}
	return lzma.EncoderMemory(literalParams(), n)
}

// coders lends the memory of entropy coders. The zero value is ready; safe for concurrent use.
type coders struct {
	pool sync.Pool
}

// get lends a coder until put.
func (c *coders) get() *mixcode.Coder {
	if mc, ok := c.pool.Get().(*mixcode.Coder); ok {
		return mc
	}
	return mixcode.NewCoder()
}

func (c *coders) put(mc *mixcode.Coder) { c.pool.Put(mc) }

// with calls f with a coder for its own use.
func (c *coders) with(f func(*mixcode.Coder)) {
	mc := c.get()
	f(mc)
	c.put(mc)
}

// packInts appends the code of v; the reader knows how many they are.
func packInts(dst []byte, v []uint64) []byte {
	if len(v) == 0 {
		return dst
	}
	return mixcode.EncodeInts(dst, v)
}

// fields reads the fields of an index or a group.
type fields struct {
	*wire.Reader
	mc *mixcode.Coder
}

func newFields(b []byte, mc *mixcode.Coder) *fields { return &fields{wire.NewReader(b), mc} }

// ints takes n numbers.
func (r *fields) ints(n int) []uint64 {
	if r.Err() != nil || n == 0 {
		return nil
	}
	v, rest, err := r.mc.DecodeInts(r.Rest(), n)
	if err != nil {
		r.Fail(fmt.Errorf("numbers: %w: %w", err, ErrFormat))
		return nil
	}
	r.Replace(rest)
	return v
}

// packPatched codes data, which resembles ref.
func (c *coders) packPatched(data, ref []byte, segs []mixcode.Segment) (code []byte) {
	c.with(func(mc *mixcode.Coder) { code = mc.EncodePatched(nil, data, ref, segs) })
	return code
}

func (c *coders) unpackPatched(src, ref []byte, segs []mixcode.Segment) (data []byte, err error) {
	c.with(func(mc *mixcode.Coder) { data, err = mc.DecodePatched(make([]byte, 0, len(ref)), src, ref, segs) })
	if err != nil || len(data) != len(ref) {
		return nil, fmt.Errorf("differences: %d of %d bytes: %v: %w", len(data), len(ref), err, ErrFormat)
	}
	return data, nil
}

// literalBefore and literalBehind are how many known bytes around a literal help to decode it.
const (
	literalBefore = 8 << 10
	literalBehind = 1 << 10
)

// surroundings copies the gaps of the content and the bytes around them into one text; the gaps of the text correspond to those of
// the content.
func surroundings(content []byte, gaps []mixcode.Gap) (text []byte, in []mixcode.Gap) {
	done := 0
	for i, g := range gaps {
		from := max(done, g.Start-literalBefore)
		end := g.Start + g.Len
		behind := min(len(content), end+literalBehind)
		if i+1 < len(gaps) {
			behind = min(behind, gaps[i+1].Start)
		}
		in = append(in, mixcode.Gap{Start: len(text) + g.Start - from, Len: g.Len})
		text = append(text, content[from:behind]...)
		done = behind
	}
	return text, in
}

// packLiterals codes the gaps of the content, n bytes in all, with the coder that suits their amount.
func (c *coders) packLiterals(content []byte, gaps []mixcode.Gap, n int64) (codec uint8, code []byte, err error) {
	plain := make([]byte, 0, n)
	for _, g := range gaps {
		plain = append(plain, content[g.Start:g.Start+g.Len]...)
	}
	switch {
	case n < minMixedLiterals || n > minTested && incompressible(plain):
		return codecStored, plain, nil
	case n <= maxMixedLiterals:
		text, in := surroundings(content, gaps)
		c.with(func(mc *mixcode.Coder) { code = mc.EncodeGaps(nil, text, in, nil) })
		codec = codecMix
	default:
		codec = codecLZMA
		if looksLikeCode(plain) {
			codec = codecLZMACalls
			turnCalls(plain, false)
		}
		if code, err = packLZMA(plain); err != nil {
			return 0, nil, err
		}
		if codec == codecLZMACalls && len(code) >= len(plain)-len(plain)/minGain {
			turnCalls(plain, true)
		}
	}
	if len(code) >= len(plain)-len(plain)/minGain {
		return codecStored, plain, nil
	}
	return codec, code, nil
}

func packLZMA(plain []byte) ([]byte, error) {
	var e lzma.Encoder
	defer e.Close()
	if err := e.Reset(literalParams()); err != nil {
		return nil, err
	}
	return e.AppendLZMA2(make([]byte, 0, len(plain)/2), plain)
}

// incompressible tells whether the quickest coder finds nothing in b, which then is not worth the time of a slow one.
func incompressible(b []byte) bool {
	const quickest = 1
	code, err := encoder.CompressZstd(nil, b, quickest)
	return err == nil && len(code) >= len(b)
}

// unpackLiterals fills the gaps of the content, n bytes in all.
func (c *coders) unpackLiterals(codec int, src, content []byte, gaps []mixcode.Gap, n int64) (err error) {
	switch codec {
	case codecStored:
	case codecMix:
		text, in := surroundings(content, gaps)
		c.with(func(mc *mixcode.Coder) { err = mc.DecodeGaps(text, src, in, nil) })
		src = make([]byte, 0, n)
		for _, g := range in {
			src = append(src, text[g.Start:g.Start+g.Len]...)
		}
	case codecZstd, codecCalls:
		src, err = encoder.DecompressZstd(make([]byte, 0, n), src, int(n))
	default:
		src, err = lzma.DecodeLZMA2(make([]byte, 0, n), src, int(n))
	}
	if codec == codecCalls || codec == codecLZMACalls {
		turnCalls(src, true)
	}
	if err != nil || int64(len(src)) != n {
		return fmt.Errorf("literals: %d of %d bytes: %v: %w", len(src), n, err, ErrFormat)
	}
	for _, g := range gaps {
		src = src[copy(content[g.Start:g.Start+g.Len], src):]
	}
	return nil
}

// appendBlob appends bytes that are probably compressed already.
func appendBlob(out, b []byte) ([]byte, error) {
	if len(b) == 0 {
		return out, nil
	}
	code, err := encoder.CompressZstd(nil, b, blobLevel)
	if err != nil {
		return nil, err
	}
	if len(code) < len(b) {
		return wire.AppendBytes(append(out, codecZstd), code), nil
	}
	return wire.AppendBytes(append(out, codecStored), b), nil
}

// readBlob reads the n bytes that appendBlob appended.
func readBlob(r *fields, n int) ([]byte, error) {
	if n == 0 {
		return nil, r.Err()
	}
	codec := r.Int("codec", codecZstd)
	b := r.Bytes("bytes", len(r.Rest()))
	if r.Err() != nil {
		return nil, errors.Join(r.Err(), ErrFormat)
	}
	if codec == codecZstd {
		var err error
		if b, err = encoder.DecompressZstd(make([]byte, 0, n), b, n); err != nil {
			return nil, fmt.Errorf("%w: %w", err, ErrFormat)
		}
	}
	if len(b) != n {
		return nil, fmt.Errorf("%d of %d bytes: %w", len(b), n, ErrFormat)
	}
	return b, nil
}
