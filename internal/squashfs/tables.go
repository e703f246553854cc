package squashfs

import (
	"encoding/binary"
)

// An indexTable is a table whose blocks are listed by an index array behind them.
type indexTable struct {
	name        string
	index       uint64 // position of the array
	entries     uint64
	entrySize   uint64
	kind, array Kind
}

// blocks is how many metadata blocks the table has.
func (t indexTable) blocks() uint64 {
	return (t.entries*t.entrySize + metaBlockSize - 1) / metaBlockSize
}

func (f *FS) fragmentTable() indexTable {
	return indexTable{"fragment table", f.sb.FragmentTable, uint64(f.sb.Fragments), 16, KindFragmentTable, KindFragmentIndex}
}

func (f *FS) idTable() indexTable {
	return indexTable{"ID table", f.sb.IDTable, uint64(f.sb.IDs), 4, KindIDTable, KindIDIndex}
}

// indexTables lists the tables that are there, in file order, without the xattr tables.
func (f *FS) indexTables() []indexTable {
	var all []indexTable
	if f.sb.Fragments > 0 {
		all = append(all, f.fragmentTable())
	}
	if f.sb.ExportTable != noTable && f.sb.Flags&Exportable != 0 {
		all = append(all, indexTable{"export table", f.sb.ExportTable, uint64(f.sb.Inodes), 8, KindExportTable, KindExportIndex})
	}
	return append(all, f.idTable())
}

// tableEntry reads entry i of t, which must be below t.entries, into entry.
func (f *FS) tableEntry(t indexTable, i uint64, entry []byte) error {
	per := metaBlockSize / t.entrySize
	pos, err := f.indexEntry(t, i/per)
	if err != nil {
		return err
	}
	data, _, err := f.metaBlock(t.name, pos, int64(t.index))
	if err != nil {
		return err
	}
	at := int(i % per * t.entrySize)
	if at+len(entry) > len(data) {
		return corrupt(t.name, pos, "entry %d is missing", i)
	}
	copy(entry, data[at:])
	return nil
}

// directoryEnd finds where the directory table ends: where the first block of the next table begins.
func (f *FS) directoryEnd() (int64, error) {
	for _, t := range f.indexTables() {
		if t.blocks() == 0 {
			continue
		}
		first, err := f.indexEntry(t, 0)
		if err != nil {
			return 0, err
		}
		if first <= int64(f.sb.DirectoryTable) {
			return 0, corrupt(t.name, int64(t.index), "begins at %d, before the directory table at %d", first, f.sb.DirectoryTable)
		}
		return first, nil
	}
	return int64(f.sb.IDTable), nil
}

// indexEntry reads position i of the array; it lies before the array.
func (f *FS) indexEntry(t indexTable, i uint64) (int64, error) {
	if t.blocks()*8 > uint64(f.sb.BytesUsed)-t.index {
		return 0, corrupt(t.name, int64(t.index), "index of %d blocks does not fit into the image", t.blocks())
	}
	var p [8]byte
	if err := f.readAt(p[:], int64(t.index+i*8)); err != nil {
		return 0, err
	}
	pos := binary.LittleEndian.Uint64(p[:])
	if pos < SuperblockSize || pos >= t.index {
		return 0, corrupt(t.name, int64(t.index), "block %d at %d, its index is at %d", i, pos, t.index)
	}
	return int64(pos), nil
}

// tables adds the blocks of all tables and their index arrays.
func (m *blockMap) tables() error {
	f := m.fs
	if err := m.metaRun("inode table", KindInodes, int64(f.sb.InodeTable), int64(f.sb.DirectoryTable)); err != nil {
		return err
	}
	if err := m.metaRun("directory table", KindDirectories, int64(f.sb.DirectoryTable), f.dirEnd); err != nil {
		return err
	}
	for _, t := range f.indexTables() {
		if _, err := m.indexed(t); err != nil {
			return err
		}
	}
	return m.xattrs()
}

// indexed adds the blocks of t and its array; it gives the position of the first block.
func (m *blockMap) indexed(t indexTable) (int64, error) {
	first := int64(t.index)
	for i := range t.blocks() {
		pos, err := m.fs.indexEntry(t, i)
		if err != nil {
			return 0, err
		}
		if i == 0 {
			first = pos
		}
		if err := m.metaBlock(t.name, t.kind, pos, int64(t.index), nil); err != nil {
			return 0, err
		}
	}
	return first, m.addRaw(int64(t.index), t.blocks()*8, t.array)
}

// addRaw adds a stretch that is never compressed, in pieces that a region can hold.
func (m *blockMap) addRaw(pos int64, n uint64, kind Kind) error {
	for n > 0 {
		k := min(n, maxBlockSize)
		if err := m.add(region{offset: pos, size: uint32(k), kind: kind, raw: true}); err != nil {
			return err
		}
		pos, n = pos+int64(k), n-k
	}
	return nil
}

// xattrHeader is in front of the xattr table's index array: where the values begin, and how many sets of attributes there are.
const xattrHeader = 16

func (m *blockMap) xattrs() error {
	f := m.fs
	if f.sb.XattrTable == noTable {
		return nil
	}
	var h [xattrHeader]byte
	if f.sb.XattrTable+xattrHeader > uint64(f.sb.BytesUsed) {
		return corrupt("xattr table", int64(f.sb.XattrTable), "header does not fit into the image")
	}
	if err := f.readAt(h[:], int64(f.sb.XattrTable)); err != nil {
		return err
	}
	values, ids := binary.LittleEndian.Uint64(h[:]), binary.LittleEndian.Uint32(h[8:])
	if err := m.addRaw(int64(f.sb.XattrTable), xattrHeader, KindXattrIndex); err != nil {
		return err
	}
	if ids == 0 {
		return nil
	}
	t := indexTable{"xattr table", f.sb.XattrTable + xattrHeader, uint64(ids), 16, KindXattrTable, KindXattrIndex}
	first, err := m.indexed(t)
	if err != nil {
		return err
	}
	if values < SuperblockSize || values > uint64(first) {
		return corrupt("xattr table", int64(f.sb.XattrTable), "values at %d, behind the table at %d", values, first)
	}
	return m.metaRun("xattr table", KindXattrValues, int64(values), first)
}
