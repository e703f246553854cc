package squashfs

import (
	"errors"
	"fmt"
)

// The states that a reader of images tells apart. Every error of this package that has such a cause matches exactly one of them with
// errors.Is; the typed errors below carry the details.
var (
	// ErrNotSquashfs: the data is no squashfs 4.0 file system at all.
	ErrNotSquashfs = errors.New("not a squashfs 4.0 file system")
	// ErrTruncated: the file is shorter than its superblock says; see TruncatedError.
	ErrTruncated = errors.New("truncated squashfs")
	// ErrCorrupt: the structure contradicts itself; see CorruptError.
	ErrCorrupt = errors.New("corrupt squashfs")
	// ErrCompressor: the image is compressed with something this reader has no decoder for; see CompressorError.
	ErrCompressor = errors.New("unsupported squashfs compressor")
	// ErrLoop: more than 40 symbolic links were followed in one path.
	ErrLoop = errors.New("too many levels of symbolic links")
)

// TruncatedError says how much of the file is there. Both values are in bytes.
type TruncatedError struct {
	Have, Want int64
}

// Error implements error.
func (e *TruncatedError) Error() string {
	return fmt.Sprintf("truncated squashfs: %d of %d bytes are there", e.Have, e.Want)
}

// Is makes errors.Is(err, ErrTruncated) true.
func (e *TruncatedError) Is(target error) bool { return target == ErrTruncated }

// CorruptError says which structure is wrong, where it was found, and why.
type CorruptError struct {
	// Where names the structure, for example "inode" or "fragment table".
	Where string
	// Offset is the position in the file, in bytes, of the structure or of the block that holds it; -1 if there is none.
	Offset int64
	// Detail says what is wrong.
	Detail string
	// Err is the cause, for example the decoder's error; may be nil.
	Err error
}

// Error implements error.
func (e *CorruptError) Error() string {
	s := "corrupt squashfs: " + e.Where
	if e.Offset >= 0 {
		s += fmt.Sprintf(" at byte %d", e.Offset)
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Is makes errors.Is(err, ErrCorrupt) true.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

// Unwrap gives the cause.
func (e *CorruptError) Unwrap() error { return e.Err }

// CompressorError names a compressor, or a feature of one, that cannot be decoded here.
type CompressorError struct {
	// Name is the compressor's name as mksquashfs spells it, with the feature behind it: "lzo", "xz with the arm filter".
	Name string
}

// Error implements error.
func (e *CompressorError) Error() string {
	return fmt.Sprintf("unsupported squashfs compressor %s: build the image with zstd, gzip, xz or lz4", e.Name)
}

// Is makes errors.Is(err, ErrCompressor) true.
func (e *CompressorError) Is(target error) bool { return target == ErrCompressor }

func corrupt(where string, offset int64, format string, args ...any) error {
	return &CorruptError{Where: where, Offset: offset, Detail: fmt.Sprintf(format, args...)}
}
