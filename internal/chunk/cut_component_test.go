//go:build component

package chunk_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
)

// TestResyncOfImages packs a tree twice, with one file changed and one added in between: most chunks are the same.
func TestResyncOfImages(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	write := func(name string, n int) {
		t.Helper()
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.IntN(64))
		}
		if err := os.WriteFile(filepath.Join(tree, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 400 {
		write(fmt.Sprintf("file%03d", i), 1000+rnd.IntN(200_000))
	}
	pack := func(name string) []chunk.Ref {
		t.Helper()
		img := filepath.Join(dir, name)
		out, err := exec.CommandContext(t.Context(), "mksquashfs", tree, img, "-comp", "zstd", "-Xcompression-level", "3",
			"-mkfs-time", "0", "-quiet", "-no-progress").CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		b, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		return cut(t, b)
	}
	old := map[chunk.ID]bool{}
	before := pack("before")
	for _, r := range before {
		old[r.ID] = true
	}
	write("file200", 150_000)
	write("file200a", 70_000)
	shared := int64(0)
	after := pack("after")
	for _, r := range after {
		if old[r.ID] {
			shared += int64(r.Size)
		}
	}
	total := chunk.TotalSize(after)
	t.Logf("%d of %d bytes shared, %d chunks", shared, total, len(after))
	if shared < total*80/100 {
		t.Errorf("only %d of %d bytes are shared", shared, total)
	}
}
