//go:build component

package inspect

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestOfAnImage packs the tree of the unit tests with mksquashfs and inspects the file.
func TestOfAnImage(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	for name, f := range debian() {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if f.Mode&os.ModeSymlink != 0 {
			err = os.Symlink(string(f.Data), path)
		} else {
			err = os.WriteFile(path, f.Data, f.Mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	img := filepath.Join(dir, "img")
	if out, err := exec.CommandContext(t.Context(), "mksquashfs", tree, img, "-comp", "zstd", "-quiet", "-no-progress").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	for _, deep := range []bool{false, true} {
		rep, err := Inspect(t.Context(), f, st.Size(), Options{Arch: "amd64", Deep: deep})
		if err != nil {
			t.Fatal(err)
		}
		if rep.KernelRelease != "6.1.0-56-amd64" || rep.Init != "sbin/init" || rep.SizeBytes != st.Size() || rep.Superblock.BlockSize != 128<<10 {
			t.Errorf("%+v", rep)
		}
	}
}
