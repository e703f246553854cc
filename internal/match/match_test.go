package match

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// apply reproduces the data from ops as a decoder does that is given the differences and literals, and fails on any op that is not
// allowed.
func apply(t testing.TB, parts [][]byte, ops []Op, data []byte) []byte {
	t.Helper()
	ref := newReference(parts)
	var out []byte
	for i, op := range ops {
		at := len(out)
		switch {
		case op.Len <= 0 || op.Len > len(data)-at:
			t.Fatalf("op %d %+v at %d of %d", i, op, at, len(data))
		case !op.Copy && (op.Ref != 0 || i > 0 && !ops[i-1].Copy):
			t.Fatalf("literal %d %+v has an address or follows a literal", i, op)
		case !op.Copy:
			out = append(out, data[at:at+op.Len]...)
			continue
		case !ref.holds(op):
			t.Fatalf("copy %d %+v leaves its part", i, op)
		}
		for k, r := range ref.bytes(op) {
			difference := data[at+k] - r
			out = append(out, r+difference)
		}
	}
	if !bytes.Equal(out, data) {
		t.Fatalf("ops give %d bytes that are not the %d of the data", len(out), len(data))
	}
	return out
}

func random(seed uint64, n int) []byte {
	c := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n)
	c.Read(b)
	return b
}

// edited returns a copy of b with every-th byte or so changed.
func edited(b []byte, every int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	out := bytes.Clone(b)
	for i := r.IntN(every); i < len(out); i += 1 + r.IntN(2*every) {
		out[i] += byte(1 + r.IntN(255))
	}
	return out
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func literals(ops []Op) (n int) {
	for _, op := range ops {
		if !op.Copy {
			n += op.Len
		}
	}
	return n
}

func TestDiff(t *testing.T) {
	a, b, c := random(1, 20000), random(2, 15000), random(3, 3000)
	zeros := make([]byte, 100000)
	tests := []struct {
		name     string
		ref      [][]byte
		data     []byte
		maxOps   int
		literals int // at most
	}{
		{"both empty", nil, nil, 0, 0},
		{"empty reference", nil, a, 1, len(a)},
		{"empty data", [][]byte{a}, nil, 0, 0},
		{"equal", [][]byte{a}, a, 1, 0},
		{"shorter than a window", [][]byte{a[:5]}, a[:5], 1, 0},
		{"scattered edits stay one copy", [][]byte{a}, edited(a, 20, 7), 1, 10},
		{"insertion", [][]byte{a}, join(a[:9000], c, a[9000:]), 3, len(c) + 20},
		{"deletion", [][]byte{a}, join(a[:9000], a[12000:]), 2, 0},
		{"swap", [][]byte{join(a, b)}, join(b, a), 2, 0},
		{"swap with edits", [][]byte{join(a, b)}, edited(join(b, a), 30, 9), 2, 60},
		{"parts", [][]byte{a, nil, b, c}, join(c, a[100:], b), 3, 0},
		{"across two parts", [][]byte{a[:10000], a[10000:]}, a, 2, 0},
		{"nothing alike", [][]byte{a}, b, 3, len(b)},
		{"zeros of other length", [][]byte{zeros[:70000]}, zeros, 2, len(zeros)},
		{"zeros around", [][]byte{join(zeros[:5000], a, zeros)}, join(zeros[:7000], a, zeros[:300]), 4, 7000},
		{"copy within zeros", [][]byte{join(a, zeros)}, join(zeros, edited(a, 25, 3), zeros), 4, len(zeros) + 100},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ix := NewIndexParts(tt.ref, Options{})
			ops, err := ix.Diff(context.Background(), tt.data)
			if err != nil {
				t.Fatal(err)
			}
			apply(t, tt.ref, ops, tt.data)
			if len(ops) > tt.maxOps || literals(ops) > tt.literals {
				t.Errorf("%d ops with %d literal bytes, want at most %d and %d: %+v", len(ops), literals(ops), tt.maxOps, tt.literals, ops[:min(len(ops), 20)])
			}
		})
	}
}

