//go:build component

package sqmeta_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/internal/sqmeta"
)

// random fills the tree with n names of any kind in any depth.
func (tr *tree) random(n int) {
	dirs, files := []string{"."}, []string(nil)
	for i := range n {
		name := filepath.Join(dirs[tr.rnd.IntN(len(dirs))], tr.name(i))
		switch k := tr.rnd.IntN(20); {
		case k < 4:
			tr.must(os.Mkdir(tr.path(name), 0o700|os.FileMode(tr.rnd.IntN(64))))
			dirs = append(dirs, name)
			continue
		case k < 6:
			tr.must(os.Symlink(strings.Repeat("t", 1+tr.rnd.IntN(300)), tr.path(name)))
		case k == 6:
			tr.must(unix.Mknod(tr.path(name), unix.S_IFIFO|0o644, 0))
		case k == 7 && len(files) > 0:
			tr.must(os.Link(tr.path(files[tr.rnd.IntN(len(files))]), tr.path(name)))
		case k == 8 && len(files) > 0:
			b, err := os.ReadFile(tr.path(files[tr.rnd.IntN(len(files))]))
			tr.must(err)
			tr.write(name, b[:len(b)-len(b)*tr.rnd.IntN(2)/2])
			files = append(files, name)
		case k == 9:
			size := int64(tr.rnd.IntN(3 << 20))
			tr.sparse(name, size, tr.rnd.Int64N(size+1), tr.rnd.Int64N(size+1))
			files = append(files, name)
		default:
			tr.write(name, tr.content(tr.rnd.IntN(1<<tr.rnd.IntN(19)+1)))
			files = append(files, name)
		}
		tr.attributes(name)
	}
}

// name gives the i-th name: any bytes, and i so that none comes twice.
func (tr *tree) name(i int) string {
	b := make([]byte, tr.rnd.IntN(40))
	for k := range b {
		if b[k] = byte(1 + tr.rnd.IntN(255)); b[k] == '/' {
			b[k] = '\n'
		}
	}
	return fmt.Sprintf("%s%d", b, i)
}

// attributes gives some names an owner and an extended attribute.
func (tr *tree) attributes(name string) {
	if tr.rnd.IntN(5) == 0 {
		tr.must(os.Lchown(tr.path(name), tr.rnd.IntN(5), tr.rnd.IntN(5)))
	}
	if tr.rnd.IntN(15) == 0 {
		tr.must(unix.Lsetxattr(tr.path(name), "trusted.x", []byte{byte(tr.rnd.IntN(4))}, 0))
	}
}

// TestRandomTrees packs random trees with random settings: all of them are predictable.
func TestRandomTrees(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			tr := newTree(t, seed)
			tr.random(50 + tr.rnd.IntN(1500))
			args := []string{"-comp", "zstd", "-Xcompression-level", "1", "-b", fmt.Sprint(4096 << tr.rnd.IntN(9))}
			for _, a := range []string{"-noI", "-noD", "-noF", "-noX", "-noId", "-no-fragments", "-no-exports", "-no-xattrs", "-no-duplicates",
				"-always-use-fragments", "-all-root", "-nopad", "-no-sparse"} {
				if tr.rnd.IntN(4) == 0 {
					args = append(args, a)
				}
			}
			t.Log(args)
			img := tr.image(args...)
			m := parse(t, img)
			if form := roundTrip(t, m, img, compress(t, m, 1)); form != predicted {
				_, err := m.Columns()
				t.Errorf("form %d: %v", form, err)
			}
			tr.checkMap(m, img)
		})
	}
}

// TestAppended adds to an image, which mksquashfs does by writing behind its last block.
func TestAppended(t *testing.T) {
	tr := newTree(t, 3)
	tr.random(500)
	p := filepath.Join(t.TempDir(), "image")
	for range 2 {
		tr.write("new", tr.content(200_000))
		run(t, "mksquashfs", tr.root, p, "-quiet", "-no-progress", "-comp", "zstd", "-no-recovery")
	}
	img, err := os.ReadFile(p)
	tr.must(err)
	m := parse(t, img)
	if form := roundTrip(t, m, img, compress(t, m, 15)); form == verbatim {
		t.Error("the tables have to be sent as they are stored")
	}
	if len(m.Gaps()) > 0 {
		t.Errorf("gaps %v", m.Gaps())
	}
}

// TestSqfstar packs what comes as a tar stream, in the stream's order.
func TestSqfstar(t *testing.T) {
	tr := newTree(t, 4)
	tr.random(500)
	p := filepath.Join(t.TempDir(), "image")
	run(t, "sh", "-c", `tar -C "$0" --xattrs --sort=none -cf - . | sqfstar -comp zstd "$1"`, tr.root, p)
	img, err := os.ReadFile(p)
	tr.must(err)
	m := parse(t, img)
	if form := roundTrip(t, m, img, compress(t, m, 15)); form != predicted {
		_, err := m.Columns()
		t.Errorf("form %d: %v", form, err)
	}
	tr.checkMap(m, img)
}

// TestLarge has 100,000 files and one of 5 GB, and looks at the memory.
func TestLarge(t *testing.T) {
	tr := newTree(t, 5)
	for i := range 100 {
		tr.must(os.Mkdir(filepath.Join(tr.root, fmt.Sprint(i)), 0o755))
	}
	for i := range 100_000 {
		tr.must(os.WriteFile(filepath.Join(tr.root, fmt.Sprintf("%d/file%d", i%100, i)), fmt.Append(nil, i), 0o644))
	}
	tr.sparse("five", 5_000_000_000, 0, 1<<20, 4<<30)
	p := filepath.Join(t.TempDir(), "image")
	run(t, "mksquashfs", tr.root, p, "-noappend", "-quiet", "-no-progress", "-comp", "zstd", "-Xcompression-level", "1",
		"-no-duplicates") // looking for duplicates among so many files of a length takes minutes
	f, err := os.Open(p)
	tr.must(err)
	defer f.Close()
	info, err := f.Stat()
	tr.must(err)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m, err := sqmeta.Parse(f, info.Size())
	tr.must(err)
	runtime.GC()
	runtime.ReadMemStats(&after)
	held := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) >> 20
	t.Logf("%d MiB held, %d MiB allocated in all", held, (after.TotalAlloc-before.TotalAlloc)>>20)
	if held > 100 {
		t.Errorf("%d MiB are held", held)
	}
	best, err := sqmeta.Best(m, compress(t, m, 1))
	tr.must(err)
	runtime.ReadMemStats(&after)
	t.Logf("%d MiB from the system", after.Sys>>20)
	if best[0].Data[0] != predicted {
		t.Errorf("form %d", best[0].Data[0])
	}
	n := 0
	for _, file := range m.Files() {
		if file.Size == 5_000_000_000 {
			n = len(file.Blocks)
		}
	}
	if n != 38147 {
		t.Errorf("the large file has %d blocks", n)
	}
}

// TestEmpty packs a root without names.
func TestEmpty(t *testing.T) {
	tr := newTree(t, 9)
	img := tr.image("-comp", "zstd")
	m := parse(t, img)
	if form := roundTrip(t, m, img, compress(t, m, 15)); form != predicted {
		t.Errorf("form %d", form)
	}
	if len(m.Files())+len(m.Blocks())+len(m.Gaps()) > 0 {
		t.Error(m.Files(), m.Blocks(), m.Gaps())
	}
}
