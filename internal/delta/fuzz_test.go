package delta

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"testing"
)

// fuzzOptions keep the memory of one run small.
var fuzzOptions = Options{MemoryBytes: 32 << 20, Parallel: 1}

// FuzzIndex reads indexes whose checksum is right, and sets up a receiver with them.
func FuzzIndex(f *testing.F) {
	golden, old := testdata(f, "golden-1.delta"), testdata(f, "old.squashfs")
	n, err := IndexLength(golden)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(golden[PrefixBytes : n-sha256.Size])
	f.Fuzz(func(t *testing.T, body []byte) {
		b := append([]byte(magic), 1, 0, 0, 0, 0, 0, 0, 0)
		b = append(b, body...)
		b = append(b, make([]byte, sha256.Size)...)
		binary.LittleEndian.PutUint32(b[12:], uint32(len(b)))
		x, err := ParseIndex(seal(b))
		if err != nil || x.New.Size > 1<<24 {
			return
		}
		x.Old.Size = int64(len(old))
		r, err := NewReceiver(context.Background(), x, source(old), fuzzOptions)
		if err != nil {
			return
		}
		end := int64(0)
		for _, reg := range r.Layout() {
			if reg.Off != end || reg.Len <= 0 || reg.Kind == RegionCopy && reg.OldOff+reg.Len > int64(len(old)) {
				t.Errorf("region %+v after %d", reg, end)
			}
			end += reg.Len
		}
		if end != x.New.Size {
			t.Errorf("layout of %d bytes for %d", end, x.New.Size)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
}

// FuzzGroup decodes groups past their checksum.
func FuzzGroup(f *testing.F) {
	golden, old := testdata(f, "golden-1.delta"), testdata(f, "old.squashfs")
	x, err := ParseIndex(golden)
	if err != nil {
		f.Fatal(err)
	}
	r, err := NewReceiver(context.Background(), x, source(old), fuzzOptions)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { r.Close() })
	f.Add(golden[x.Groups[0].Offset:][:x.Groups[0].Length])
	f.Fuzz(func(t *testing.T, b []byte) {
		err := r.decodeGroup(context.Background(), 0, b, func(off int64, stored []byte) error {
			if off < 0 || off+int64(len(stored)) > x.New.Size {
				t.Errorf("%d bytes at %d are outside of the image", len(stored), off)
			}
			return nil
		})
		_ = err // any error is right, and so are bytes that the tree would refuse
	})
}

// FuzzApply applies deltas whose index has the right checksum.
func FuzzApply(f *testing.F) {
	golden, old := testdata(f, "golden-1.delta"), testdata(f, "old.squashfs")
	f.Add(golden)
	f.Fuzz(func(t *testing.T, b []byte) {
		b = seal(append([]byte(nil), b...))
		if x, err := ParseIndex(b); err != nil || x.New.Size > 1<<24 {
			return
		}
		var out memoryTarget
		if err := Apply(context.Background(), source(old), source(b), &out, fuzzOptions); err != nil {
			return
		}
		id, _, err := identify(context.Background(), source(out.b), 1)
		if x, _ := ParseIndex(b); err != nil || id != x.New {
			t.Error("accepted image is not the promised one")
		}
	})
}
