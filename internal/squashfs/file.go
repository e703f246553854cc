package squashfs

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"sync"
)

// File is an open regular file. ReadAt may be called concurrently, Read and Seek may not.
type File struct {
	fs   *FS
	name string
	info *info

	sizes []uint32 // block list: stored length and the "stored raw" bit; 0 is a hole
	marks []int64  // position in the image of every markEvery-th block

	pos int64 // of Read

	mu     sync.Mutex
	last   int // the block in cached, -1 if none
	cached []byte
}

const markEvery = 256

func (f *FS) open(name string, fi *info) (*File, error) {
	file := &File{fs: f, name: name, info: fi, last: -1}
	_, m, err := f.inodeAndRest(fi.ino.ref)
	if err != nil {
		return nil, file.fail("open", err)
	}
	n, err := fi.ino.blocks(f.sb.BlockSize)
	if err != nil {
		return nil, file.fail("open", err)
	}
	pos := int64(fi.ino.start)
	for i := range n {
		word, stored, err := f.blockWord(m, pos)
		if err != nil {
			return nil, file.fail("open", err)
		}
		if i%markEvery == 0 {
			file.marks = append(file.marks, pos)
		}
		file.sizes = append(file.sizes, word)
		pos += stored
	}
	return file, nil
}

// blockWord reads the next entry of a block list and checks that the block at pos lies in front of the inode table.
func (f *FS) blockWord(m *metaReader, pos int64) (word uint32, stored int64, err error) {
	var b [4]byte
	if err := m.read(b[:]); err != nil {
		return 0, 0, err
	}
	word = binary.LittleEndian.Uint32(b[:])
	if word == 0 {
		return 0, 0, nil
	}
	return word, int64(word &^ dataStoredRaw), f.checkStored("block list", pos, word)
}

// checkStored checks position and length of a data or fragment block.
func (f *FS) checkStored(where string, pos int64, word uint32) error {
	n := word &^ dataStoredRaw
	if n == 0 || n > f.sb.BlockSize {
		return corrupt(where, pos, "block of %d bytes, the block size is %d", n, f.sb.BlockSize)
	}
	if pos < SuperblockSize || pos > f.sb.BytesUsed-int64(n) {
		return corrupt(where, pos, "block of %d bytes outside of the image of %d", n, f.sb.BytesUsed)
	}
	return nil
}

// dataBlock reads and expands one data or fragment block into a new slice of at most limit bytes.
func (f *FS) dataBlock(where string, pos int64, word uint32, limit int) ([]byte, error) {
	if err := f.checkStored(where, pos, word); err != nil {
		return nil, err
	}
	src := make([]byte, word&^dataStoredRaw)
	if err := f.readAt(src, pos); err != nil {
		return nil, err
	}
	if word&dataStoredRaw != 0 {
		return src, nil
	}
	dst := make([]byte, limit)
	n, err := f.dec.decode(dst, src)
	if err != nil {
		return nil, &CorruptError{Where: where, Offset: pos, Detail: "expand block", Err: err}
	}
	return dst[:n], nil
}

// fragmentEntry reads entry i of the fragment table: position and block word.
func (f *FS) fragmentEntry(i uint32) (int64, uint32, error) {
	var b [16]byte
	if i >= f.sb.Fragments {
		return 0, 0, corrupt("inode", -1, "fragment %d of %d", i, f.sb.Fragments)
	}
	if err := f.tableEntry(f.fragmentTable(), uint64(i), b[:]); err != nil {
		return 0, 0, err
	}
	pos, word := binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint32(b[8:])
	if pos >= uint64(f.sb.BytesUsed) {
		return 0, 0, corrupt("fragment table", int64(f.sb.FragmentTable), "fragment %d at %d, behind the end", i, pos)
	}
	return int64(pos), word, f.checkStored("fragment table", int64(pos), word)
}

// fragment gives the expanded fragment block i.
func (f *FS) fragment(i uint32) ([]byte, error) {
	pos, word, err := f.fragmentEntry(i)
	if err != nil {
		return nil, err
	}
	if b := f.frag.get(pos); b != nil {
		return b.data, nil
	}
	data, err := f.dataBlock("fragment", pos, word, int(f.sb.BlockSize))
	if err != nil {
		return nil, err
	}
	f.frag.put(&cachedBlock{pos: pos, data: data})
	return data, nil
}

