package squashfs

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// SuperblockSize is the length of the superblock at the start of every image, in bytes.
const SuperblockSize = 96

const (
	magic        = 0x73717368 // "hsqs"
	minBlockSize = 4 << 10
	maxBlockSize = 1 << 20
	noTable      = ^uint64(0) // position of a table that is not there
)

// Compressor is the compressor's number in the superblock.
type Compressor uint16

// The compressors that squashfs knows. LZMA and LZO cannot be decoded by this package.
const (
	Gzip Compressor = 1
	LZMA Compressor = 2
	LZO  Compressor = 3
	XZ   Compressor = 4
	LZ4  Compressor = 5
	Zstd Compressor = 6
)

// String gives the name that mksquashfs uses, or "compressor N".
func (c Compressor) String() string {
	names := [...]string{Gzip: "gzip", LZMA: "lzma", LZO: "lzo", XZ: "xz", LZ4: "lz4", Zstd: "zstd"}
	if c == 0 || int(c) >= len(names) {
		return fmt.Sprintf("compressor %d", uint16(c))
	}
	return names[c]
}

// Flags are the superblock's flag bits.
type Flags uint16

// The flag bits. The Uncompressed ones are about what mksquashfs was asked for; each block says by itself whether it is compressed.
const (
	UncompressedInodes    Flags = 1 << 0
	UncompressedData      Flags = 1 << 1
	UncompressedFragments Flags = 1 << 3
	NoFragments           Flags = 1 << 4
	AlwaysFragments       Flags = 1 << 5
	Duplicates            Flags = 1 << 6
	Exportable            Flags = 1 << 7
	UncompressedXattrs    Flags = 1 << 8
	NoXattrs              Flags = 1 << 9
	CompressorOptions     Flags = 1 << 10
	UncompressedIDs       Flags = 1 << 11
)

// Superblock is the head of an image as it stands in the file. Positions are byte offsets; those of the tables with an index array
// (fragment, export, ID, xattr) are the positions of that array, which lies behind the table's blocks. A table that is not there
// has all bits set.
type Superblock struct {
	Inodes         uint32
	MkfsTime       time.Time
	BlockSize      uint32
	Fragments      uint32
	Compressor     Compressor
	Flags          Flags
	IDs            uint16
	RootInode      uint64 // block position relative to the inode table << 16 | offset in the decoded block
	BytesUsed      int64
	IDTable        uint64
	XattrTable     uint64
	InodeTable     uint64
	DirectoryTable uint64
	FragmentTable  uint64
	ExportTable    uint64
}

// ReadSuperblock reads and checks the superblock alone; the compressor need not be one that this package can decode. size is the
// file's length in bytes. Errors match ErrNotSquashfs, ErrTruncated or ErrCorrupt, or come from r.
func ReadSuperblock(r io.ReaderAt, size int64) (Superblock, error) {
	var b [SuperblockSize]byte
	n, err := r.ReadAt(b[:min(size, SuperblockSize)], 0)
	if err != nil && err != io.EOF {
		return Superblock{}, fmt.Errorf("read superblock: %w", err)
	}
	le := binary.LittleEndian
	if n < 4 || le.Uint32(b[:]) != magic {
		return Superblock{}, ErrNotSquashfs
	}
	if n < SuperblockSize {
		return Superblock{}, &TruncatedError{Have: int64(n), Want: SuperblockSize}
	}
	if major, minor := le.Uint16(b[28:]), le.Uint16(b[30:]); major != 4 || minor != 0 {
		return Superblock{}, fmt.Errorf("%w: version %d.%d", ErrNotSquashfs, major, minor)
	}
	sb := Superblock{
		Inodes:         le.Uint32(b[4:]),
		MkfsTime:       time.Unix(int64(le.Uint32(b[8:])), 0).UTC(),
		BlockSize:      le.Uint32(b[12:]),
		Fragments:      le.Uint32(b[16:]),
		Compressor:     Compressor(le.Uint16(b[20:])),
		Flags:          Flags(le.Uint16(b[24:])),
		IDs:            le.Uint16(b[26:]),
		RootInode:      le.Uint64(b[32:]),
		IDTable:        le.Uint64(b[48:]),
		XattrTable:     le.Uint64(b[56:]),
		InodeTable:     le.Uint64(b[64:]),
		DirectoryTable: le.Uint64(b[72:]),
		FragmentTable:  le.Uint64(b[80:]),
		ExportTable:    le.Uint64(b[88:]),
	}
	used := le.Uint64(b[40:])
	if used < SuperblockSize || used > 1<<62 {
		return Superblock{}, corrupt("superblock", 40, "impossible length %d", used)
	}
	sb.BytesUsed = int64(used)
	if log := le.Uint16(b[22:]); log > 20 || sb.BlockSize != 1<<log || sb.BlockSize < minBlockSize {
		return Superblock{}, corrupt("superblock", 12, "block size %d with logarithm %d", sb.BlockSize, log)
	}
	if sb.BytesUsed > size {
		return Superblock{}, &TruncatedError{Have: size, Want: sb.BytesUsed}
	}
	return sb, sb.check()
}

// check holds the order of the tables that Linux also demands (fs/squashfs/super.c): inodes, directories, fragments, export, IDs,
// xattrs, each before the next.
func (sb *Superblock) check() error {
	if sb.IDs == 0 {
		return corrupt("superblock", 26, "no IDs")
	}
	last, lastName := uint64(SuperblockSize), "superblock"
	for _, t := range []struct {
		name     string
		pos      uint64
		optional bool
	}{
		{"inode table", sb.InodeTable, false},
		{"directory table", sb.DirectoryTable, false},
		{"fragment table", sb.FragmentTable, sb.Fragments == 0},
		{"export table", sb.ExportTable, sb.Flags&Exportable == 0},
		{"ID table", sb.IDTable, false},
		{"xattr table", sb.XattrTable, true},
	} {
		if t.optional && (t.pos == noTable || t.name == "fragment table") {
			continue
		}
		if t.pos < last || t.pos >= uint64(sb.BytesUsed) {
			return corrupt("superblock", -1, "%s at %d, behind the %s at %d and before the end at %d was expected",
				t.name, t.pos, lastName, last, sb.BytesUsed)
		}
		last, lastName = t.pos, t.name
	}
	return nil
}
