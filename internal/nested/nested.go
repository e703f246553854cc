// Package nested looks into files for deflate streams that can be unpacked and packed again to the same bytes: gzip files (also of
// several members), the gzip part of an initrd, and the members of zip archives (jar, docx, xpi, Mozilla's omni.ja).
//
// Only what lies between the headers is a Stream: a gzip header and a zip directory stay bytes of the file. A Stream is returned only
// after its content was packed again and compared, hence Encode of Plain is the stored bytes; it is so on every machine because
// package deflate depends on nothing else.
package nested

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/ltsp-fleet/ltsp-fleet/internal/deflate"
)

// Codec says what a stream consists of. The numbers are kept in deltas: never reuse one.
type Codec uint8

// The codecs. Numbers from 3 on are free for others (xz, zstd).
const (
	// Gzip is a gzip member without its header: a deflate stream, the CRC-32 and the length of the content (RFC 1952).
	Gzip Codec = 1
	// Zip is the data of a zip member: a deflate stream alone.
	Zip Codec = 2
)

const gzipTrailer = 8

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
	Params         uint16 // of the encoder, as EncodeParams gives it
	PlainLength    int64  // of the content
}

// Limits bound the work of Find. A zero field is the default.
type Limits struct {
	MaxPlain   int64 // bytes of content of one stream; longer streams are not opened; 256 MiB
	MaxTries   int   // encoders that are tried for one stream; 27, which is all
	MaxStreams int   // in one file; 65536
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

// Encoder packs streams. It keeps the memory of its encoder (1 MB) from one to the next. The zero value is ready. Not safe for
// concurrent use.
type Encoder struct {
	deflate *deflate.Encoder
}

// Encode appends the stored bytes of s, whose content is plain, to dst.
func (e *Encoder) Encode(dst []byte, s Stream, plain []byte) ([]byte, error) {
	if int64(len(plain)) != s.PlainLength || s.Codec != Gzip && s.Codec != Zip {
		return nil, fmt.Errorf("%w: codec %d, %d bytes instead of %d", ErrStream, s.Codec, len(plain), s.PlainLength)
	}
	p, err := DecodeParams(s.Params)
	if err != nil {
		return nil, err
	}
	d, err := e.prepare(p)
	if err != nil {
		return nil, err
	}
	start := len(dst)
	if dst, err = d.Compress(dst, plain); err != nil {
		return nil, err
	}
	if s.Codec == Gzip {
		dst = appendTrailer(dst, plain)
	}
	if n := int64(len(dst) - start); n != s.Length {
		return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrInexact, n, s.Length)
	}
	return dst, nil
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

// Plain returns the content of s, of which stored are the bytes in the file. Content longer than limit is refused without being
// unpacked; damaged data, a wrong length and a wrong checksum are ErrStream.
func Plain(s Stream, stored []byte, limit int64) ([]byte, error) {
	trailer := 0
	switch s.Codec {
	case Gzip:
		trailer = gzipTrailer
	case Zip:
	default:
		return nil, fmt.Errorf("%w: codec %d", ErrStream, s.Codec)
	}
	if s.PlainLength < 0 || s.PlainLength > limit {
		return nil, fmt.Errorf("%w: %d bytes of content, at most %d", ErrLimit, s.PlainLength, limit)
	}
	if int64(len(stored)) != s.Length || len(stored) < trailer {
		return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrStream, len(stored), s.Length)
	}
	body := stored[:len(stored)-trailer]
	var in inflater
	plain, n, err := in.inflate(body, s.PlainLength)
	if err != nil {
		return nil, err
	}
	if n != len(body) || int64(len(plain)) != s.PlainLength {
		return nil, fmt.Errorf("%w: %d of %d bytes make %d of %d", ErrStream, n, len(body), len(plain), s.PlainLength)
	}
	if s.Codec == Gzip && !trailerFits(stored[len(body):], plain) {
		return nil, fmt.Errorf("%w: wrong checksum", ErrStream)
	}
	return plain, nil
}

func appendTrailer(dst, plain []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, crc32.ChecksumIEEE(plain))
	return binary.LittleEndian.AppendUint32(dst, uint32(len(plain)))
}

// trailerFits tells whether b begins with the gzip trailer of plain.
func trailerFits(b, plain []byte) bool {
	return len(b) >= gzipTrailer &&
		binary.LittleEndian.Uint32(b[4:]) == uint32(len(plain)) &&
		binary.LittleEndian.Uint32(b) == crc32.ChecksumIEEE(plain)
}
