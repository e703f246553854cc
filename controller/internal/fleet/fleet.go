// Package fleet holds what the controller knows of the world (images, sites, subnets, satellites, clients, tokens) as plain types, and the rules
// for it as pure code: what is valid, what may be deleted, what a site needs. It knows no database, no gRPC and no clock; every room
// of the controller may import it.
package fleet

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Errors that can be tested for. The messages of errors made here are meant for users.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("already exists")
	ErrInvalid  = errors.New("not valid")
	ErrInUse    = errors.New("in use")
	ErrState    = errors.New("not possible in this state")
	ErrStale    = errors.New("changed meanwhile")
	ErrDenied   = errors.New("not allowed")
)

// Error is a message for users and which of the package's errors it is.
type Error struct {
	Kind    error
	Message string
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the kind.
func (e *Error) Unwrap() error { return e.Kind }

// Errorf makes an Error; kind is one of the package's errors.
func Errorf(kind error, format string, args ...any) error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) error { return Errorf(ErrInvalid, format, args...) }

// Hash is a SHA-256 or a dm-verity root hash. In JSON it is 64 hex digits, or empty if it is zero.
type Hash [32]byte

// IsZero tells whether the hash was never set.
func (h Hash) IsZero() bool { return h == Hash{} }

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) {
	if h.IsZero() {
		return nil, nil
	}
	return []byte(h.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*h = Hash{}
		return nil
	}
	raw, err := hex.DecodeString(string(text))
	if err != nil || len(raw) != len(h) {
		return fmt.Errorf("hash %q: want 64 hex digits", text)
	}
	*h = Hash(raw)
	return nil
}

// Duration is a time.Duration that reads and writes as "1h0m0s" in JSON.
type Duration time.Duration

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// CheckRevision refuses an update that was made from another state than the present one; 0 asks for no check.
func CheckRevision(what string, given, present uint64) error {
	if given != 0 && given != present {
		return Errorf(ErrStale, "%s has revision %d by now, not %d; read it again", what, present, given)
	}
	return nil
}

// maxText bounds free text: descriptions, notes, kernel parameters.
const maxText = 1024

// checkText refuses what would break out of a line of a boot script or a list.
func checkText(what, s string) error {
	if len(s) > maxText {
		return invalid("%s has %d bytes, at most %d are allowed", what, len(s), maxText)
	}
	if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }); i >= 0 {
		return invalid("%s holds a control character at position %d", what, i)
	}
	return nil
}
