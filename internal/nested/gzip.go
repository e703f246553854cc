package nested

import (
	"bytes"
	"encoding/binary"

	"github.com/ltsp-fleet/ltsp-fleet/internal/deflate"
)

// Flags of a gzip header, RFC 1952 section 2.3.1.
const (
	flagHeaderCRC = 1 << 1
	flagExtra     = 1 << 2
	flagName      = 1 << 3
	flagComment   = 1 << 4
	flagReserved  = 0xe0
)

// Hints in the XFL byte of the header.
const (
	xflBest = 2
	xflFast = 4
)

func isGzip(b []byte) bool {
	return len(b) >= 10 && b[0] == 0x1f && b[1] == 0x8b && b[2] == 8 && b[3]&flagReserved == 0
}

// gzipHeader returns the length of the header at the start of b, or false.
func gzipHeader(b []byte) (int, bool) {
	if !isGzip(b) {
		return 0, false
	}
	flags, n := b[3], 10
	if flags&flagExtra != 0 {
		if len(b) < n+2 {
			return 0, false
		}
		n += 2 + int(binary.LittleEndian.Uint16(b[n:]))
	}
	for _, flag := range []byte{flagName, flagComment} {
		if flags&flag == 0 {
			continue
		}
		if n > len(b) {
			return 0, false
		}
		end := bytes.IndexByte(b[n:], 0)
		if end < 0 {
			return 0, false
		}
		n += end + 1
	}
	if flags&flagHeaderCRC != 0 {
		n += 2
	}
	return n, n <= len(b)
}

// gzip collects the members from offset on and returns the end of the last one that is sound, whether reproduced or not.
func (f *finder) gzip(offset int) int {
	for len(f.streams) < f.limit.MaxStreams {
		n, ok := gzipHeader(f.data[offset:])
		if !ok {
			break
		}
		start := offset + n
		plain, length, err := f.in.inflate(f.data[start:], f.limit.MaxPlain)
		if err != nil || !trailerFits(f.data[start+length:], plain) {
			break
		}
		if p, ok := f.prove(f.data[start:start+length], plain, gzipCandidates(f.data[offset+8])); ok {
			f.streams = append(f.streams, Stream{
				Offset: int64(start), Length: int64(length) + gzipTrailer,
				Codec: Gzip, Params: EncodeParams(p), PlainLength: int64(len(plain)),
			})
		}
		offset = start + length + gzipTrailer
	}
	return offset
}

// gzipCandidates lists the encoders in the order that the XFL byte makes likely.
func gzipCandidates(xfl byte) []deflate.Params {
	variants := []deflate.Params{gnu(), zlib8(), zlib9()}
	switch xfl {
	case xflBest:
		return append(candidates([]int{9}, variants), candidates([]int{6, 8, 7, 5, 4, 3, 2, 1}, variants)...)
	case xflFast:
		return candidates([]int{1, 6, 9, 2, 3, 4, 5, 7, 8}, variants)
	}
	// Of GNU gzip, only levels 1 and 9 set the byte; other programs leave it at 0 for all levels.
	return append(candidates([]int{6, 9}, variants), candidates([]int{5, 7, 8, 4, 3, 2, 1}, variants)...)
}
