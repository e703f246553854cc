package nested

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/klauspost/compress/flate"
)

const gzipTrailer = 8

// Plain returns the content of s, of which stored are the bytes in the file. Content longer than limit is refused without being
// unpacked; damaged data, a wrong length and a wrong checksum are ErrStream. Beside stored and the content it takes a few hundred KB.
func Plain(s Stream, stored []byte, limit int64) ([]byte, error) {
	if err := s.check(limit); err != nil {
		return nil, err
	}
	if int64(len(stored)) != s.Length {
		return nil, fmt.Errorf("%w: %d bytes instead of %d", ErrStream, len(stored), s.Length)
	}
	if s.Codec == XZ {
		return plainXZ(s, stored)
	}
	return plainDeflate(s, stored)
}

// check tells whether s can be unpacked.
func (s Stream) check(limit int64) error {
	switch {
	case s.Codec != Gzip && s.Codec != Zip && s.Codec != XZ:
		return fmt.Errorf("%w: codec %d", ErrStream, s.Codec)
	case s.PlainLength < 0 || s.PlainLength > limit:
		return fmt.Errorf("%w: %d bytes of content, at most %d", ErrLimit, s.PlainLength, limit)
	case s.Length < int64(s.trailer()) || s.Length == math.MaxInt64:
		return fmt.Errorf("%w: %d bytes", ErrStream, s.Length)
	}
	return nil
}

// trailer is the number of bytes behind the deflate stream.
func (s Stream) trailer() int {
	if s.Codec == Gzip {
		return gzipTrailer
	}
	return 0
}

func plainDeflate(s Stream, stored []byte) ([]byte, error) {
	body := stored[:len(stored)-s.trailer()]
	var in inflater
	plain, n, err := in.inflate(body, s.PlainLength)
	if err != nil {
		return nil, err
	}
	if n != len(body) || int64(len(plain)) != s.PlainLength {
		return nil, fmt.Errorf("%w: %d of %d bytes make %d of %d", ErrStream, n, len(body), len(plain), s.PlainLength)
	}
	if s.Codec == Gzip && !trailerFits(stored[len(body):], plain) {
		return nil, fmt.Errorf("%w: wrong checksum", ErrStream)
	}
	return plain, nil
}

// Unpack writes the content of s to w, with the checks and errors of Plain; stored gives the bytes in the file and ends there. After an
// error w may have got a part of the content; errors of w and stored are returned as they are. Deflate streams take less than 200 KB of
// memory; an XZ stream and its content are held.
func Unpack(w io.Writer, s Stream, stored io.Reader, limit int64) error {
	if err := s.check(limit); err != nil {
		return err
	}
	if s.Codec == XZ {
		return unpackXZ(w, s, stored)
	}
	return unpackDeflate(w, s, stored)
}

func unpackXZ(w io.Writer, s Stream, stored io.Reader) error {
	b, err := readStored(stored, s.Length)
	if err != nil {
		return err
	}
	plain, err := plainXZ(s, b)
	if err != nil {
		return err
	}
	_, err = w.Write(plain)
	return err
}

// readStored reads exactly n bytes, after which r must end. Memory grows with what r gives, not with n.
func readStored(r io.Reader, n int64) ([]byte, error) {
	var b bytes.Buffer
	b.Grow(int(min(n, 16<<20)) + bytes.MinRead) // a kernel's payload without moving it
	switch got, err := io.Copy(&b, io.LimitReader(r, n+1)); {
	case err != nil:
		return nil, err
	case got != n:
		return nil, fmt.Errorf("%w: %d bytes instead of %d, or more", ErrStream, got, n)
	}
	return b.Bytes(), nil
}

func unpackDeflate(w io.Writer, s Stream, stored io.Reader) error {
	src := &source{r: stored, left: s.Length + 1}
	in := bufio.NewReader(src)
	out := &measured{w: w, left: s.PlainLength}
	err := out.copy(flate.NewReader(in))
	if err == nil {
		err = out.finish(s, in, src)
	}
	if err := cmp.Or(src.err, out.err); err != nil {
		return err
	}
	if err != nil && !errors.Is(err, ErrLimit) && !errors.Is(err, ErrStream) {
		return fmt.Errorf("%w: %w", ErrStream, err)
	}
	return err
}

// finish checks what follows the deflate stream of s in in, which reads from src, and what was written.
func (m *measured) finish(s Stream, in io.Reader, src *source) error {
	var trailer [gzipTrailer + 1]byte // and one byte that must not be there
	n, _ := io.ReadFull(in, trailer[:s.trailer()+1])
	switch {
	case n != s.trailer() || src.left != 1:
		return fmt.Errorf("%w: not %d bytes", ErrStream, s.Length)
	case m.left != 0:
		return fmt.Errorf("%w: %d bytes of content less than %d", ErrStream, m.left, s.PlainLength)
	case s.Codec == Gzip && [gzipTrailer]byte(trailer[:]) != trailerOf(m.crc, s.PlainLength):
		return fmt.Errorf("%w: wrong checksum", ErrStream)
	}
	return nil
}

// source reads at most left bytes and keeps the error of r.
type source struct {
	r    io.Reader
	left int64
	err  error
}

func (s *source) Read(b []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n, err := s.r.Read(b[:min(int64(len(b)), s.left)])
	s.left -= int64(n)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// measured writes at most left bytes and keeps their checksum and the error of w.
type measured struct {
	w    io.Writer
	left int64
	crc  uint32
	err  error
}

// copy passes all of r on. More bytes than are left are ErrLimit.
func (m *measured) copy(r io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if int64(n) > m.left {
			return fmt.Errorf("%w: more content than was said", ErrLimit)
		}
		m.left -= int64(n)
		m.crc = crc32.Update(m.crc, crc32.IEEETable, buf[:n])
		if _, m.err = m.w.Write(buf[:n]); m.err != nil {
			return m.err
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// trailerOf is the end of a gzip member whose content has the given checksum and length, RFC 1952 section 2.3.1.
func trailerOf(crc uint32, n int64) (b [gzipTrailer]byte) {
	binary.LittleEndian.PutUint32(b[:], crc)
	binary.LittleEndian.PutUint32(b[4:], uint32(n))
	return b
}

// trailerFits tells whether b begins with the gzip trailer of plain.
func trailerFits(b, plain []byte) bool {
	return len(b) >= gzipTrailer && [gzipTrailer]byte(b) == trailerOf(crc32.ChecksumIEEE(plain), int64(len(plain)))
}
