package nested

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/flate"
)

// ratio is more than deflate can ever shorten: 258 bytes in two bits.
const ratio = 1032

// inflater unpacks deflate streams and keeps its memory in between. The zero value is ready.
type inflater struct {
	src bytes.Reader
	r   io.ReadCloser
}

// inflate unpacks the stream at the start of data. It returns the content and the number of bytes that the stream takes. Memory is
// bounded by limit and by the length of data; content longer than limit is ErrLimit.
func (in *inflater) inflate(data []byte, limit int64) (plain []byte, n int, err error) {
	in.src.Reset(data)
	if in.r == nil {
		in.r = flate.NewReader(&in.src)
	} else if err := in.r.(flate.Resetter).Reset(&in.src, nil); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrStream, err)
	}
	most := min(limit, ratio*int64(len(data)))
	buf := make([]byte, 0, min(most, 4*int64(len(data)))+1)
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		m, err := in.r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+m]
		if int64(len(buf)) > limit {
			return nil, 0, fmt.Errorf("%w: more than %d bytes of content", ErrLimit, limit)
		}
		if err == io.EOF {
			return buf, len(data) - in.src.Len(), nil
		}
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %w", ErrStream, err)
		}
	}
}
