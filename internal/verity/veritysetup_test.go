//go:build component

package verity

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
)

// TestAgainstVeritysetup compares root and tree with what cryptsetup's own tool makes of the same data.
func TestAgainstVeritysetup(t *testing.T) {
	rootHash := regexp.MustCompile(`Root hash:\s+([0-9a-f]{64})`)
	for _, blocks := range []uint64{1, 2, 3, 100, 127, 128, 129, 130, 255, 256, 257, 5000, 128*128 - 1, 128 * 128, 128*128 + 1, 20000, 2*128*128 + 5} {
		t.Run(strconv.FormatUint(blocks, 10), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			dir := t.TempDir()
			data, hash := filepath.Join(dir, "data"), filepath.Join(dir, "hash")
			content := randomData(t, blocks*BlockSize)
			if err := os.WriteFile(data, content, 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(ctx, "veritysetup", "format", "--no-superblock", "--salt=-", "--hash=sha256",
				"--format=1", "--data-block-size=4096", "--hash-block-size=4096", data, hash).CombinedOutput()
			if err != nil {
				t.Fatalf("veritysetup: %v\n%s", err, out)
			}
			m := rootHash.FindSubmatch(out)
			if m == nil {
				t.Fatalf("veritysetup printed no root hash:\n%s", out)
			}
			wantTree, err := os.ReadFile(hash)
			if err != nil {
				t.Fatal(err)
			}
			w := newMemory(TreeSize(blocks * BlockSize))
			root, err := Compute(ctx, bytes.NewReader(content), blocks*BlockSize, w, 0)
			if err != nil {
				t.Fatal(err)
			}
			if root.String() != string(m[1]) {
				t.Errorf("root %v, veritysetup says %s", root, m[1])
			}
			if !bytes.Equal(w.b, wantTree) {
				t.Errorf("tree of %d bytes differs from veritysetup's of %d bytes", len(w.b), len(wantTree))
			}
			verifyInOneFile(ctx, t, dir, content, w.b, root)
		})
	}
}

// verifyInOneFile lets veritysetup check data and tree lying in one file, as an NBD export shows them.
func verifyInOneFile(ctx context.Context, t *testing.T, dir string, content, tree []byte, root Digest) {
	t.Helper()
	disk := filepath.Join(dir, "disk")
	if err := os.WriteFile(disk, append(bytes.Clone(content), tree...), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(ctx, "veritysetup", "verify", "--no-superblock", "--salt=-", "--hash=sha256", "--format=1",
		"--data-block-size=4096", "--hash-block-size=4096", "--data-blocks="+strconv.Itoa(len(content)/BlockSize),
		"--hash-offset="+strconv.Itoa(len(content)), disk, disk, root.String()).CombinedOutput()
	if err != nil {
		t.Errorf("veritysetup verify: %v\n%s", err, out)
	}
}
