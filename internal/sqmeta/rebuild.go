package sqmeta

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Columns gives the predicted columns, without an encoder: whether one reproduces the stored tables shows only when Rebuild is asked
// (Best does, and fills the column "stored blocks"). An image has the same columns everywhere. An error matches ErrUnpredictable.
func (m *Meta) Columns() ([]Column, error) {
	model := m.model
	p := &predictor{coder: &coder{}, model: &model, words: 1 << 62}
	if err := p.code(); err != nil {
		return nil, unpredictable(err)
	}
	cols := make([]Column, 0, columns)
	p.cols[colForm] = []byte{formPredicted}
	for i, data := range p.cols {
		cols = append(cols, Column{columnID(i).String(), data})
	}
	im, err := m.rebuild(cols, m.replay)
	if err != nil {
		return nil, unpredictable(err)
	}
	if !im.equal(&m.image) {
		return nil, fmt.Errorf("%w: other bytes come out", ErrUnpredictable)
	}
	return cols, nil
}

func unpredictable(err error) error {
	if errors.Is(err, ErrUnpredictable) {
		return err
	}
	return fmt.Errorf("%w: %v", ErrUnpredictable, err)
}

func (im *Image) equal(other *Image) bool {
	return im.TailOffset == other.TailOffset && bytes.Equal(im.Head, other.Head) && bytes.Equal(im.Tail, other.Tail)
}

// replay is the compressor that the image itself is: it knows the stored form of what is in the tables.
func (m *Meta) replay(id tableID, i int, src []byte) ([]byte, bool, error) {
	t := &m.tables[id]
	if i >= len(t.pieces) || !bytes.Equal(t.content(i), src) {
		return nil, false, fmt.Errorf("%w: block %d of the %s", ErrUnpredictable, i, id)
	}
	p := t.pieces[i]
	return m.image.Tail[p.pos+2 : p.pos+p.stored], !p.raw, nil
}

// rebuild is Rebuild of predicted columns for a given compressor.
func (m *Meta) rebuild(cols []Column, comp compressTable) (*Image, error) {
	model, err := decodePredicted(cols, defaultMetadataBytes+int64(len(m.image.Tail))*64)
	if err != nil {
		return nil, err
	}
	return model.emit(comp, 1<<62)
}

// decodePredicted is the inverse of Columns, up to the layout.
func decodePredicted(cols []Column, limit int64) (*model, error) {
	c := &coder{read: true}
	byName := make(map[string]columnID, columns)
	for i := range columns {
		byName[i.String()] = i
	}
	for _, col := range cols {
		i, ok := byName[col.Name]
		if !ok {
			return nil, fmt.Errorf("%w: unknown column %q", ErrColumns, col.Name)
		}
		delete(byName, col.Name)
		c.cols[i] = col.Data
	}
	if len(byName) > 0 {
		return nil, fmt.Errorf("%w: %d columns are missing", ErrColumns, len(byName))
	}
	c.cols[colForm] = nil
	p := &predictor{coder: c, model: &model{}, words: limit / 4}
	if err := p.code(); err != nil {
		return nil, err
	}
	return p.model, c.finish()
}

// Rebuild makes an image's metadata from columns of any form, calling enc for every metadata block; a nil enc compresses nothing. The
// result is not checked against anything: only whoever knows the sums of the image can tell that columns and encoder were the right
// ones. Columns may come from a stranger: errors match ErrColumns or come from enc. Besides the columns, memory of about twenty times
// their size and twice the limit is taken at most.
func (l Limits) Rebuild(cols []Column, enc Compress) (*Image, error) {
	total := int64(0)
	for _, c := range cols {
		total += int64(len(c.Data))
	}
	if total > l.bytes() {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrColumns, total, l.bytes())
	}
	if len(cols) == 0 || cols[0].Name != colForm.String() || len(cols[0].Data) != 1 {
		return nil, fmt.Errorf("%w: the first one does not tell their form", ErrColumns)
	}
	switch cols[0].Data[0] {
	case formPredicted:
		model, err := decodePredicted(cols, l.bytes())
		if err != nil {
			return nil, err
		}
		x := &exceptions{comp: model.super.encoder(enc), list: model.stored}
		im, err := model.emit(x.next, l.bytes())
		if err == nil && len(x.list) > 0 {
			err = fmt.Errorf("%w: %q goes on too long", ErrColumns, colStored.String())
		}
		return im, err
	case formRaw:
		return rebuildRaw(cols, enc, l.bytes())
	case formVerbatim:
		return rebuildVerbatim(cols)
	default:
		return nil, fmt.Errorf("%w: form %d", ErrColumns, cols[0].Data[0])
	}
}

// Best gives the best columns that enc turns into the image again, which was tried: predicted ones, the tables as they are, or the
// stored bytes. Metadata blocks that enc does not reproduce are in the columns as stored. A nil enc is none at all, and Rebuild must be
// given none then. An error comes from enc.
func Best(m *Meta, enc Compress) ([]Column, error) {
	cols, err := m.exact(enc)
	if err == nil || !errors.Is(err, ErrUnpredictable) {
		return cols, err
	}
	if cols, err = m.RawColumns(enc); err != nil {
		return nil, err
	}
	if m.made(cols, enc) {
		return cols, nil
	}
	return m.Verbatim(), nil
}

// exact gives predicted columns with all exceptions that enc needs.
func (m *Meta) exact(enc Compress) ([]Column, error) {
	cols, err := m.Columns()
	if err != nil {
		return nil, err
	}
	x := &exceptions{comp: m.model.super.encoder(enc)}
	if _, err := m.rebuild(cols, func(id tableID, i int, src []byte) ([]byte, bool, error) {
		out, compressed, err := m.replay(id, i, src)
		if err != nil {
			return nil, false, err
		}
		return out, compressed, x.note(id, i, src, out, compressed)
	}); err != nil {
		return nil, err
	}
	cols[colStored].Data = x.list
	if !m.made(cols, enc) {
		return nil, fmt.Errorf("%w: the encoder does not do the same twice", ErrUnpredictable)
	}
	return cols, nil
}

// made tells whether cols become the image again.
func (m *Meta) made(cols []Column, enc Compress) bool {
	im, err := Limits{MetadataBytes: 1 << 62}.Rebuild(cols, enc)
	return err == nil && im.equal(&m.image)
}

// Meta parses what Rebuild made, for the block map and the files. im must stay as it is afterwards.
func (im *Image) Meta(l Limits) (*Meta, error) {
	return l.Parse((*imageReader)(im), im.Size)
}

// imageReader reads an image whose data area is not there.
type imageReader Image

// ReadAt implements io.ReaderAt for head and tail; what lies between reads as the end of the file.
func (r *imageReader) ReadAt(b []byte, off int64) (int, error) {
	part := r.Head
	if off >= r.TailOffset {
		part, off = r.Tail, off-r.TailOffset
	}
	if off < 0 || off >= int64(len(part)) {
		return 0, io.EOF
	}
	n := copy(b, part[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
