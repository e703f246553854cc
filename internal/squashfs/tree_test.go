package squashfs_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// contents are the regular files of smallTree; links its symbolic links.
func contents() map[string][]byte {
	text := bytes.Repeat([]byte("The quick brown fox jumps over the lazy dog. "), 400)
	holes := make([]byte, 40<<10)
	copy(holes[20<<10:], "in the middle")
	all := map[string][]byte{
		"empty":              {},
		"one":                {'x'},
		"usr/bin/tool":       append([]byte("\x7fELF"), text[:9000]...),
		"usr/lib/x":          []byte("library"),
		"usr/lib/os-release": []byte("PRETTY_NAME=\"Test\"\n"),
		"text":               text,
		"exact":              text[:8192],
		"holes":              holes,
		"same":               text,
		"deep/a/b/c/d":       []byte("deep"),
	}
	for i := range 300 {
		all[fmt.Sprintf("dir/a name that is longer than most names are %03d", i)] = fmt.Appendf(nil, "%d", i)
	}
	return all
}

var links = map[string]string{
	"lib":          "usr/lib",
	"bin":          "/usr/bin",
	"loop1":        "loop2",
	"loop2":        "loop1",
	"outside":      "../../../usr/lib/x",
	"dangling":     "nowhere",
	"usr/lib/up":   "../../lib/../bin/tool",
	"usr/lib/self": ".",
}

// smallTree makes the tree that the images of testdata were packed from, except its two devices.
func smallTree(t *testing.T, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	all := contents()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		path := filepath.Join(dir, name)
		must(os.MkdirAll(filepath.Dir(path), 0o755))
		must(os.WriteFile(path, all[name], 0o644))
	}
	for name, target := range links {
		must(os.Symlink(target, filepath.Join(dir, name)))
	}
	must(os.Truncate(filepath.Join(dir, "holes"), 0)) // make real holes
	must(os.Truncate(filepath.Join(dir, "holes"), int64(len(all["holes"]))))
	f, err := os.OpenFile(filepath.Join(dir, "holes"), os.O_WRONLY, 0)
	must(err)
	_, err = f.WriteAt([]byte("in the middle"), 20<<10)
	must(err)
	must(f.Close())
	must(os.Link(filepath.Join(dir, "text"), filepath.Join(dir, "hard")))
	must(os.Chmod(filepath.Join(dir, "usr/bin/tool"), 0o755|os.ModeSetuid))
	must(syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
}

// checkBlocks checks that the block map covers the image without gap or overlap, and gives how many blocks of each kind there are.
func checkBlocks(t *testing.T, f *squashfs.FS) map[squashfs.Kind]int {
	t.Helper()
	end := int64(0)
	kinds := map[squashfs.Kind]int{}
	err := f.Blocks(func(b squashfs.Block) error {
		if b.Offset != end || b.Size <= 0 {
			t.Errorf("block %+v, expected one at %d", b, end)
		}
		end = b.Offset + b.Size
		kinds[b.Kind]++
		data, err := f.Expand(b)
		if err == nil && len(data) == 0 {
			t.Errorf("block %+v expands to nothing", b)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if want := f.Superblock().BytesUsed; end != want {
		t.Errorf("blocks end at %d, want %d", end, want)
	}
	if kinds[squashfs.KindOther] != 0 {
		t.Errorf("%d regions were not understood", kinds[squashfs.KindOther])
	}
	return kinds
}
