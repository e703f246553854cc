//go:build component

package squashfs_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

var update = flag.Bool("update", false, "write the images in testdata anew")

// mksquashfs packs dir and gives the image's path.
func mksquashfs(t *testing.T, dir string, args ...string) string {
	t.Helper()
	img := filepath.Join(t.TempDir(), "img")
	args = append([]string{dir, img, "-noappend", "-quiet", "-no-progress", "-mkfs-time", "0"}, args...)
	if out, err := exec.CommandContext(t.Context(), "mksquashfs", args...).CombinedOutput(); err != nil {
		t.Fatalf("mksquashfs %v: %v\n%s", args, err, out)
	}
	return img
}

func open(t *testing.T, img string) *squashfs.FS {
	t.Helper()
	file, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	st, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	f, err := squashfs.Open(file, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// bigTree has all kinds of files, many blocks, holes, and one directory of many names.
func bigTree(t *testing.T, many int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	smallTree(t, dir)
	rnd := rand.New(rand.NewPCG(1, 2))
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	mixed := make([]byte, 5<<18+77)
	for i := range mixed {
		mixed[i] = byte(rnd.IntN(1 + i>>14&15))
	}
	write("mixed", mixed)
	random := make([]byte, 300<<10)
	for i := range random {
		random[i] = byte(rnd.Uint32())
	}
	write("random", random)
	hole := filepath.Join(dir, "hole")
	write("hole", []byte("start"))
	if err := os.Truncate(hole, 5<<20); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(hole, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte("middle"), 3<<20); err != nil {
		t.Fatal(err)
	}
	exe, err := os.ReadFile("/bin/bash") // machine code, for the branch filter
	if err != nil {
		t.Fatal(err)
	}
	write("code", exe)
	if err := os.Mkdir(filepath.Join(dir, "many"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range many {
		write(fmt.Sprintf("many/file-%05d-with-a-longer-name", i), fmt.Appendf(nil, "content %d", i))
	}
	if err := syscall.Setxattr(filepath.Join(dir, "mixed"), "user.colour", []byte("blue"), 0); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setxattr(filepath.Join(dir, "many"), "user.colour", []byte("red"), 0); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestReadsWhatMksquashfsWrites(t *testing.T) {
	dir := bigTree(t, 500)
	for _, args := range []string{
		"-comp gzip", "-comp xz", "-comp lz4", "-comp zstd",
		"-comp xz -Xbcj x86", "-comp gzip -Xcompression-level 1 -Xwindow-size 8", "-comp zstd -Xcompression-level 22", "-comp lz4 -Xhc",
		"-comp zstd -b 4K", "-comp gzip -b 16K", "-comp zstd -b 1M", "-comp lz4 -b 1M", "-comp xz -b 1M",
		"-comp zstd -no-fragments", "-comp zstd -always-use-fragments", "-comp zstd -noI", "-comp zstd -noD", "-comp zstd -noF",
		"-comp zstd -noX -noId", "-noI -noD -noF -noX -noId", "-comp zstd -no-exports", "-comp zstd -no-xattrs", "-comp zstd -no-sparse",
		"-comp zstd -no-duplicates", "-comp zstd -nopad", "-comp zstd -no-tailends", "-comp zstd -tailends",
	} {
		t.Run(args, func(t *testing.T) {
			t.Parallel()
			if strings.HasPrefix(args, "-comp zstd -") && !strings.Contains(args, "-X") {
				args += " -Xcompression-level 3" // a third of the time
			}
			f := open(t, mksquashfs(t, dir, strings.Fields(args)...))
			compareTree(t, dir, f)
			checkBlocks(t, f)
		})
	}
}

func TestReadsLargeDirectories(t *testing.T) {
	dir := bigTree(t, 10000)
	for _, args := range []string{"-comp zstd", "-comp gzip -noI -no-exports"} {
		f := open(t, mksquashfs(t, dir, strings.Fields(args)...))
		compareTree(t, dir, f)
		checkBlocks(t, f)
	}
}

func TestPassesFSTest(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	smallTree(t, dir)
	for _, name := range []string{"dangling", "loop1", "loop2", "fifo"} { // TestFS opens every name
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	f := open(t, mksquashfs(t, dir, "-comp", "zstd"))
	if err := fstest.TestFS(f, "usr/bin/tool", "usr/lib/x", "empty"); err != nil {
		t.Fatal(err)
	}
}

func TestUnsupportedCompressors(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	smallTree(t, dir)
	for _, comp := range []string{"lzo", "lzma"} {
		img := mksquashfs(t, dir, "-comp", comp)
		b, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		_, err = squashfs.Open(bytes.NewReader(b), int64(len(b)))
		var ce *squashfs.CompressorError
		if !errors.As(err, &ce) || ce.Name != comp || !errors.Is(err, squashfs.ErrCompressor) {
			t.Errorf("%s: %v", comp, err)
		}
		if sb, err := squashfs.ReadSuperblock(bytes.NewReader(b), int64(len(b))); err != nil || sb.Compressor.String() != comp {
			t.Errorf("superblock of %s: %v %v", comp, sb.Compressor, err)
		}
	}
}

// compareTree compares every file of the image with dir, and that the image has all of them.
func compareTree(t *testing.T, dir string, f *squashfs.FS) {
	t.Helper()
	missing := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		missing[rel] = true
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = f.Walk(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !missing[name] {
			t.Errorf("%s is in the image only", name)
		}
		delete(missing, name)
		got, err := d.Info()
		if err != nil {
			return err
		}
		path := filepath.Join(dir, name)
		if err := compareInfo(path, got); err != nil {
			return err
		}
		// Looking up a name reads its directory: of the many small files a sample is enough.
		if n++; strings.HasPrefix(name, "many/") && n%100 != 0 {
			return nil
		}
		return compareContent(path, name, got, f)
	})
	if err != nil || len(missing) > 0 {
		t.Errorf("%d names are not in the image: %v", len(missing), err)
	}
}

func compareInfo(path string, got fs.FileInfo) error {
	src, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st, sys := src.Sys().(*syscall.Stat_t), got.Sys().(*squashfs.Stat)
	switch {
	case got.Mode() != src.Mode():
		return fmt.Errorf("%s: mode %v, want %v", path, got.Mode(), src.Mode())
	case got.ModTime().Unix() != src.ModTime().Unix():
		return fmt.Errorf("%s: time %v, want %v", path, got.ModTime(), src.ModTime())
	case sys.UID != st.Uid || sys.GID != st.Gid || !src.IsDir() && uint64(sys.Links) != uint64(st.Nlink):
		return fmt.Errorf("%s: %+v, want %+v", path, sys, st)
	}
	return nil
}

func compareContent(path, name string, got fs.FileInfo, f *squashfs.FS) error {
	if got.Mode()&fs.ModeSymlink != 0 {
		want, err := os.Readlink(path)
		if err != nil {
			return err
		}
		if got, err := f.ReadLink(name); err != nil || got != want {
			return fmt.Errorf("%s: link to %q, want %q, %v", name, got, want, err)
		}
	}
	if !got.Mode().IsRegular() {
		return nil
	}
	want, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	file, err := f.OpenFile(name)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	if !bytes.Equal(data, want) {
		return fmt.Errorf("%s: content differs", name)
	}
	return nil
}

// TestReadsTestdata keeps the images of testdata, which the other tests and the fuzzing read, in step with smallTree: with -update it
// writes them anew.
func TestReadsTestdata(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	smallTree(t, dir)
	for name, args := range map[string]string{
		"gzip": "-comp gzip -b 4K", "xz": "-comp xz -b 8K", "lz4": "-comp lz4 -b 4K", "zstd": "-comp zstd -b 4K",
		"plain": "-noI -noD -noF -noX -noId -no-fragments -b 16K", "fragments": "-comp zstd -always-use-fragments -no-exports",
	} {
		args += " -all-root -all-time 1000000000 -nopad"
		made := mksquashfs(t, dir, append(strings.Fields(args), "-p", "null c 666 0 0 1 3", "-p", "disk b 660 0 6 259 70000")...)
		golden := filepath.Join("testdata", name+".squashfs")
		if *update {
			b, err := os.ReadFile(made)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(golden, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, want := names(t, golden), names(t, made); !slices.Equal(got, want) {
			t.Errorf("%s holds %v, want %v: run with -update", golden, got, want)
		}
	}
}

func names(t *testing.T, img string) []string {
	t.Helper()
	var all []string
	err := open(t, img).Walk(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			all = append(all, fmt.Sprint(name, fi.Mode(), fi.Size()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
