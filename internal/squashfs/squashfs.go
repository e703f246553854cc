// Package squashfs reads squashfs 4.0 images: superblock, files, directories, links, and the map of all stored blocks. It is for
// looking into images that strangers may have made: every length is checked against the file before memory is taken, every walk ends,
// and what is wrong is a typed error. It does not write images (mksquashfs does), and it does not decode extended attributes.
//
// The layout of the format, from the Linux source (fs/squashfs/squashfs_fs.h):
//
//	superblock | compressor options | data and fragment blocks | inode table | directory table |
//	fragment table | export table | ID table | xattr table | padding
//
// Metadata lies in blocks of 8 KiB, each compressed by itself behind a two-byte length. The tables after the directory table carry an
// index array of block positions, to which the superblock points.
//
// An FS is safe for concurrent use. It keeps at most about 10 MiB of decoded blocks.
package squashfs

import (
	"io"
)

// FS is an open image. It implements fs.FS, fs.ReadDirFS, fs.StatFS, fs.ReadFileFS and fs.ReadLinkFS: names are relative,
// slash-separated and without "." and ".." elements; unlike fs.ValidPath says, they need not be UTF-8. Symbolic links are followed inside the image only: an absolute target starts at
// the image's root and ".." stops there, so no name leads out.
type FS struct {
	r    io.ReaderAt
	sb   Superblock
	dec  decoder
	meta *blockCache
	frag *blockCache

	dirEnd int64 // where the directory table ends
}

// Open reads the superblock of the image of size bytes in r and checks the order of its tables. r must stay usable as long as the FS
// and its files are used; it is not closed. Errors match ErrNotSquashfs, ErrTruncated, ErrCorrupt or ErrCompressor, or come from r.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	sb, err := ReadSuperblock(r, size)
	if err != nil {
		return nil, err
	}
	dec, err := newDecoder(sb.Compressor)
	if err != nil {
		return nil, err
	}
	f := &FS{r: r, sb: sb, dec: dec, meta: newBlockCache(cachedMeta), frag: newBlockCache(cachedFragment)}
	if f.dirEnd, err = f.directoryEnd(); err != nil {
		return nil, err
	}
	if _, err := f.root(); err != nil {
		return nil, err
	}
	return f, nil
}

// Superblock gives the image's superblock.
func (f *FS) Superblock() Superblock { return f.sb }

// root reads the root directory's inode.
func (f *FS) root() (*inode, error) {
	root, err := f.inode(f.sb.RootInode)
	if err != nil {
		return nil, err
	}
	if root.kind != kindDir {
		return nil, corrupt("superblock", 32, "the root inode is no directory")
	}
	return root, nil
}
