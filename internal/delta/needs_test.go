package delta

import (
	"bytes"
	"errors"
	"sync"
	"testing"
)

// dependentDelta makes a delta of two groups of which the second is coded against NEW's content in the first, which Make does not do.
func dependentDelta(t *testing.T, old, neu []byte) []byte {
	t.Helper()
	m := &maker{progress: &sync.Mutex{}, stats: &Stats{}, searching: newBudget(1 << 20)}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(m.open(t.Context(), source(old), source(neu)))
	check(m.identify(t.Context()))
	check(m.prepare(t.Context()))
	t.Cleanup(func() { m.rec.Close() })
	units := m.layout.changed
	m.index.expansions = packExpansions(nil, m.old.model)
	m.plan = &plan{groups: []groupPlan{{units: units[:2]}, {units: units[2:]}}}
	m.index.Groups = make([]Group, 2)
	m.spool = newSpool("", 2, 1<<20)
	check(m.encodeGroup(t.Context(), 0))
	wire := dependentGroup(t, m)
	m.accept(1, wire, groupStats{}, make([]bool, len(units)-2))
	m.index.Groups[1].Needs = []int{0}
	check(m.spool.put(1, wire))
	m.index.proof = newProof(m.pieces, dirtyPieces(m.neu.model, units))
	out := bytes.NewBuffer(m.index.encode(m.stats))
	check(m.spool.writeTo(out))
	return out.Bytes()
}

// dependentGroup codes the second group: every piece begins as a patched copy of the first group's content.
func dependentGroup(t *testing.T, m *maker) []byte {
	t.Helper()
	neu := m.rec.neu
	var from span
	for _, s := range newShape(neu, m.plan.groups[0].units, make([]bool, len(m.plan.groups[0].units))).spans {
		if s.file != noFile && s.n > from.n {
			from = s
		}
	}
	units := m.plan.groups[1].units
	sh := newShape(neu, units, make([]bool, len(units)))
	if err := sh.setStreams(nil); err != nil {
		t.Fatal(err)
	}
	d := groupDraft{shape: sh, coders: m.rec.groups.coders}
	for _, u := range units {
		b, err := m.neu.content.unit(u)
		if err != nil {
			t.Fatal(err)
		}
		d.content = append(d.content, b[:neu.units[u].raw]...)
	}
	for _, p := range sh.pieces {
		n := min(p.n, from.n)
		ops := []op{{opPatched, n, newBase + neu.addr[from.file] + from.off}}
		d.ops = append(d.ops, appendLiteral(ops, p.n-n))
	}
	wire, _, err := d.encode(m.rec.groups.space, m.rec.groups.pred, neu)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// TestNeededGroups: Apply decodes the groups that others need when they ask for them.
func TestNeededGroups(t *testing.T) {
	old, neu := testdata(t, "old.squashfs"), testdata(t, "new.squashfs")
	d := dependentDelta(t, old, neu)
	for _, parallel := range []int{1, 3} {
		got, err := apply(t, d, Options{Parallel: parallel})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, neu) {
			t.Errorf("with %d goroutines the result differs from the new image", parallel)
		}
	}
	x, err := ParseIndex(d)
	if err != nil {
		t.Fatal(err)
	}
	wire := d[x.Groups[1].Offset:][:x.Groups[1].Length]
	drop := func(int64, []byte) error { return nil }
	for _, tc := range []struct {
		name string
		opt  Options
		want error
	}{
		{"incoming", Options{Incoming: source(neu)}, nil},
		{"no incoming", Options{}, ErrFormat},
	} {
		r, err := NewReceiver(t.Context(), x, source(old), tc.opt)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.DecodeGroup(t.Context(), 1, wire, drop); !errors.Is(err, tc.want) {
			t.Errorf("%s: error %v, want %v", tc.name, err, tc.want)
		}
		if got := r.GroupsAt(0, x.New.Size); len(got) != 2 {
			t.Errorf("groups of the whole image: %v, want both", got)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := apply(t, d, Options{MemoryBytes: 64 << 10}); err == nil {
		t.Error("a needed group is decoded although there is no memory for it")
	}
}
