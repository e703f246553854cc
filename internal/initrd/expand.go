package initrd

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const (
	// maxFile bounds one module or firmware file, expanded.
	maxFile = 256 << 20
	// maxWindow bounds the memory of a decoder.
	maxWindow = 64 << 20
)

var errTooLong = errors.New("file is too long")

// readLimited reads a file of at most limit bytes.
func readLimited(image fs.FS, name string, limit int64) ([]byte, error) {
	f, err := image.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return readAll(f, name, limit)
}

func readAll(r io.Reader, name string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: %w: more than %d bytes", name, errTooLong, limit)
	}
	return data, nil
}

// readExpanded reads a file and undoes the compression that its suffix tells.
func readExpanded(image fs.FS, name string) ([]byte, error) {
	data, err := readLimited(image, name, maxFile)
	if err != nil {
		return nil, err
	}
	var r io.Reader
	switch path.Ext(name) {
	case ".gz":
		r, err = gzip.NewReader(bytes.NewReader(data))
	case ".xz":
		if err = checkXZ(data); err == nil {
			r, err = xz.NewReader(bytes.NewReader(data))
		}
	case ".zst":
		var d *zstd.Decoder
		d, err = zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err == nil {
			defer d.Close()
			r = d
		}
	default:
		return data, nil
	}
	if err != nil {
		return nil, fmt.Errorf("expand %s: %w", name, err)
	}
	return readAll(r, name, maxFile)
}

// checkXZ refuses a dictionary that is larger than maxWindow before the decoder takes memory for it: the size stands in the first
// block header, behind the LZMA2 filter's number (The .xz File Format, sections 3.1 and 5.3.1).
func checkXZ(data []byte) error {
	const filtersAt = 12 + 2
	if len(data) < filtersAt+3 {
		return io.ErrUnexpectedEOF
	}
	head := data[filtersAt:]
	if data[filtersAt-1]&0xc0 != 0 || head[0] != 0x21 || head[1] != 1 {
		return nil // sizes or other filters are there: the decoder refuses what it does not know
	}
	if bits := uint(head[2]); bits > 40 || uint64(2|bits&1)<<(bits/2+11) > maxWindow {
		return fmt.Errorf("dictionary is larger than %d bytes", maxWindow)
	}
	return nil
}
