package sqmeta

import (
	"cmp"
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// mapBlocks gathers the stored blocks of all files and fragments. Blocks that overlap without being the same are corruption, and so is one that
// is not in the data area.
func (m *Meta) mapBlocks(sb *squashfs.Superblock) error {
	n := len(m.model.frags)
	for i := range m.model.inodes {
		n += len(m.model.inodes[i].words)
	}
	all := make([]Block, 0, n)
	for i, f := range m.model.frags {
		size := f.size &^ blockRaw
		if size == 0 || size > sb.BlockSize {
			return corrupt("fragment table", int64(sb.FragmentTable), "entry %d has %d bytes", i, size)
		}
		all = append(all, Block{Offset: int64(f.start), Stored: size, Compressed: f.size&blockRaw == 0, Fragment: true})
	}
	for i := range m.model.inodes {
		var err error
		if all, err = m.fileBlocks(all, &m.model.inodes[i]); err != nil {
			return err
		}
	}
	slices.SortFunc(all, func(a, b Block) int { return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(b.Raw, a.Raw)) })
	last := Block{Offset: int64(len(m.image.Head))}
	for _, b := range all {
		if b.Offset == last.Offset && b.Stored == last.Stored && b.Compressed == last.Compressed && b.Fragment == last.Fragment && b.Raw == last.Raw {
			continue
		}
		if b.Offset < last.Offset+int64(last.Stored) || b.Offset+int64(b.Stored) > m.image.TailOffset {
			return corrupt("block map", b.Offset, "block of %d bytes overlaps another one or the tables", b.Stored)
		}
		m.blocks = append(m.blocks, b)
		last = b
	}
	m.blocks = slices.Clip(m.blocks)
	return m.mapTails()
}

// fileBlocks adds the blocks of one file.
func (m *Meta) fileBlocks(all []Block, n *inode) ([]Block, error) {
	bs, pos, left := uint64(m.model.super.blockSize), n.start, n.size
	for _, w := range n.words {
		raw := min(left, bs)
		left -= raw
		if w == 0 {
			continue
		}
		stored := w &^ blockRaw
		if uint64(stored) > bs || w&blockRaw != 0 && uint64(stored) != raw || pos > 1<<62 {
			return nil, corrupt("inode", m.image.TailOffset, "number %d: block of %d bytes for %d", n.number, stored, raw)
		}
		all = append(all, Block{Offset: int64(pos), Stored: stored, Raw: uint32(raw), Compressed: w&blockRaw == 0})
		pos += uint64(stored)
	}
	return all, nil
}

// mapTails finds the block of each fragment and how much of it is used.
func (m *Meta) mapTails() error {
	m.byFrag = make([]int32, len(m.model.frags))
	for i, f := range m.model.frags {
		k, ok := m.blockAt(int64(f.start))
		if !ok || !m.blocks[k].Fragment {
			return corrupt("fragment table", -1, "entry %d is no block of its own", i)
		}
		m.byFrag[i] = int32(k)
	}
	bs := m.model.super.blockSize
	for i := range m.model.inodes {
		n := &m.model.inodes[i]
		if n.kind() != typeFile || n.frag == noFragment {
			continue
		}
		end := uint64(n.fragOff) + n.tail(bs)
		if uint64(n.frag) >= uint64(len(m.byFrag)) || end > uint64(bs) {
			return corrupt("inode", m.image.TailOffset, "number %d: tail in fragment %d up to byte %d", n.number, n.frag, end)
		}
		b := &m.blocks[m.byFrag[n.frag]]
		b.Raw = max(b.Raw, uint32(end))
	}
	return nil
}

func (m *Meta) blockAt(offset int64) (int, bool) {
	return slices.BinarySearchFunc(m.blocks, offset, func(b Block, o int64) int { return cmp.Compare(b.Offset, o) })
}

// Blocks gives every stored data and fragment block once, in physical order. Read-only.
func (m *Meta) Blocks() []Block { return m.blocks }

// Gaps gives the stretches of the data area, between head and tail, that belong to no block. Images of mksquashfs have none.
func (m *Meta) Gaps() []Range {
	var gaps []Range
	end := int64(len(m.image.Head))
	for _, b := range m.blocks {
		if b.Offset > end {
			gaps = append(gaps, Range{end, b.Offset - end})
		}
		end = b.Offset + int64(b.Stored)
	}
	if end < m.image.TailOffset {
		gaps = append(gaps, Range{end, m.image.TailOffset - end})
	}
	return gaps
}

// Files gives the regular files in inode-table order. Every call makes them anew: about 4 bytes per block and 100 per file, and the paths.
func (m *Meta) Files() []File {
	byInode := make([]int32, len(m.model.inodes))
	var files []File
	for i := range m.model.inodes {
		if n := &m.model.inodes[i]; n.kind() == typeFile {
			files = append(files, m.file(n))
			byInode[i] = int32(len(files))
		}
	}
	_ = m.walk(func(path []byte, child uint32) error {
		if f := byInode[child]; f > 0 {
			files[f-1].Paths = append(files[f-1].Paths, string(path))
		}
		return nil
	})
	return files
}

// file is a File without its paths.
func (m *Meta) file(n *inode) File {
	f := File{Inode: n.number, Size: int64(n.size), Fragment: -1, Blocks: make([]int32, len(n.words))}
	if n.frag != noFragment {
		f.Fragment, f.FragmentOffset = m.byFrag[n.frag], n.fragOff
	}
	next := -1
	for i, w := range n.words {
		switch {
		case w == 0:
			f.Blocks[i] = -1
			continue
		case next < 0:
			next, _ = m.blockAt(int64(n.start))
		default:
			next++
		}
		f.Blocks[i] = int32(next)
	}
	return f
}

// checkPaths proves that the directories are a tree and that the paths of all files fit into the limit.
func (m *Meta) checkPaths(*squashfs.Superblock) error {
	seen := make([]bool, len(m.model.inodes))
	seen[m.model.super.root] = true
	return m.walk(func(path []byte, child uint32) error {
		n := &m.model.inodes[child]
		switch {
		case n.kind() == typeFile:
			if m.limit -= int64(len(path)); m.limit < 0 {
				return corrupt("directory", -1, "the paths of all files are longer than the limit")
			}
		case n.kind() == typeDir && seen[child]:
			return corrupt("directory", -1, "inode %d is in two directories", n.number)
		case n.kind() == typeDir:
			seen[child] = true
		}
		return nil
	})
}

// walk calls visit for every name below the root, a directory before what is in it. path is valid during the call.
func (m *Meta) walk(visit func(path []byte, child uint32) error) error {
	type level struct {
		entries []entry
		prefix  int // length of the path with the slash
	}
	mo := &m.model
	stack := []level{{mo.dir(&mo.inodes[mo.super.root]), 0}}
	var path []byte
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if len(top.entries) == 0 {
			stack = stack[:len(stack)-1]
			continue
		}
		e := top.entries[0]
		top.entries = top.entries[1:]
		path = append(path[:top.prefix], mo.name(e)...)
		if err := visit(path, e.child); err != nil {
			return err
		}
		if n := &mo.inodes[e.child]; n.kind() == typeDir {
			path = append(path, '/')
			stack = append(stack, level{mo.dir(n), len(path)})
		}
	}
	return nil
}
