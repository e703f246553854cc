package sqmeta_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/encoder"
	"github.com/ltsp-fleet/ltsp-fleet/internal/sqmeta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// golden reads the images that package squashfs is tested with; mksquashfs made them.
func golden(t testing.TB) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob("../squashfs/testdata/*.squashfs")
	if err != nil || len(paths) < 6 {
		t.Fatal(paths, err)
	}
	all := make(map[string][]byte)
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(p), ".squashfs")] = b
	}
	return all
}

// column finds a column by its name.
func column(t *testing.T, cols []sqmeta.Column, name string) *sqmeta.Column {
	t.Helper()
	for i := range cols {
		if cols[i].Name == name {
			return &cols[i]
		}
	}
	t.Fatalf("no column %q", name)
	return nil
}

// zlibMetadata is the encoder of mksquashfs -comp gzip.
func zlibMetadata(t *testing.T) sqmeta.Compress {
	e, err := encoder.New(encoder.Settings{Compressor: squashfs.Gzip, Name: "zlib", Level: 9, WindowBits: 15, BlockSize: 1 << 17})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e.Metadata
}

// TestGolden rebuilds every image from every form, with the right encoder or with none.
func TestGolden(t *testing.T) {
	for name, img := range golden(t) {
		t.Run(name, func(t *testing.T) {
			m := parse(t, img)
			var enc sqmeta.Compress
			if name == "gzip" {
				enc = zlibMetadata(t)
			}
			best, err := sqmeta.Best(m, enc)
			if err != nil {
				t.Fatal(err)
			}
			if best[0].Data[0] != 1 {
				t.Error("the image is not predictable")
			}
			if stored := column(t, best, "stored blocks"); name == "gzip" && len(stored.Data) > 0 {
				t.Errorf("%d bytes of exceptions with the image's encoder", len(stored.Data))
			}
			raw, err := m.RawColumns(enc)
			if err != nil {
				t.Fatal(err)
			}
			for _, cols := range [][]sqmeta.Column{best, raw, m.Verbatim()} {
				im, err := sqmeta.Rebuild(cols, enc)
				if err != nil {
					t.Fatal(err)
				}
				same(t, img, im)
				again, err := im.Meta(sqmeta.Limits{})
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(m.Files(), again.Files()); d != "" {
					t.Error(d)
				}
				if d := cmp.Diff(m.Blocks(), again.Blocks()); d != "" {
					t.Error(d)
				}
			}
		})
	}
}

// TestPredicted holds which columns have to be empty because everything in them was foreseen.
func TestPredicted(t *testing.T) {
	m := parse(t, golden(t)["zstd"])
	cols, err := m.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"numbers", "links", "tailed", "starts", "flushes", "fragment starts", "holes", "parents", "stored blocks"} {
		if c := column(t, cols, name); len(c.Data) > 0 {
			t.Errorf("%s: %x", name, c.Data)
		}
	}
}

// TestReader compares the files with what package squashfs reads.
func TestReader(t *testing.T) {
	for name, img := range golden(t) {
		m := parse(t, img)
		fs, err := squashfs.Open(bytes.NewReader(img), int64(len(img)))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range m.Files() {
			for _, p := range f.Paths {
				info, err := fs.Lstat(p)
				if err != nil {
					t.Fatal(name, err)
				}
				if info.Size() != f.Size || info.Sys().(*squashfs.Stat).Inode != f.Inode {
					t.Errorf("%s: %q has %d bytes and number %d, want %d and %d", name, p, f.Size, f.Inode, info.Size(), info.Sys().(*squashfs.Stat).Inode)
				}
				n++
			}
		}
		if n == 0 {
			t.Errorf("%s: no paths", name)
		}
	}
}

// TestUnpredictable changes one field of an image without compression to something no writer would choose.
func TestUnpredictable(t *testing.T) {
	img := bytes.Clone(golden(t)["plain"])
	at := bytes.LastIndex(img, []byte("holes")) - 2 // the entry's type and length of the name are before it
	if at < 0 {
		t.Fatal("no file called holes")
	}
	img[at-2] = 3
	m := parse(t, img)
	if _, err := m.Columns(); !errors.Is(err, sqmeta.ErrUnpredictable) {
		t.Errorf("error %v, want ErrUnpredictable", err)
	}
	best, err := sqmeta.Best(m, nil)
	if err != nil {
		t.Fatal(err)
	}
	im, err := sqmeta.Rebuild(best, nil)
	if err != nil {
		t.Fatal(err)
	}
	same(t, img, im)
}

