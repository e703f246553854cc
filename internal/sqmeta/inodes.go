package sqmeta

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// bodyLen gives the fixed length of an inode with its common 16 bytes.
func bodyLen(typ uint8) int {
	return [...]int{typeDir: 32, typeFile: 32, typeSymlink: 24, typeBlockDev: 24, typeCharDev: 24, typeFIFO: 20, typeSocket: 20,
		typeDir + extended: 40, typeFile + extended: 56, typeSymlink + extended: 24, typeBlockDev + extended: 28, typeCharDev + extended: 28,
		typeFIFO + extended: 24, typeSocket + extended: 24}[typ]
}

const minInode = 20

// inodeReader reads the inode table from front to back.
type inodeReader struct {
	m    *Meta
	data []byte
	at   int
	ids  uint16
}

func (r *inodeReader) corrupt(format string, args ...any) error {
	return corrupt("inode", r.m.image.TailOffset, "at %d of the expanded table: "+format, append([]any{r.at}, args...)...)
}

// take gives the next n bytes.
func (r *inodeReader) take(n int) ([]byte, error) {
	if n > len(r.data)-r.at {
		return nil, r.corrupt("the table ends inside of it")
	}
	b := r.data[r.at : r.at+n]
	r.at += n
	return b, nil
}

// readInodes decodes all inodes. Directories keep where their listing lies in start, fragOff and size until readListings.
func (m *Meta) readInodes(sb *squashfs.Superblock) error {
	r := &inodeReader{m: m, data: m.tables[tableInodes].data, ids: sb.IDs}
	if uint64(sb.Inodes)*minInode > uint64(len(r.data)) || sb.Inodes == 0 {
		return corrupt("superblock", 4, "%d inodes in a table of %d bytes", sb.Inodes, len(r.data))
	}
	m.model.inodes = make([]inode, sb.Inodes)
	for i := range m.model.inodes {
		n := &m.model.inodes[i]
		n.first = uint32(r.at) // position, for readListings
		if err := r.inode(n); err != nil {
			return err
		}
	}
	return nil
}

func (r *inodeReader) inode(n *inode) error {
	if len(r.data)-r.at < 16 {
		return r.corrupt("the table ends inside of it")
	}
	le := binary.LittleEndian
	typ := le.Uint16(r.data[r.at:])
	if typ < typeDir || typ > typeSocket+extended {
		return r.corrupt("type %d", typ)
	}
	b, err := r.take(bodyLen(uint8(typ)))
	if err != nil {
		return err
	}
	n.typ, n.mode, n.uid, n.gid = uint8(typ), le.Uint16(b[2:]), le.Uint16(b[4:]), le.Uint16(b[6:])
	n.mtime, n.number, n.nlink, n.xattr, n.frag = le.Uint32(b[8:]), le.Uint32(b[12:]), 1, noXattr, noFragment
	if n.uid >= r.ids || n.gid >= r.ids {
		return r.corrupt("owner %d:%d of a table of %d IDs", n.uid, n.gid, r.ids)
	}
	return r.body(n, b[16:])
}

func (r *inodeReader) body(n *inode, b []byte) error {
	le := binary.LittleEndian
	switch n.typ {
	case typeDir:
		n.start, n.nlink = uint64(le.Uint32(b)), le.Uint32(b[4:])
		n.size, n.fragOff, n.parent = uint64(le.Uint16(b[8:])), uint32(le.Uint16(b[10:])), le.Uint32(b[12:])
	case typeDir + extended:
		n.nlink, n.size, n.start, n.parent = le.Uint32(b), uint64(le.Uint32(b[4:])), uint64(le.Uint32(b[8:])), le.Uint32(b[12:])
		n.fragOff, n.xattr = uint32(le.Uint16(b[18:])), le.Uint32(b[20:])
		return r.skipIndex(int(le.Uint16(b[16:])))
	case typeFile:
		n.start, n.frag, n.fragOff, n.size = uint64(le.Uint32(b)), le.Uint32(b[4:]), le.Uint32(b[8:]), uint64(le.Uint32(b[12:]))
		return r.words(n)
	case typeFile + extended:
		n.start, n.size, n.sparse, n.nlink = le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint32(b[24:])
		n.frag, n.fragOff, n.xattr = le.Uint32(b[28:]), le.Uint32(b[32:]), le.Uint32(b[36:])
		return r.words(n)
	case typeSymlink, typeSymlink + extended:
		n.nlink = le.Uint32(b)
		return r.symlink(n, le.Uint32(b[4:]))
	case typeBlockDev, typeCharDev:
		n.nlink, n.rdev = le.Uint32(b), le.Uint32(b[4:])
	case typeBlockDev + extended, typeCharDev + extended:
		n.nlink, n.rdev, n.xattr = le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:])
	case typeFIFO, typeSocket:
		n.nlink = le.Uint32(b)
	default:
		n.nlink, n.xattr = le.Uint32(b), le.Uint32(b[4:])
	}
	return nil
}

