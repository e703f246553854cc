//go:build component

package delta

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// tree is a directory that a test changes step by step.
type tree struct {
	t    *testing.T
	r    *rand.Rand
	dir  string
	dirs []string
}

func newTree(t *testing.T, seed uint64) *tree {
	t.Helper()
	tr := &tree{t: t, r: rand.New(rand.NewPCG(seed, 1)), dir: t.TempDir(), dirs: []string{""}}
	for range 6 {
		d := filepath.Join(tr.dirs[tr.r.IntN(len(tr.dirs))], tr.name())
		tr.must(os.MkdirAll(filepath.Join(tr.dir, d), 0o755))
		tr.dirs = append(tr.dirs, d)
	}
	for range 40 {
		tr.addFile()
	}
	tr.addSpecials()
	return tr
}

func (tr *tree) must(err error) {
	tr.t.Helper()
	if err != nil {
		tr.t.Fatal(err)
	}
}

// name makes a file name of any bytes.
func (tr *tree) name() string {
	b := make([]byte, 1+tr.r.IntN(20))
	for i := range b {
		b[i] = byte(1 + tr.r.IntN(255))
		if b[i] == '/' || tr.r.IntN(3) > 0 {
			b[i] = "abcdefgh0123.-_"[tr.r.IntN(15)]
		}
	}
	s := string(b)
	if s == "." || s == ".." {
		return "dots"
	}
	return s
}

// content makes what files hold: text, noise, zeros, holes, gzip.
func (tr *tree) content() []byte {
	n := []int{0, 1, 2, 100, 4095, 4096, 4097, 20000, 131071, 131072, 131073, 300000}[tr.r.IntN(12)]
	switch tr.r.IntN(5) {
	case 0:
		return randomBytes(tr.r, n)
	case 1:
		return make([]byte, n)
	case 2:
		return gnuGzip(tr.t, words(tr.r, n))
	default:
		return words(tr.r, n)
	}
}

func (tr *tree) path() string {
	return filepath.Join(tr.dir, tr.dirs[tr.r.IntN(len(tr.dirs))], tr.name())
}

func (tr *tree) addFile() {
	p := tr.path()
	if _, err := os.Lstat(p); err == nil {
		return
	}
	tr.must(os.WriteFile(p, tr.content(), 0o600))
	tr.must(os.Chmod(p, os.FileMode(tr.r.IntN(0o1000))))
}

// addSpecials adds what is no plain file, and files that share or lack their data.
func (tr *tree) addSpecials() {
	text := words(tr.r, 50000)
	for _, n := range []string{"twin a", "twin b"} {
		tr.must(os.WriteFile(filepath.Join(tr.dir, n), text, 0o644))
	}
	tr.must(os.Link(filepath.Join(tr.dir, "twin a"), filepath.Join(tr.dir, "linked")))
	f, err := os.Create(filepath.Join(tr.dir, "sparse"))
	tr.must(err)
	_, err = f.WriteAt([]byte("end"), 1<<20)
	tr.must(err)
	tr.must(f.Close())
	tr.must(os.Symlink("twin a", filepath.Join(tr.dir, "symlink")))
	tr.must(syscall.Mknod(filepath.Join(tr.dir, "device"), syscall.S_IFCHR|0o600, 0x0105))
	tr.must(syscall.Mkfifo(filepath.Join(tr.dir, "fifo"), 0o600))
	tr.must(syscall.Setxattr(filepath.Join(tr.dir, "twin a"), "user.note", []byte("value"), 0))
	tr.must(os.WriteFile(filepath.Join(tr.dir, "large"), words(tr.r, 3<<20), 0o644))
}

// files lists the regular files.
func (tr *tree) files() []string {
	var out []string
	tr.must(filepath.Walk(tr.dir, func(p string, fi os.FileInfo, err error) error {
		if err == nil && fi.Mode().IsRegular() {
			out = append(out, p)
		}
		return err
	}))
	return out
}

// edit changes a few things at random.
func (tr *tree) edit() {
	for range 8 {
		l := tr.files()
		p := l[tr.r.IntN(len(l))]
		b, err := os.ReadFile(p)
		tr.must(err)
		switch tr.r.IntN(6) {
		case 0:
			tr.must(os.Remove(p))
		case 1:
			tr.must(os.Rename(p, tr.path()+"x"))
		case 2:
			tr.addFile()
		case 3:
			at := tr.r.IntN(len(b) + 1)
			b = append(append(bytes.Clone(b[:at]), words(tr.r, tr.r.IntN(5000))...), b[at:]...)
			tr.must(os.WriteFile(p, b, 0o644))
		case 4:
			for range 20 {
				if len(b) > 0 {
					b[tr.r.IntN(len(b))]++
				}
			}
			tr.must(os.WriteFile(p, b, 0o644))
		default:
			tr.must(os.Chmod(p, os.FileMode(tr.r.IntN(0o1000))))
		}
	}
}

func TestGeneratedTrees(t *testing.T) {
	for i, args := range []string{
		"-comp zstd", "-comp zstd -b 4K", "-comp zstd -b 1M -Xcompression-level 3", "-comp gzip", "-comp gzip -b 64K -Xcompression-level 6",
		"-comp xz", "-comp lz4", "-comp lzo", "-comp zstd -noI -noD -noF -noX", "-comp zstd -noD", "-comp gzip -noF", "-comp zstd -noI",
		"-comp zstd -no-fragments", "-comp zstd -always-use-fragments -b 16K", "-comp zstd -no-duplicates", "-comp zstd -no-exports", "-comp zstd -no-xattrs",
		"-comp gzip -Xstrategy default,filtered", "-comp zstd -nopad", "-comp zstd -no-sparse",
	} {
		t.Run(args, func(t *testing.T) {
			tr := newTree(t, uint64(i))
			old := packTree(t, tr.dir, strings.Fields(args)...)
			tr.edit()
			neu := packTree(t, tr.dir, strings.Fields(args)...)
			st := roundTrip(t, old, neu, Options{MemoryBytes: 128 << 20})
			t.Logf("%d bytes, delta %d, encoder %q, %d of %d blocks changed, %d verbatim", len(neu), st.DeltaBytes, st.Encoder, st.ChangedBlocks, st.Blocks, st.VerbatimBlocks)
			if st.Encoder != "" && st.VerbatimBlocks > 0 {
				t.Errorf("%d blocks are not reproduced", st.VerbatimBlocks)
			}
		})
	}
}

// TestOtherSettings: images that were packed differently from version to version.
func TestOtherSettings(t *testing.T) {
	tr := newTree(t, 99)
	var images [][]byte
	for _, args := range []string{"-comp zstd", "-comp gzip", "-comp zstd -b 256K", "-comp xz"} {
		tr.edit()
		images = append(images, packTree(t, tr.dir, strings.Fields(args)...))
	}
	for i, old := range images {
		neu := images[(i+1)%len(images)]
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			st := roundTrip(t, old, neu, Options{})
			t.Logf("%d bytes, delta %d", len(neu), st.DeltaBytes)
		})
	}
}
