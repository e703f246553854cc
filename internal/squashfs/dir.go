package squashfs

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"slices"
	"strings"
)

// maxDirEntries bounds how many names one directory may have.
const maxDirEntries = 1 << 20

const (
	dirHeaderLen = 12
	dirEntryLen  = 8
	dirMaxRun    = 256 // entries behind one header
	dirSizeExtra = 3   // a listing's size counts "." and "..", which are not stored
)

// dirent is one name of a directory.
type dirent struct {
	name string
	ref  uint64
	kind int
}

// validPath is fs.ValidPath without the rule that names are UTF-8: Linux has no such rule.
func validPath(name string) bool {
	if name == "." {
		return true
	}
	for elem := range strings.SplitSeq(name, "/") {
		if elem == "" || elem == "." || elem == ".." {
			return false
		}
	}
	return true
}

// dirReader reads a listing name by name.
type dirReader struct {
	m     *metaReader
	left  int64 // bytes of the listing
	run   int   // entries left behind the last header
	block uint32
	count int
	name  [dirMaxRun]byte
}

func (f *FS) dirReader(ino *inode) (*dirReader, error) {
	if ino.size <= dirSizeExtra {
		return &dirReader{}, nil
	}
	pos := f.sb.DirectoryTable + ino.start
	if pos >= uint64(f.dirEnd) {
		return nil, corrupt("directory", int64(f.sb.DirectoryTable), "listing at %d, behind the table's end at %d", pos, f.dirEnd)
	}
	m, err := f.metaAt("directory table", int64(pos), f.dirEnd, int(ino.offset))
	if err != nil {
		return nil, err
	}
	return &dirReader{m: m, left: int64(ino.size - dirSizeExtra)}, nil
}

// next gives the next entry, without its name, which is valid until the next call; ok is false behind the last.
func (d *dirReader) next() (e dirent, name []byte, ok bool, err error) {
	if d.left == 0 {
		return e, nil, false, nil
	}
	var b [dirHeaderLen]byte
	le := binary.LittleEndian
	if d.run == 0 {
		if err := d.take(b[:dirHeaderLen]); err != nil {
			return e, nil, false, err
		}
		n := le.Uint32(b[:])
		if n >= dirMaxRun {
			return e, nil, false, corrupt("directory", d.m.pos, "%d entries behind one header", uint64(n)+1)
		}
		d.run, d.block = int(n)+1, le.Uint32(b[4:])
	}
	if err := d.take(b[:dirEntryLen]); err != nil {
		return e, nil, false, err
	}
	d.run--
	if d.count++; d.count > maxDirEntries {
		return e, nil, false, corrupt("directory", d.m.pos, "more than %d names", maxDirEntries)
	}
	e.ref = uint64(d.block)<<16 | uint64(le.Uint16(b[:]))
	e.kind = int(le.Uint16(b[4:]))
	n := int(le.Uint16(b[6:])) + 1
	if n > len(d.name) {
		return e, nil, false, corrupt("directory", d.m.pos, "name of %d bytes", n)
	}
	name = d.name[:n]
	if err := d.take(name); err != nil {
		return e, nil, false, err
	}
	if e.kind < kindDir || e.kind > kindSocket || badName(name) {
		return e, nil, false, corrupt("directory", d.m.pos, "entry %q of type %d", name, e.kind)
	}
	return e, name, true, nil
}

func badName(b []byte) bool {
	return bytes.IndexByte(b, '/') >= 0 || bytes.IndexByte(b, 0) >= 0 || string(b) == "." || string(b) == ".."
}

func (d *dirReader) take(b []byte) error {
	if int64(len(b)) > d.left {
		return corrupt("directory", d.m.pos, "listing ends inside of an entry")
	}
	d.left -= int64(len(b))
	return d.m.read(b)
}

// lookup finds one name in a directory.
func (f *FS) lookup(dir *inode, name string) (dirent, bool, error) {
	d, err := f.dirReader(dir)
	if err != nil {
		return dirent{}, false, err
	}
	for {
		e, b, ok, err := d.next()
		if err != nil || !ok {
			return dirent{}, false, err
		}
		if string(b) == name {
			e.name = name
			return e, true, nil
		}
	}
}

// list reads a whole directory, sorted by name.
func (f *FS) list(dir *inode) ([]fs.DirEntry, error) {
	d, err := f.dirReader(dir)
	if err != nil {
		return nil, err
	}
	var all []fs.DirEntry
	for {
		e, b, ok, err := d.next()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		e.name = string(b)
		all = append(all, &dirEntry{fs: f, dirent: e})
	}
	byName := func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) }
	if !slices.IsSortedFunc(all, byName) {
		slices.SortFunc(all, byName)
	}
	for i := 1; i < len(all); i++ {
		if all[i].Name() == all[i-1].Name() {
			return nil, corrupt("directory", int64(f.sb.DirectoryTable+dir.start), "the name %q stands twice", all[i].Name())
		}
	}
	return all, nil
}

// dirEntry is a name with its inode still unread.
type dirEntry struct {
	fs *FS
	dirent
}

func (e *dirEntry) Name() string      { return e.name }
func (e *dirEntry) IsDir() bool       { return e.kind == kindDir }
func (e *dirEntry) Type() fs.FileMode { return kindMode(e.kind) }
func (e *dirEntry) String() string    { return fs.FormatDirEntry(e) }

// Info reads the inode.
func (e *dirEntry) Info() (fs.FileInfo, error) {
	ino, err := e.fs.inodeOf(e.dirent)
	if err != nil {
		return nil, err
	}
	return e.fs.info(e.name, ino)
}

// inodeOf reads the inode of a name; both must agree on the type.
func (f *FS) inodeOf(e dirent) (*inode, error) {
	ino, err := f.inode(e.ref)
	if err != nil {
		return nil, err
	}
	if ino.kind != e.kind {
		return nil, corrupt("directory", -1, "entry %q has type %d, its inode %d", e.name, e.kind, ino.kind)
	}
	return ino, nil
}
