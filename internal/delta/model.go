package delta

import (
	"cmp"
	"fmt"
	"slices"
	"sort"

	"github.com/ltsp-fleet/ltsp-fleet/internal/sqmeta"
)

const (
	// maxGapUnit bounds the units into which stretches of the data area that belong to no block are cut.
	maxGapUnit = 128 << 10
	// maxContent bounds the sum of all file sizes of an image, holes included: addresses of expansions begin above.
	maxContent = 1 << 55
	// noFile stands for content that no file claims.
	noFile = -1
)

// unit is the smallest thing that is copied or changed: a stored block, or a stretch of the data area that is in no block.
type unit struct {
	off    int64
	stored int64
	raw    int64 // length of the content; of a gap: stored
	packed bool  // the stored bytes are the compressed content
	gap    bool
}

// model is an image as units in physical order and files in inode-table order. It is read-only.
type model struct {
	blockSize int64
	units     []unit
	files     []sqmeta.File
	unitOf    []int32 // of each block: its unit
	addr      []int64 // of each file: the address of its content, one more at the end
	byPath    map[string]int32
	owner     []owner // of each unit: the first file that has it as a whole block; file noFile if there is none
	tails     [][]int32
}

// owner is a place in a file: the number of a block.
type owner struct {
	file  int32
	block int32
}

// span is a stretch of the content of one file, or of none.
type span struct {
	file int32
	off  int64 // in the file
	n    int64
}

func newModel(meta *sqmeta.Meta) (*model, error) {
	m := &model{blockSize: int64(meta.BlockSize()), files: meta.Files()}
	if err := m.layUnits(meta.Blocks(), meta.Gaps()); err != nil {
		return nil, err
	}
	m.addr = make([]int64, len(m.files)+1)
	m.byPath = make(map[string]int32, len(m.files))
	for i, f := range m.files {
		if f.Size < 0 || f.Size > maxContent-m.addr[i] {
			return nil, fmt.Errorf("files of more than %d bytes in all: %w", int64(maxContent), ErrLimit)
		}
		m.addr[i+1] = m.addr[i] + f.Size
		for _, p := range f.Paths {
			m.byPath[p] = int32(i)
		}
	}
	m.findOwners()
	return m, nil
}

// layUnits merges blocks and gaps into one list in physical order.
func (m *model) layUnits(blocks []sqmeta.Block, gaps []sqmeta.Range) error {
	type piece struct {
		unit
		block int32
	}
	all := make([]piece, 0, len(blocks)+len(gaps))
	for i, b := range blocks {
		all = append(all, piece{unit{off: b.Offset, stored: int64(b.Stored), raw: int64(b.Raw), packed: b.Compressed}, int32(i)})
	}
	for _, g := range gaps {
		for off := g.Offset; off < g.Offset+g.Length; off += maxGapUnit {
			n := min(maxGapUnit, g.Offset+g.Length-off)
			all = append(all, piece{unit{off: off, stored: n, raw: n, gap: true}, -1})
		}
	}
	slices.SortFunc(all, func(a, b piece) int { return cmp.Compare(a.off, b.off) })
	m.unitOf = make([]int32, len(blocks))
	m.units = make([]unit, len(all))
	var end int64
	for i, p := range all {
		if p.off < end || p.stored <= 0 || p.raw < 0 || p.raw > m.blockSize && !p.gap {
			return fmt.Errorf("block at %d overlaps or is too long: %w", p.off, ErrFormat)
		}
		end = p.off + p.stored
		m.units[i] = p.unit
		if p.block >= 0 {
			m.unitOf[p.block] = int32(i)
		}
	}
	return nil
}

// findOwners notes for each unit which files' content it holds.
func (m *model) findOwners() {
	m.owner = make([]owner, len(m.units))
	for i := range m.owner {
		m.owner[i].file = noFile
	}
	m.tails = make([][]int32, len(m.units))
	for i, f := range m.files {
		for k, b := range f.Blocks {
			if b < 0 {
				continue
			}
			if o := &m.owner[m.unitOf[b]]; o.file == noFile {
				*o = owner{int32(i), int32(k)}
			}
		}
		if f.Fragment >= 0 {
			u := m.unitOf[f.Fragment]
			m.tails[u] = append(m.tails[u], int32(i))
		}
	}
	for _, t := range m.tails {
		slices.SortStableFunc(t, func(a, b int32) int { return cmp.Compare(m.files[a].FragmentOffset, m.files[b].FragmentOffset) })
	}
}

// tailLen is the length of a file's tail in its fragment block.
func (m *model) tailLen(f *sqmeta.File) int64 { return f.Size - int64(len(f.Blocks))*m.blockSize }

// unitSpans appends what the content of unit u consists of; the lengths add up to its raw length.
func (m *model) unitSpans(dst []span, u int32) []span {
	raw := m.units[u].raw
	if o := m.owner[u]; o.file != noFile {
		return appendSpan(dst, span{o.file, int64(o.block) * m.blockSize, raw})
	}
	var pos int64
	for _, f := range m.tails[u] {
		file := &m.files[f]
		off, n := int64(file.FragmentOffset), m.tailLen(file)
		end := min(off+n, raw)
		if end <= pos || n <= 0 {
			continue
		}
		if off > pos {
			dst = appendSpan(dst, span{noFile, 0, off - pos})
			pos = off
		}
		dst = appendSpan(dst, span{f, int64(len(file.Blocks))*m.blockSize + pos - off, end - pos})
		pos = end
	}
	if pos < raw {
		dst = appendSpan(dst, span{noFile, 0, raw - pos})
	}
	return dst
}

// appendSpan appends s, joined with the last span where it goes on in the same file.
func appendSpan(dst []span, s span) []span {
	if n := len(dst); n > 0 && s.file != noFile && dst[n-1].file == s.file && dst[n-1].off+dst[n-1].n == s.off {
		dst[n-1].n += s.n
		return dst
	}
	return append(dst, s)
}

// fileAt finds the file whose content holds address a.
func (m *model) fileAt(a int64) (file int32, off int64, ok bool) {
	if a < 0 || a >= m.addr[len(m.files)] {
		return 0, 0, false
	}
	i := sort.Search(len(m.files), func(i int) bool { return m.addr[i+1] > a })
	return int32(i), a - m.addr[i], true
}

// samePath finds the file of m that has a path of f, another image's file.
func (m *model) samePath(f *sqmeta.File) (int32, bool) {
	for _, p := range f.Paths {
		if i, ok := m.byPath[p]; ok {
			return i, true
		}
	}
	return noFile, false
}

// unitsOf lists the units that hold n bytes of a file from off on.
func (m *model) unitsOf(file int32, off, n int64) []int32 {
	f := &m.files[file]
	var out []int32
	for k := off / m.blockSize; k*m.blockSize < off+n; k++ {
		switch {
		case k < int64(len(f.Blocks)) && f.Blocks[k] >= 0:
			out = append(out, m.unitOf[f.Blocks[k]])
		case k >= int64(len(f.Blocks)) && f.Fragment >= 0:
			out = append(out, m.unitOf[f.Fragment])
		}
	}
	return out
}

// holds tells whether the content of unit u counts as that of the file.
func (m *model) holds(u, file int32) bool {
	for _, s := range m.unitSpans(nil, u) {
		if s.file == file {
			return true
		}
	}
	return false
}
