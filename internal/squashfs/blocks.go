package squashfs

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// Kind says what a stored region of an image is.
type Kind uint8

// The kinds of regions, in the order in which they usually lie in a file.
const (
	// KindOther: bytes that nothing points to, such as alignment.
	KindOther Kind = iota
	KindSuperblock
	KindOptions // the compressor's options
	KindData
	KindFragment
	KindInodes      // a metadata block of the inode table
	KindDirectories // ... of the directory table, and so on
	KindFragmentTable
	KindFragmentIndex // an index array: positions of the table's blocks
	KindExportTable
	KindExportIndex
	KindIDTable
	KindIDIndex
	KindXattrValues
	KindXattrTable
	KindXattrIndex
)

// String gives the kind's name in words.
func (k Kind) String() string {
	names := [...]string{"other", "superblock", "compressor options", "data", "fragment", "inodes", "directories", "fragment table",
		"fragment index", "export table", "export index", "ID table", "ID index", "xattr values", "xattr table", "xattr index"}
	if int(k) >= len(names) {
		return "unknown"
	}
	return names[k]
}

// Block is one stored region of the file.
type Block struct {
	// Offset and Size are in bytes of the file; Size is at least 1. A metadata block includes its two-byte header.
	Offset int64
	Size   int64
	Kind   Kind
	// Raw: the block is stored as it is, not compressed. Always set for what is never compressed.
	Raw bool
}

// Expand reads a region that Blocks gave and undoes its compression: of a data or fragment block, at most the block size; of a
// metadata block, at most 8 KiB without the header. What is stored raw is given as it is. The slice is the caller's.
func (f *FS) Expand(b Block) ([]byte, error) {
	if b.Offset < 0 || b.Size <= 0 || b.Offset > f.sb.BytesUsed-b.Size {
		return nil, corrupt(b.Kind.String(), b.Offset, "region of %d bytes is outside of the image", b.Size)
	}
	if b.Kind == KindOther && b.Size > maxBlockSize {
		return nil, corrupt(b.Kind.String(), b.Offset, "gap of %d bytes", b.Size)
	}
	src := make([]byte, b.Size)
	if err := f.readAt(src, b.Offset); err != nil {
		return nil, err
	}
	limit := int(f.sb.BlockSize)
	if b.Kind.metadata() {
		src, limit = src[min(metaHeaderLen, len(src)):], metaBlockSize
	}
	if b.Raw {
		return src, nil
	}
	dst := make([]byte, limit)
	n, err := f.dec.decode(dst, src)
	if err != nil {
		return nil, &CorruptError{Where: b.Kind.String(), Offset: b.Offset, Detail: "expand block", Err: err}
	}
	return dst[:n], nil
}

// metadata tells whether regions of the kind are metadata blocks, with a header.
func (k Kind) metadata() bool {
	switch k {
	case KindOptions, KindInodes, KindDirectories, KindFragmentTable, KindExportTable, KindIDTable, KindXattrValues, KindXattrTable:
		return true
	default:
		return false
	}
}

// maxRegions bounds how many regions Blocks keeps in memory: 256 MiB of them.
const maxRegions = 1 << 24

// region is a Block in 16 bytes. Regions longer than 4 GiB do not occur: only a gap may be that long, and gaps are not stored.
type region struct {
	offset int64
	size   uint32
	kind   Kind
	raw    bool
}

// Blocks calls yield for every stored region of the image in file order. The regions cover the bytes 0 to Superblock().BytesUsed
// without gap or overlap: what no structure claims is reported as KindOther. Data that several files share is reported once.
//
// Before the first call the whole inode table is read and about 16 bytes per block are held in memory, 16,777,216 blocks at most.
// Structures that overlap are corruption. An error of yield ends the walk and is returned as it is.
func (f *FS) Blocks(yield func(Block) error) error {
	m := &blockMap{fs: f}
	for _, collect := range []func() error{m.header, m.fileBlocks, m.fragments, m.tables} {
		if err := collect(); err != nil {
			return err
		}
	}
	if err := m.compact(); err != nil {
		return err
	}
	end := int64(0)
	for _, r := range m.regions {
		if r.offset > end {
			if err := yield(Block{Offset: end, Size: r.offset - end, Kind: KindOther, Raw: true}); err != nil {
				return err
			}
		}
		if err := yield(Block{Offset: r.offset, Size: int64(r.size), Kind: r.kind, Raw: r.raw}); err != nil {
			return err
		}
		end = r.offset + int64(r.size)
	}
	if end < f.sb.BytesUsed {
		return yield(Block{Offset: end, Size: f.sb.BytesUsed - end, Kind: KindOther, Raw: true})
	}
	return nil
}

// blockMap gathers regions in any order and with repetitions.
type blockMap struct {
	fs      *FS
	regions []region
	limit   int // compact when so many are held
}

