package sqmeta

import (
	"encoding/binary"
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// tableID numbers the metadata tables in the order in which they lie in the file.
type tableID int

const (
	tableInodes tableID = iota
	tableDirectories
	tableFragments
	tableExport
	tableIDs
	tableValues
	tableXattrs
	tables
)

// String gives the table's name in words.
func (t tableID) String() string {
	return [...]string{"inode table", "directory table", "fragment table", "export table", "ID table", "xattr values", "xattr table"}[t]
}

// metaPiece is one metadata block of a table.
type metaPiece struct {
	pos    uint32 // of its header, relative to Image.TailOffset
	stored uint32 // with the header
	at     uint32 // where its content begins in table.data
	raw    bool
}

// table is one expanded metadata table.
type table struct {
	base   uint32 // where it begins, relative to Image.TailOffset; of the tables with an index array, the position of the array
	pieces []metaPiece
	data   []byte
}

// content gives the expanded bytes of piece i.
func (t *table) content(i int) []byte {
	if i+1 < len(t.pieces) {
		return t.data[t.pieces[i].at:t.pieces[i+1].at]
	}
	return t.data[t.pieces[i].at:]
}

// at gives the position in data of offset bytes into the block at block, which is relative to base.
func (t *table) at(block uint64, offset uint32) (uint32, bool) {
	i, ok := slices.BinarySearchFunc(t.pieces, block+uint64(t.base), func(p metaPiece, pos uint64) int {
		return int(int64(p.pos) - int64(pos))
	})
	if !ok {
		return 0, false
	}
	pos := uint64(t.pieces[i].at) + uint64(offset)
	return uint32(pos), pos <= uint64(len(t.data))
}

// readTables expands all tables.
func (m *Meta) readTables(sb *squashfs.Superblock) error {
	if sb.Fragments > 0 {
		if err := m.readIndexed(tableFragments, sb.FragmentTable, uint64(sb.Fragments), 16); err != nil {
			return err
		}
	}
	if sb.ExportTable != noTable && sb.Flags&squashfs.Exportable != 0 {
		if err := m.readIndexed(tableExport, sb.ExportTable, uint64(sb.Inodes), 8); err != nil {
			return err
		}
	}
	if err := m.readIndexed(tableIDs, sb.IDTable, uint64(sb.IDs), 4); err != nil {
		return err
	}
	if err := m.readRun(tableInodes, 0, sb.DirectoryTable-sb.InodeTable); err != nil {
		return err
	}
	end := uint64(m.tables[tableIDs].base)
	for _, t := range []tableID{tableFragments, tableExport, tableIDs} {
		if len(m.tables[t].pieces) > 0 {
			end = uint64(m.tables[t].pieces[0].pos)
			break
		}
	}
	if err := m.readRun(tableDirectories, sb.DirectoryTable-sb.InodeTable, end); err != nil {
		return err
	}
	return m.readXattrTables(sb)
}

// readRun expands the blocks that lie one behind the other from start to end.
func (m *Meta) readRun(id tableID, start, end uint64) error {
	t := &m.tables[id]
	if start > end || end > uint64(len(m.image.Tail)) {
		return corrupt(id.String(), m.image.TailOffset+int64(start), "ends at %d", m.image.TailOffset+int64(end))
	}
	t.base = uint32(start)
	for pos := start; pos < end; {
		n, err := m.expand(id, pos, end)
		if err != nil {
			return err
		}
		pos += n
	}
	return nil
}

// readIndexed expands a table of count entries of size bytes whose index array lies at index in the file.
func (m *Meta) readIndexed(id tableID, index, count, size uint64) error {
	t := &m.tables[id]
	used := uint64(len(m.image.Tail) - len(m.padding))
	at := index - m.model.end
	n := (count*size + metaBlock - 1) / metaBlock
	if index < m.model.end || at > used || n*8 > used-at || count*size > uint64(m.limit) {
		return corrupt(id.String(), int64(index), "%d entries do not fit into the image", count)
	}
	t.base = uint32(at)
	last := uint64(0)
	for i := range n {
		pos := binary.LittleEndian.Uint64(m.image.Tail[at+i*8:])
		if pos < m.model.end || pos-m.model.end < last || pos >= index {
			return corrupt(id.String(), int64(index), "block %d at %d", i, pos)
		}
		k, err := m.expand(id, pos-m.model.end, at)
		if err != nil {
			return err
		}
		last = pos - m.model.end + k
	}
	if uint64(len(t.data)) < count*size {
		return corrupt(id.String(), int64(index), "%d bytes for %d entries", len(t.data), count)
	}
	return nil
}

// readXattrTables expands the ID table of the extended attributes and their values.
func (m *Meta) readXattrTables(sb *squashfs.Superblock) error {
	if sb.XattrTable == noTable {
		return nil
	}
	at := sb.XattrTable - m.model.end
	used := uint64(len(m.image.Tail) - len(m.padding))
	if sb.XattrTable < m.model.end || at > used || used-at < 16 {
		return corrupt("xattr table", int64(sb.XattrTable), "header does not fit into the image")
	}
	values := binary.LittleEndian.Uint64(m.image.Tail[at:])
	count := binary.LittleEndian.Uint32(m.image.Tail[at+8:])
	if count == 0 {
		return nil
	}
	if err := m.readIndexed(tableXattrs, sb.XattrTable+16, uint64(count), 16); err != nil {
		return err
	}
	first := uint64(m.tables[tableXattrs].pieces[0].pos)
	if values < m.model.end || values-m.model.end > first {
		return corrupt("xattr table", int64(sb.XattrTable), "values at %d", values)
	}
	return m.readRun(tableValues, values-m.model.end, first)
}

// expand adds the metadata block at pos of the tail to a table and gives its stored length with the header.
func (m *Meta) expand(id tableID, pos, end uint64) (uint64, error) {
	where := m.image.TailOffset + int64(pos)
	if pos+2 > end {
		return 0, corrupt(id.String(), where, "metadata block outside of its table")
	}
	h := binary.LittleEndian.Uint16(m.image.Tail[pos:])
	n := uint64(h &^ storedRaw)
	if n == 0 || n > metaBlock || pos+2+n > end {
		return 0, corrupt(id.String(), where, "metadata block of %d bytes", n)
	}
	t := &m.tables[id]
	p := metaPiece{pos: uint32(pos), stored: uint32(2 + n), at: uint32(len(t.data)), raw: h&storedRaw != 0}
	src := m.image.Tail[pos+2 : pos+2+n]
	if p.raw {
		t.data = append(t.data, src...)
	} else {
		t.data = slices.Grow(t.data, metaBlock)
		k, err := m.dec.Decode(t.data[len(t.data):len(t.data)+metaBlock], src)
		if err != nil {
			return 0, &squashfs.CorruptError{Where: id.String(), Offset: where, Detail: "expand metadata block", Err: err}
		}
		t.data = t.data[:len(t.data)+k]
	}
	if len(t.data) == int(p.at) {
		return 0, corrupt(id.String(), where, "empty metadata block")
	}
	t.pieces = append(t.pieces, p)
	if m.limit -= int64(len(t.data)) - int64(p.at); m.limit < 0 {
		return 0, corrupt(id.String(), where, "the tables expand to more than the limit")
	}
	return 2 + n, nil
}
