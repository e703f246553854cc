// Package chunk names pieces of files by their content and decides where a file is cut into them. FORMAT.md has the rules; only who
// publishes needs them, a receiver takes the list of chunks as it is. The package does not store or move chunks.
package chunk

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// MaxSize is the most bytes that a chunk has.
const MaxSize = 1 << 20

// ID names a chunk: the SHA-256 of its bytes. The zero ID names no chunk.
type ID [sha256.Size]byte

// Sum gives the ID of a chunk that consists of data.
func Sum(data []byte) ID { return sha256.Sum256(data) }

// String gives the ID as 64 lower-case hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero tells whether the ID is the zero ID.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText gives the form of String.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote; other spellings are an error.
func (id *ID) UnmarshalText(b []byte) error {
	got, err := ParseID(string(b))
	if err != nil {
		return err
	}
	*id = got
	return nil
}

// ErrInvalidID means that a text is not 64 lower-case hex digits.
var ErrInvalidID = errors.New("invalid chunk ID")

// ParseID reads the form of String. It accepts lower-case digits only, so that each ID has one spelling. Errors match ErrInvalidID.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return ID{}, fmt.Errorf("%w: %d characters instead of %d", ErrInvalidID, len(s), 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil || id.String() != s {
		return ID{}, fmt.Errorf("%w: %q", ErrInvalidID, s)
	}
	return id, nil
}

// Ref is one chunk of a file. The chunks of a file follow each other without gaps; Size is from 1 to MaxSize.
type Ref struct {
	ID   ID
	Size uint32
}

// MismatchError tells that data is not what its ID says.
type MismatchError struct {
	Want, Got ID
	Size      int // bytes of the data
}

// Error implements error.
func (e *MismatchError) Error() string {
	return fmt.Sprintf("chunk of %d bytes has ID %s instead of %s", e.Size, e.Got, e.Want)
}

// Verify checks that data is the chunk id; the error is a *MismatchError.
func Verify(id ID, data []byte) error {
	if got := Sum(data); got != id {
		return &MismatchError{Want: id, Got: got, Size: len(data)}
	}
	return nil
}

// TotalSize adds up the sizes of the chunks of a file, in bytes.
func TotalSize(refs []Ref) int64 {
	n := int64(0)
	for _, r := range refs {
		n += int64(r.Size)
	}
	return n
}
