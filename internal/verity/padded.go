package verity

import (
	"errors"
	"io"
)

// Padded returns a reader of the first size bytes of r followed by zeros up to PaddedSize(size). It is safe for concurrent use
// if r is. A negative size counts as zero. If r has fewer than size bytes, reading them gives io.ErrUnexpectedEOF.
func Padded(r io.ReaderAt, size int64) io.ReaderAt {
	size = max(size, 0)
	return &padded{r: r, size: size, end: int64(PaddedSize(uint64(size)))}
}

type padded struct {
	r    io.ReaderAt
	size int64 // end of the data
	end  int64 // end of the padding
}

func (p *padded) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("read at a negative offset")
	}
	if off >= p.end {
		return 0, io.EOF
	}
	want := len(b)
	b = b[:min(int64(want), p.end-off)]
	data := min(max(p.size-off, 0), int64(len(b)))
	if data > 0 {
		if n, err := p.r.ReadAt(b[:data], off); int64(n) < data {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
	}
	clear(b[data:])
	if len(b) < want {
		return len(b), io.EOF
	}
	return len(b), nil
}
