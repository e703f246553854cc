package sqmeta_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/sqmeta"
)

// tree makes directories of files for mksquashfs, reproducibly.
type tree struct {
	t    *testing.T
	root string
	rnd  *rand.Rand
}

func newTree(t *testing.T, seed uint64) *tree {
	return &tree{t: t, root: t.TempDir(), rnd: rand.New(rand.NewPCG(seed, 7))}
}

func (tr *tree) path(name string) string {
	tr.t.Helper()
	p := filepath.Join(tr.root, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		tr.t.Fatal(err)
	}
	return p
}

func (tr *tree) write(name string, data []byte) {
	tr.t.Helper()
	if err := os.WriteFile(tr.path(name), data, 0o644); err != nil {
		tr.t.Fatal(err)
	}
}

// content gives n bytes that compress to about a half.
func (tr *tree) content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(tr.rnd.IntN(16))
	}
	return b
}

// run starts a tool that must be installed.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// image packs the tree.
func (tr *tree) image(args ...string) []byte {
	tr.t.Helper()
	p := filepath.Join(tr.t.TempDir(), "image")
	run(tr.t, "mksquashfs", append([]string{tr.root, p, "-noappend", "-quiet", "-no-progress", "-mkfs-time", "1"}, args...)...)
	b, err := os.ReadFile(p)
	if err != nil {
		tr.t.Fatal(err)
	}
	return b
}

// parse parses an image in memory.
func parse(t *testing.T, img []byte) *sqmeta.Meta {
	t.Helper()
	m, err := sqmeta.Parse(bytes.NewReader(img), int64(len(img)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// same fails unless im has the bytes of img outside of the data area.
func same(t *testing.T, img []byte, im *sqmeta.Image) {
	t.Helper()
	if im.Size != int64(len(img)) || im.TailOffset+int64(len(im.Tail)) != im.Size {
		t.Fatalf("%d bytes with a tail of %d at %d, want %d", im.Size, len(im.Tail), im.TailOffset, len(img))
	}
	if !bytes.Equal(im.Head, img[:len(im.Head)]) {
		t.Errorf("head:\n%x, want\n%x", im.Head, img[:len(im.Head)])
	}
	if !bytes.Equal(im.Tail, img[im.TailOffset:]) {
		t.Error("the tail differs")
	}
}

// checkMap compares the files and blocks of m with the tree that the image was made of.
func (tr *tree) checkMap(m *sqmeta.Meta, img []byte) {
	tr.t.Helper()
	files := make(map[string]sqmeta.File)
	for _, f := range m.Files() {
		for _, p := range f.Paths {
			if _, ok := files[p]; ok {
				tr.t.Errorf("path %q stands twice", p)
			}
			files[p] = f
		}
	}
	covered := int64(len(m.Image().Head))
	for _, g := range m.Gaps() {
		covered += g.Length
	}
	blocks := m.Blocks()
	for _, b := range blocks {
		covered += int64(b.Stored)
	}
	if covered != m.Image().TailOffset {
		tr.t.Errorf("blocks and gaps cover %d bytes of %d", covered, m.Image().TailOffset)
	}
	found := 0
	err := filepath.WalkDir(tr.root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		found++
		name, _ := filepath.Rel(tr.root, p)
		f, ok := files[name]
		if !ok {
			return fmt.Errorf("%q is missing", name)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return checkFile(m, f, info.Size())
	})
	if err != nil {
		tr.t.Error(err)
	}
	if found != len(files) {
		tr.t.Errorf("%d paths, want %d", len(files), found)
	}
}

// checkFile adds up the raw lengths of a file's blocks.
func checkFile(m *sqmeta.Meta, f sqmeta.File, size int64) error {
	sum := int64(0)
	for _, i := range f.Blocks {
		if i < 0 {
			sum += min(int64(m.BlockSize()), f.Size-sum)
			continue
		}
		sum += int64(m.Blocks()[i].Raw)
	}
	if f.Fragment >= 0 {
		tail := f.Size % int64(m.BlockSize())
		if b := m.Blocks()[f.Fragment]; !b.Fragment || int64(f.FragmentOffset)+tail > int64(b.Raw) {
			return fmt.Errorf("%q: tail of %d bytes at %d of block %+v", f.Paths, tail, f.FragmentOffset, b)
		}
		sum += tail
	}
	if f.Size != size || sum != size {
		return fmt.Errorf("%q has %d bytes in blocks of %d, want %d", f.Paths, f.Size, sum, size)
	}
	return nil
}
