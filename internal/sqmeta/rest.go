package sqmeta

import (
	"encoding/binary"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// readFragments decodes the fragment table.
func (m *Meta) readFragments(sb *squashfs.Superblock) error {
	b := m.tables[tableFragments].data
	m.model.frags = make([]fragment, sb.Fragments)
	for i := range m.model.frags {
		f := &m.model.frags[i]
		f.start, f.size = binary.LittleEndian.Uint64(b[i*16:]), binary.LittleEndian.Uint32(b[i*16+8:])
	}
	return nil
}

// readIDs decodes the ID table.
func (m *Meta) readIDs(sb *squashfs.Superblock) error {
	m.model.ids = make([]uint32, sb.IDs)
	for i := range m.model.ids {
		m.model.ids[i] = binary.LittleEndian.Uint32(m.tables[tableIDs].data[i*4:])
	}
	return nil
}

// readXattrs decodes the ID table of the extended attributes.
func (m *Meta) readXattrs(*squashfs.Superblock) error {
	b := m.tables[tableXattrs].data
	m.model.values = m.tables[tableValues].data
	m.model.rows = make([]xattrRow, 0, len(b)/16)
	for ; len(b) >= 16; b = b[16:] {
		ref := binary.LittleEndian.Uint64(b)
		at, ok := m.tables[tableValues].at(ref>>16, uint32(ref&0xffff))
		if !ok {
			return corrupt("xattr table", -1, "entry %d has no values", len(m.model.rows))
		}
		m.model.rows = append(m.model.rows, xattrRow{uint64(at), binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])})
	}
	return nil
}
