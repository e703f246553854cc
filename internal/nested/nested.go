// Package nested looks into files for deflate and xz streams that can be unpacked and packed again to the same bytes: gzip and xz files
// (also of several members), those parts of an initrd, the compressed kernel in a bzImage, and the members of zip archives (jar, docx,
// xpi, Mozilla's omni.ja).
//
// Of deflate, only what lies between the headers is a Stream: a gzip header and a zip directory stay bytes of the file. An xz stream is
// one as a whole; it must have one block of LZMA2 with the usual properties (lc 3, lp 0, pb 2), alone or behind the x86 filter.
//
// Unless the caller waives it, a Stream is returned only after its content was packed again and compared, hence Encode of Plain is the
// stored bytes; it is so on every machine because the packages deflate and lzma depend on nothing else. Packing xz is slow, about 3 MB
// of content a second, and takes much memory: see EncodeMemory.
package nested

import (
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"unsafe"

	"github.com/ltsp-fleet/ltsp-fleet/internal/deflate"
)

// Codec says what a stream consists of. The numbers are kept in deltas: never reuse one.
type Codec uint8

// The codecs. Numbers from 4 on are free for others (zstd).
const (
	// Gzip is a gzip member without its header: a deflate stream, the CRC-32 and the length of the content (RFC 1952).
	Gzip Codec = 1
	// Zip is the data of a zip member: a deflate stream alone.
	Zip Codec = 2
	// XZ is a whole xz stream of one block, from header to footer (The .xz File Format 1.1.0). Its parameters are those of EncodeXZParams.
	XZ Codec = 3
)

// The states that a caller may test for.
var (
	// ErrStream: the bytes are no stream as described, or a description cannot be read.
	ErrStream = errors.New("invalid nested stream")
	// ErrLimit: the content of a stream, or their number, exceeds a limit.
	ErrLimit = errors.New("nested stream over the limit")
	// ErrInexact: packing did not give as many bytes as the stream has.
	ErrInexact = errors.New("nested stream is not reproduced")
)

// Stream is a part of a file that Encode reproduces.
type Stream struct {
	Offset, Length int64 // in the file
	Codec          Codec
	Params         uint16 // of the encoder, as EncodeParams or, with XZ, EncodeXZParams gives it
	PlainLength    int64  // of the content
}

// Limits bound the work of Find. A zero field is the default.
type Limits struct {
	MaxPlain   int64 // bytes of content of one stream; longer streams are not opened; 256 MiB
	MaxTries   int   // encoders that are tried for one stream; 27, which is all
	MaxStreams int   // in one file; 65536

	// Unproved takes streams whose content unpacks but need not be packed again: xz streams are returned after unpacking alone, which
	// costs a hundredth of the time. Encode may fail for them, with ErrInexact or by giving other bytes. It changes nothing for deflate.
	Unproved bool
}

func (l Limits) withDefaults() Limits {
	if l.MaxPlain <= 0 {
		l.MaxPlain = 256 << 20
	}
	if l.MaxTries <= 0 {
		l.MaxTries = 27
	}
	if l.MaxStreams <= 0 {
		l.MaxStreams = 1 << 16
	}
	return l
}

// EncodeParams packs p into 16 bits: level (4 bits from the lowest on), memory level (4), 15 minus window bits (3), strategy (3),
// variant (2). Zero fields of p are kept.
func EncodeParams(p deflate.Params) uint16 {
	window := 0
	if p.WindowBits != 0 {
		window = 15 - p.WindowBits
	}
	return uint16(p.Level | p.MemLevel<<4 | window<<8 | p.Strategy<<11 | int(p.Variant)<<14)
}

// DecodeParams is the inverse of EncodeParams. It returns ErrStream for what is no encoder.
func DecodeParams(v uint16) (deflate.Params, error) {
	p := deflate.Params{
		Variant:    deflate.Variant(v >> 14),
		Level:      int(v & 15),
		MemLevel:   int(v >> 4 & 15),
		WindowBits: 15 - int(v>>8&7),
		Strategy:   int(v >> 11 & 7),
	}
	if err := p.Check(); err != nil {
		return p, fmt.Errorf("%w: %w", ErrStream, err)
	}
	return p, nil
}

// Encoder packs streams. It keeps the memory of its deflate encoder (1 MB) from one to the next, and that for xz only while it packs. The
// zero value is ready. Not safe for concurrent use.
type Encoder struct {
	deflate *deflate.Encoder
}

// EncodeMemory returns the bytes that packing s takes beside its content and its stored bytes; 0 if s cannot be packed.
func EncodeMemory(s Stream) int64 {
	switch s.Codec {
	case Gzip, Zip:
		return int64(unsafe.Sizeof(deflate.Encoder{}))
	case XZ:
		return xzMemory(s)
	}
	return 0
}

// Encode appends the stored bytes of s, whose content is plain, to dst. It takes EncodeMemory(s).
func (e *Encoder) Encode(dst []byte, s Stream, plain []byte) ([]byte, error) {
	if int64(len(plain)) != s.PlainLength || s.Codec != Gzip && s.Codec != Zip && s.Codec != XZ {
		return nil, fmt.Errorf("%w: codec %d, %d bytes instead of %d", ErrStream, s.Codec, len(plain), s.PlainLength)
	}
	start := len(dst)
	dst = slices.Grow(dst, int(max(0, min(s.Length, s.PlainLength))))
	var err error
	if s.Codec == XZ {
		dst, err = appendXZ(dst, s, plain)
	} else {
		dst, err = e.appendDeflate(dst, s, plain)
	}
	if err != nil {
		return nil, err
	}
	if n := int64(len(dst) - start); n != s.Length {
		return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrInexact, n, s.Length)
	}
	return dst, nil
}

func (e *Encoder) appendDeflate(dst []byte, s Stream, plain []byte) ([]byte, error) {
	p, err := DecodeParams(s.Params)
	if err != nil {
		return nil, err
	}
	d, err := e.prepare(p)
	if err != nil {
		return nil, err
	}
	if dst, err = d.Compress(dst, plain); err != nil || s.Codec != Gzip {
		return dst, err
	}
	trailer := trailerOf(crc32.ChecksumIEEE(plain), s.PlainLength)
	return append(dst, trailer[:]...), nil
}

// prepare returns the encoder for p.
func (e *Encoder) prepare(p deflate.Params) (*deflate.Encoder, error) {
	if e.deflate == nil {
		e.deflate = new(deflate.Encoder)
	}
	return e.deflate, e.deflate.Reset(p)
}

// equal tells whether p packs plain to stream.
func (e *Encoder) equal(stream, plain []byte, p deflate.Params) bool {
	d, err := e.prepare(p)
	return err == nil && d.Equal(stream, plain)
}

// Encode appends the stored bytes of s, whose content is plain, to dst. Use an Encoder for more than one stream.
func Encode(dst []byte, s Stream, plain []byte) ([]byte, error) {
	var e Encoder
	return e.Encode(dst, s, plain)
}
