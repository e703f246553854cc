package nested

import (
	"encoding/binary"
	"fmt"
)

// A stream in a list takes at least this many bytes: gap, length, codec, parameters, content length.
const minListed = 1 + 1 + 1 + 2 + 1

// AppendStreams appends a list of the streams of one file, which are in order and do not overlap: their number, then for each the gap
// to the end of the previous one, length, codec (1 byte), parameters (2 bytes, little-endian) and length of the content; numbers are
// uvarints.
func AppendStreams(dst []byte, streams []Stream) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(streams)))
	end := int64(0)
	for _, s := range streams {
		dst = binary.AppendUvarint(dst, uint64(s.Offset-end))
		dst = binary.AppendUvarint(dst, uint64(s.Length))
		dst = append(dst, byte(s.Codec))
		dst = binary.LittleEndian.AppendUint16(dst, s.Params)
		dst = binary.AppendUvarint(dst, uint64(s.PlainLength))
		end = s.Offset + s.Length
	}
	return dst
}

// ParseStreams reads what AppendStreams wrote for a file of the given size, and returns the bytes behind it. Streams that do not lie
// in the file, in order and without overlap, and those with unknown codec or parameters are ErrStream; more or longer ones than limit
// allows are ErrLimit.
func ParseStreams(b []byte, size int64, limit Limits) (streams []Stream, rest []byte, err error) {
	limit = limit.withDefaults()
	r := listReader{b: b}
	count := r.uvarint()
	if r.short || size < 0 || count > uint64(len(r.b)/minListed) {
		return nil, nil, fmt.Errorf("%w: list of %d in %d bytes", ErrStream, count, len(b))
	}
	if count > uint64(limit.MaxStreams) {
		return nil, nil, fmt.Errorf("%w: %d streams, at most %d", ErrLimit, count, limit.MaxStreams)
	}
	streams = make([]Stream, 0, count)
	end := uint64(0)
	for range count {
		gap, length := r.uvarint(), r.uvarint()
		codec, params := Codec(r.fixed(1)), uint16(r.fixed(2))
		plain := r.uvarint()
		left := uint64(size) - end
		if r.short || gap > left || length > left-gap || length == 0 {
			return nil, nil, fmt.Errorf("%w: stream %d of a list", ErrStream, len(streams))
		}
		if err := checkParams(codec, params); err != nil {
			return nil, nil, fmt.Errorf("stream %d of a list: %w", len(streams), err)
		}
		if plain > uint64(limit.MaxPlain) {
			return nil, nil, fmt.Errorf("%w: %d bytes of content, at most %d", ErrLimit, plain, limit.MaxPlain)
		}
		streams = append(streams, Stream{
			Offset: int64(end + gap), Length: int64(length), Codec: codec, Params: params, PlainLength: int64(plain),
		})
		end += gap + length
	}
	return streams, r.b, nil
}

// checkParams returns ErrStream for what is no encoder of a codec.
func checkParams(codec Codec, params uint16) (err error) {
	switch codec {
	case Gzip, Zip:
		_, err = DecodeParams(params)
	case XZ:
		_, err = DecodeXZParams(params)
	default:
		err = fmt.Errorf("%w: codec %d", ErrStream, codec)
	}
	return err
}

// listReader reads numbers until the bytes run short.
type listReader struct {
	b     []byte
	short bool
}

func (r *listReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.b, r.short = nil, true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// fixed reads a number of one or two bytes.
func (r *listReader) fixed(n int) uint64 {
	if len(r.b) < n {
		r.b, r.short = nil, true
		return 0
	}
	v := uint64(r.b[0])
	if n == 2 {
		v |= uint64(r.b[1]) << 8
	}
	r.b = r.b[n:]
	return v
}
