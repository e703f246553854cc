package delta

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta/wire"
	"github.com/ltsp-fleet/ltsp-fleet/internal/nested"
)

// stream is a compressed stream inside a file whose plaintext packs to exactly the file's bytes.
type stream struct {
	file   int32
	off, n int64 // where its bytes lie in the file
	plain  int64 // length of the plaintext
	codec  nested.Codec
	params uint16 // of the codec
}

// described is the stream as package nested knows it; its place is the file's.
func (s *stream) described() nested.Stream {
	return nested.Stream{Offset: s.off, Length: s.n, Codec: s.codec, Params: s.params, PlainLength: s.plain}
}

// unpack gives the plaintext of the stream's stored bytes.
func (s *stream) unpack(stored []byte) ([]byte, error) {
	return nested.Plain(s.described(), stored, maxNestedPlain)
}

// setCodec sets the codec and its parameters from numbers that were read.
func (s *stream) setCodec(codec, params uint64) error {
	if codec > math.MaxUint8 || params > math.MaxUint16 {
		return fmt.Errorf("stream codec %d: %w", codec, ErrFormat)
	}
	s.codec, s.params = nested.Codec(codec), uint16(params)
	return nil
}

// maxGroupStreams bounds the nested streams of a group.
const maxGroupStreams = 1 << 16

// appendStreams codes the streams of a group: for each the span in which it begins or goes on, and its place by its distance
// to the start of the span and to the end of the file.
func appendStreams(out []byte, s *shape, neu *model) []byte {
	cols := make([][]uint64, 6)
	sp, last := 0, 0
	for _, st := range s.streams {
		for s.spans[sp].file != st.file || s.spans[sp].off+s.spans[sp].n <= st.off {
			sp++
		}
		vals := [6]uint64{uint64(sp - last), wire.Zigzag(st.off - s.spans[sp].off), uint64(neu.files[st.file].Size - st.off - st.n),
			uint64(st.plain), uint64(st.codec), uint64(st.params)}
		for i, v := range vals {
			cols[i] = append(cols[i], v)
		}
		last = sp
	}
	out = binary.AppendUvarint(out, uint64(len(s.streams)))
	if len(s.streams) > 0 {
		for _, c := range cols {
			out = packInts(out, c)
		}
	}
	return out
}

// readStreams inverts appendStreams.
func readStreams(r *fields, s *shape, neu *model) ([]stream, error) {
	n := r.Int("number of streams", maxGroupStreams)
	if n == 0 || r.Err() != nil {
		return nil, r.Err()
	}
	var cols [6][]uint64
	for i := range cols {
		cols[i] = r.ints(n)
	}
	if r.Err() != nil {
		return nil, fmt.Errorf("streams: %w: %w", r.Err(), ErrFormat)
	}
	streams := make([]stream, n)
	var sp uint64
	for i := range streams {
		sp += cols[0][i]
		if sp >= uint64(len(s.spans)) || cols[0][i] > uint64(len(s.spans)) || s.spans[sp].file == noFile {
			return nil, fmt.Errorf("stream in span %d of %d: %w", sp, len(s.spans), ErrFormat)
		}
		span := s.spans[sp]
		size := neu.files[span.file].Size
		off := span.off + wire.Unzigzag(cols[1][i])
		if off < 0 || off > size || cols[2][i] > uint64(size-off) || cols[3][i] > maxNestedPlain {
			return nil, fmt.Errorf("stream beyond its file: %w", ErrFormat)
		}
		streams[i] = stream{file: span.file, off: off, n: size - off - int64(cols[2][i]), plain: int64(cols[3][i])}
		if err := streams[i].setCodec(cols[4][i], cols[5][i]); err != nil {
			return nil, err
		}
	}
	return streams, nil
}
