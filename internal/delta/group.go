package delta

import (
	"encoding/binary"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta/wire"
	"github.com/ltsp-fleet/ltsp-fleet/internal/mixcode"
)

// reader reads content by address; it is safe for concurrent use.
type reader interface {
	// read fills p with the content at an address.
	read(p []byte, addr int64) error
	// offset tells where in its file or stream an address lies.
	offset(addr int64) int64
}

// groupStats counts what one group consists of; the names are those of Stats.
type groupStats struct {
	ops, patch int64
	literal    [codecs]int64
	verbatim   int64
	patchedRaw int64
	literalRaw int64
	streams    int
}

// groupDraft is what a group is encoded from.
type groupDraft struct {
	shape    *shape
	content  []byte // of all pieces, one after the other
	ops      [][]op // of each piece; cover it exactly
	verbatim []byte // stored bytes of the verbatim units
	coders   *coders
}

// encode gives the group's bytes on the wire.
func (d *groupDraft) encode(sp reader, pred predictor, neu *model) ([]byte, groupStats, error) {
	var st groupStats
	head := d.appendHead(nil, neu)
	out, err := d.appendContent(head, &st, sp, pred)
	if err != nil {
		return nil, st, err
	}
	st.ops += int64(len(head))
	n := len(out)
	if out, err = appendBlob(out, d.verbatim); err != nil {
		return nil, st, err
	}
	st.verbatim = int64(len(out) - n)
	st.streams = len(d.shape.streams)
	return out, st, nil
}

// appendHead appends which blocks are verbatim and the streams.
func (d *groupDraft) appendHead(out []byte, neu *model) []byte {
	var ord []uint64
	last := -1
	for i, v := range d.shape.verbatim {
		if v {
			ord = append(ord, uint64(i-last-1))
			last = i
		}
	}
	out = binary.AppendUvarint(out, uint64(len(ord)))
	out = packInts(out, ord)
	return appendStreams(out, d.shape, neu)
}

// appendContent appends what the pieces are made from.
func (d *groupDraft) appendContent(out []byte, st *groupStats, sp reader, pred predictor) ([]byte, error) {
	start := len(out)
	x := encodeOps(d.shape, d.ops, pred)
	out = x.append(out)
	st.ops = int64(len(out) - start)
	var ops []op
	for _, o := range d.ops {
		ops = append(ops, o...)
	}
	s := newSurvey(d.shape, ops, sp)
	st.patchedRaw, st.literalRaw = s.patched, s.literal
	patched, err := d.codePatched(s, ops, sp)
	if err != nil {
		return nil, err
	}
	st.patch = int64(len(patched))
	out = wire.AppendBytes(out, patched)
	codec, code, err := d.coders.packLiterals(d.content, s.gaps, s.literal)
	if err != nil {
		return nil, err
	}
	st.literal[codec] += int64(len(code))
	out = append(out, codec)
	return wire.AppendBytes(out, code), nil
}

// codePatched codes the differences.
func (d *groupDraft) codePatched(s *survey, ops []op, sp reader) ([]byte, error) {
	if s.patched == 0 {
		return nil, nil
	}
	data := make([]byte, 0, s.patched)
	at := int64(0)
	for _, o := range ops {
		if o.kind == opPatched {
			data = append(data, d.content[at:at+o.n]...)
		}
		at += o.n
	}
	ref, err := s.reference(ops, sp)
	if err != nil {
		return nil, err
	}
	return d.coders.packPatched(data, ref, s.segs), nil
}

// survey is what follows from the operations of a group alone.
type survey struct {
	patched, literal int64
	segs             []mixcode.Segment // of the patched operations
	gaps             []mixcode.Gap     // literals in the content
}

// newSurvey lists what operations, which cover the pieces one after the other, need.
func newSurvey(sh *shape, ops []op, sp reader) *survey {
	s := &survey{}
	piece, in, at := 0, int64(0), int64(0)
	for _, o := range ops {
		for in == sh.pieces[piece].n {
			piece, in = piece+1, 0
		}
		switch o.kind {
		case opPatched:
			s.patched += o.n
			s.segs = append(s.segs, sh.segment(piece, sp, o, in))
		case opLiteral:
			s.literal += o.n
			s.gaps = append(s.gaps, mixcode.Gap{Start: int(at), Len: int(o.n)})
		}
		in, at = in+o.n, at+o.n
	}
	return s
}

// reference reads what the patched operations resemble.
func (s *survey) reference(ops []op, sp reader) ([]byte, error) {
	ref := make([]byte, s.patched)
	rest := ref
	for _, o := range ops {
		if o.kind == opPatched {
			if err := sp.read(rest[:o.n], o.addr); err != nil {
				return nil, err
			}
			rest = rest[o.n:]
		}
	}
	return ref, nil
}

// segment describes a patched operation at position in of piece i to the coder: differences between positions within a file are
// told from other differences that way.
func (s *shape) segment(i int, sp reader, o op, in int64) mixcode.Segment {
	p := &s.pieces[i]
	file := int(p.file)
	if p.stream >= 0 {
		file = -2 - p.stream
	}
	return mixcode.Segment{Len: int(o.n), File: file, Ref: sp.offset(o.addr), New: p.off + in}
}
