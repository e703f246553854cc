//go:build component

package delta

import (
	"bytes"
	"compress/gzip"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the images and the delta in testdata anew")

// TestWriteTestdata makes the golden delta between the pair of images of the unit tests, and, if they are not there, the pair of images of the unit tests with mksquashfs and gzip, and the golden delta between them. A
// golden delta is for ever: after a change of the format add one under a new name instead of replacing it.
func TestWriteTestdata(t *testing.T) {
	if !*update {
		return
	}
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(7, 7))
	text := words(r, 9000)
	put := func(name string, b []byte) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("same", words(r, 20000))
	put("lib-1.0/data", text)
	put("man.gz", gnuGzip(t, text[:6000]))
	put("random", randomBytes(r, 300))
	args := []string{"-comp", "zstd", "-b", "4K", "-all-root", "-all-time", "0"}
	old := packTree(t, dir, args...)
	text = append(append(bytes.Clone(text[:4000]), "something new, "...), text[4000:]...)
	text[7000] ^= 1
	if err := os.RemoveAll(filepath.Join(dir, "lib-1.0")); err != nil {
		t.Fatal(err)
	}
	put("lib-1.1/data", text)
	put("man.gz", gnuGzip(t, text[:6100]))
	put("fresh", []byte("a file that is new\n"))
	neu := packTree(t, dir, args...)
	var d bytes.Buffer
	st, err := Make(t.Context(), source(old), source(neu), &d, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", *st)
	content := code(rand.New(rand.NewPCG(5, 5)), 64<<10, 0x400000)
	plain, err := packLZMA(content)
	if err != nil {
		t.Fatal(err)
	}
	turnCalls(content, false)
	calls, err := packLZMA(content)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"old.squashfs": old, "new.squashfs": neu, "golden-2.delta": d.Bytes(), "literals-2.lzma": plain, "literals-2.calls": calls,
	} {
		if err := os.WriteFile(filepath.Join("testdata", name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// gnuGzip compresses with the gzip program.
func gnuGzip(t *testing.T, b []byte) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "gzip", "-9n")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("gzip: %v", err)
	}
	z, err := gzip.NewReader(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	if back, err := io.ReadAll(z); err != nil || !bytes.Equal(back, b) {
		t.Fatalf("gzip made something else: %v", err)
	}
	return out
}
