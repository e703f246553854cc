//go:build component

package delta

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// TestLargeImage has 100,000 files, one of 5 GB with a little data in it, and so much new noise that the groups go to a file while
// they are made.
func TestLargeImage(t *testing.T) {
	dir, r := t.TempDir(), rand.New(rand.NewPCG(5, 5))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		must(os.Mkdir(filepath.Join(dir, fmt.Sprint(i)), 0o755))
	}
	write := func(i, version int) {
		t.Helper()
		must(os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d/file%d", i%100, i)), fmt.Appendf(nil, "file %d, version %d\n", i, version), 0o644))
	}
	for i := range 100_000 {
		write(i, 1)
	}
	five, err := os.Create(filepath.Join(dir, "five"))
	must(err)
	defer five.Close()
	must(five.Truncate(5_000_000_000))
	text := words(r, 300_000)
	for _, at := range []int64{0, 1 << 20, 4 << 30, 5_000_000_000 - 300_000} {
		_, err := five.WriteAt(text, at)
		must(err)
	}
	args := []string{"-comp", "zstd", "-Xcompression-level", "1", "-no-duplicates"} // looking for duplicates among so many files of a length takes minutes
	old := packTree(t, dir, args...)
	for i := 0; i < 100_000; i += 97 {
		write(i, 2)
	}
	_, err = five.WriteAt([]byte("something else"), 4<<30+1000)
	must(err)
	must(os.WriteFile(filepath.Join(dir, "noise"), randomBytes(r, 18<<20), 0o644))
	neu := packTree(t, dir, args...)
	st := roundTrip(t, old, neu, Options{MemoryBytes: 128 << 20})
	t.Logf("%d bytes, delta %d, index %d, %d of %d blocks changed, peak %d MiB", len(neu), st.DeltaBytes, st.IndexBytes, st.ChangedBlocks, st.Blocks, peak())
	if st.DeltaBytes < 18<<20 || st.DeltaBytes > 20<<20 {
		t.Errorf("delta of %d bytes, want little more than the noise", st.DeltaBytes)
	}
}

// TestAppendedImages: mksquashfs adds to an image behind its last block, and leaves bytes there that belong to nothing.
func TestAppendedImages(t *testing.T) {
	tr := newTree(t, 17)
	image := filepath.Join(t.TempDir(), "image")
	var images [][]byte
	for range 3 {
		cmd := exec.CommandContext(t.Context(), "mksquashfs", tr.dir, image, "-quiet", "-no-progress", "-no-recovery", "-comp", "zstd", "-Xcompression-level", "1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("mksquashfs: %v\n%s", err, out)
		}
		b, err := os.ReadFile(image)
		tr.must(err)
		images = append(images, b)
		tr.edit()
	}
	for _, pair := range [][2]int{{0, 1}, {1, 2}, {2, 0}, {2, 2}} {
		old, neu := images[pair[0]], images[pair[1]]
		st := roundTrip(t, old, neu, Options{MemoryBytes: 128 << 20})
		t.Logf("%v: %d bytes, delta %d, %d verbatim", pair, len(neu), st.DeltaBytes, st.VerbatimBlocks)
	}
}

// TestLongFile: the pieces of a long file whose addresses have moved are compared with one reference, which is made once.
func TestLongFile(t *testing.T) {
	const n = 9 << 20
	dir := t.TempDir()
	pack := func(base uint32) []byte {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "program"), code(rand.New(rand.NewPCG(1, 1)), n, base), 0o755); err != nil {
			t.Fatal(err)
		}
		return packTree(t, dir, "-comp", "zstd", "-Xcompression-level", "1")
	}
	old, neu := pack(0x400000), pack(0x523000)
	m := &maker{progress: &sync.Mutex{}, stats: &Stats{}, searching: newBudget(DefaultMemoryBytes)}
	err := errors.Join(m.open(t.Context(), source(old), source(neu)), m.identify(t.Context()), m.make(t.Context(), io.Discard), m.rec.Close())
	if err != nil {
		t.Fatal(err)
	}
	w := &m.differ.work
	if len(m.plan.groups) < 3 || w.references.Load() != 1 || w.indexed.Load() != n {
		t.Errorf("%d groups needed %d references of %d bytes", len(m.plan.groups), w.references.Load(), w.indexed.Load())
	}
	if fine, coarse := w.fine.Load(), w.coarse.Load(); fine > n/16*17 || coarse != 0 {
		t.Errorf("%d bytes were compared closely and %d coarsely", fine, coarse)
	}
	if m.stats.DeltaBytes > n/8 {
		t.Errorf("a delta of %d bytes", m.stats.DeltaBytes)
	}
}
