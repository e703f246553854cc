package squashfs

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// A decoder expands one stored block. It writes at most len(dst) bytes and returns how many; data that would expand to more is an
// error. It is safe for concurrent use.
type decoder interface {
	decode(dst, src []byte) (int, error)
}

var errTooLong = errors.New("expands to more than a block")

// newDecoder gives the decoder for c, or a CompressorError.
func newDecoder(c Compressor) (decoder, error) {
	switch c {
	case Gzip:
		return &zlibDecoder{}, nil
	case XZ:
		return xzDecoder{}, nil
	case LZ4:
		return lz4Decoder{}, nil
	case Zstd:
		return newZstdDecoder()
	default:
		return nil, &CompressorError{Name: c.String()}
	}
}

// zlibDecoder reads the zlib format (RFC 1950), which mksquashfs calls gzip.
type zlibDecoder struct {
	pool sync.Pool
}

type zlibReader interface {
	io.Reader
	zlib.Resetter
}

func (d *zlibDecoder) decode(dst, src []byte) (int, error) {
	in := bytes.NewReader(src)
	zr, _ := d.pool.Get().(zlibReader)
	if zr == nil {
		r, err := zlib.NewReader(in)
		if err != nil {
			return 0, err
		}
		zr = r.(zlibReader)
	} else if err := zr.Reset(in, nil); err != nil {
		return 0, err
	}
	defer d.pool.Put(zr)
	return readAtMost(zr, dst)
}

// readAtMost reads r to its end into dst. The read behind the last byte makes the decoder check its trailing sum.
func readAtMost(r io.Reader, dst []byte) (int, error) {
	var spare [1]byte
	n := 0
	for {
		buf := dst[n:]
		if len(buf) == 0 {
			buf = spare[:]
		}
		k, err := r.Read(buf)
		if k > len(dst)-n {
			return n, errTooLong
		}
		n += k
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// lz4Decoder reads bare lz4 blocks; mksquashfs writes no frame around them.
type lz4Decoder struct{}

func (lz4Decoder) decode(dst, src []byte) (int, error) {
	return lz4.UncompressBlock(src, dst)
}

type zstdDecoder struct {
	d *zstd.Decoder
}

func newZstdDecoder() (*zstdDecoder, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxMemory(maxBlockSize), zstd.WithDecoderMaxWindow(8<<20), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	return &zstdDecoder{d: d}, nil
}

func (z *zstdDecoder) decode(dst, src []byte) (int, error) {
	out, err := z.d.DecodeAll(src, dst[:0:len(dst)])
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		err = errTooLong
	}
	if err != nil {
		return 0, err
	}
	if len(out) > len(dst) {
		return 0, errTooLong
	}
	if len(out) > 0 && &out[0] != &dst[0] {
		copy(dst, out)
	}
	return len(out), nil
}