// block gives block i of the file, expanded; it must not be written to.
func (file *File) block(i int) ([]byte, error) {
	bs := int64(file.fs.sb.BlockSize)
	want := int(min(bs, file.info.Size()-int64(i)*bs))
	if i >= len(file.sizes) {
		return file.tail(want)
	}
	word := file.sizes[i]
	if word == 0 {
		return make([]byte, want), nil
	}
	file.mu.Lock()
	if file.last == i {
		defer file.mu.Unlock()
		return file.cached, nil
	}
	file.mu.Unlock()
	data, err := file.fs.dataBlock("data block", file.position(i), word, want)
	if err != nil {
		return nil, err
	}
	if len(data) != want {
		return nil, corrupt("data block", file.position(i), "expands to %d bytes instead of %d", len(data), want)
	}
	file.mu.Lock()
	file.last, file.cached = i, data
	file.mu.Unlock()
	return data, nil
}

// position is where block i lies in the image.
func (file *File) position(i int) int64 {
	pos := file.marks[i/markEvery]
	for _, word := range file.sizes[i/markEvery*markEvery : i] {
		pos += int64(word &^ dataStoredRaw)
	}
	return pos
}

// tail gives the file's end out of its fragment block.
func (file *File) tail(want int) ([]byte, error) {
	ino := file.info.ino
	data, err := file.fs.fragment(ino.fragment)
	if err != nil {
		return nil, err
	}
	if uint64(ino.offset)+uint64(want) > uint64(len(data)) {
		return nil, corrupt("inode", -1, "tail of %d bytes at %d in a fragment of %d", want, ino.offset, len(data))
	}
	return data[ino.offset:][:want:want], nil
}

// ReadAt implements io.ReaderAt.
func (file *File) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, file.fail("read", fs.ErrInvalid)
	}
	size, bs := file.info.Size(), int64(file.fs.sb.BlockSize)
	n := 0
	for n < len(b) {
		if off >= size {
			return n, io.EOF
		}
		data, err := file.block(int(off / bs))
		if err != nil {
			return n, file.fail("read", err)
		}
		k := copy(b[n:], data[off%bs:])
		n, off = n+k, off+int64(k)
	}
	return n, nil
}

// Read implements io.Reader.
func (file *File) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if file.pos >= file.info.Size() {
		return 0, io.EOF
	}
	bs := int64(file.fs.sb.BlockSize)
	n, err := file.ReadAt(b[:min(int64(len(b)), bs-file.pos%bs, file.info.Size()-file.pos)], file.pos)
	file.pos += int64(n)
	return n, err
}

// Seek implements io.Seeker.
func (file *File) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += file.pos
	case io.SeekEnd:
		offset += file.info.Size()
	default:
		return 0, file.fail("seek", fs.ErrInvalid)
	}
	if offset < 0 {
		return 0, file.fail("seek", fs.ErrInvalid)
	}
	file.pos = offset
	return offset, nil
}

// Size is the file's length in bytes.
func (file *File) Size() int64 { return file.info.Size() }

// Stat implements fs.File.
func (file *File) Stat() (fs.FileInfo, error) { return file.info, nil }

// Close implements fs.File; it does nothing.
func (file *File) Close() error { return nil }

func (file *File) fail(op string, err error) error {
	return &fs.PathError{Op: op, Path: file.name, Err: err}
}

// dirFile is an open directory.
type dirFile struct {
	fs   *FS
	name string
	info *info
	rest []fs.DirEntry
	read bool
}

func (d *dirFile) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *dirFile) Close() error               { return nil }

func (d *dirFile) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.name, Err: fmt.Errorf("%w: is a directory", fs.ErrInvalid)}
}

// ReadDir implements fs.ReadDirFile.
func (d *dirFile) ReadDir(n int) ([]fs.DirEntry, error) {
	if !d.read {
		all, err := d.fs.list(d.info.ino)
		if err != nil {
			return nil, &fs.PathError{Op: "readdir", Path: d.name, Err: err}
		}
		d.rest, d.read = all, true
	}
	if n <= 0 {
		out := d.rest
		d.rest = nil
		return out, nil
	}
	if len(d.rest) == 0 {
		return nil, io.EOF
	}
	out := d.rest[:min(n, len(d.rest))]
	d.rest = d.rest[len(out):]
	return out, nil
}

// specialFile is an open device, pipe or socket: there is nothing to read in it.
type specialFile struct {
	name string
	info *info
}

func (s *specialFile) Stat() (fs.FileInfo, error) { return s.info, nil }
func (s *specialFile) Read([]byte) (int, error)   { return 0, io.EOF }
func (s *specialFile) Close() error               { return nil }
