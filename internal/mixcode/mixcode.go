// Package mixcode is an entropy coder made for patches of system files: programs, libraries, kernel modules, tables, texts. Several models
// guess each binary decision, a small network learns whom to believe, and a range coder stores what is left. All arithmetic is on integers,
// so that streams are the same on every architecture.
//
// Three kinds of data have a coder each: patched bytes (new bytes whose old counterpart is known), gaps (new bytes among or behind known
// ones; EncodeBytes is the simple case), and numbers. Patched bytes become much smaller when the coder is told by Segments where they lie in
// their files: numbers in machine code and tables change by how far their targets moved.
//
// A stream has no checksum and does not tell its length: what reads it from elsewhere verifies it first. A damaged stream gives an error or
// wrong bytes, never a panic, and needs no more memory than a whole one. FORMAT.md says what must never change.
package mixcode

import "errors"

// Version names the format; what was coded under a version decodes alike for ever. Streams do not hold it: their container does.
const Version = 1

// ErrTruncated means that a stream ends before all that it should hold was decoded. Not every cut is noticed.
var ErrTruncated = errors.New("coded stream is truncated")

// ErrTrailing means that bytes follow a complete stream.
var ErrTrailing = errors.New("bytes behind the end of the coded stream")

// A Segment tells where a stretch of patched bytes lies. Addresses serve prediction only, but both sides must give the same segments.
type Segment struct {
	Len  int   // bytes
	File int   // number of the file; addresses are compared within a file only
	Ref  int64 // offset of the first byte in the old file
	New  int64 // offset of the first byte in the new file
}

// EncodePatched is EncodePatchedAt without addresses.
func EncodePatched(dst, data, ref []byte) []byte {
	return NewCoder().EncodePatched(dst, data, ref, nil)
}

// DecodePatched is the inverse of EncodePatched.
func DecodePatched(dst, src, ref []byte) ([]byte, error) {
	return NewCoder().DecodePatched(dst, src, ref, nil)
}

// EncodeBytes is Coder.EncodeBytes.
func EncodeBytes(dst, data, primer []byte) []byte { return NewCoder().EncodeBytes(dst, data, primer) }

// DecodeBytes is Coder.DecodeBytes.
func DecodeBytes(dst, src []byte, n int, primer []byte) ([]byte, error) {
	return NewCoder().DecodeBytes(dst, src, n, primer)
}

// EncodeInts is Coder.EncodeInts.
func EncodeInts(dst []byte, v []uint64) []byte { return NewCoder().EncodeInts(dst, v) }

// DecodeInts is Coder.DecodeInts.
func DecodeInts(src []byte, n int) (v []uint64, rest []byte, err error) {
	return NewCoder().DecodeInts(src, n)
}