// TestEncoderError gives on the encoder's errors.
func TestEncoderError(t *testing.T) {
	m := parse(t, golden(t)["zstd"])
	broken := errors.New("broken")
	enc := func(_, _ []byte) ([]byte, bool, error) { return nil, false, broken }
	if _, err := sqmeta.Best(m, enc); !errors.Is(err, broken) {
		t.Errorf("Best: %v", err)
	}
	if _, err := m.RawColumns(enc); !errors.Is(err, broken) {
		t.Errorf("RawColumns: %v", err)
	}
	cols, err := m.Columns()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sqmeta.Rebuild(cols, enc); !errors.Is(err, broken) {
		t.Errorf("Rebuild: %v", err)
	}
}

// TestColumnErrors damages columns in every way that leaves them readable as far as possible.
func TestColumnErrors(t *testing.T) {
	m := parse(t, golden(t)["plain"])
	tests := map[string]func(cols []sqmeta.Column) []sqmeta.Column{
		"none":    func([]sqmeta.Column) []sqmeta.Column { return nil },
		"form":    func(c []sqmeta.Column) []sqmeta.Column { c[0].Data = []byte{9}; return c },
		"missing": func(c []sqmeta.Column) []sqmeta.Column { return c[:len(c)-1] },
		"twice":   func(c []sqmeta.Column) []sqmeta.Column { return append(c, c[1]) },
		"unknown": func(c []sqmeta.Column) []sqmeta.Column { return append(c, sqmeta.Column{Name: "x"}) },
	}
	for name, damage := range tests {
		cols, err := m.Columns()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sqmeta.Rebuild(damage(cols), nil); !errors.Is(err, sqmeta.ErrColumns) {
			t.Errorf("%s: error %v, want ErrColumns", name, err)
		}
	}
	cols, err := m.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range cols {
		for _, data := range [][]byte{append(bytes.Clone(c.Data), 0x85), c.Data[:max(len(c.Data)-1, 0)]} {
			if len(data) == len(c.Data) {
				continue
			}
			cols[i].Data = data
			im, err := sqmeta.Rebuild(cols, nil)
			if err == nil && bytes.Equal(im.Tail, m.Image().Tail) && bytes.Equal(im.Head, m.Image().Head) {
				t.Errorf("%s: %x instead of %x changes nothing", c.Name, data, c.Data)
			} else if err != nil && !errors.Is(err, sqmeta.ErrColumns) {
				t.Errorf("%s: %v", c.Name, err)
			}
		}
		cols[i].Data = c.Data
	}
}

// TestLimits holds that counts do not take memory for what is not there.
func TestLimits(t *testing.T) {
	img := golden(t)["plain"]
	m := parse(t, img)
	if _, err := (sqmeta.Limits{MetadataBytes: 2000}).Parse(bytes.NewReader(img), int64(len(img))); !errors.Is(err, squashfs.ErrCorrupt) {
		t.Errorf("Parse: %v", err)
	}
	cols, err := m.Columns()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (sqmeta.Limits{MetadataBytes: 2000}).Rebuild(cols, nil); !errors.Is(err, sqmeta.ErrColumns) {
		t.Errorf("Rebuild: %v", err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range column(t, cols, "super").Data {
		data := column(t, cols, "super").Data
		column(t, cols, "super").Data = append(bytes.Clone(data[:i]), 0xff, 0xff, 0xff, 0xff, 0x7f)
		if _, err := sqmeta.Rebuild(cols, nil); !errors.Is(err, sqmeta.ErrColumns) {
			t.Errorf("%d: %v", i, err)
		}
		column(t, cols, "super").Data = data
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 {
		t.Errorf("%d bytes were allocated", n)
	}
}

// TestTruncated cuts the image everywhere.
func TestTruncated(t *testing.T) {
	img := golden(t)["zstd"]
	for n := range len(img) {
		if _, err := sqmeta.Parse(bytes.NewReader(img[:n]), int64(len(img))); err == nil {
			t.Fatalf("%d of %d bytes were enough", n, len(img))
		}
	}
}
