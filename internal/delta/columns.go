package delta

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta/wire"
	"github.com/ltsp-fleet/ltsp-fleet/internal/match"
	"github.com/ltsp-fleet/ltsp-fleet/internal/sqmeta"
)

const (
	maxColumns     = 4096
	maxColumnBytes = 256 << 20
)

// oldColumns are the columns of OLD one after the other, as a reference for those of NEW.
type oldColumns struct {
	cols  []sqmeta.Column
	start map[string]int64
	all   []byte
}

func newOldColumns(meta *sqmeta.Meta) *oldColumns {
	cols, err := meta.Columns()
	if err != nil {
		cols = meta.Verbatim()
	}
	o := &oldColumns{cols: cols, start: make(map[string]int64)}
	for _, c := range cols {
		o.start[c.Name] = int64(len(o.all))
		o.all = append(o.all, c.Data...)
	}
	return o
}

// read implements reader: addresses are positions in all columns.
func (o *oldColumns) read(p []byte, a int64) error {
	if a < 0 || a > int64(len(o.all)) || copy(p, o.all[a:]) != len(p) {
		return fmt.Errorf("no column bytes at %d: %w", a, ErrFormat)
	}
	return nil
}

// offset implements reader.
func (o *oldColumns) offset(a int64) int64 { return a }

// columnPredictor predicts that a column resembles OLD's of the same name; a piece's file is the number of its column.
type columnPredictor struct {
	old   *oldColumns
	names []string
}

// predict implements predictor.
func (c *columnPredictor) predict(_ *shape, p *piece) (int64, bool) {
	at, ok := c.old.start[c.names[p.file]]
	return at, ok
}

// columnShape is the shape of columns of the given lengths.
func columnShape(lens []int64) *shape {
	s := &shape{}
	for i, n := range lens {
		s.plainPiece(int32(i), 0, n)
		s.rawLen += n
	}
	return s
}

// packColumns codes NEW's columns against OLD's.
func packColumns(ctx context.Context, cols []sqmeta.Column, old *oldColumns) ([]byte, error) {
	out := binary.AppendUvarint(nil, uint64(len(cols)))
	lens := make([]int64, len(cols))
	var deltas []uint64
	d := groupDraft{coders: &coders{}}
	pred := &columnPredictor{old: old}
	for i, c := range cols {
		was := int64(0)
		if i < len(old.cols) && old.cols[i].Name == c.Name {
			was = int64(len(old.cols[i].Data))
			out = append(out, 0)
		} else {
			out = wire.AppendBytes(out, []byte(c.Name))
		}
		lens[i] = int64(len(c.Data))
		deltas = append(deltas, wire.Zigzag(lens[i]-was))
		ops, err := columnOps(ctx, c, old)
		if err != nil {
			return nil, err
		}
		d.content, d.ops = append(d.content, c.Data...), append(d.ops, ops)
		pred.names = append(pred.names, c.Name)
	}
	out = packInts(out, deltas)
	d.shape = columnShape(lens)
	return d.appendContent(out, &groupStats{}, old, pred)
}

// columnOps compares a column with OLD's of the same name.
func columnOps(ctx context.Context, c sqmeta.Column, old *oldColumns) ([]op, error) {
	start, ok := old.start[c.Name]
	if !ok {
		return appendLiteral(nil, int64(len(c.Data))), nil
	}
	ref := old.all[start:]
	for _, o := range old.cols {
		if o.Name == c.Name {
			ref = o.Data
		}
	}
	ops, err := match.NewIndex(ref, match.Options{}).Diff(ctx, c.Data)
	if err != nil {
		return nil, err
	}
	return fineOps(ops, c.Data, sliceRef{ref, start}), nil
}

// unpackColumns inverts packColumns. Columns of more than limit bytes together are ErrLimit.
func unpackColumns(b []byte, old *oldColumns, limit int64) ([]sqmeta.Column, error) {
	cs := &coders{}
	r := newFields(b, cs.get())
	n := r.Int("number of columns", maxColumns)
	pred := &columnPredictor{old: old}
	lens := make([]int64, n)
	for i := range n {
		name := string(r.Bytes("column name", 256))
		if name == "" && i < len(old.cols) {
			name = old.cols[i].Name
			lens[i] = int64(len(old.cols[i].Data))
		}
		pred.names = append(pred.names, name)
	}
	var sum int64
	for i, d := range r.ints(n) {
		lens[i] += wire.Unzigzag(d)
		if lens[i] < 0 || lens[i] > limit || sum+lens[i] > limit {
			return nil, fmt.Errorf("columns of more than %d bytes: %w", limit, ErrLimit)
		}
		sum += lens[i]
	}
	if r.Err() != nil {
		return nil, fmt.Errorf("columns: %w: %w", r.Err(), ErrFormat)
	}
	g := groupDecoder{space: old, pred: pred, coders: cs}
	sh := columnShape(lens)
	ops, err := g.readOps(r, sh)
	if err != nil {
		return nil, fmt.Errorf("columns: %w", err)
	}
	raw, err := g.readContent(context.Background(), r, sh, ops)
	if err != nil {
		return nil, fmt.Errorf("columns: %w", err)
	}
	cols := make([]sqmeta.Column, n)
	for i := range cols {
		cols[i] = sqmeta.Column{Name: pred.names[i], Data: raw[:lens[i]:lens[i]]}
		raw = raw[lens[i]:]
	}
	return cols, nil
}
