// Package encoder compresses blocks exactly as mksquashfs did, so that a squashfs image can be rebuilt bit for bit from the contents of
// its blocks. It is the only package of the project that may use cgo: the reference zstd library in one pinned version is compiled
// into it. Controller, satellite and ltspctl link it; the agent must not.
//
// Two compressors are supported: zstd as the library 1.5.5 does it (the same bytes as 1.5.4, except at levels 4 to 12), and
// zlib as zlib 1.2.13 does it (package deflate). Probe tells whether an image was made by one of them. Whoever relies on the bytes compares them: another version
// of mksquashfs or of a library may differ in single blocks.
//
// Without cgo the package compiles, zlib works, and everything that needs the zstd encoder returns ErrNoCgo; DecompressZstd works
// always.
package encoder

import (
	"errors"
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// MetadataSize is the largest raw length of a metadata block, in bytes.
const MetadataSize = 8 << 10

// States that callers tell apart with errors.Is.
var (
	// ErrNoEncoder: no encoder of this package makes the blocks of the image, or its compressor is not supported.
	ErrNoEncoder = errors.New("no encoder reproduces the image's blocks")
	// ErrNoCgo: this program has no zstd encoder because it was built with CGO_ENABLED=0.
	ErrNoCgo = errors.New("built without cgo: no zstd encoder")
	// ErrLength: a block is empty or longer than the settings allow.
	ErrLength = errors.New("impossible block length")
	// ErrClosed: the Encoder was closed.
	ErrClosed = errors.New("encoder is closed")
	// ErrTooLong: the data would expand to more than the caller allows.
	ErrTooLong = errors.New("decompressed data is too long")
)

// compressor makes the compressed form of src. It gives nil without an error when the form is longer than limit; what it gives is
// valid until the next call.
type compressor interface {
	compress(src []byte, limit int) ([]byte, error)
	close()
}

// Encoder compresses the blocks of one image. It is for one goroutine at a time; make one for each worker. For zstd it holds a few
// megabytes of C memory, tens at level 22 with large blocks, until the first garbage collections after Close.
type Encoder struct {
	blockSize int
	data      compressor
	meta      compressor // may be the same as data
}

// New makes an encoder. The settings are checked; errors match ErrNoEncoder for a name or compressor that is not known, ErrNoCgo for
// zstd in a program without cgo.
func New(s Settings) (*Encoder, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	e := &Encoder{blockSize: s.BlockSize}
	switch s.Compressor {
	case squashfs.Zstd:
		c, err := newZstd(s.Level)
		if err != nil {
			return nil, fmt.Errorf("encoder %s: %w", s, err)
		}
		e.data, e.meta = c, c
	case squashfs.Gzip:
		data, err := newZlib(s, s.Strategy)
		if err != nil {
			return nil, fmt.Errorf("encoder %s: %w", s, err)
		}
		e.data, e.meta = data, data
		if s.Strategy != 0 { // mksquashfs tries the strategies for data only
			if e.meta, err = newZlib(s, 0); err != nil {
				return nil, fmt.Errorf("encoder %s: %w", s, err)
			}
		}
	}
	return e, nil
}

// Block appends to dst the stored form of a data or fragment block whose content is src: 1 to block size bytes. compressed is false
// when mksquashfs would store it as it is, because compressing does not make it shorter; dst is then extended by src itself. dst must
// not overlap src. On an error out is nil.
func (e *Encoder) Block(dst, src []byte) (out []byte, compressed bool, err error) {
	return e.store(e.data, dst, src, e.blockSize)
}

// Metadata does the same as Block for a metadata block of at most MetadataSize bytes. The two-byte header is not included.
func (e *Encoder) Metadata(dst, src []byte) (out []byte, compressed bool, err error) {
	return e.store(e.meta, dst, src, MetadataSize)
}

// Close lets go of the memory. A second Close does nothing; other calls give ErrClosed.
func (e *Encoder) Close() error {
	if e.data == nil {
		return nil
	}
	e.data.close()
	e.meta.close()
	e.data, e.meta = nil, nil
	return nil
}

// store follows mksquashfs: the compressor gets room for size bytes, and what does not fit or is not shorter than src is stored raw.
func (e *Encoder) store(c compressor, dst, src []byte, size int) ([]byte, bool, error) {
	if c == nil {
		return nil, false, ErrClosed
	}
	if len(src) == 0 || len(src) > size {
		return nil, false, fmt.Errorf("encode block of %d bytes, 1 to %d can be: %w", len(src), size, ErrLength)
	}
	packed, err := c.compress(src, size)
	if err != nil {
		return nil, false, fmt.Errorf("encode block of %d bytes: %w", len(src), err)
	}
	if packed == nil || len(packed) >= len(src) {
		return append(dst, src...), false, nil
	}
	return append(dst, packed...), true, nil
}
