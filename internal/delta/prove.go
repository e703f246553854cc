package delta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// replay decodes a group as a receiver does and lists the units, by their place in the group, that come out wrong.
func (m *maker) replay(ctx context.Context, units []int32, wire []byte) (bad []int, err error) {
	d, release, err := m.rec.groups.decode(ctx, units, wire, m.rec.excess(units, wire))
	defer release()
	if err != nil {
		return nil, fmt.Errorf("prove: %w", err)
	}
	enc, err := m.rec.encoders.get(ctx)
	if err != nil {
		return nil, err
	}
	defer m.rec.encoders.put(enc)
	var buf, want []byte
	for i, u := range units {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		un := &m.rec.neu.units[u]
		want = append(want[:0], make([]byte, un.stored)...)
		if err := readAt(m.neu.src, want, un.off); err != nil {
			return nil, err
		}
		got, err := d.next(i, un, enc, buf[:0])
		if err != nil && !errors.Is(err, ErrMismatch) {
			return nil, fmt.Errorf("prove: %w", err)
		}
		if err != nil || !bytes.Equal(got, want) {
			bad = append(bad, i)
		}
		buf = got
	}
	return bad, nil
}

// prove opens the finished index as a receiver does and compares its layout.
func (m *maker) prove(ctx context.Context, head []byte) error {
	x, err := ParseIndex(head)
	if err != nil {
		return fmt.Errorf("prove index: %w", err)
	}
	r, err := NewReceiver(ctx, x, m.old.src, m.opt)
	if err != nil {
		return fmt.Errorf("prove index: %w", err)
	}
	defer r.Close()
	for g := range x.Groups {
		units := r.layout.unitsOf(g)
		for i, u := range m.plan.groups[g].units {
			if units[i] != u {
				return fmt.Errorf("prove index: group %d: %w", g, ErrMismatch)
			}
		}
	}
	return nil
}

// count fills in the statistics that the index tells.
func (m *maker) count(head []byte) {
	s := m.stats
	s.Old, s.New, s.Encoder = m.index.Old, m.index.New, m.index.encoder
	s.DeltaBytes, s.IndexBytes = m.index.DeltaBytes, int64(len(head))
	s.Groups, s.CopyRuns = len(m.index.Groups), len(m.index.runs)
	s.Blocks, s.ChangedBlocks = len(m.neu.model.units), len(m.layout.changed)
	s.CopiedBlocks = s.Blocks - s.ChangedBlocks
	for u, un := range m.neu.model.units {
		if m.layout.src[u] >= 0 {
			s.CopyBytes += un.stored
		}
	}
}
