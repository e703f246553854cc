package sqmeta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// Meta is the parsed metadata of one image. It holds the stored and the expanded tables and a record per inode, all in memory: about 20 MB
// for an image of 100,000 files.
type Meta struct {
	image   Image
	limit   int64
	dec     *squashfs.Decoder
	tables  [tables]table
	model   model
	blocks  []Block
	padding []byte  // what lies behind the tables
	byFrag  []int32 // index into blocks per entry of the fragment table
}

// Parse reads the whole metadata of the image of size bytes in r and checks it as far as the block map, the files and their paths depend on
// it. size is the length of the file with padding. Nothing of r is kept. Errors match those of package squashfs (ErrNotSquashfs, ErrTruncated,
// ErrCorrupt) or come from r; metadata beyond the limit is ErrCorrupt, and an image of lzo or lzma is ErrCompressor.
func (l Limits) Parse(r io.ReaderAt, size int64) (*Meta, error) {
	sb, err := squashfs.ReadSuperblock(r, size)
	if err != nil {
		return nil, err
	}
	m := &Meta{limit: l.bytes()}
	if m.dec, err = squashfs.NewDecoder(sb.Compressor); err != nil {
		return nil, err
	}
	if err := m.readBytes(r, size, &sb); err != nil {
		return nil, err
	}
	for _, step := range []func(*squashfs.Superblock) error{
		m.readTables, m.readInodes, m.readFragments, m.readIDs, m.readXattrs, m.readListings, m.mapBlocks, m.checkPaths,
	} {
		if err := step(&sb); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// readBytes reads everything of the file that is not the data area.
func (m *Meta) readBytes(r io.ReaderAt, size int64, sb *squashfs.Superblock) error {
	at := int64(sb.InodeTable)
	if size-at > m.limit {
		return corrupt("superblock", 64, "%d bytes of metadata, the limit is %d", size-at, m.limit)
	}
	head := int64(superLen)
	if sb.Flags&squashfs.CompressorOptions != 0 {
		var h [2]byte
		if err := readFull(r, h[:], superLen, size); err != nil {
			return err
		}
		head += 2 + int64(binary.LittleEndian.Uint16(h[:])&^storedRaw)
	}
	if head > at || head > superLen+2+metaBlock {
		return corrupt("compressor options", superLen, "%d bytes before the inode table at %d", head-superLen, at)
	}
	m.image = Image{Head: make([]byte, head), Tail: make([]byte, size-at), TailOffset: at, Size: size}
	if err := readFull(r, m.image.Head, 0, size); err != nil {
		return err
	}
	if err := readFull(r, m.image.Tail, at, size); err != nil {
		return err
	}
	m.model.end = sb.InodeTable
	m.model.options = m.image.Head[superLen:]
	m.padding = m.image.Tail[sb.BytesUsed-at:]
	if size%alignment == 0 && len(m.padding) < alignment && zeros(m.padding) {
		m.model.aligned = true
	} else {
		m.model.padding = m.padding
	}
	m.model.super = parseSuper(m.image.Head)
	return nil
}

func zeros(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

func parseSuper(head []byte) super {
	le := binary.LittleEndian
	return super{
		mkfsTime: le.Uint32(head[8:]), blockSize: le.Uint32(head[12:]), compressor: le.Uint16(head[20:]), blockLog: le.Uint16(head[22:]),
		flags: le.Uint16(head[24:]), major: le.Uint16(head[28:]), minor: le.Uint16(head[30:]),
		xattrs: le.Uint64(head[56:]) != noTable, export: le.Uint64(head[88:]) != noTable,
	}
}

func readFull(r io.ReaderAt, b []byte, at, size int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &squashfs.TruncatedError{Have: at + int64(n), Want: size}
	}
	return fmt.Errorf("read %d bytes of the image at %d: %w", len(b), at, err)
}

// BlockSize is the length of the content of a full data block in bytes.
func (m *Meta) BlockSize() int { return int(m.model.super.blockSize) }

// Compressor is the image's compressor.
func (m *Meta) Compressor() squashfs.Compressor { return squashfs.Compressor(m.model.super.compressor) }

// Image gives the stored bytes that Rebuild has to reproduce. Read-only.
func (m *Meta) Image() *Image { return &m.image }

func corrupt(where string, at int64, format string, args ...any) error {
	return &squashfs.CorruptError{Where: where, Offset: at, Detail: fmt.Sprintf(format, args...)}
}
