package delta

import (
	"fmt"
	"io"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// content reads the files of an image by address. It is safe for concurrent use.
type content struct {
	m     *model
	fs    *squashfs.FS
	cache *lru[int64, []byte]
}

// newContent opens the image; the cache takes up to cacheBytes.
func newContent(m *model, src Source, cacheBytes int64) (*content, error) {
	fs, err := squashfs.Open(src, src.Size())
	if err != nil {
		return nil, err
	}
	return &content{m: m, fs: fs, cache: newBytesCache(cacheBytes)}, nil
}

// unit gives the content of a unit. The slice is shared: do not change it.
func (c *content) unit(u int32) ([]byte, error) {
	if b, ok := c.cache.get(int64(u)); ok {
		return b, nil
	}
	un := &c.m.units[u]
	b, err := c.fs.Expand(squashfs.Block{Offset: un.off, Size: un.stored, Kind: squashfs.KindData, Raw: !un.packed})
	if err != nil {
		return nil, err
	}
	if int64(len(b)) < un.raw {
		return nil, fmt.Errorf("block at %d expands to %d bytes, not %d: %w", un.off, len(b), un.raw, ErrFormat)
	}
	c.cache.put(int64(u), b)
	return b, nil
}

// read fills p with the content at address a, which may run over several files.
func (c *content) read(p []byte, a int64) error {
	for len(p) > 0 {
		f, off, ok := c.m.fileAt(a)
		if !ok {
			return fmt.Errorf("no content at address %d: %w", a, ErrFormat)
		}
		n := min(int64(len(p)), c.m.files[f].Size-off)
		if err := c.readFile(p[:n], f, off); err != nil {
			return err
		}
		p, a = p[n:], a+n
	}
	return nil
}

// readFile fills p with what file f has at off; the file must be long enough.
func (c *content) readFile(p []byte, f int32, off int64) error {
	file := &c.m.files[f]
	if off < 0 || off+int64(len(p)) > file.Size {
		return fmt.Errorf("read of %d bytes at %d of %d: %w", len(p), off, file.Size, io.ErrUnexpectedEOF)
	}
	for len(p) > 0 {
		k := off / c.m.blockSize
		in := off - k*c.m.blockSize
		n := min(int64(len(p)), c.m.blockSize-in)
		var err error
		switch {
		case k >= int64(len(file.Blocks)) && file.Fragment < 0:
			clear(p[:n])
		case k >= int64(len(file.Blocks)):
			err = c.copyUnit(p[:n], c.m.unitOf[file.Fragment], int64(file.FragmentOffset)+off-int64(len(file.Blocks))*c.m.blockSize)
		case file.Blocks[k] < 0:
			clear(p[:n])
		default:
			err = c.copyUnit(p[:n], c.m.unitOf[file.Blocks[k]], in)
		}
		if err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// fileReader is a file as an io.ReaderAt of what the model says that it holds.
type fileReader struct {
	c    *content
	file int32
}

// ReadAt implements io.ReaderAt.
func (r fileReader) ReadAt(p []byte, off int64) (int, error) {
	n := min(int64(len(p)), r.c.m.files[r.file].Size-off)
	if n <= 0 {
		return 0, io.EOF
	}
	if err := r.c.readFile(p[:n], r.file, off); err != nil {
		return 0, err
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}

func (c *content) copyUnit(p []byte, u int32, in int64) error {
	b, err := c.unit(u)
	if err != nil {
		return err
	}
	if in < 0 || in+int64(len(p)) > int64(len(b)) {
		return fmt.Errorf("block at %d has %d bytes, %d wanted at %d: %w", c.m.units[u].off, len(b), len(p), in, ErrFormat)
	}
	copy(p, b[in:])
	return nil
}
