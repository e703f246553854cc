package verity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// memory is a WriterAt that knows its limits and refuses overlapping writes.
type memory struct {
	mu      sync.Mutex
	b       []byte
	written map[int64]bool
	err     error
}

func newMemory(n uint64) *memory { return &memory{b: make([]byte, n), written: map[int64]bool{}} }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return 0, m.err
	}
	if off+int64(len(p)) > int64(len(m.b)) || m.written[off] {
		return 0, errors.New("write outside the tree or twice")
	}
	m.written[off] = true
	return copy(m.b[off:], p), nil
}

func randomData(t testing.TB, n uint64) []byte {
	t.Helper()
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// reference builds the tree level by level without any of the cleverness.
func reference(data []byte) (Digest, []byte) {
	if len(data) == BlockSize {
		return sha256.Sum256(data), nil
	}
	var level []byte
	for i := 0; i < len(data); i += BlockSize {
		sum := sha256.Sum256(data[i : i+BlockSize])
		level = append(level, sum[:]...)
	}
	level = append(level, make([]byte, (BlockSize-len(level)%BlockSize)%BlockSize)...)
	root, above := reference(level)
	return root, append(above, level...)
}

func TestCompute(t *testing.T) {
	t.Parallel()
	for _, blocks := range []uint64{1, 2, 3, 127, 128, 129, 255, 256, 257, 1000, 128*128 - 1, 128 * 128, 128*128 + 1} {
		data := randomData(t, blocks*BlockSize)
		wantRoot, wantTree := reference(data)
		if got := TreeSize(uint64(len(data))); got != uint64(len(wantTree)) {
			t.Errorf("%d blocks: TreeSize = %d, want %d", blocks, got, len(wantTree))
		}
		for _, parallel := range []int{0, 1, 3} {
			w := newMemory(uint64(len(wantTree)))
			root, err := Compute(context.Background(), bytes.NewReader(data), uint64(len(data)), w, parallel)
			if err != nil {
				t.Fatalf("%d blocks: %v", blocks, err)
			}
			if root != wantRoot || !bytes.Equal(w.b, wantTree) {
				t.Errorf("%d blocks, %d goroutines: root %v want %v, tree equal %v", blocks, parallel, root, wantRoot, bytes.Equal(w.b, wantTree))
			}
		}
		root, err := Compute(context.Background(), bytes.NewReader(data), uint64(len(data)), nil, 2)
		if err != nil || root != wantRoot {
			t.Errorf("%d blocks without a tree: %v, %v; want %v", blocks, root, err, wantRoot)
		}
	}
}

func TestComputeRefusesSizes(t *testing.T) {
	t.Parallel()
	for _, size := range []uint64{0, 1, 4095, 4097, MaxDataBytes + BlockSize, 1<<64 - BlockSize} {
		if _, err := Compute(context.Background(), bytes.NewReader(nil), size, nil, 1); !errors.Is(err, ErrSize) {
			t.Errorf("size %d: error %v, want ErrSize", size, err)
		}
	}
}

func TestComputeErrors(t *testing.T) {
	t.Parallel()
	data := randomData(t, 3*spanSize)
	full := errors.New("disk full")
	if _, err := Compute(context.Background(), bytes.NewReader(data), uint64(len(data)), &memory{err: full}, 2); !errors.Is(err, full) {
		t.Errorf("write error: got %v", err)
	}
	short := bytes.NewReader(data[:len(data)-1])
	if _, err := Compute(context.Background(), short, uint64(len(data)), nil, 2); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short data: got %v", err)
	}
	bad := errors.New("bad sector")
	if _, err := Compute(context.Background(), errorAt{bad}, uint64(len(data)), nil, 2); !errors.Is(err, bad) {
		t.Errorf("read error: got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Compute(ctx, bytes.NewReader(data), uint64(len(data)), nil, 2); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

type errorAt struct{ err error }

func (e errorAt) ReadAt([]byte, int64) (int, error) { return 0, e.err }

func TestDigestText(t *testing.T) {
	t.Parallel()
	d := Digest(sha256.Sum256(nil))
	const text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	if d.String() != text {
		t.Errorf("String = %q", d.String())
	}
	if got, err := ParseDigest(text); err != nil || got != d {
		t.Errorf("ParseDigest = %v, %v", got, err)
	}
	var u Digest
	if m, err := d.MarshalText(); err != nil || u.UnmarshalText(m) != nil || u != d {
		t.Errorf("text round trip: %s %v %v", m, err, u)
	}
	for _, bad := range []string{"", text[:63], text + "0", strings.ToUpper(text), "g" + text[1:], " " + text[1:]} {
		if _, err := ParseDigest(bad); err == nil {
			t.Errorf("ParseDigest(%q) gives no error", bad)
		}
	}
}

func TestPadded(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, 1, 4095, 4096, 4097, 10000} {
		data := randomData(t, uint64(size))
		want := append(bytes.Clone(data), make([]byte, int(PaddedSize(uint64(size)))-len(data))...)
		// The reader behind has more than size bytes: they must not show.
		r := Padded(bytes.NewReader(append(bytes.Clone(data), "garbage"...)), size)
		got, err := io.ReadAll(io.NewSectionReader(r, 0, int64(len(want))+100))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("size %d: %v, equal %v", size, err, bytes.Equal(got, want))
		}
		if err := iotest.TestReader(io.NewSectionReader(r, 0, int64(len(want))), want); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
	}
	if _, err := Padded(bytes.NewReader([]byte("abc")), 4).ReadAt(make([]byte, 4), 0); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short source: %v", err)
	}
	if _, err := Padded(bytes.NewReader(nil), 0).ReadAt(make([]byte, 1), 0); err != io.EOF {
		t.Errorf("empty source: %v", err)
	}
	if _, err := Padded(bytes.NewReader(nil), 0).ReadAt(nil, -1); err == nil {
		t.Error("negative offset gives no error")
	}
}

func TestLevels(t *testing.T) {
	t.Parallel()
	tests := map[uint64][]uint64{
		0: nil, 1: nil, 2: {1}, 128: {1}, 129: {2, 1}, 128 * 128: {128, 1}, 128*128 + 1: {129, 2, 1},
		// 700 MiB: 1400 + 11 + 1 blocks.
		179200: {1400, 11, 1},
	}
	for blocks, want := range tests {
		if diff := cmp.Diff(want, levels(blocks)); diff != "" {
			t.Errorf("levels(%d) (-want +got):\n%s", blocks, diff)
		}
	}
}

func BenchmarkCompute(b *testing.B) {
	data := randomData(b, 128<<20)
	for _, parallel := range []int{1, 0} {
		name := "one"
		if parallel == 0 {
			name = "all"
		}
		b.Run(name, func(b *testing.B) {
			w := &discardAt{}
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Compute(context.Background(), bytes.NewReader(data), uint64(len(data)), w, parallel); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type discardAt struct{}

func (discardAt) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
