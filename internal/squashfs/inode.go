package squashfs

import (
	"encoding/binary"
	"io/fs"
	"time"
)

// Inode kinds as they stand in directory entries; the extended form of kind k has the number k+extended in the inode table.
const (
	kindDir = 1 + iota
	kindFile
	kindSymlink
	kindBlockDev
	kindCharDev
	kindFIFO
	kindSocket
	extended = 7
)

const (
	noFragment = 0xffffffff
	noXattr    = 0xffffffff
	maxSymlink = 64<<10 - 1
	// maxFileBlocks bounds the block list of one file: 2 TiB at the default block size.
	maxFileBlocks = 1 << 24
)

// inode is one decoded inode. For a file the block list is left in the table: reader m stands in front of it.
type inode struct {
	ref    uint64
	kind   int
	perm   uint16
	uid    uint16 // index into the ID table
	gid    uint16
	mtime  uint32
	number uint32
	nlink  uint32
	xattr  uint32
	rdev   uint32
	size   uint64 // of the file; of a directory's listing, 3 more than its bytes

	start    uint64 // file: position of the first block; directory: block in the directory table
	offset   uint32 // file: offset in the fragment block; directory: offset in the listing's first block
	fragment uint32
	dirIndex uint16 // directory: how many index entries follow the inode
	target   string // symbolic link
}

// inode reads the inode that ref points to.
func (f *FS) inode(ref uint64) (*inode, error) {
	ino, _, err := f.inodeAndRest(ref)
	return ino, err
}

// inodeAndRest also gives the reader behind the fixed part: a file's block list follows.
func (f *FS) inodeAndRest(ref uint64) (*inode, *metaReader, error) {
	block := ref >> 16
	if block >= f.sb.DirectoryTable-f.sb.InodeTable {
		return nil, nil, corrupt("inode", int64(f.sb.InodeTable), "reference %#x leads out of the inode table", ref)
	}
	m, err := f.metaAt("inode table", int64(f.sb.InodeTable+block), int64(f.sb.DirectoryTable), int(ref&0xffff))
	if err != nil {
		return nil, nil, err
	}
	ino, err := f.readInode(m)
	if err != nil {
		return nil, nil, err
	}
	ino.ref = ref
	return ino, m, nil
}

// readInode decodes one inode, except a file's block list and a directory's index, which follow.
func (f *FS) readInode(m *metaReader) (*inode, error) {
	var b [40]byte
	at := m.pos
	if err := m.read(b[:16]); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	typ := int(le.Uint16(b[:]))
	ino := &inode{
		perm: le.Uint16(b[2:]), uid: le.Uint16(b[4:]), gid: le.Uint16(b[6:]),
		mtime: le.Uint32(b[8:]), number: le.Uint32(b[12:]),
		nlink: 1, xattr: noXattr, fragment: noFragment,
	}
	if typ < kindDir || typ > kindSocket+extended {
		return nil, corrupt("inode", at, "type %d", typ)
	}
	ino.kind = (typ-1)%extended + 1
	if ino.uid >= f.sb.IDs || ino.gid >= f.sb.IDs {
		return nil, corrupt("inode", at, "owner %d:%d of a table of %d IDs", ino.uid, ino.gid, f.sb.IDs)
	}
	return ino, readBody(m, ino, typ > extended, b[:])
}

// fixed lengths of the inode bodies behind the common 16 bytes, basic and extended.
func bodyLen(kind int, ext bool) int {
	lens := [...][2]int{kindDir: {16, 24}, kindFile: {16, 40}, kindSymlink: {8, 8}, kindBlockDev: {8, 12}, kindCharDev: {8, 12}, kindFIFO: {4, 8}, kindSocket: {4, 8}}
	if ext {
		return lens[kind][1]
	}
	return lens[kind][0]
}

func readBody(m *metaReader, ino *inode, ext bool, scratch []byte) error {
	b := scratch[:bodyLen(ino.kind, ext)]
	if err := m.read(b); err != nil {
		return err
	}
	le := binary.LittleEndian
	switch ino.kind {
	case kindDir:
		dirBody(ino, ext, b)
	case kindFile:
		fileBody(ino, ext, b)
	case kindSymlink:
		ino.nlink = le.Uint32(b)
		return symlinkBody(m, ino, ext, le.Uint32(b[4:]))
	case kindBlockDev, kindCharDev:
		ino.nlink, ino.rdev = le.Uint32(b), le.Uint32(b[4:])
		if ext {
			ino.xattr = le.Uint32(b[8:])
		}
	default:
		ino.nlink = le.Uint32(b)
		if ext {
			ino.xattr = le.Uint32(b[4:])
		}
	}
	return nil
}

