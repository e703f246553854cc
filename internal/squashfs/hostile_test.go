package squashfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"runtime"
	"slices"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// allocated gives the bytes that f takes from the heap.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestHugeClaims sets counts and lengths of an image without compression to the largest values: the answer is an error, soon, and
// without taking memory for what is not there. It does not run beside others because it looks at the heap.
func TestHugeClaims(t *testing.T) {
	good := golden(t, "plain")
	le := binary.LittleEndian
	inodes := int(le.Uint64(good[64:]))
	// The inode of the file "holes" is found by its length, which stands nowhere else in the inode table as 64 bits.
	length := inodes + bytes.Index(good[inodes:], le.AppendUint64(nil, 40<<10))
	tests := map[string]struct {
		off  int
		v    []byte
		read func(f *squashfs.FS) error
	}{
		"inodes":        {4, []byte{0xff, 0xff, 0xff, 0xff}, blocks},
		"fragments":     {16, []byte{0xff, 0xff, 0xff, 0xff}, blocks},
		"file":          {length, []byte{0xff, 0xff, 0xff, 0xff}, func(f *squashfs.FS) error { _, err := f.ReadFile("holes"); return err }},
		"file's blocks": {length, []byte{0xff, 0xff, 0xff, 0xff}, blocks},
	}
	for name, tt := range tests {
		b := slices.Clone(good)
		copy(b[tt.off:], tt.v)
		var err error
		n := allocated(func() {
			var f *squashfs.FS
			if f, err = squashfs.Open(bytes.NewReader(b), int64(len(b))); err == nil {
				err = tt.read(f)
			}
		})
		if !errors.Is(err, squashfs.ErrCorrupt) && !errors.Is(err, squashfs.ErrTruncated) || n > 64<<20 {
			t.Errorf("%s: %v, %d bytes taken", name, err, n)
		}
	}
}

func blocks(f *squashfs.FS) error {
	return f.Blocks(func(squashfs.Block) error { return nil })
}

// TestReadFileIsBounded makes a file claim 2 GiB of holes, which an image can truthfully contain.
func TestReadFileIsBounded(t *testing.T) {
	t.Parallel()
	b := sparse(t, 1<<31)
	f := openBytes(t, b)
	if _, err := f.ReadFile("hole"); err == nil {
		t.Error("2 GiB were read at once")
	}
	file, err := f.OpenFile("hole")
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if n, err := file.ReadAt(buf, 1<<31-10); n != 10 || err != nil || !bytes.Equal(buf, make([]byte, 10)) {
		t.Errorf("%d %v %q", n, err, buf)
	}
	checkBlocks(t, f)
}

// sparse makes an image with one file, "hole", of size bytes, a multiple of 1 MiB, in which nothing is stored.
func sparse(t *testing.T, size int) []byte {
	t.Helper()
	le := binary.LittleEndian
	b := make([]byte, squashfs.SuperblockSize)
	table := func(body []byte) int {
		at := len(b)
		for part := range slices.Chunk(body, 8192) {
			b = append(le.AppendUint16(b, uint16(len(part))|1<<15), part...)
		}
		return at
	}
	listing := slices.Concat(make([]byte, 4), make([]byte, 4), []byte{1, 0, 0, 0}, // one entry, inodes in block 0, inode numbers from 1
		[]byte{32, 0, 1, 0, 2, 0, 3, 0}, []byte("hole")) // at 32, number 2, a file, name of 4
	dir := make([]byte, 32)
	dir[0], dir[12] = 1, 1
	le.PutUint16(dir[24:], uint16(len(listing)+3))
	file := make([]byte, 56+size>>20*4)
	file[0], file[12] = 9, 2
	le.PutUint64(file[24:], uint64(size))
	le.PutUint64(file[32:], uint64(size))
	file[40] = 1
	le.PutUint32(file[44:], ^uint32(0))
	le.PutUint32(file[52:], ^uint32(0))
	inodeTable := table(slices.Concat(dir, file))
	dirTable := table(listing)
	id := table(make([]byte, 4))
	idTable := len(b)
	b = le.AppendUint64(b, uint64(id))
	le.PutUint32(b, 0x73717368)
	le.PutUint32(b[4:], 2)
	le.PutUint32(b[12:], 1<<20)
	for off, v := range map[int]uint16{20: 6, 22: 20, 26: 1, 28: 4} {
		le.PutUint16(b[off:], v)
	}
	for off, v := range map[int]int{40: len(b), 48: idTable, 56: -1, 64: inodeTable, 72: dirTable, 80: -1, 88: -1} {
		le.PutUint64(b[off:], uint64(v))
	}
	return b
}
