package sqmeta

import (
	"encoding/binary"
	"fmt"
)

// indexed writes a table with its index array and notes where the array lies.
func (e *emitter) indexed(id tableID, s *stream) error {
	if err := s.flush(); err != nil {
		return err
	}
	base := e.end + uint64(len(e.tail))
	e.tail = append(e.tail, s.out...)
	e.pos[id] = e.end + uint64(len(e.tail))
	e.appendPositions(base, s)
	return nil
}

// appendPositions writes the index array of a table that begins at base.
func (e *emitter) appendPositions(base uint64, s *stream) {
	for _, p := range s.starts[:len(s.starts)-1] {
		e.tail = binary.LittleEndian.AppendUint64(e.tail, base+uint64(p))
	}
}

func (e *emitter) fragments() error {
	s := newStream(tableFragments, e.comp, &e.left)
	for _, f := range e.frags {
		b := binary.LittleEndian.AppendUint64(e.buf[:0], f.start)
		b = binary.LittleEndian.AppendUint64(b, uint64(f.size))
		if err := s.add(b); err != nil {
			return err
		}
	}
	return e.indexed(tableFragments, s)
}

// export writes the table that finds an inode by its number.
func (e *emitter) export() error {
	if !e.super.export {
		e.pos[tableExport] = noTable
		return nil
	}
	byNumber := make([]uint64, len(e.inodes))
	for i := range e.inodes {
		n := e.inodes[i].number
		if n == 0 || n > uint32(len(byNumber)) {
			return fmt.Errorf("%w: inode number %d of %d", ErrColumns, n, len(byNumber))
		}
		byNumber[n-1] = e.refs[i]
	}
	s := newStream(tableExport, e.comp, &e.left)
	for _, ref := range byNumber {
		if err := s.add(binary.LittleEndian.AppendUint64(e.buf[:0], ref)); err != nil {
			return err
		}
	}
	return e.indexed(tableExport, s)
}

func (e *emitter) writeIDs() error {
	s := newStream(tableIDs, e.comp, &e.left)
	for _, id := range e.ids {
		if err := s.add(binary.LittleEndian.AppendUint32(e.buf[:0], id)); err != nil {
			return err
		}
	}
	return e.indexed(tableIDs, s)
}

// xattrs writes the values, the ID table and, in front of its index array, the header.
func (e *emitter) xattrs() error {
	if !e.super.xattrs {
		e.pos[tableXattrs] = noTable
		return nil
	}
	le := binary.LittleEndian
	values := newStream(tableValues, e.comp, &e.left)
	if err := values.add(e.values); err != nil {
		return err
	}
	if err := values.flush(); err != nil {
		return err
	}
	first := e.end + uint64(len(e.tail))
	e.tail = append(e.tail, values.out...)
	s := newStream(tableXattrs, e.comp, &e.left)
	for _, r := range e.rows {
		ref, ok := values.refAt(r.at)
		if !ok {
			return fmt.Errorf("%w: xattrs at %d of %d bytes", ErrColumns, r.at, len(e.values))
		}
		b := le.AppendUint64(e.buf[:0], ref)
		if err := s.add(le.AppendUint32(le.AppendUint32(b, r.count), r.size)); err != nil {
			return err
		}
	}
	if err := s.flush(); err != nil {
		return err
	}
	base := e.end + uint64(len(e.tail))
	e.tail = append(e.tail, s.out...)
	e.pos[tableXattrs] = e.end + uint64(len(e.tail))
	e.tail = le.AppendUint64(e.tail, first)
	e.tail = le.AppendUint64(e.tail, uint64(len(e.rows)))
	e.appendPositions(base, s)
	return nil
}

// head gives the superblock and the options of an image whose used bytes are known.
func (e *emitter) head(used uint64) []byte {
	le, sb := binary.LittleEndian, &e.super
	b := le.AppendUint32(make([]byte, 0, superLen+len(e.options)), 0x73717368)
	b = le.AppendUint32(le.AppendUint32(b, uint32(len(e.inodes))), sb.mkfsTime)
	b = le.AppendUint32(le.AppendUint32(b, sb.blockSize), uint32(len(e.frags)))
	b = le.AppendUint16(le.AppendUint16(b, sb.compressor), sb.blockLog)
	b = le.AppendUint16(le.AppendUint16(b, sb.flags), uint16(len(e.ids)))
	b = le.AppendUint16(le.AppendUint16(b, sb.major), sb.minor)
	b = le.AppendUint64(le.AppendUint64(b, e.refs[sb.root]), used)
	for _, id := range []tableID{tableIDs, tableXattrs, tableInodes, tableDirectories, tableFragments, tableExport} {
		b = le.AppendUint64(b, e.pos[id])
	}
	return append(b, e.options...)
}