// A table whose every entry is moved by the same amount, next to the same table unmoved by one entry: the regular differences
// cost less than a hunt for equal bytes.
func TestDiffStaysOnRegularDifferences(t *testing.T) {
	table := func(shift uint32) []byte {
		r := rand.New(rand.NewPCG(5, 5))
		var b []byte
		address := uint32(0x40000)
		for range 4000 {
			address += 16 * uint32(1+r.IntN(40))
			v := address + shift
			b = append(b, byte(v), byte(v>>8), byte(v>>16), 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0)
		}
		return b
	}
	ref, data := table(0), table(0x1230)
	ops, err := NewIndex(ref, Options{}).Diff(context.Background(), data)
	if err != nil {
		t.Fatal(err)
	}
	if len(ops) > 8 {
		t.Errorf("%d ops, want at most 8", len(ops))
	}
}

func TestDiffIsDeterministic(t *testing.T) {
	ref := join(random(1, 50000), make([]byte, 5000), bytes.Repeat([]byte("abcdefg "), 4000))
	data := edited(join(ref[30000:], ref[:40000], random(9, 500)), 40, 4)
	ix := NewIndex(ref, Options{})
	want, err := ix.Diff(context.Background(), data)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		got, err := NewIndex(bytes.Clone(ref), Options{}).Diff(context.Background(), bytes.Clone(data))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	}
}

// The context is looked at before the first byte.
func TestDiffEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := NewIndex(random(1, 1000), Options{}).Diff(ctx, random(2, 1000)); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want %v", err, context.Canceled)
	}
}

func TestIndexMemory(t *testing.T) {
	ref := random(1, 1<<20)
	for _, limit := range []int64{0, 5 << 20, 1 << 20, 100 << 10, 1} {
		ix := NewIndex(ref, Options{MemoryBytes: limit})
		most := limit
		if limit == 0 {
			most = 5 << 20
		}
		if got := ix.MemoryBytes(); got > most+256 {
			t.Errorf("limit %d: index takes %d bytes", limit, got)
		}
		data := join(ref[500000:], ref[:500000])
		ops, err := ix.Diff(context.Background(), data)
		if err != nil {
			t.Fatal(err)
		}
		apply(t, [][]byte{ref}, ops, data)
		if limit >= 100<<10 && len(ops) > 2 {
			t.Errorf("limit %d: %d ops, want 2", limit, len(ops))
		}
	}
}

// A sample takes its part of the memory, finds long copies, and does not look at short ones.
func TestSample(t *testing.T) {
	ref := random(1, 1<<20)
	const sample = 16
	ix := NewIndex(ref, Options{Sample: sample, Window: 24})
	if got, most := ix.MemoryBytes(), NewIndex(ref, Options{}).MemoryBytes()/(sample-2); got > most {
		t.Errorf("the index takes %d bytes, want at most %d", got, most)
	}
	data := join(random(2, 5000), ref[500000:503000], random(3, 5000), ref[700000:701000], random(4, 5000), ref[30000:30028])
	ops, err := ix.Diff(context.Background(), data)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, [][]byte{ref}, ops, data)
	if got := literals(ops); len(ops) > 6 || got < 15000 || got > 15100 {
		t.Errorf("%d ops with %d literal bytes: %+v", len(ops), got, ops)
	}
}

