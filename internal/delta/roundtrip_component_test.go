//go:build component

package delta

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// packTree makes an image of a directory.
func packTree(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image")
	args = append([]string{dir, out, "-noappend", "-no-progress", "-quiet", "-mkfs-time", "0", "-processors", "2"}, args...)
	if b, err := exec.Command("mksquashfs", args...).CombinedOutput(); err != nil {
		t.Fatalf("mksquashfs: %v\n%s", err, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func words(r *rand.Rand, n int) []byte {
	var b bytes.Buffer
	for b.Len() < n {
		b.WriteString([]string{"alpha ", "beta ", "gamma\n", "delta ", "x", "41", "return "}[r.IntN(7)])
	}
	return b.Bytes()[:n]
}

func TestRoundTripSmall(t *testing.T) {
	for _, comp := range []string{"zstd", "gzip", "xz", "lz4", "lzo"} {
		t.Run(comp, func(t *testing.T) {
			dir := t.TempDir()
			r := rand.New(rand.NewPCG(1, 2))
			for i, n := range []int{0, 1, 100, 5000, 131072, 131073, 700000} {
				if err := os.WriteFile(filepath.Join(dir, string(rune('a'+i))), words(r, n), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			old := packTree(t, dir, "-comp", comp)
			b, _ := os.ReadFile(filepath.Join(dir, "g"))
			copy(b[300000:], "something else")
			os.WriteFile(filepath.Join(dir, "g"), b, 0o644)
			os.WriteFile(filepath.Join(dir, "d"), words(r, 5100), 0o644)
			neu := packTree(t, dir, "-comp", comp)
			roundTrip(t, old, neu, Options{})
		})
	}
}
