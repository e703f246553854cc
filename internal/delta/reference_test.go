package delta

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
)

// code makes n bytes like a program's: instructions from a small set, between which there are addresses from base on. Of programs that
// differ in the base alone, much is alike and little the same.
func code(r *rand.Rand, n int, base uint32) []byte {
	var set [200][]byte
	for i := range set {
		set[i] = randomBytes(rand.New(rand.NewPCG(uint64(i), 1)), 3+i%9)
	}
	out := make([]byte, 0, n+16)
	for len(out) < n {
		out = append(out, set[r.IntN(len(set))]...)
		if r.IntN(3) == 0 {
			out = binary.LittleEndian.AppendUint32(out, base+uint32(r.IntN(1<<20)))
		}
	}
	return out[:n]
}

// TestReferenceWork: a close comparison is made only of what profits from it.
func TestReferenceWork(t *testing.T) {
	const mib = 1 << 20
	old := code(rand.New(rand.NewPCG(1, 1)), 9*mib/4, 0x400000)
	edited := slices.Clone(old[mib/4:])
	for i := 0; i < len(edited); i += 200 {
		edited[i] ^= 0x55
	}
	other := code(rand.New(rand.NewPCG(2, 2)), 2*mib, 0x400000)
	for _, tc := range []struct {
		name string
		data []byte
		// at least and at most, in KiB
		fine, coarse [2]int64
		literals     [2]int64
	}{
		{"an update", edited, [2]int64{2048, 2150}, [2]int64{0, 0}, [2]int64{0, 16}},
		{"relocated", code(rand.New(rand.NewPCG(1, 1)), 2*mib, 0x523000), [2]int64{2048, 2150}, [2]int64{0, 0}, [2]int64{0, 64}},
		{"built anew", other, [2]int64{1, 100}, [2]int64{1900, 2048}, [2]int64{1900, 2048}},
		{"partly", slices.Concat(edited[:mib/2], other[:5*mib/4]), [2]int64{512, 600}, [2]int64{1200, 1280}, [2]int64{1100, 1300}},
		{"little", slices.Concat(edited[:mib], other[:64<<10]), [2]int64{1088, 1200}, [2]int64{0, 0}, [2]int64{0, 64}},
		{"short", other[:32<<10], [2]int64{32, 32}, [2]int64{0, 0}, [2]int64{0, 32}},
		{"a rest that is no slice", edited[:mib+12345], [2]int64{1024, 1100}, [2]int64{0, 0}, [2]int64{0, 8}},
		{"nothing", nil, [2]int64{0, 0}, [2]int64{0, 0}, [2]int64{0, 0}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &reference{parts: [][]byte{old}, addrs: []int64{0}, ends: []int64{int64(len(old))}, work: &work{}}
			r.index(16 * mib)
			ops, err := r.diff(t.Context(), tc.data)
			if err != nil {
				t.Fatal(err)
			}
			var n, literal int64
			for _, o := range fineOps(ops, tc.data, r) {
				if n += o.n; o.kind == opLiteral {
					literal += o.n
				}
			}
			if n != int64(len(tc.data)) {
				t.Errorf("the operations make %d bytes of %d", n, len(tc.data))
			}
			for name, c := range map[string]struct {
				got  int64
				want [2]int64
			}{"compared closely": {r.work.fine.Load(), tc.fine}, "coarsely": {r.work.coarse.Load(), tc.coarse}, "literals": {literal, tc.literals}} {
				if c.got < c.want[0]<<10 || c.got > c.want[1]<<10 {
					t.Errorf("%s: %d KiB, want %d to %d", name, c.got>>10, c.want[0], c.want[1])
				}
			}
		})
	}
}
