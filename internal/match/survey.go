package match

import "context"

// Survey tells of data how well copies would describe it.
type Survey struct {
	// Seen is how many bytes of the data were looked at, Covered how many of these copies would make, and Cost about how many bytes
	// these copies would take once coded, their differences included.
	Seen, Covered, Cost int64
}

// Survey looks at stretches of the given length, one in every so many bytes; at all of data if it is no longer than two of them.
func (ix *Index) Survey(ctx context.Context, data []byte, length, every int) (Survey, error) {
	var s Survey
	if len(data) <= 2*length {
		length, every = len(data), max(len(data), 1)
	}
	for at := (every - length) / 2; at >= 0 && at+length <= len(data); at += every {
		x := data[at : at+length]
		ops, err := ix.Diff(ctx, x)
		if err != nil {
			return Survey{}, err
		}
		s.add(ix, ops, x)
	}
	s.Cost /= unit
	return s, nil
}

// add counts the copies that describe x; the cost is in units.
func (s *Survey) add(ix *Index, ops []Op, x []byte) {
	m := meter{ref: ix.ref}
	for _, op := range ops {
		price := m.add(op, x)
		if op.Copy {
			s.Covered += int64(op.Len)
			s.Cost += price
		}
	}
	s.Seen += int64(len(x))
}
