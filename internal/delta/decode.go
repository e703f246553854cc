package delta

import (
	"context"
	"errors"
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/internal/nested"
)

// decoded is a group's content.
type decoded struct {
	shape    *shape
	raw      []byte // of the units that are not verbatim, one after the other
	verbatim []byte // of the others
}

// groupDecoder decodes groups; it is read-only.
type groupDecoder struct {
	neu    *model
	space  reader
	pred   predictor
	memory *pool
	coders *coders
}

// decode makes the content of the group with the given units. It takes its memory and extra bytes for what its caller
// does from the budget; release gives them back and is never nil.
func (g *groupDecoder) decode(ctx context.Context, units []int32, b []byte, extra int64) (d *decoded, release func(), err error) {
	release = func() {}
	mc := g.coders.get()
	defer g.coders.put(mc)
	r := newFields(b, mc)
	sh, err := g.readHead(r, units)
	if err != nil {
		return nil, release, err
	}
	ops, err := g.readOps(r, sh)
	if err != nil {
		return nil, release, err
	}
	verbatim := int64(0)
	for i, u := range units {
		if sh.verbatim[i] {
			verbatim += g.neu.units[u].stored
		}
	}
	if release, err = g.memory.take(ctx, sh.memory(ops)+verbatim+extra, 0); err != nil {
		return nil, release, err
	}
	content, err := g.readContent(ctx, r, sh, ops)
	if err != nil {
		return nil, release, err
	}
	d = &decoded{shape: sh}
	if d.raw, err = sh.assemble(content); err != nil {
		return nil, release, err
	}
	if d.verbatim, err = readBlob(r, int(verbatim)); err != nil {
		return nil, release, fmt.Errorf("stored blocks: %w", err)
	}
	if len(r.Rest()) != 0 {
		return nil, release, fmt.Errorf("%d bytes behind the end of the group: %w", len(r.Rest()), ErrFormat)
	}
	return d, release, nil
}

// memory is about what decoding takes: the content, and beside it first what it is patched from, then what it is packed to.
func (s *shape) memory(ops []op) int64 {
	var patch int64
	for _, o := range ops {
		if o.kind != opExact {
			patch += 2 * o.n
		}
	}
	packed, encoder := s.rawLen, int64(0)
	for i := range s.streams {
		packed += s.streams[i].n
		encoder = max(encoder, nested.EncodeMemory(s.streams[i].described()))
	}
	return s.contentLen() + max(patch, packed+encoder)
}

// readHead reads which units are verbatim and the streams.
func (g *groupDecoder) readHead(r *fields, units []int32) (*shape, error) {
	verbatim := make([]bool, len(units))
	pos := uint64(0)
	for _, d := range r.ints(r.Int("number of stored blocks", len(units))) {
		if d >= uint64(len(units)) || pos+d >= uint64(len(units)) {
			return nil, fmt.Errorf("stored block beyond the group: %w", ErrFormat)
		}
		verbatim[pos+d] = true
		pos += d + 1
	}
	for i, u := range units {
		if g.neu.units[u].gap {
			verbatim[i] = true
		}
	}
	sh := newShape(g.neu, units, verbatim)
	streams, err := readStreams(r, sh, g.neu)
	if err != nil {
		return nil, err
	}
	if r.Err() != nil {
		return nil, fmt.Errorf("start of group: %w", errors.Join(r.Err(), ErrFormat))
	}
	if err := sh.setStreams(streams); err != nil {
		return nil, err
	}
	return sh, nil
}

// readOps reads the operations.
func (g *groupDecoder) readOps(r *fields, sh *shape) ([]op, error) {
	x, err := readOpInts(r, len(sh.pieces))
	if err != nil {
		return nil, err
	}
	return x.decode(sh, g.pred)
}

// readContent carries out the operations: copies first, then the differences, then the literals, which their surroundings help to
// decode.
func (g *groupDecoder) readContent(ctx context.Context, r *fields, sh *shape, ops []op) ([]byte, error) {
	code := r.Bytes("differences", len(r.Rest()))
	codec := r.Int("literal codec", codecs-1)
	literals := r.Bytes("literals", len(r.Rest()))
	if r.Err() != nil {
		return nil, fmt.Errorf("group: %w", errors.Join(r.Err(), ErrFormat))
	}
	s := newSurvey(sh, ops, g.space)
	content := make([]byte, sh.contentLen())
	at := int64(0)
	for _, o := range ops {
		if o.kind == opExact {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := g.space.read(content[at:at+o.n], o.addr); err != nil {
				return nil, err
			}
		}
		at += o.n
	}
	if s.patched > 0 {
		if err := g.patch(content, s, ops, code); err != nil {
			return nil, err
		}
	} else if len(code) > 0 {
		return nil, fmt.Errorf("differences to nothing: %w", ErrFormat)
	}
	return content, g.coders.unpackLiterals(codec, literals, content, s.gaps, s.literal)
}

// patch decodes the differences into the content.
func (g *groupDecoder) patch(content []byte, s *survey, ops []op, code []byte) error {
	ref, err := s.reference(ops, g.space)
	if err != nil {
		return err
	}
	data, err := g.coders.unpackPatched(code, ref, s.segs)
	if err != nil {
		return err
	}
	at := int64(0)
	for _, o := range ops {
		if o.kind == opPatched {
			data = data[copy(content[at:at+o.n], data):]
		}
		at += o.n
	}
	return nil
}

// assemble makes the raw content of the units from that of the pieces: streams are packed.
func (s *shape) assemble(content []byte) ([]byte, error) {
	last := make([]int, len(s.pieces)) // fill that uses the piece last
	for i, f := range s.fills {
		last[f.piece] = i
	}
	var enc nested.Encoder
	packed := make(map[int][]byte)
	raw := make([]byte, 0, s.rawLen)
	made := 0 // pieces whose content has been taken
	for i, f := range s.fills {
		p := &s.pieces[f.piece]
		if f.piece == made {
			b := content[:p.n]
			content = content[p.n:]
			made++
			if p.stream >= 0 {
				var err error
				if b, err = packStream(&enc, &s.streams[p.stream], b); err != nil {
					return nil, err
				}
			}
			packed[f.piece] = b
		}
		raw = append(raw, packed[f.piece][f.from:f.from+f.n]...)
		if last[f.piece] == i {
			delete(packed, f.piece)
		}
	}
	return raw, nil
}

// packStream makes the stored bytes of a stream.
func packStream(enc *nested.Encoder, s *stream, plain []byte) ([]byte, error) {
	b, err := enc.Encode(nil, s.described(), plain)
	if err != nil {
		return nil, fmt.Errorf("pack nested stream: %w: %w", err, ErrFormat)
	}
	if int64(len(b)) != s.n {
		return nil, fmt.Errorf("nested stream packs to %d bytes, not %d: %w", len(b), s.n, ErrMismatch)
	}
	return b, nil
}
