package mixcode

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// segmentsFrom makes segments, often wrong ones, from fuzz input.
func segmentsFrom(shape []byte) (segs []Segment) {
	for i := 0; i+4 <= len(shape) && i < 400; i += 4 {
		segs = append(segs, Segment{
			Len: int(int8(shape[i])), File: int(shape[i+1] & 3), Ref: int64(int8(shape[i+2])) << 20, New: int64(shape[i+3]),
		})
	}
	return segs
}

func FuzzDecodePatched(f *testing.F) {
	data, ref, segs := patchedCase()
	data, ref = data[:4000], ref[:4000]
	f.Add(NewCoder().EncodePatched(nil, data, ref, nil), ref, []byte{})
	f.Add([]byte{}, []byte{1, 2, 3}, []byte{3, 0, 0, 5})
	f.Add(NewCoder().EncodePatched(nil, data, ref, segs), ref, []byte{100, 1, 2, 3, 255, 0, 0, 0})
	c := NewCoder()
	f.Fuzz(func(t *testing.T, code, ref, shape []byte) {
		got, err := c.DecodePatched(nil, code, ref, segmentsFrom(shape))
		if err == nil && len(got) != len(ref) {
			t.Fatalf("%d bytes for %d", len(got), len(ref))
		}
	})
}

func FuzzDecodeBytes(f *testing.F) {
	f.Add(EncodeBytes(nil, text(300), nil), 300, []byte("primer"))
	f.Add([]byte{}, 10, []byte{})
	c := NewCoder()
	f.Fuzz(func(t *testing.T, code []byte, n int, primer []byte) {
		n %= 1 << 14
		got, err := c.DecodeBytes(nil, code, n, primer)
		if err == nil && len(got) != n {
			t.Fatalf("%d bytes for %d", len(got), n)
		}
	})
}

func FuzzDecodeInts(f *testing.F) {
	f.Add(EncodeInts(nil, numbers(30)), 30)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, 3)
	c := NewCoder()
	f.Fuzz(func(t *testing.T, code []byte, n int) {
		n %= 1 << 14
		v, _, err := c.DecodeInts(code, n)
		if err == nil && len(v) != n {
			t.Fatalf("%d numbers for %d", len(v), n)
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	data, ref, _ := patchedCase()
	f.Add(data[:3000], ref[:3000], []byte{})
	f.Add(text(500), text(400), []byte{100, 0, 1, 2, 100, 1, 0, 0, 120, 0, 0, 0, 80, 0, 2, 9})
	f.Add([]byte("\x01\x1b\x03\x3b0123\x03\x00\x00\x00aaaabbbbccccdddd"), []byte("\x01\x1b\x03\x3b0123\x03\x00\x00\x00aaaacbbbccccdddd"), []byte{})
	c := NewCoder()
	f.Fuzz(func(t *testing.T, a, b, shape []byte) {
		segs := segmentsFrom(shape)
		n := min(len(a), len(b))
		got, err := c.DecodePatched(nil, c.EncodePatched(nil, a[:n], b[:n], segs), b[:n], segs)
		if err != nil || !bytes.Equal(got, a[:n]) {
			t.Fatalf("patched: %v", err)
		}
		got, err = c.DecodeBytes(nil, c.EncodeBytes(nil, a, b), len(a), b)
		if err != nil || !bytes.Equal(got, a) {
			t.Fatalf("bytes: %v", err)
		}
		v := make([]uint64, 0, len(a)/2)
		for i := 0; i+1 < len(a); i += 2 {
			v = append(v, uint64(a[i])<<(a[i+1]&63))
		}
		back, _, err := c.DecodeInts(c.EncodeInts(nil, v), len(v))
		if err != nil || !cmp.Equal(v, back) {
			t.Fatalf("ints: %v", err)
		}
	})
}
