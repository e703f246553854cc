package rebuild

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

func TestGeometryIsVerityLayout(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 4096, 4097, 128 * 4096, 128*4096 + 1, 3 * pieceBytes, 129*pieceBytes + 5} {
		geo, err := newGeometry(int64(size))
		if err != nil {
			t.Fatal(err)
		}
		padded := verity.PaddedSize(uint64(size))
		if geo.data != int64(padded) || geo.end != int64(padded+verity.TreeSize(padded)) {
			t.Errorf("size %d: %+v", size, geo)
		}
	}
	for _, size := range []int64{0, -1, verity.MaxDataBytes + 1} {
		if _, err := newGeometry(size); err == nil {
			t.Errorf("size %d is accepted", size)
		}
	}
}

// needs against what each byte belongs to.
func TestNeeds(t *testing.T) {
	t.Parallel()
	geo, err := newGeometry(300*pieceBytes + 10_000)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		off := rng.Int64N(geo.end + 5000)
		if rng.IntN(2) == 0 {
			off = geo.data - 20_000 + rng.Int64N(geo.end-geo.data+20_000)
		}
		n := rng.Int64N(3 * pieceBytes)
		var want [3][2]int
		mark := func(r *[2]int, i int) {
			if r[1] == 0 {
				r[0] = i
			}
			r[1] = i + 1
		}
		for at := off; at < min(off+n, geo.end); at++ {
			switch {
			case at < geo.data:
				mark(&want[0], int(at/pieceBytes))
			case at >= geo.levels[0].off:
				mark(&want[1], int((at-geo.levels[0].off)/blockBytes))
			case at >= geo.levels[1].off:
				mark(&want[2], int((at-geo.levels[1].off)/blockBytes))
			}
			if step := int64(997); at+step < min(off+n, geo.end)-1 {
				at += step - 1 // blocks are longer
			}
		}
		data, leaves, spans := geo.needs(off, n)
		if got := [3][2]int{data, leaves, spans}; got != want {
			t.Fatalf("%d bytes at %d: %v, want %v", n, off, got, want)
		}
	}
	if data, leaves, spans := geo.needs(-1, 5); fmt.Sprint(data, leaves, spans) != "[0 0] [0 0] [0 0]" {
		t.Errorf("negative offset: %v %v %v", data, leaves, spans)
	}
}

// The levels above level 1 are those of the tree; three levels above it take a disk of a terabyte, so hashes are made up.
func TestCrown(t *testing.T) {
	t.Parallel()
	geo, err := newGeometry(128*128*pieceBytes + 5*piecesPerSpan*pieceBytes)
	if err != nil {
		t.Fatal(err)
	}
	level1 := make([]hash, geo.spans)
	for i := range level1 {
		level1[i][0], level1[i][1] = byte(i), byte(i>>8)
	}
	wrote := make(map[int64][]byte)
	root, err := geo.crown(level1, func(off int64, block []byte) error { wrote[off] = bytes.Clone(block); return nil })
	if err != nil {
		t.Fatal(err)
	}
	top := geo.levels[len(geo.levels)-1]
	var block [blockBytes]byte
	if len(geo.levels) != 4 || top.off != geo.data || len(wrote) != 3 || !bytes.Equal(wrote[geo.levels[2].off][:hashBytes], level1[0][:]) {
		t.Fatalf("levels %+v, %d blocks written", geo.levels, len(wrote))
	}
	if got := pack([]hash{pack(level1[:128], &block), pack(level1[128:], &block)}, &block); got != root || !bytes.Equal(block[:], wrote[top.off]) {
		t.Error("root or top block differs")
	}
}
