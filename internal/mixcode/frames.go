package mixcode

import (
	"bytes"
	"encoding/binary"
)

// frameTables find the unwind tables of ELF files in the old bytes: .eh_frame_hdr (a sorted table of pairs relative to its start) and the
// records of .eh_frame, whose second word is the distance back to a common record and whose third is the address of a function.
type frameTables struct {
	tables    []frameTable
	commons   []int // places of common records
	nextTable int
	nextCIE   int
	end       int // of the current table in the patched bytes
	base      int64
	baseShift int32
	common    [4]int64 // old addresses of the latest common records
}

type frameTable struct{ start, end int }

const frameMagic = "\x01\x1b\x03\x3b"

func (t *frameTables) start(ref []byte) {
	*t = frameTables{tables: t.tables[:0], commons: t.commons[:0]}
	for i := 0; ; {
		k := bytes.Index(ref[i:], []byte(frameMagic))
		if k < 0 || i+k+12 > len(ref) {
			break
		}
		i += k
		entries := int(binary.LittleEndian.Uint32(ref[i+8:]))
		if size := 12 + 8*entries; entries > 0 && entries < 1<<24 {
			t.tables = append(t.tables, frameTable{i, i + size})
		}
		i += 4
	}
	for i := 0; ; {
		k := bytes.Index(ref[i:], []byte("\x00\x00\x00\x00\x01z"))
		if k < 0 {
			break
		}
		i += k
		t.commons = append(t.commons, i-4)
		i += 4
	}
}

// advance takes the tables and common records that begin before i.
func (t *frameTables) advance(m *patchedModel, i int) {
	for t.nextTable < len(t.tables) && t.tables[t.nextTable].start+4 <= i {
		f := t.tables[t.nextTable]
		t.nextTable++
		t.base = m.segs.offset(i) - int64(i-f.start)
		t.baseShift = m.segs.shift()
		t.end = f.end
	}
	for t.nextCIE < len(t.commons) && t.commons[t.nextCIE]+4 <= i {
		at := m.segs.offset(i) - int64(i-t.commons[t.nextCIE])
		t.nextCIE++
		copy(t.common[1:], t.common[:3])
		t.common[0] = at
	}
}

func (t *frameTables) kindAt(m *patchedModel, i int, prev, next uint64) int {
	off := m.segs.offset(i)
	if off&3 != 0 {
		return kindNone
	}
	if i < t.end {
		return kindTable
	}
	if t.isCommon(off, int64(uint32(next))) {
		return kindBack
	}
	// The word before is stored with its latest byte lowest in prev.
	if i >= 4 && t.isCommon(off-4, int64(binary.LittleEndian.Uint32(m.ref[i-4:]))) {
		return kindUnknown
	}
	return kindNone
}

func (t *frameTables) isCommon(off, distance int64) bool {
	if distance == 0 {
		return false
	}
	at := off - distance
	return at == t.common[0] || at == t.common[1] || at == t.common[2] || at == t.common[3]
}