func (m *blockMap) add(r region) error {
	m.regions = append(m.regions, r)
	if len(m.regions) <= m.limit {
		return nil
	}
	if err := m.compact(); err != nil {
		return err
	}
	if len(m.regions) > maxRegions {
		return corrupt("block map", -1, "more than %d blocks", maxRegions)
	}
	m.limit = min(max(2*len(m.regions), 1<<16), maxRegions+maxRegions/4)
	return nil
}

// compact sorts the regions, drops repetitions and refuses overlaps.
func (m *blockMap) compact() error {
	slices.SortFunc(m.regions, func(a, b region) int {
		return cmp.Or(cmp.Compare(a.offset, b.offset), cmp.Compare(a.size, b.size), cmp.Compare(a.kind, b.kind))
	})
	m.regions = slices.CompactFunc(m.regions, func(a, b region) bool { return a.offset == b.offset && a.size == b.size })
	end := int64(0)
	for _, r := range m.regions {
		if r.offset < end {
			return corrupt("block map", r.offset, "%s overlaps the block before it", r.kind)
		}
		end = r.offset + int64(r.size)
	}
	if end > m.fs.sb.BytesUsed {
		return corrupt("block map", end, "behind the end of the image")
	}
	return nil
}

// header adds the superblock and the compressor's options.
func (m *blockMap) header() error {
	if err := m.add(region{offset: 0, size: SuperblockSize, kind: KindSuperblock, raw: true}); err != nil {
		return err
	}
	if m.fs.sb.Flags&CompressorOptions == 0 {
		return nil
	}
	return m.metaBlock("compressor options", KindOptions, SuperblockSize, int64(m.fs.sb.InodeTable), nil)
}

// metaBlock adds the metadata block at pos and stores the position behind it in next, if next is not nil.
func (m *blockMap) metaBlock(where string, kind Kind, pos, end int64, next *int64) error {
	stored, raw, err := m.fs.metaHeader(where, pos, end)
	if err != nil {
		return err
	}
	if next != nil {
		*next = pos + metaHeaderLen + int64(stored)
	}
	return m.add(region{offset: pos, size: uint32(metaHeaderLen + stored), kind: kind, raw: raw})
}

// metaRun adds all metadata blocks from start to end.
func (m *blockMap) metaRun(where string, kind Kind, start, end int64) error {
	for pos := start; pos < end; {
		if err := m.metaBlock(where, kind, pos, end, &pos); err != nil {
			return err
		}
	}
	return nil
}

// fileBlocks reads all inodes in table order and adds the blocks of the files.
func (m *blockMap) fileBlocks() error {
	f := m.fs
	r, err := f.metaAt("inode table", int64(f.sb.InodeTable), int64(f.sb.DirectoryTable), 0)
	if err != nil {
		return err
	}
	for range f.sb.Inodes {
		ino, err := f.readInode(r)
		if err != nil {
			return err
		}
		switch ino.kind {
		case kindFile:
			err = m.fileList(r, ino)
		case kindDir:
			err = skipDirIndex(r, ino)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fileList reads the block list behind a file's inode.
func (m *blockMap) fileList(r *metaReader, ino *inode) error {
	n, err := ino.blocks(m.fs.sb.BlockSize)
	if err != nil {
		return err
	}
	if ino.start > uint64(m.fs.sb.BytesUsed) {
		return corrupt("inode", r.pos, "data at %d, behind the end of the image", ino.start)
	}
	pos := int64(ino.start)
	for range n {
		word, stored, err := m.fs.blockWord(r, pos)
		if err != nil {
			return err
		}
		if word == 0 {
			continue
		}
		if err := m.add(region{offset: pos, size: uint32(stored), kind: KindData, raw: word&dataStoredRaw != 0}); err != nil {
			return err
		}
		pos += stored
	}
	return nil
}

// skipDirIndex passes over the index behind an extended directory inode.
func skipDirIndex(r *metaReader, ino *inode) error {
	for range ino.dirIndex {
		var b [12]byte
		if err := r.read(b[:]); err != nil {
			return err
		}
		n := binary.LittleEndian.Uint32(b[8:])
		if n >= dirMaxRun {
			return corrupt("inode", r.pos, "directory index with a name of %d bytes", uint64(n)+1)
		}
		if err := r.skip(int(n) + 1); err != nil {
			return err
		}
	}
	return nil
}

func (m *blockMap) fragments() error {
	for i := range m.fs.sb.Fragments {
		pos, word, err := m.fs.fragmentEntry(i)
		if err != nil {
			return err
		}
		if err := m.add(region{offset: pos, size: word &^ dataStoredRaw, kind: KindFragment, raw: word&dataStoredRaw != 0}); err != nil {
			return err
		}
	}
	return nil
}
