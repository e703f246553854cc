package delta

import (
	"fmt"
	"slices"
	"sort"
)

const (
	// maxNestedPlain bounds the plaintext of all nested streams of a group, and maxNestedStored the bytes that they make.
	maxNestedPlain  = 256 << 20
	maxNestedStored = 256 << 20
	// maxGroupRaw bounds the content of a group without nested streams; makers stay far below.
	maxGroupRaw = 64 << 20
)

// shape is what both sides know about a group's content before its operations: which blocks it holds, which stretches of files
// lie in them, and where nested streams take the place of the stretches' own bytes. The content is produced in pieces, one after the
// other; fills say how the pieces become the raw content of the blocks.
type shape struct {
	units    []int32 // changed units in physical order
	verbatim []bool  // of each unit: carried as stored bytes, so not part of the content
	spans    []span
	streams  []stream
	pieces   []piece
	fills    []fill
	rawLen   int64 // of all fills
}

// piece is a stretch of content that the operations make: bytes of a file as they are, or a nested stream's plaintext.
type piece struct {
	n      int64
	file   int32 // of NEW, or noFile
	off    int64 // of a plain piece: position in the file
	stream int   // index in shape.streams, -1 for a plain piece
}

// fill takes n bytes for the raw content: from a plain piece, or from position from of what a stream's plaintext packs to.
type fill struct {
	piece   int
	from, n int64
}

// newShape lays out the content of the units but for its streams.
func newShape(m *model, units []int32, verbatim []bool) *shape {
	s := &shape{units: units, verbatim: verbatim}
	for i, u := range units {
		if !verbatim[i] {
			s.spans = m.unitSpans(s.spans, u)
			s.rawLen += m.units[u].raw
		}
	}
	return s
}

// setStreams adds the nested streams, those of one file by rising offset, and cuts the content into pieces.
func (s *shape) setStreams(streams []stream) error {
	s.streams = streams
	byFile := make(map[int32][]int)
	var plain, stored int64
	for i, st := range streams {
		if st.n <= 0 || st.plain < 0 || st.plain > maxNestedPlain-plain || st.n > maxNestedStored-stored {
			return fmt.Errorf("nested stream of %d bytes: %w", st.plain, ErrLimit)
		}
		plain, stored = plain+st.plain, stored+st.n
		l := byFile[st.file]
		if k := len(l); st.file == noFile || k > 0 && streams[l[k-1]].off+streams[l[k-1]].n > st.off {
			return fmt.Errorf("nested streams overlap: %w", ErrFormat)
		}
		byFile[st.file] = append(l, i)
	}
	made := make([]int, len(streams)) // piece of each stream plus one
	for _, sp := range s.spans {
		s.cutSpan(sp, byFile[sp.file], made)
	}
	if slices.Contains(made, 0) {
		return fmt.Errorf("nested stream outside of its group: %w", ErrFormat)
	}
	return nil
}

// cutSpan adds the pieces and fills of one span; of are the streams of its file.
func (s *shape) cutSpan(sp span, of []int, made []int) {
	pos, end := sp.off, sp.off+sp.n
	first := sort.Search(len(of), func(k int) bool { return s.streams[of[k]].off+s.streams[of[k]].n > pos })
	for _, i := range of[first:] {
		st := &s.streams[i]
		if st.off >= end {
			break
		}
		if st.off > pos {
			s.plainPiece(sp.file, pos, st.off-pos)
			pos = st.off
		}
		if made[i] == 0 {
			s.pieces = append(s.pieces, piece{n: st.plain, file: sp.file, stream: i})
			made[i] = len(s.pieces)
		}
		n := min(end, st.off+st.n) - pos
		s.fills = append(s.fills, fill{made[i] - 1, pos - st.off, n})
		pos += n
	}
	if pos < end {
		s.plainPiece(sp.file, pos, end-pos)
	}
}

func (s *shape) plainPiece(file int32, off, n int64) {
	s.fills = append(s.fills, fill{len(s.pieces), 0, n})
	s.pieces = append(s.pieces, piece{n: n, file: file, off: off, stream: -1})
}

// contentLen is the length of all pieces.
func (s *shape) contentLen() int64 {
	var n int64
	for _, p := range s.pieces {
		n += p.n
	}
	return n
}
