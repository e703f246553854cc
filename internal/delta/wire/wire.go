// Package wire reads and writes the small integers and byte strings of which the index and the groups of a delta consist. It is
// for internal/delta alone.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrShort is returned for input that ends too early or holds a number that is too large.
var ErrShort = errors.New("malformed field")

// AppendBytes appends the length of b as an unsigned varint and b.
func AppendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// Zigzag maps small numbers of either sign to small unsigned ones.
func Zigzag(v int64) uint64 { return uint64(v<<1) ^ uint64(v>>63) }

// Unzigzag inverts Zigzag.
func Unzigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

// Reader takes fields from a byte slice. The first error stays: later calls give zero values, and Err tells it.
type Reader struct {
	b   []byte
	err error
}

// NewReader reads from b. The byte slices that it returns are parts of b.
func NewReader(b []byte) *Reader { return &Reader{b: b} }

// Err is the first error, which matches ErrShort unless Fail set another.
func (r *Reader) Err() error { return r.err }

// Rest is what has not been read; nil after an error.
func (r *Reader) Rest() []byte {
	if r.err != nil {
		return nil
	}
	return r.b
}

// Replace sets what is read next, after the caller took something from Rest.
func (r *Reader) Replace(b []byte) {
	if r.err == nil {
		r.b = b
	}
}

// Fail sets the error if there is none yet.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// Uint reads an unsigned varint that is at most limit.
func (r *Reader) Uint(what string, limit uint64) uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > limit {
		r.err = fmt.Errorf("%s: %w", what, ErrShort)
		return 0
	}
	r.b = r.b[n:]
	return v
}

// Int reads what Uint reads as an int; limit must fit.
func (r *Reader) Int(what string, limit int) int { return int(r.Uint(what, uint64(limit))) }

// Bytes reads a byte string of at most limit bytes that AppendBytes wrote.
func (r *Reader) Bytes(what string, limit int) []byte {
	return r.Fixed(what, r.Int(what, limit))
}

// Fixed reads n bytes.
func (r *Reader) Fixed(what string, n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.b) {
		r.err = fmt.Errorf("%s: %d bytes of %d: %w", what, n, len(r.b), ErrShort)
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}
