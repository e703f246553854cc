package delta

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/mixcode"
)

// memoryTarget is an output in memory.
type memoryTarget struct{ b []byte }

// WriteAt implements io.WriterAt.
func (m *memoryTarget) WriteAt(p []byte, off int64) (int, error) {
	if end := int(off) + len(p); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func source(b []byte) Source { return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))) }

// roundTrip makes the delta and applies it.
func roundTrip(t *testing.T, old, neu []byte, opt Options) *Stats {
	t.Helper()
	var d bytes.Buffer
	st, err := Make(t.Context(), source(old), source(neu), &d, opt)
	if err != nil {
		t.Fatalf("make: %v", err)
	}
	if st.DeltaBytes != int64(d.Len()) {
		t.Errorf("statistics tell %d bytes, delta has %d", st.DeltaBytes, d.Len())
	}
	var out memoryTarget
	if err := Apply(t.Context(), source(old), source(d.Bytes()), &out, opt); err != nil {
		t.Fatalf("apply: %v", err)
	}
	if !bytes.Equal(out.b, neu) {
		t.Fatal("result differs from the new image")
	}
	return st
}

func testdata(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// apply applies the delta to the old image of testdata.
func apply(t testing.TB, delta []byte, opt Options) ([]byte, error) {
	t.Helper()
	var out memoryTarget
	err := Apply(t.Context(), source(testdata(t, "old.squashfs")), source(delta), &out, opt)
	return out.b, err
}

func TestGoldenDeltaIsReadable(t *testing.T) {
	for _, name := range []string{"golden-1.delta", "golden-2.delta"} {
		got, err := apply(t, testdata(t, name), Options{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(got, testdata(t, "new.squashfs")) {
			t.Errorf("%s: result differs from the new image", name)
		}
	}
}

// TestGoldenLiterals: literals in the codecs that a delta of small images does not have.
func TestGoldenLiterals(t *testing.T) {
	want := code(rand.New(rand.NewPCG(5, 5)), 64<<10, 0x400000)
	gap := []mixcode.Gap{{Start: 3, Len: len(want)}}
	for codec, name := range map[int]string{codecZstd: "literals-1.zstd", codecCalls: "literals-1.calls", codecLZMA: "literals-2.lzma", codecLZMACalls: "literals-2.calls"} {
		got := make([]byte, 3+len(want))
		if err := new(coders).unpackLiterals(codec, testdata(t, name), got, gap, int64(len(want))); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(got[3:], want) {
			t.Errorf("%s: other content", name)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	old, neu := testdata(t, "old.squashfs"), testdata(t, "new.squashfs")
	for _, tc := range []struct {
		name     string
		old, neu []byte
	}{
		{"forward", old, neu},
		{"back", neu, old},
		{"same", old, old},
	} {
		t.Run(tc.name, func(t *testing.T) {
			st := roundTrip(t, tc.old, tc.neu, Options{Parallel: 2})
			if st.VerbatimBlocks != 0 {
				t.Errorf("%d blocks are not reproduced", st.VerbatimBlocks)
			}
		})
	}
}

// TestMakeIsDeterministic: the same delta with any number of goroutines.
func TestMakeIsDeterministic(t *testing.T) {
	var want []byte
	for _, n := range []int{1, 4} {
		var d bytes.Buffer
		if _, err := Make(t.Context(), source(testdata(t, "old.squashfs")), source(testdata(t, "new.squashfs")), &d, Options{Parallel: n}); err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = d.Bytes()
		}
		if !bytes.Equal(want, d.Bytes()) {
			t.Errorf("with %d goroutines another delta is made", n)
		}
	}
}

// TestEveryFlippedBitIsCaught flips each bit of a delta: of the index, which is refused, and of a group, which is refused too. Some
// go through all of Apply.
func TestEveryFlippedBitIsCaught(t *testing.T) {
	golden, want := testdata(t, "golden-1.delta"), testdata(t, "new.squashfs")
	x, err := ParseIndex(golden)
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewReceiver(t.Context(), x, source(testdata(t, "old.squashfs")), Options{Parallel: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range 8 * len(golden) {
		b := bytes.Clone(golden)
		b[i/8] ^= 1 << (i % 8)
		if int64(i/8) < x.IndexBytes {
			if _, err := ParseIndex(b); err == nil {
				t.Fatalf("bit %d of byte %d: index is accepted", i%8, i/8)
			}
		} else if err := r.DecodeGroup(t.Context(), 0, b[x.IndexBytes:], func(int64, []byte) error { return nil }); err == nil {
			t.Fatalf("bit %d of byte %d: group is accepted", i%8, i/8)
		}
		if i%41 == 0 {
			if got, err := apply(t, b, Options{Parallel: 1}); err == nil && !bytes.Equal(got, want) {
				t.Fatalf("bit %d of byte %d makes another image without an error", i%8, i/8)
			}
		}
	}
}

// seal makes the checksums of a delta right again after a change: the index's own, and those of the groups as far as the index can
// be read.
func seal(b []byte) []byte {
	n, err := IndexLength(b)
	if err != nil || n > int64(len(b)) {
		return b
	}
	sum := sha256.Sum256(b[:n-sha256.Size])
	copy(b[n-sha256.Size:], sum[:])
	return b
}

// sealGroup puts the hash of the delta's only group into its index.
func sealGroup(x *Index, b []byte) []byte {
	g := &x.Groups[0]
	sum := sha256.Sum256(b[g.Offset : g.Offset+g.Length])
	if i := bytes.Index(b, g.SHA256[:]); i >= 0 {
		copy(b[i:], sum[:])
	}
	return seal(b)
}

// TestFlippedBitsAreCaughtBehindChecksums is about a delta that someone hostile made: its own checksums are right.
func TestFlippedBitsAreCaughtBehindChecksums(t *testing.T) {
	golden, want := testdata(t, "golden-1.delta"), testdata(t, "new.squashfs")
	x, err := ParseIndex(golden)
	if err != nil {
		t.Fatal(err)
	}
	opt := Options{Parallel: 1, NewDigest: x.New.Digest}
	for i := 8 * PrefixBytes; i < 8*len(golden); i += 11 {
		b := bytes.Clone(golden)
		b[i/8] ^= 1 << (i % 8)
		if got, err := apply(t, sealGroup(x, b), opt); err == nil && !bytes.Equal(got, want) {
			t.Fatalf("bit %d of byte %d makes another image without an error", i%8, i/8)
		}
	}
}

func TestTruncatedDelta(t *testing.T) {
	golden := testdata(t, "golden-1.delta")
	for n := 0; n < len(golden); n += 3 {
		if _, err := apply(t, golden[:n], Options{Parallel: 1}); err == nil {
			t.Fatalf("the first %d bytes are accepted", n)
		}
	}
	if _, err := apply(t, append(bytes.Clone(golden), 0), Options{}); !errors.Is(err, ErrFormat) {
		t.Errorf("one byte too many gives %v, want ErrFormat", err)
	}
}

func TestWrongImages(t *testing.T) {
	golden, old := testdata(t, "golden-1.delta"), testdata(t, "old.squashfs")
	x, err := ParseIndex(golden)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(old)
	damaged[x.Old.Size/8] ^= 1 // in a data block
	otherMeta := bytes.Clone(old)
	otherMeta[8] ^= 1 // the time of making
	for _, tc := range []struct {
		name string
		old  []byte
		opt  Options
		want error
	}{
		{"other size", old[:len(old)-1], Options{}, ErrWrongOld},
		{"other metadata", otherMeta, Options{}, ErrWrongOld},
		{"damaged content", damaged, Options{}, ErrWrongOld},
		{"other digest of old", old, Options{OldDigest: x.New.Digest}, ErrWrongOld},
		{"other digest of new", old, Options{NewDigest: x.Old.Digest}, ErrMismatch},
		{"too little memory", old, Options{MemoryBytes: 8 << 10}, ErrLimit},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out memoryTarget
			if err := Apply(t.Context(), source(tc.old), source(golden), &out, tc.opt); !errors.Is(err, tc.want) {
				t.Errorf("apply gives %v, want %v", err, tc.want)
			}
			if err := Verify(t.Context(), source(tc.old), source(golden), tc.opt); !errors.Is(err, tc.want) {
				t.Errorf("verify gives %v, want %v", err, tc.want)
			}
		})
	}
}

func TestReceiverLayout(t *testing.T) {
	golden, old, neu := testdata(t, "golden-1.delta"), testdata(t, "old.squashfs"), testdata(t, "new.squashfs")
	x, err := ParseIndex(golden)
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewReceiver(t.Context(), x, source(old), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got := make([]byte, x.New.Size)
	end := int64(0)
	for _, reg := range r.Layout() {
		if reg.Off != end || reg.Len <= 0 {
			t.Fatalf("region %+v begins at %d", reg, end)
		}
		end += reg.Len
		switch reg.Kind {
		case RegionBytes:
			copy(got[reg.Off:], r.Bytes(reg))
		case RegionCopy:
			copy(got[reg.Off:], old[reg.OldOff:reg.OldOff+reg.Len])
		case RegionGroup:
			if d := cmp.Diff([]int{reg.Group}, r.GroupsAt(reg.Off+reg.Len-1, 1)); d != "" {
				t.Errorf("groups of the last byte of %+v (-want +got):\n%s", reg, d)
			}
		}
	}
	if end != x.New.Size {
		t.Errorf("layout ends at %d of %d", end, x.New.Size)
	}
	for g, d := range x.Groups {
		last := int64(-1)
		err := r.DecodeGroup(t.Context(), g, golden[d.Offset:d.Offset+d.Length], func(off int64, b []byte) error {
			if off <= last {
				t.Errorf("group %d: block at %d comes after %d", g, off, last)
			}
			last = off
			copy(got[off:], b)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, neu) {
		t.Error("layout and groups give something else than the new image")
	}
	if err := r.DecodeGroup(t.Context(), 0, golden, nil); !errors.Is(err, ErrMismatch) {
		t.Errorf("wrong bytes for a group give %v, want ErrMismatch", err)
	}
}

func TestLaterVersionIsRefused(t *testing.T) {
	b := testdata(t, "golden-1.delta")
	binary.LittleEndian.PutUint32(b[8:], formatVersion+1)
	if _, err := ParseIndex(b); !errors.Is(err, ErrVersion) {
		t.Errorf("later version gives %v, want ErrVersion", err)
	}
}

// TestContentOfNew: a group may refer to NEW's content in copied blocks, and to that of the groups that it needs.
func TestContentOfNew(t *testing.T) {
	golden, old, neu := testdata(t, "golden-1.delta"), testdata(t, "old.squashfs"), testdata(t, "new.squashfs")
	x, err := ParseIndex(golden)
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewReceiver(t.Context(), x, source(old), Options{Incoming: source(neu)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	image, err := openImage(source(neu), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	copied, changed := 0, 0
	for i, f := range r.neu.files {
		if f.Size == 0 {
			continue
		}
		got, want := make([]byte, f.Size), make([]byte, f.Size)
		if err := image.content.readFile(want, int32(i), 0); err != nil {
			t.Fatal(err)
		}
		with := &neededSpace{r.space, r.layout, []int{0}}
		if err := with.read(got, newBase+r.neu.addr[i]); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v with the needed group: error %v, equal %t", f.Paths, err, bytes.Equal(got, want))
		}
		without := &neededSpace{r.space, r.layout, nil}
		if err := without.read(got, newBase+r.neu.addr[i]); err == nil {
			copied++
		} else if changed++; !errors.Is(err, ErrFormat) {
			t.Errorf("%v without the group gives %v, want ErrFormat", f.Paths, err)
		}
	}
	if copied == 0 || changed == 0 {
		t.Errorf("%d files lie in copied blocks and %d in changed ones, want some of both", copied, changed)
	}
}

// TestHeavy: a group is heavy by the memory that it takes, of which a nested stream's encoder is most, against that of the receiver.
func TestHeavy(t *testing.T) {
	golden, old := testdata(t, "golden-2.delta"), testdata(t, "old.squashfs")
	x, err := ParseIndex(golden)
	if err != nil {
		t.Fatal(err)
	}
	d := x.Groups[0]
	wire := golden[d.Offset : d.Offset+d.Length]
	for _, tc := range []struct {
		name   string
		memory int64
		wire   []byte
		g      int
		want   bool
	}{
		{"much memory", 0, wire, 0, false},
		{"little memory", 1 << 20, wire, 0, true},
		{"no group", 1 << 20, wire[:20], 0, false},
		{"no such group", 1 << 20, wire, 1, false},
	} {
		r, err := NewReceiver(t.Context(), x, source(old), Options{MemoryBytes: tc.memory})
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Heavy(tc.g, tc.wire); got != tc.want {
			t.Errorf("%s: heavy %v, want %v", tc.name, got, tc.want)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}
