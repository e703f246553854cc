package deflate

import (
	"bytes"
	"testing"
)

// TestRebase has the count of positions start anew in the middle of an input, and between two.
func TestRebase(t *testing.T) {
	data := make([]byte, 400_000)
	for i := range data {
		data[i] = byte(i*i>>7) & 15
	}
	for _, p := range []Params{{Variant: GNUGzip, Level: 6}, {Variant: Zlib, Level: 2}, {Variant: Zlib, Level: 9, WindowBits: 10}} {
		e, err := NewEncoder(p)
		if err != nil {
			t.Fatal(err)
		}
		want, err := e.Compress(nil, data)
		if err != nil {
			t.Fatal(err)
		}
		for _, base := range []uint32{maxPosition - 5*maxWindow, maxPosition - 1, maxPosition + 1000} {
			e.base = base
			got, err := e.Compress(nil, data)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%+v from %d: %d bytes, want %d (%v)", p, base, len(got), len(want), err)
			}
			if e.base > maxPosition {
				t.Errorf("%+v from %d: still at %d", p, base, e.base)
			}
		}
	}
}
