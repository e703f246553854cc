package wire

import (
	"encoding/binary"
	"errors"
	"math"
	"testing"
)

func TestZigzagInverts(t *testing.T) {
	for _, v := range []int64{0, 1, -1, 63, -64, math.MaxInt64, math.MinInt64} {
		if got := Unzigzag(Zigzag(v)); got != v {
			t.Errorf("Unzigzag(Zigzag(%d)) = %d", v, got)
		}
	}
	if Zigzag(-1) != 1 || Zigzag(1) != 2 {
		t.Errorf("Zigzag(-1), Zigzag(1) = %d, %d, want 1, 2", Zigzag(-1), Zigzag(1))
	}
}

func TestReader(t *testing.T) {
	b := binary.AppendUvarint(nil, 300)
	b = AppendBytes(b, []byte("abc"))
	r := NewReader(append(b, "xy"...))
	if v := r.Uint("n", 300); v != 300 {
		t.Errorf("Uint = %d, want 300", v)
	}
	if s := r.Bytes("s", 3); string(s) != "abc" {
		t.Errorf("Bytes = %q, want abc", s)
	}
	if s := r.Fixed("f", 2); string(s) != "xy" || r.Err() != nil {
		t.Errorf("Fixed = %q, %v, want xy", s, r.Err())
	}
	if r.Fixed("end", 1); !errors.Is(r.Err(), ErrShort) {
		t.Errorf("error past the end = %v, want ErrShort", r.Err())
	}
	if v := r.Uint("n", 9); v != 0 || r.Rest() != nil {
		t.Errorf("after an error: %d, %q, want zero values", v, r.Rest())
	}
}

func TestReaderLimits(t *testing.T) {
	for _, b := range [][]byte{nil, {0x80}, binary.AppendUvarint(nil, 5), {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}} {
		r := NewReader(b)
		if r.Uint("n", 4); !errors.Is(r.Err(), ErrShort) {
			t.Errorf("Uint(%x) gives %v, want ErrShort", b, r.Err())
		}
	}
}
