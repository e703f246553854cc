package delta

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// plan says which changed units form which group.
type plan struct {
	groups []groupPlan
}

// groupPlan is one group: its units, and the nested streams of the files in it.
type groupPlan struct {
	units   []int32
	streams []stream
}

// planGroups cuts the changed units into groups; units that share a nested stream stay together.
func (m *maker) planGroups(ctx context.Context) error {
	joined, streams := make([]bool, len(m.layout.changed)), make([][]stream, len(m.layout.changed))
	if m.index.mode == modeSemantic {
		var err error
		if joined, streams, err = m.findStreams(ctx); err != nil {
			return fmt.Errorf("look for nested streams: %w", err)
		}
	}
	m.plan = &plan{groups: m.cut(joined, streams)}
	return nil
}

// cut makes groups of the changed units, which do not hold units of different kinds unless they are joined.
func (m *maker) cut(joined []bool, streams [][]stream) []groupPlan {
	kinds := m.kinds(joined)
	var groups []groupPlan
	var cur groupPlan
	var raw int64
	for i, u := range m.layout.changed {
		n := m.neu.model.units[u].raw
		if i > 0 && !joined[i] && (kinds[i] != kinds[i-1] || raw+n > kinds[i].target()) {
			groups = append(groups, cur)
			cur, raw = groupPlan{}, 0
		}
		cur.units = append(cur.units, u)
		cur.streams = append(cur.streams, streams[i]...)
		raw += n
	}
	if len(cur.units) > 0 {
		groups = append(groups, cur)
	}
	return groups
}

// streamsWithin leaves of the streams those that have a part in the shape, in the order in which they are met.
func streamsWithin(s *shape, streams []stream) []stream {
	type met struct {
		span int
		st   stream
	}
	var found []met
	for _, st := range streams {
		for i, sp := range s.spans {
			if sp.file == st.file && sp.off < st.off+st.n && st.off < sp.off+sp.n {
				found = append(found, met{i, st})
				break
			}
		}
	}
	slices.SortStableFunc(found, func(a, b met) int {
		return cmp.Or(cmp.Compare(a.span, b.span), cmp.Compare(a.st.off, b.st.off))
	})
	out := make([]stream, len(found))
	for i, f := range found {
		out[i] = f.st
	}
	return out
}
