package squashfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

var goldens = []string{"gzip", "xz", "lz4", "zstd", "plain", "fragments"}

func golden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".squashfs"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func openBytes(t testing.TB, b []byte) *squashfs.FS {
	t.Helper()
	f, err := squashfs.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestContents(t *testing.T) {
	t.Parallel()
	for _, name := range goldens {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := openBytes(t, golden(t, name))
			all := contents()
			all["hard"] = all["text"]
			got := map[string][]byte{}
			gotLinks := map[string]string{}
			err := f.Walk(".", func(name string, d fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				switch {
				case d.Type().IsRegular():
					got[name], err = f.ReadFile(name)
				case d.Type() == fs.ModeSymlink:
					gotLinks[name], err = f.ReadLink(name)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(all, got); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(links, gotLinks); diff != "" {
				t.Errorf("links (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInfo(t *testing.T) {
	t.Parallel()
	f := openBytes(t, golden(t, "zstd"))
	type values struct {
		Mode fs.FileMode
		Size int64
		Stat squashfs.Stat
	}
	tests := map[string]values{
		"null":         {fs.ModeDevice | fs.ModeCharDevice | 0o666, 0, squashfs.Stat{Links: 1, Major: 1, Minor: 3}},
		"disk":         {fs.ModeDevice | 0o660, 0, squashfs.Stat{Links: 1, Major: 259, Minor: 70000}},
		"fifo":         {fs.ModeNamedPipe | 0o600, 0, squashfs.Stat{Links: 1}},
		"usr/bin/tool": {fs.ModeSetuid | 0o755, 9004, squashfs.Stat{Links: 1}},
		"text":         {0o644, 18000, squashfs.Stat{Links: 2}},
		"bin":          {fs.ModeSymlink | 0o777, 8, squashfs.Stat{Links: 1}},
	}
	for name, want := range tests {
		fi, err := f.Lstat(name)
		if err != nil {
			t.Error(err)
			continue
		}
		st := *fi.Sys().(*squashfs.Stat)
		st.Inode = 0
		if diff := cmp.Diff(want, values{fi.Mode(), fi.Size(), st}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if fi.ModTime().Unix() != 1000000000 && fi.Mode()&fs.ModeDevice == 0 {
			t.Errorf("%s: time %v", name, fi.ModTime())
		}
	}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	f := openBytes(t, golden(t, "gzip"))
	tests := []struct {
		path, want string
		err        error
	}{
		{path: "lib/x", want: "library"},
		{path: "bin/tool"},
		{path: "outside", want: "library"},
		{path: "usr/lib/up"},
		{path: "lib/self/self/self/x", want: "library"},
		{path: "dangling", err: fs.ErrNotExist},
		{path: "loop1", err: squashfs.ErrLoop},
		{path: "loop1/x", err: squashfs.ErrLoop},
		{path: "one/x", err: fs.ErrNotExist},
		{path: "nothing", err: fs.ErrNotExist},
		{path: "/lib/x", err: fs.ErrInvalid},
		{path: "lib/../lib/x", err: fs.ErrInvalid},
		{path: "lib", err: fs.ErrInvalid},
		{path: "fifo", err: fs.ErrInvalid},
	}
	for _, tt := range tests {
		got, err := f.ReadFile(tt.path)
		if !errors.Is(err, tt.err) {
			t.Errorf("%s: error %v, want %v", tt.path, err, tt.err)
		}
		if tt.want != "" && string(got) != tt.want {
			t.Errorf("%s: %q, want %q", tt.path, got, tt.want)
		}
	}
	if _, err := f.ReadLink("one"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("ReadLink of a file: %v", err)
	}
	if fi, err := f.Stat("lib"); err != nil || !fi.IsDir() {
		t.Errorf("Stat follows no link: %v %v", fi, err)
	}
}

func TestFileIsAReader(t *testing.T) {
	t.Parallel()
	f := openBytes(t, golden(t, "lz4"))
	for _, name := range []string{"text", "holes", "exact", "empty", "one"} {
		file, err := f.OpenFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := iotest.TestReader(file, contents()[name]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBlocksOfTestdata(t *testing.T) {
	t.Parallel()
	for _, name := range goldens {
		kinds := checkBlocks(t, openBytes(t, golden(t, name)))
		if kinds[squashfs.KindSuperblock] != 1 || kinds[squashfs.KindInodes] == 0 || kinds[squashfs.KindDirectories] == 0 || kinds[squashfs.KindIDIndex] != 1 {
			t.Errorf("%s: %v", name, kinds)
		}
		if hasFragments := kinds[squashfs.KindFragment] > 0; hasFragments == (name == "plain") {
			t.Errorf("%s: %v", name, kinds)
		}
		if name == "fragments" && (kinds[squashfs.KindData] != 0 || kinds[squashfs.KindExportTable] != 0) {
			t.Errorf("%s: %v", name, kinds)
		}
	}
}

func TestBlocksStopsAtYieldsError(t *testing.T) {
	t.Parallel()
	stop, n := errors.New("stop"), 0
	err := openBytes(t, golden(t, "zstd")).Blocks(func(squashfs.Block) error { n++; return stop })
	if !errors.Is(err, stop) || n != 1 {
		t.Errorf("%v after %d calls", err, n)
	}
}

func TestRefusesAtOpen(t *testing.T) {
	t.Parallel()
	good := golden(t, "zstd")
	with := func(off int, v ...byte) []byte {
		b := slices.Clone(good)
		copy(b[off:], v)
		return b
	}
	tests := map[string]struct {
		data []byte
		want error
	}{
		"empty":                  {nil, squashfs.ErrNotSquashfs},
		"text":                   {[]byte("#!/bin/sh\n"), squashfs.ErrNotSquashfs},
		"only zeros":             {make([]byte, 4096), squashfs.ErrNotSquashfs},
		"half a superblock":      {good[:50], squashfs.ErrTruncated},
		"without its last byte":  {good[:len(good)-1], squashfs.ErrTruncated},
		"version 3":              {with(28, 3), squashfs.ErrNotSquashfs},
		"block size":             {with(12, 1), squashfs.ErrCorrupt},
		"block logarithm":        {with(22, 40), squashfs.ErrCorrupt},
		"length zero":            {with(40, make([]byte, 8)...), squashfs.ErrCorrupt},
		"compressor 9":           {with(20, 9), squashfs.ErrCompressor},
		"no IDs":                 {with(26, 0, 0), squashfs.ErrCorrupt},
		"inode table at 2^63":    {with(64, 0, 0, 0, 0, 0, 0, 0, 0x80), squashfs.ErrCorrupt},
		"root inode far outside": {with(32, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), squashfs.ErrCorrupt},
	}
	for name, tt := range tests {
		_, err := squashfs.Open(bytes.NewReader(tt.data), int64(len(tt.data)))
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	var te *squashfs.TruncatedError
	_, err := squashfs.Open(bytes.NewReader(good[:200]), 200)
	if !errors.As(err, &te) || te.Have != 200 || te.Want != int64(len(good)) {
		t.Errorf("truncated: %v", err)
	}
}

func TestReadErrorIsHandedOn(t *testing.T) {
	t.Parallel()
	cause := errors.New("disk on fire")
	_, err := squashfs.Open(failingReader{cause}, 4096)
	if !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
}

type failingReader struct{ err error }

func (f failingReader) ReadAt([]byte, int64) (int, error) { return 0, f.err }

// TestFlippedBytes flips each byte of the small images in turn: every outcome but a hang, a panic or an untyped error is fine.
func TestFlippedBytes(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"gzip", "fragments"} {
		good := golden(t, name)
		refused := 0
		tried := 0
		for i := 0; i < len(good); i += 1 + i/300 { // the superblock densely
			tried++
			b := slices.Clone(good)
			b[i] ^= 0x55
			if err := readAll(b); err != nil {
				refused++
				if !typed(err) {
					t.Errorf("%s, byte %d: %v", name, i, err)
				}
			}
		}
		if refused < tried/3 {
			t.Errorf("%s: only %d of %d flips were noticed", name, refused, tried)
		}
	}
}

func typed(err error) bool {
	for _, want := range []error{squashfs.ErrNotSquashfs, squashfs.ErrTruncated, squashfs.ErrCorrupt, squashfs.ErrCompressor, errTooBig} {
		if errors.Is(err, want) {
			return true
		}
	}
	return false
}

var errTooBig = errors.New("more than this test reads")

// readAll reads everything that can be read in an image, but opens only the first files.
func readAll(b []byte) error {
	f, err := squashfs.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	n, opened := 0, 0
	err = f.Walk(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if n++; n > 5000 {
			return errTooBig
		}
		fi, err := d.Info()
		if err != nil || !fi.Mode().IsRegular() {
			return err
		}
		if opened++; opened > 30 {
			return nil
		}
		if fi.Size() > 1<<20 {
			return errTooBig
		}
		file, err := f.OpenFile(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, file)
		return err
	})
	if err != nil {
		return err
	}
	return f.Blocks(func(squashfs.Block) error { return nil })
}

// TestDirectoryLoop points the root's listing into itself: a walk must end, a lookup too.
func TestDirectoryLoop(t *testing.T) {
	t.Parallel()
	b := slices.Clone(golden(t, "plain"))
	le := binary.LittleEndian
	root := le.Uint64(b[32:])
	listing := le.Uint64(b[72:]) + 2 // behind the header of the first block, which is stored raw
	entry := bytes.Index(b[listing:], []byte("deep"))
	if entry < 0 {
		t.Fatal("the root's listing is not where it was expected")
	}
	// Find the header of that run: the only one, as all inodes lie in few blocks; give the entry the root's own reference.
	e := int(listing) + entry - 8
	le.PutUint16(b[e:], uint16(root))
	f := openBytes(t, b)
	err := f.Walk(".", func(_ string, _ fs.DirEntry, err error) error { return err })
	if err != nil && !errors.Is(err, squashfs.ErrCorrupt) {
		t.Errorf("walk: %v", err)
	}
	if err == nil {
		t.Error("the loop was not noticed")
	}
}

func FuzzRead(f *testing.F) {
	for _, name := range slices.Sorted(slices.Values(goldens)) {
		if name != "plain" {
			f.Add(golden(f, name))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := readAll(b); err != nil && !typed(err) {
			t.Errorf("untyped error: %v", err)
		}
	})
}

// FuzzDecoders feeds single blocks to the decoders by way of a file that consists of one.
func FuzzDecoders(f *testing.F) {
	sb := golden(f, "xz")
	f.Add(uint16(4), sb[96:400])
	f.Add(uint16(1), []byte("\x78\xda\x03\x00\x00\x00\x00\x01"))
	f.Add(uint16(5), []byte("\x10a"))
	f.Add(uint16(6), []byte("\x28\xb5\x2f\xfd\x00\x00\x09\x00\x00a"))
	f.Fuzz(func(t *testing.T, comp uint16, block []byte) {
		if len(block) == 0 || len(block) > 8192 {
			return
		}
		le := binary.LittleEndian
		b := make([]byte, 96, 96+len(block)+64)
		copy(b, sb[:96])
		le.PutUint16(b[20:], comp%7)
		b = le.AppendUint16(b, uint16(len(block))) // the inode table's only block
		b = append(b, block...)
		dir := len(b)
		b = append(b, 1, 0x80, 0) // one raw byte as the directory table
		id := len(b)
		b = append(b, 4, 0x80, 0, 0, 0, 0)
		idIndex := len(b)
		b = le.AppendUint64(b, uint64(id))
		le.PutUint64(b[32:], 0)
		le.PutUint32(b[16:], 0)
		le.PutUint16(b[24:], 0)
		for off, v := range map[int]int{40: len(b), 48: idIndex, 64: 96, 72: dir} {
			le.PutUint64(b[off:], uint64(v))
		}
		le.PutUint64(b[56:], ^uint64(0))
		le.PutUint64(b[88:], ^uint64(0))
		if err := readAll(b); err != nil && !typed(err) {
			t.Errorf("untyped error: %v", err)
		}
	})
}

func TestGoldensAreSmall(t *testing.T) {
	t.Parallel()
	sizes := map[string]int{}
	for _, name := range goldens {
		sizes[name] = len(golden(t, name))
	}
	if total := slices.Max(slices.Collect(maps.Values(sizes))); total > 100<<10 {
		t.Errorf("seeds are too large for fuzzing: %v", sizes)
	}
}
