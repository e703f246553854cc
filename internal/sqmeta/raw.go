package sqmeta

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

// How a metadata block stands in the column "layout" of the raw form.
const (
	rawEncoded  = iota // enc makes the stored bytes from the content
	rawPlain           // stored as it is
	rawVerbatim        // stored bytes that enc does not make
)

// RawColumns gives the tables as they are, block by block: expanded where enc makes the stored bytes again; a nil enc makes none. They
// fit every image that Parse reads, but they are full of positions, so that little of one version is in the next. An error comes from
// enc.
func (m *Meta) RawColumns(enc Compress) ([]Column, error) {
	type piece struct {
		metaPiece
		content []byte
	}
	var all []piece
	for i := range m.tables {
		t := &m.tables[i]
		for k, p := range t.pieces {
			all = append(all, piece{p, t.content(k)})
		}
	}
	slices.SortStableFunc(all, func(a, b piece) int { return cmp.Compare(a.pos, b.pos) })
	enc = enc.orNone()
	layout, end := binary.AppendUvarint(nil, uint64(m.image.TailOffset)), uint32(0)
	var plain, other, buf []byte
	for _, p := range all {
		if p.pos < end {
			continue // two tables that share blocks: the bytes are there already
		}
		stored := m.image.Tail[p.pos+2 : p.pos+p.stored]
		form := uint64(rawPlain)
		if !p.raw {
			out, compressed, err := enc(buf[:0], p.content)
			if err != nil {
				return nil, fmt.Errorf("compress a metadata block: %w", err)
			}
			form, buf = rawVerbatim, out
			if compressed && bytes.Equal(out, stored) {
				form = rawEncoded
			}
		}
		gap := m.image.Tail[end:p.pos]
		other = append(other, gap...)
		layout = binary.AppendUvarint(binary.AppendUvarint(layout, uint64(len(gap))), form)
		if form == rawEncoded {
			layout, plain = binary.AppendUvarint(layout, uint64(len(p.content))), append(plain, p.content...)
		} else {
			layout, other = binary.AppendUvarint(layout, uint64(len(stored))), append(other, stored...)
		}
		end = p.pos + p.stored
	}
	other = append(other, m.image.Tail[end:]...)
	return []Column{{"form", []byte{formRaw}}, {"head", m.image.Head}, {"layout", layout}, {"tables", plain}, {"stored", other}}, nil
}

// Verbatim gives the stored bytes. They fit every image.
func (m *Meta) Verbatim() []Column {
	return []Column{{"form", []byte{formVerbatim}}, {"head", m.image.Head},
		{"layout", binary.AppendUvarint(nil, uint64(m.image.TailOffset))}, {"stored", m.image.Tail}}
}

// pick gives the data of the columns with the given names, which must be all there are behind the first.
func pick(cols []Column, names ...string) ([][]byte, error) {
	var data [][]byte
	for i, c := range cols[1:] {
		if i >= len(names) || c.Name != names[i] {
			return nil, fmt.Errorf("%w: column %q was not expected", ErrColumns, c.Name)
		}
		data = append(data, c.Data)
	}
	if len(data) < len(names) {
		return nil, fmt.Errorf("%w: %d of %d are there", ErrColumns, len(cols), len(names)+1)
	}
	return data, nil
}

// newImage makes an image of its parts.
func newImage(head, tail []byte, at uint64) (*Image, error) {
	if at > 1<<62 || at < uint64(len(head)) || len(head) < superLen {
		return nil, fmt.Errorf("%w: tables at %d behind a head of %d bytes", ErrColumns, at, len(head))
	}
	return &Image{Head: head, Tail: tail, TailOffset: int64(at), Size: int64(at) + int64(len(tail))}, nil
}

func rebuildVerbatim(cols []Column) (*Image, error) {
	data, err := pick(cols, "head", "layout", "stored")
	if err != nil {
		return nil, err
	}
	at, n := binary.Uvarint(data[1])
	if n <= 0 || n != len(data[1]) {
		return nil, fmt.Errorf("%w: bad layout", ErrColumns)
	}
	return newImage(data[0], data[2], at)
}

// rawReader takes the raw form apart.
type rawReader struct {
	layout, plain, other []byte
	err                  error
}

func (r *rawReader) fail() {
	if r.err == nil {
		r.err = fmt.Errorf("%w: bad layout", ErrColumns)
	}
}

func (r *rawReader) number() uint64 {
	x, n := binary.Uvarint(r.layout)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.layout = r.layout[n:]
	return x
}

func (r *rawReader) take(from *[]byte, n uint64) []byte {
	if n > uint64(len(*from)) {
		r.fail()
		return nil
	}
	b := (*from)[:n]
	*from = (*from)[n:]
	return b
}

func rebuildRaw(cols []Column, enc Compress, limit int64) (*Image, error) {
	data, err := pick(cols, "head", "layout", "tables", "stored")
	if err != nil {
		return nil, err
	}
	enc = enc.orNone()
	r := &rawReader{layout: data[1], plain: data[2], other: data[3]}
	at := r.number()
	var tail, buf []byte
	for len(r.layout) > 0 && r.err == nil {
		tail = append(tail, r.take(&r.other, r.number())...)
		form, n := r.number(), r.number()
		var stored []byte
		switch {
		case n == 0 || n > metaBlock || form > rawVerbatim:
			r.fail()
			continue
		case form != rawEncoded:
			stored = r.take(&r.other, n)
		default:
			var compressed bool
			stored, compressed, err = enc(buf[:0], r.take(&r.plain, n))
			if err != nil {
				return nil, fmt.Errorf("compress a metadata block: %w", err)
			}
			if buf = stored; !compressed || len(stored) > metaBlock {
				r.fail()
			}
		}
		h := uint16(len(stored))
		if form == rawPlain {
			h |= storedRaw
		}
		tail = append(binary.LittleEndian.AppendUint16(tail, h), stored...)
		if int64(len(tail)) > limit {
			return nil, fmt.Errorf("%w: the tables are longer than the limit", ErrColumns)
		}
	}
	if len(r.plain) > 0 {
		r.fail()
	}
	if r.err != nil {
		return nil, r.err
	}
	return newImage(data[0], append(tail, r.other...), at)
}
