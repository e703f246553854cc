package versiontest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// Tree is a small root file system on the disk, from which mksquashfs makes images.
type Tree struct {
	tb  testing.TB
	dir string
	rng *rand.Rand
}

// NewTree makes one of some 30 MB.
func NewTree(tb testing.TB) *Tree {
	tr := &Tree{tb: tb, dir: tb.TempDir(), rng: rand.New(rand.NewPCG(3, 4))}
	for i := range 60 {
		tr.write(fmt.Sprintf("usr/lib/lib%d.so", i), tr.text(20_000+tr.rng.IntN(900_000)))
		tr.write(fmt.Sprintf("usr/share/doc/p%d/copyright", i), tr.text(500+tr.rng.IntN(9000)))
	}
	tr.write("boot/vmlinuz", tr.text(700_000))
	return tr
}

func (tr *Tree) write(name string, data []byte) {
	tr.tb.Helper()
	path := filepath.Join(tr.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tr.tb.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		tr.tb.Fatal(err)
	}
}

func (tr *Tree) read(name string) []byte {
	tr.tb.Helper()
	b, err := os.ReadFile(filepath.Join(tr.dir, name))
	if err != nil {
		tr.tb.Fatal(err)
	}
	return b
}

// text compresses somewhat.
func (tr *Tree) text(n int) []byte {
	b := make([]byte, 0, n+64)
	for len(b) < n {
		b = fmt.Appendf(b, "%x ", tr.rng.Uint64N(1<<uint(8+tr.rng.IntN(40))))
	}
	return b[:n]
}

// Update changes some files as an upgrade would.
func (tr *Tree) Update() {
	for i := range 30 {
		name := fmt.Sprintf("usr/lib/lib%d.so", i*2)
		b := tr.read(name)
		copy(b[len(b)/3:], tr.text(2000))
		tr.write(name, append(b, tr.text(300)...))
	}
	tr.write("boot/vmlinuz", append(tr.read("boot/vmlinuz"), "a newer one"...))
	tr.write("usr/share/new", tr.text(150_000))
}

// Image makes a version of the tree as it is now, with the tree's kernel and a made-up initrd, cut into chunks as publishing does.
func (tr *Tree) Image(key ed25519.PrivateKey, number uint64) *Version {
	tr.tb.Helper()
	out := filepath.Join(tr.tb.TempDir(), "image")
	cmd := exec.CommandContext(tr.tb.Context(), "mksquashfs", tr.dir, out, "-noappend", "-no-progress", "-quiet", "-mkfs-time", "0", "-processors", "2", "-comp", "zstd",
		"-Xcompression-level", "3")
	if text, err := cmd.CombinedOutput(); err != nil {
		tr.tb.Fatalf("mksquashfs: %v\n%s", err, text)
	}
	squashfs, err := os.ReadFile(out)
	if err != nil {
		tr.tb.Fatal(err)
	}
	return New(tr.tb, key, manifest.Image, "lab", number, []File{
		{Name: manifest.Squashfs, Data: squashfs},
		{Name: manifest.Kernel, Data: tr.read("boot/vmlinuz"), Path: "boot/vmlinuz"},
		{Name: manifest.InitrdFull, Data: Data(1, 300_000)},
	}, 0)
}

// MakeDelta makes the delta between two real images, and what a controller says of it.
func MakeDelta(tb testing.TB, old, new *Version) (file []byte, plan config.Delta) {
	tb.Helper()
	source := func(b []byte) delta.Source { return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))) }
	var out bytes.Buffer
	stats, err := delta.Make(tb.Context(), source(old.Files[0].Data), source(new.Files[0].Data), &out, delta.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	file = out.Bytes()
	tb.Logf("images of %d and %d bytes, delta of %d with an index of %d and %d groups", len(old.Files[0].Data), len(new.Files[0].Data), len(file),
		stats.IndexBytes, stats.Groups)
	return file, config.Delta{Base: old.ID, SHA256: sha256.Sum256(file), Size: int64(len(file)), IndexBytes: stats.IndexBytes}
}
