package sqmeta

import (
	"encoding/binary"
	"fmt"
)

// compressTable gives the stored form of metadata block i of a table.
type compressTable func(id tableID, i int, src []byte) (out []byte, compressed bool, err error)

// stream cuts one table into metadata blocks, as they fill.
type stream struct {
	id      tableID
	comp    compressTable
	pending []byte   // the last block, not full
	out     []byte   // stored blocks
	starts  []uint32 // where each block begins in out; the last is where pending will
	bytes   int64    // expanded bytes so far
	left    *int64   // of the limit, shared by all tables
}

func newStream(id tableID, comp compressTable, left *int64) *stream {
	return &stream{id: id, comp: comp, pending: make([]byte, 0, metaBlock), starts: []uint32{0}, left: left}
}

// add appends b to the table.
func (s *stream) add(b []byte) error {
	if *s.left -= int64(len(b)); *s.left < 0 {
		return fmt.Errorf("%w: the tables expand to more than the limit", ErrColumns)
	}
	s.bytes += int64(len(b))
	for len(b) > 0 {
		k := min(len(b), metaBlock-len(s.pending))
		s.pending = append(s.pending, b[:k]...)
		b = b[k:]
		if len(s.pending) == metaBlock {
			if err := s.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush writes the pending block, if there is one.
func (s *stream) flush() error {
	if len(s.pending) == 0 {
		return nil
	}
	out, compressed, err := s.comp(s.id, len(s.starts)-1, s.pending)
	if err != nil {
		return fmt.Errorf("compress a block of the %s: %w", s.id, err)
	}
	if len(out) == 0 || len(out) > metaBlock {
		return fmt.Errorf("compress a block of the %s: %d bytes came out", s.id, len(out))
	}
	h := uint16(len(out))
	if !compressed {
		h |= storedRaw
	}
	s.out = append(binary.LittleEndian.AppendUint16(s.out, h), out...)
	s.starts = append(s.starts, uint32(len(s.out)))
	s.pending = s.pending[:0]
	return nil
}

// ref is where the next byte will lie, as references have it: block << 16 | offset.
func (s *stream) ref() uint64 { return uint64(s.starts[len(s.starts)-1])<<16 | uint64(len(s.pending)) }

// refAt gives the reference of an earlier position.
func (s *stream) refAt(at uint64) (uint64, bool) {
	i := at / metaBlock
	if i >= uint64(len(s.starts)) {
		return 0, false
	}
	return uint64(s.starts[i])<<16 | at%metaBlock, true
}

// emitter writes a model as mksquashfs does: inode and directory table in step, then the other tables.
type emitter struct {
	*model
	comp    compressTable
	left    int64
	table   *stream
	dirs    *stream
	refs    []uint64 // of the inodes so far
	listing lister
	buf     []byte
	tail    []byte
	pos     [tables]uint64 // of the tables, as the superblock has them
}

// emit gives the bytes of the image outside of the data area.
func (m *model) emit(comp compressTable, limit int64) (*Image, error) {
	e := &emitter{model: m, comp: comp, left: limit, refs: make([]uint64, 0, len(m.inodes))}
	e.table, e.dirs = newStream(tableInodes, comp, &e.left), newStream(tableDirectories, comp, &e.left)
	for i := range m.inodes {
		if err := e.inode(&m.inodes[i], uint32(i)); err != nil {
			return nil, err
		}
	}
	for _, step := range []func() error{e.flushInodes, e.fragments, e.export, e.writeIDs, e.xattrs} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	used := m.end + uint64(len(e.tail))
	tail := append(e.tail, m.padding...)
	if m.aligned {
		tail = append(e.tail, make([]byte, -used%alignment)...)
	}
	return &Image{Head: e.head(used), Tail: tail, TailOffset: int64(m.end), Size: int64(m.end) + int64(len(tail))}, nil
}

func (e *emitter) flushInodes() error {
	for _, s := range []*stream{e.table, e.dirs} {
		if err := s.flush(); err != nil {
			return err
		}
		e.pos[s.id] = e.end + uint64(len(e.tail))
		e.tail = append(e.tail, s.out...)
	}
	return nil
}

// inode writes one inode, a directory's listing before it.
func (e *emitter) inode(n *inode, number uint32) error {
	start, offset, size := n.start, n.fragOff, n.size
	var index []indexPoint
	if n.kind() == typeDir {
		ref := e.dirs.ref()
		start, offset = ref>>16, uint32(ref&0xffff)
		list, err := e.listing.build(e.model, n, e.refs)
		if err != nil {
			return err
		}
		index, size = e.listing.index, uint64(len(list))+listExtra
		at := uint64(e.dirs.bytes)
		if err := e.dirs.add(list); err != nil {
			return err
		}
		for i := range index {
			ref, _ := e.dirs.refAt(at + uint64(index[i].at))
			index[i].block = uint32(ref >> 16)
		}
	}
	b := e.fixed(n, start, size, offset, len(index))
	switch n.kind() {
	case typeFile:
		for _, w := range n.words {
			b = binary.LittleEndian.AppendUint32(b, w)
		}
	case typeSymlink:
		b = append(b, e.target(n)...)
		if n.typ > extended {
			b = binary.LittleEndian.AppendUint32(b, n.xattr)
		}
	case typeDir:
		if n.typ > extended {
			b = e.appendIndex(b, index)
		}
	}
	e.buf = b
	e.refs = append(e.refs, e.table.ref())
	return e.table.add(b)
}

// fixed gives the part of an inode that all of its type have.
func (e *emitter) fixed(n *inode, start, size uint64, offset uint32, index int) []byte {
	le := binary.LittleEndian
	b := le.AppendUint16(e.buf[:0], uint16(n.typ))
	b = le.AppendUint16(le.AppendUint16(le.AppendUint16(b, n.mode), n.uid), n.gid)
	b = le.AppendUint32(le.AppendUint32(b, n.mtime), n.number)
	switch n.typ {
	case typeDir:
		b = le.AppendUint32(le.AppendUint32(b, uint32(start)), n.nlink)
		b = le.AppendUint16(le.AppendUint16(b, uint16(size)), uint16(offset))
		return le.AppendUint32(b, n.parent)
	case typeDir + extended:
		b = le.AppendUint32(le.AppendUint32(b, n.nlink), uint32(size))
		b = le.AppendUint32(le.AppendUint32(b, uint32(start)), n.parent)
		b = le.AppendUint16(le.AppendUint16(b, uint16(index)), uint16(offset))
		return le.AppendUint32(b, n.xattr)
	case typeFile:
		b = le.AppendUint32(le.AppendUint32(b, uint32(start)), n.frag)
		return le.AppendUint32(le.AppendUint32(b, offset), uint32(size))
	case typeFile + extended:
		b = le.AppendUint64(le.AppendUint64(le.AppendUint64(b, start), size), n.sparse)
		b = le.AppendUint32(le.AppendUint32(b, n.nlink), n.frag)
		return le.AppendUint32(le.AppendUint32(b, offset), n.xattr)
	}
	b = le.AppendUint32(b, n.nlink)
	switch n.kind() {
	case typeSymlink:
		return le.AppendUint32(b, n.count)
	case typeBlockDev, typeCharDev:
		b = le.AppendUint32(b, n.rdev)
	}
	if n.typ > extended {
		b = le.AppendUint32(b, n.xattr)
	}
	return b
}

func (e *emitter) appendIndex(b []byte, index []indexPoint) []byte {
	le := binary.LittleEndian
	for _, p := range index {
		b = le.AppendUint32(le.AppendUint32(b, p.at), p.block)
		b = le.AppendUint32(b, uint32(len(p.name)-1))
		b = append(b, p.name...)
	}
	return b
}