func dirBody(ino *inode, ext bool, b []byte) {
	le := binary.LittleEndian
	if !ext {
		ino.start, ino.nlink = uint64(le.Uint32(b)), le.Uint32(b[4:])
		ino.size, ino.offset = uint64(le.Uint16(b[8:])), uint32(le.Uint16(b[10:]))
		return
	}
	ino.nlink, ino.size = le.Uint32(b), uint64(le.Uint32(b[4:]))
	ino.start, ino.offset = uint64(le.Uint32(b[8:])), uint32(le.Uint16(b[18:]))
	ino.xattr = le.Uint32(b[20:])
	ino.dirIndex = le.Uint16(b[16:])
}

func fileBody(ino *inode, ext bool, b []byte) {
	le := binary.LittleEndian
	if !ext {
		ino.start, ino.fragment = uint64(le.Uint32(b)), le.Uint32(b[4:])
		ino.offset, ino.size = le.Uint32(b[8:]), uint64(le.Uint32(b[12:]))
		return
	}
	ino.start, ino.size = le.Uint64(b), le.Uint64(b[8:]) // b[16:24] counts the bytes of holes
	ino.nlink, ino.fragment = le.Uint32(b[24:]), le.Uint32(b[28:])
	ino.offset, ino.xattr = le.Uint32(b[32:]), le.Uint32(b[36:])
}

func symlinkBody(m *metaReader, ino *inode, ext bool, n uint32) error {
	if n == 0 || n > maxSymlink {
		return corrupt("inode", m.pos, "symbolic link of %d bytes", n)
	}
	target := make([]byte, n)
	if err := m.read(target); err != nil {
		return err
	}
	ino.target, ino.size = string(target), uint64(n)
	if !ext {
		return nil
	}
	var x [4]byte
	if err := m.read(x[:]); err != nil {
		return err
	}
	ino.xattr = binary.LittleEndian.Uint32(x[:])
	return nil
}

// blocks is how many entries the block list of a file has; a tail in a fragment has none.
func (ino *inode) blocks(blockSize uint32) (int, error) {
	n := ino.size / uint64(blockSize)
	if ino.fragment == noFragment && ino.size%uint64(blockSize) != 0 {
		n++
	}
	if n > maxFileBlocks {
		return 0, corrupt("inode", -1, "file of %d bytes has more than %d blocks", ino.size, maxFileBlocks)
	}
	return int(n), nil
}

// mode gives the inode's type and permissions in Go's terms.
func (ino *inode) mode() fs.FileMode {
	m := fs.FileMode(ino.perm & 0o777)
	for _, bit := range []struct {
		unix uint16
		mode fs.FileMode
	}{{0o4000, fs.ModeSetuid}, {0o2000, fs.ModeSetgid}, {0o1000, fs.ModeSticky}} {
		if ino.perm&bit.unix != 0 {
			m |= bit.mode
		}
	}
	return m | kindMode(ino.kind)
}

func kindMode(kind int) fs.FileMode {
	switch kind {
	case kindDir:
		return fs.ModeDir
	case kindSymlink:
		return fs.ModeSymlink
	case kindBlockDev:
		return fs.ModeDevice
	case kindCharDev:
		return fs.ModeDevice | fs.ModeCharDevice
	case kindFIFO:
		return fs.ModeNamedPipe
	case kindSocket:
		return fs.ModeSocket
	default:
		return 0
	}
}

// Stat is what FileInfo.Sys gives: a pointer to the inode's other values.
type Stat struct {
	Inode    uint32
	Links    uint32
	UID, GID uint32
	// Major and Minor are the device's numbers; zero for what is no device.
	Major, Minor uint32
	// Xattrs tells that the file has extended attributes.
	Xattrs bool
}

// info is the fs.FileInfo of one name.
type info struct {
	name string
	ino  *inode
	stat Stat
}

func (i *info) Name() string       { return i.name }
func (i *info) Mode() fs.FileMode  { return i.ino.mode() }
func (i *info) ModTime() time.Time { return time.Unix(int64(i.ino.mtime), 0).UTC() }
func (i *info) IsDir() bool        { return i.ino.kind == kindDir }
func (i *info) Sys() any           { return &i.stat }

func (i *info) Size() int64 {
	return int64(min(i.ino.size, 1<<63-1))
}

func (f *FS) info(name string, ino *inode) (*info, error) {
	uid, err := f.id(ino.uid)
	if err != nil {
		return nil, err
	}
	gid, err := f.id(ino.gid)
	if err != nil {
		return nil, err
	}
	return &info{name: name, ino: ino, stat: Stat{
		Inode: ino.number, Links: ino.nlink, UID: uid, GID: gid,
		Major: ino.rdev >> 8 & 0xfff, Minor: ino.rdev&0xff | ino.rdev>>12&0xfff00,
		Xattrs: ino.xattr != noXattr,
	}}, nil
}

// id gives entry i of the ID table.
func (f *FS) id(i uint16) (uint32, error) {
	var b [4]byte
	if err := f.tableEntry(f.idTable(), uint64(i), b[:]); err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b[:]), nil
}
