package lzma

import (
	"math"
	"runtime/debug"
	"testing"
)

// TestHeapGivesWay: while an encoder has its tables, the program's memory limit is lower by as much; without a limit there is none meanwhile.
func TestHeapGivesWay(t *testing.T) {
	was := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(was) })
	p, err := Preset(6, false)
	if err != nil {
		t.Fatal(err)
	}
	src := make([]byte, 1<<20)
	for _, tc := range []struct {
		name  string
		limit int64
		gives bool
	}{{"a limit", 1 << 30, true}, {"a limit that is too low", leastHeap + 1<<20, false}, {"none", math.MaxInt64, false}} {
		debug.SetMemoryLimit(tc.limit)
		var e Encoder
		if err := e.Reset(p); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second takes the tables of the first, or others of the same size
			if _, err := e.AppendLZMA2(nil, src); err != nil {
				t.Fatal(err)
			}
			taken := tc.limit - debug.SetMemoryLimit(-1)
			if tables := int64(len(e.headTable.bytes) + len(e.linkTable.bytes)); tables == 0 || tc.gives && taken != tables || !tc.gives && taken != 0 {
				t.Errorf("%s: tables of %d bytes, the heap gave %d", tc.name, tables, taken)
			}
		}
		e.Close()
		if now := debug.SetMemoryLimit(-1); now != tc.limit {
			t.Errorf("%s: afterwards it is %d, was %d", tc.name, now, tc.limit)
		}
	}
}