func TestSurvey(t *testing.T) {
	ref := random(1, 1<<20)
	ix := NewIndex(ref, Options{})
	tests := []struct {
		name                string
		data                []byte
		seen, covered, cost [2]int64 // at least, at most
	}{
		{"empty", nil, [2]int64{0, 0}, [2]int64{0, 0}, [2]int64{0, 0}},
		{"short, all of it", ref[5000:8000], [2]int64{3000, 3000}, [2]int64{3000, 3000}, [2]int64{1, 8}},
		{"equal", ref[1000:400000], [2]int64{24000, 26000}, [2]int64{24000, 26000}, [2]int64{12, 200}},
		{"edited", edited(ref[1000:400000], 20, 3), [2]int64{24000, 26000}, [2]int64{23000, 26000}, [2]int64{700, 2000}},
		{"new", random(9, 400000), [2]int64{24000, 26000}, [2]int64{0, 200}, [2]int64{0, 200}},
		{"half", join(ref[:200000], random(9, 200000)), [2]int64{24000, 26000}, [2]int64{11000, 14000}, [2]int64{6, 200}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := ix.Survey(t.Context(), tt.data, 2000, 32000)
			if err != nil {
				t.Fatal(err)
			}
			for name, c := range map[string]struct {
				got  int64
				want [2]int64
			}{"seen": {s.Seen, tt.seen}, "covered": {s.Covered, tt.covered}, "cost": {s.Cost, tt.cost}} {
				if c.got < c.want[0] || c.got > c.want[1] {
					t.Errorf("%s: %d, want %d to %d", name, c.got, c.want[0], c.want[1])
				}
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := ix.Survey(ctx, ref, 2000, 32000); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want %v", err, context.Canceled)
	}
}

func TestOptionsAreClamped(t *testing.T) {
	ref := random(1, 5000)
	data := edited(ref, 50, 1)
	for _, opt := range []Options{
		{Sample: -1}, {Sample: 3}, {Sample: 1 << 30}, {Sample: 8, MemoryBytes: 100}, {Window: 1}, {Window: 9}, {Window: 17}, {Window: 100}, {Horizon: 1}, {Horizon: 1 << 40}, {MinMatch: -3, MaxCandidates: -1, MemoryBytes: -1},
	} {
		ops, err := NewIndex(ref, opt).Diff(context.Background(), data)
		if err != nil {
			t.Fatal(err)
		}
		apply(t, [][]byte{ref}, ops, data)
	}
}

func TestCost(t *testing.T) {
	ref, other := random(1, 30000), random(2, 30000)
	data := edited(ref, 100, 2)
	cost := func(ref []byte) int64 {
		ops, err := NewIndex(ref, Options{}).Diff(context.Background(), data)
		if err != nil {
			t.Fatal(err)
		}
		n, err := Cost(ops, data, ref)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if near, far := cost(ref), cost(other); near > 600 || far < 15000 {
		t.Errorf("cost %d against the original, %d against something else", near, far)
	}
	for _, ops := range [][]Op{
		nil,
		{{Len: 5}},
		{{Len: 30001}},
		{{Len: -1}},
		{{Copy: true, Ref: -1, Len: 30000}},
		{{Copy: true, Ref: 1, Len: 30000}},
		{{Copy: true, Ref: 1 << 62, Len: 30000}},
	} {
		if _, err := Cost(ops, data, ref); !errors.Is(err, ErrOps) {
			t.Errorf("ops %+v: err = %v, want %v", ops, err, ErrOps)
		}
	}
}

func FuzzDiff(f *testing.F) {
	a := random(1, 300)
	f.Add(a, a, uint8(0), uint8(0))
	f.Add(join(a, make([]byte, 200)), join(make([]byte, 150), edited(a, 9, 1)), uint8(100), uint8(1))
	f.Add(bytes.Repeat([]byte("ab"), 200), bytes.Repeat([]byte("aba"), 100), uint8(7), uint8(3))
	f.Fuzz(func(t *testing.T, ref, data []byte, cut, memory uint8) {
		at := min(int(cut), len(ref))
		parts := [][]byte{ref[:at], ref[at:]}
		ix := NewIndexParts(parts, Options{Window: int(memory) % 40, Horizon: int(cut), Sample: int(cut) >> 5, MemoryBytes: int64(memory) * 64})
		ops, err := ix.Diff(context.Background(), data)
		if err != nil {
			t.Fatal(err)
		}
		apply(t, parts, ops, data)
		if _, err := ix.Cost(ops, data); err != nil {
			t.Fatal(err)
		}
	})
}
