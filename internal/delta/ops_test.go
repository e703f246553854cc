package delta

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/match"
	"github.com/ltsp-fleet/ltsp-fleet/internal/mixcode"
)

// fixedPredictor predicts every piece at 1000 times its file, and none of file 0.
type fixedPredictor struct{}

func (fixedPredictor) predict(_ *shape, p *piece) (int64, bool) {
	return int64(p.file) * 1000, p.file > 0
}

// randomOps covers n bytes.
func randomOps(r *rand.Rand, n int64) []op {
	var ops []op
	for n > 0 {
		o := op{kind: opKind(r.IntN(3)), n: 1 + r.Int64N(n)}
		if o.kind != opLiteral {
			o.addr = r.Int64N(5000)
		}
		ops = append(ops, o)
		n -= o.n
	}
	return ops
}

func TestOpsSurviveCoding(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for range 200 {
		s := &shape{}
		var perPiece [][]op
		var want []op
		for i := range 1 + r.IntN(5) {
			n := r.Int64N(50)
			s.plainPiece(int32(i), 0, n)
			ops := randomOps(r, n)
			if r.IntN(3) == 0 && n > 0 {
				ops = []op{{opExact, n, int64(i) * 1000}}
			}
			perPiece = append(perPiece, ops)
			want = append(want, ops...)
		}
		x := encodeOps(s, perPiece, fixedPredictor{})
		mc := mixcode.NewCoder()
		back, err := readOpInts(newFields(x.append(nil), mc), len(s.pieces))
		if err != nil {
			t.Fatal(err)
		}
		got, err := back.decode(s, fixedPredictor{})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, cmp.AllowUnexported(op{})); d != "" {
			t.Fatalf("operations (-want +got):\n%s", d)
		}
	}
}

func TestPredictedCopyCostsNothing(t *testing.T) {
	s := &shape{}
	s.plainPiece(1, 0, 500)
	s.plainPiece(2, 0, 500)
	x := encodeOps(s, [][]op{{{opExact, 500, 1000}}, {{opExact, 500, 2000}}}, fixedPredictor{})
	if len(x.kinds) != 0 || len(x.places) != 0 {
		t.Errorf("%d operations are written, want modes alone", len(x.kinds))
	}
}

func TestReturnToShiftNeedsNoAddress(t *testing.T) {
	s := &shape{}
	s.plainPiece(1, 0, 400)
	ops := []op{{opExact, 100, 1000}, {opExact, 100, 9000}, {opPatched, 100, 1200}, {opLiteral, 50, 0}, {opExact, 50, 1350}}
	x := encodeOps(s, [][]op{ops}, fixedPredictor{})
	if d := cmp.Diff([]uint64{0, newPlace, 2, 1}, x.places); d != "" {
		t.Errorf("places (-want +got):\n%s", d)
	}
}

func TestFineOps(t *testing.T) {
	ref := randomBytes(rand.New(rand.NewPCG(6, 6)), 4*minExact)
	data := append([]byte(nil), ref...)
	data[minExact+10]++
	data[minExact+20]++
	got := fineOps([]match.Op{{Copy: true, Ref: 0, Len: len(data)}}, data, sliceRef{ref, 70})
	want := []op{
		{opExact, minExact + 10, 70},
		{opPatched, 11, 70 + minExact + 10},
		{opExact, 3*minExact - 21, 70 + minExact + 21},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(op{})); d != "" {
		t.Errorf("operations (-want +got):\n%s", d)
	}
}

// TestShapeCutsStreams: a stream that begins before the group's blocks, goes on behind copied ones, and bytes around it.
func TestShapeCutsStreams(t *testing.T) {
	s := &shape{spans: []span{{1, 100, 50}, {noFile, 0, 7}, {1, 300, 100}, {2, 0, 30}}}
	streams := []stream{{file: 1, off: 80, n: 250, plain: 900}, {file: 1, off: 350, n: 10, plain: 5}, {file: 2, off: 10, n: 10, plain: 40}}
	if err := s.setStreams(streams); err != nil {
		t.Fatal(err)
	}
	wantPieces := []piece{
		{n: 900, file: 1, stream: 0}, {n: 7, file: noFile, stream: -1}, {n: 20, file: 1, off: 330, stream: -1}, {n: 5, file: 1, stream: 1},
		{n: 40, file: 1, off: 360, stream: -1}, {n: 10, file: 2, off: 0, stream: -1}, {n: 40, file: 2, stream: 2}, {n: 10, file: 2, off: 20, stream: -1},
	}
	if d := cmp.Diff(wantPieces, s.pieces, cmp.AllowUnexported(piece{})); d != "" {
		t.Errorf("pieces (-want +got):\n%s", d)
	}
	wantFills := []fill{{0, 20, 50}, {1, 0, 7}, {0, 220, 30}, {2, 0, 20}, {3, 0, 10}, {4, 0, 40}, {5, 0, 10}, {6, 0, 10}, {7, 0, 10}}
	if d := cmp.Diff(wantFills, s.fills, cmp.AllowUnexported(fill{})); d != "" {
		t.Errorf("fills (-want +got):\n%s", d)
	}
}

func TestShapeRefusesStreams(t *testing.T) {
	for name, streams := range map[string][]stream{
		"outside":  {{file: 1, off: 500, n: 10, plain: 10}},
		"overlap":  {{file: 1, off: 100, n: 20, plain: 10}, {file: 1, off: 110, n: 20, plain: 10}},
		"no file":  {{file: noFile, off: 0, n: 10, plain: 10}},
		"too long": {{file: 1, off: 100, n: 20, plain: maxNestedPlain + 1}},
	} {
		s := &shape{spans: []span{{1, 100, 50}}}
		if err := s.setStreams(streams); err == nil {
			t.Errorf("streams %s are accepted", name)
		}
	}
}

func TestRunsGoOn(t *testing.T) {
	h := func(s string) []unitHash {
		var out []unitHash
		for _, c := range []byte(s) {
			out = append(out, unitHash{c})
		}
		return out
	}
	got := findRuns(h("abcabd"), h("xabdbcyab"))
	want := []run{{1, 2, 0}, {0, 1, 5}, {0, 2, 1}, {1, 2, 0}}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(run{})); d != "" {
		t.Errorf("runs (-want +got):\n%s", d)
	}
}

func TestLRUKeepsWithinLimit(t *testing.T) {
	c := newBytesCache(10)
	for i := range 5 {
		c.put(int64(i), make([]byte, 4))
	}
	if _, ok := c.get(2); ok {
		t.Error("an old value was kept")
	}
	if _, ok := c.get(4); !ok || c.used > 10 {
		t.Errorf("newest kept: %t, %d bytes used, want at most 10", ok, c.used)
	}
	c.put(9, make([]byte, 100))
	if _, ok := c.get(9); !ok || c.order.Len() != 1 {
		t.Error("a value beyond the limit is not kept alone")
	}
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}
