// Package sqmeta takes the metadata of a squashfs 4.0 image apart so far that almost nothing of it has to be sent to someone who has an
// older version of the image, and puts it together again byte for byte.
//
// Everything behind the last data block (inode table, directory table, fragment, export, ID and xattr tables, padding) changes as a whole
// when one file changes, because it is full of positions in the file and compressed. But all positions follow from the order in which
// mksquashfs 4.4 to 4.6 writes. Columns therefore predicts every field from the ones before it and keeps what is left, one named stream
// of bytes per field, in inode-table order; Rebuild writes the tables again with the pinned compressor. The streams of two versions of an
// image are nearly equal, and comparing them is the caller's work. See FORMAT.md for what the columns hold.
//
// An image that was not written as predicted is ErrUnpredictable; RawColumns and Verbatim represent any image, Best chooses. Nothing in this
// package keeps state between calls; a Meta is read-only and safe for concurrent use.
package sqmeta

import (
	"errors"
)

// ErrUnpredictable says that an image's metadata is sound but not laid out as mksquashfs does it, so that it has no predicted columns.
var ErrUnpredictable = errors.New("squashfs metadata is not laid out as mksquashfs does it")

// ErrColumns says that columns contradict themselves or go beyond the limits: they were damaged, or made by someone hostile.
var ErrColumns = errors.New("bad squashfs metadata columns")

// Compress compresses one metadata block of at most 8 KiB: it appends the stored form of src to dst and says whether that is compressed; if
// it is not, that form is src as it is. It should be the very encoder that wrote the image. It is called from one goroutine.
type Compress func(dst, src []byte) (out []byte, compressed bool, err error)

// Column is one named stream of bytes. The names are unique within one set of columns.
type Column struct {
	Name string
	Data []byte
}

// Limits bounds what Parse and Rebuild take from an untrusted source. The zero value means the defaults.
type Limits struct {
	// MetadataBytes bounds the expanded bytes of all metadata tables of an image together, and what lies behind them. Default 256 MiB.
	// Parse takes at most about eight times the size of the expanded tables.
	MetadataBytes int64
}

const defaultMetadataBytes = 256 << 20

func (l Limits) bytes() int64 {
	if l.MetadataBytes <= 0 {
		return defaultMetadataBytes
	}
	return l.MetadataBytes
}

// Image is what Rebuild makes: all bytes of an image that are not data or fragment blocks.
type Image struct {
	// Head is the superblock and the compressor options, the first bytes of the image.
	Head []byte
	// Tail goes from the first metadata table to the end of the file with its padding.
	Tail []byte
	// TailOffset is the position of Tail in the image, in bytes. Between Head and TailOffset lies the data area.
	TailOffset int64
	// Size is the image's length in bytes: TailOffset + len(Tail).
	Size int64
}

// Block is one stored data or fragment block.
type Block struct {
	// Offset is its position in the image, Stored its length there, in bytes.
	Offset int64
	Stored uint32
	// Raw is the length of its content in bytes. Of a fragment block it is the end of the last tail in it, 0 if no file uses it.
	Raw uint32
	// Compressed tells that the stored bytes are compressed; otherwise they are the content.
	Compressed bool
	// Fragment tells that the block holds tails of files.
	Fragment bool
}

// Range is a stretch of the image in bytes.
type Range struct {
	Offset, Length int64
}

// File is one regular file, whatever number of names it has.
type File struct {
	// Paths are its names from the root, slash-separated, without a slash in front, in directory order; not necessarily UTF-8.
	// A file that no directory names has none.
	Paths []string
	// Inode is its number in the image, Size its length in bytes.
	Inode uint32
	Size  int64
	// Blocks are indices into Meta.Blocks, one per block of the file except a tail in a fragment; -1 is a hole of one block.
	// Blocks that follow one another in the file do so in the image.
	Blocks []int32
	// Fragment is the index in Meta.Blocks of the fragment block that holds the tail, -1 if there is none. The tail begins at
	// FragmentOffset in its content and has Size modulo block size bytes.
	Fragment       int32
	FragmentOffset uint32
}
