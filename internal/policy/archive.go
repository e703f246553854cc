package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

const magic = "LTSPpol\x01"

// Encode returns the tree's archive, which depends on nothing but the tree. The tree must pass Check.
func (t Tree) Encode() ([]byte, error) {
	if err := t.Check(); err != nil {
		return nil, err
	}
	b := binary.AppendUvarint([]byte(magic), uint64(len(t)))
	for _, f := range t {
		b = append(b, byte(f.Kind))
		b = binary.AppendUvarint(b, uint64(f.Mode))
		b = appendBytes(b, []byte(f.Path))
		b = appendBytes(b, f.Content)
	}
	return b, nil
}

func appendBytes(b, s []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Sum returns the digest of an archive.
func Sum(archive []byte) Digest { return sha256.Sum256(archive) }

// Decode reads an archive and checks the tree. Contents are slices of the archive. The error wraps ErrInvalid.
func Decode(archive []byte) (Tree, error) {
	r := reader{b: archive}
	if string(r.take(len(magic))) != magic {
		return nil, fmt.Errorf("%w: no policy archive, or of another version", ErrInvalid)
	}
	n := r.number(MaxFiles)
	t := make(Tree, 0, n)
	for range n {
		f := File{Kind: Kind(r.byte()), Mode: uint16(r.number(0o777)), Path: string(r.bytes(MaxPath))}
		if f.Content = r.bytes(MaxFileBytes); len(f.Content) == 0 && f.Kind == Dir {
			f.Content = nil
		}
		t = append(t, f)
	}
	if r.bad || len(r.b) > 0 {
		return nil, fmt.Errorf("%w: the archive is damaged", ErrInvalid)
	}
	if err := t.Check(); err != nil {
		return nil, err
	}
	return t, nil
}

// reader takes an archive apart. Once bad it returns zeros.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	s := r.b[:n:n]
	r.b = r.b[n:]
	return s
}

func (r *reader) byte() byte {
	if s := r.take(1); len(s) == 1 {
		return s[0]
	}
	return 0
}

// number reads an unsigned varint of at most limit.
func (r *reader) number(limit uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > limit {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(limit uint64) []byte { return r.take(int(r.number(limit))) }