// words reads the block list of a file.
func (r *inodeReader) words(n *inode) error {
	k := wordCount(n.size, r.m.model.super.blockSize, n.frag)
	if k > uint64(len(r.data)-r.at)/4 || n.size > 1<<62 || n.start > 1<<62 {
		return r.corrupt("file of %d bytes has no block list", n.size)
	}
	b, err := r.take(int(k) * 4)
	if err != nil || k == 0 {
		return err
	}
	n.words = make([]uint32, k)
	for i := range n.words {
		n.words[i] = binary.LittleEndian.Uint32(b[i*4:])
	}
	return nil
}

func (r *inodeReader) symlink(n *inode, size uint32) error {
	if size == 0 || size >= 1<<16 {
		return r.corrupt("symbolic link of %d bytes", size)
	}
	b, err := r.take(int(size))
	if err != nil {
		return err
	}
	n.rdev, n.count = uint32(len(r.m.model.targets)), size // readListings moves the position
	r.m.model.targets = append(r.m.model.targets, b...)
	if n.typ == typeSymlink {
		return nil
	}
	if b, err = r.take(4); err == nil {
		n.xattr = binary.LittleEndian.Uint32(b)
	}
	return err
}

// skipIndex passes over the index of an extended directory: it follows from the listing.
func (r *inodeReader) skipIndex(count int) error {
	for range count {
		b, err := r.take(12)
		if err != nil {
			return err
		}
		n := binary.LittleEndian.Uint32(b[8:])
		if n >= maxName {
			return r.corrupt("directory index with a name of %d bytes", uint64(n)+1)
		}
		if _, err := r.take(int(n) + 1); err != nil {
			return err
		}
	}
	return nil
}

// listings reads the directories. refs are the positions of the inodes in the expanded table, ascending.
type listings struct {
	m    *Meta
	refs []uint32
	left int64 // bytes of listings that may still be read: no byte of the table belongs to two directories
}

// badName tells names that no file can have; they would make paths ambiguous.
func badName(b []byte) bool {
	return bytes.IndexByte(b, '/') >= 0 || bytes.IndexByte(b, 0) >= 0 || string(b) == "." || string(b) == ".."
}

// readListings decodes the listings of all directories and finds the root.
func (m *Meta) readListings(sb *squashfs.Superblock) error {
	l := &listings{m: m, refs: make([]uint32, len(m.model.inodes)), left: int64(len(m.tables[tableDirectories].data))}
	for i := range m.model.inodes {
		l.refs[i] = m.model.inodes[i].first
	}
	root, ok := l.inode(sb.RootInode)
	if !ok || m.model.inodes[root].kind() != typeDir {
		return corrupt("superblock", 32, "the root inode is no directory")
	}
	m.model.super.root = root
	for i := range m.model.inodes {
		n := &m.model.inodes[i]
		n.first = 0
		switch n.kind() {
		case typeSymlink:
			n.first, n.rdev = n.rdev, 0
		case typeDir:
			if err := l.read(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// inode finds the inode that a reference points to.
func (l *listings) inode(ref uint64) (uint32, bool) {
	pos, ok := l.m.tables[tableInodes].at(ref>>16, uint32(ref&0xffff))
	if !ok {
		return 0, false
	}
	i, ok := slices.BinarySearch(l.refs, pos)
	return uint32(i), ok
}

func (l *listings) read(n *inode) error {
	mo := &l.m.model
	where := l.m.image.TailOffset + int64(l.m.tables[tableDirectories].base) + int64(n.start)
	n.first = uint32(len(mo.entries))
	size, block, offset := n.size, n.start, n.fragOff
	n.size, n.start, n.fragOff = 0, 0, 0
	if size <= listExtra {
		return nil
	}
	size -= listExtra
	t := &l.m.tables[tableDirectories]
	at, ok := t.at(block, offset)
	if l.left -= int64(size); !ok || l.left < 0 || size > uint64(len(t.data))-uint64(at) {
		return corrupt("directory", where, "listing of %d bytes", size)
	}
	b := t.data[at : uint64(at)+size]
	le := binary.LittleEndian
	for len(b) > 0 {
		if len(b) < 12 || le.Uint32(b) >= runLen {
			return corrupt("directory", where, "bad header")
		}
		run, block := int(le.Uint32(b))+1, uint64(le.Uint32(b[4:]))
		b = b[12:]
		for range run {
			if len(b) < 8 || le.Uint16(b[6:]) >= maxName || len(b) < 9+int(le.Uint16(b[6:])) {
				return corrupt("directory", where, "the listing ends inside of an entry")
			}
			child, ok := l.inode(block<<16 | uint64(le.Uint16(b)))
			if !ok {
				return corrupt("directory", where, "entry without an inode")
			}
			size := 1 + le.Uint16(b[6:])
			if badName(b[8 : 8+size]) {
				return corrupt("directory", where, "entry %q", b[8:8+size])
			}
			mo.entries = append(mo.entries, entry{name: uint32(len(mo.names)), n: size, child: child})
			mo.names = append(mo.names, b[8:8+size]...)
			b = b[8+size:]
		}
	}
	n.count = uint32(len(mo.entries)) - n.first
	return nil
}
