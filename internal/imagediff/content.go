package imagediff

import (
	"bytes"
	"errors"
	"io"

	"github.com/ltsp-fleet/ltsp-fleet/internal/sqmeta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// sameContent tells whether two regular files hold the same bytes: first by their stored blocks, which need no decompression, then by reading both.
func (c *comparison) sameContent(a, b entry) (bool, error) {
	if a.info.Size() != b.info.Size() {
		return false, nil
	}
	f, g := c.old.file(a), c.new.file(b)
	if f != nil && g != nil {
		same, err := c.sameStored(f, g)
		if same || err != nil {
			return same, err
		}
	}
	return c.sameBytes(a.path, b.path)
}

func (im *image) file(e entry) *sqmeta.File {
	st, ok := e.info.Sys().(*squashfs.Stat)
	if !ok {
		return nil
	}
	return im.byInode[st.Inode]
}

// sameStored tells whether the files are made of equal blocks. Files that are not may still hold the same bytes.
func (c *comparison) sameStored(f, g *sqmeta.File) (bool, error) {
	if len(f.Blocks) != len(g.Blocks) || (f.Fragment < 0) != (g.Fragment < 0) || c.old.meta.BlockSize() != c.new.meta.BlockSize() {
		return false, nil
	}
	for k := range f.Blocks {
		same, err := c.sameBlock(f.Blocks[k], g.Blocks[k])
		if !same || err != nil {
			return false, err
		}
	}
	if f.Fragment < 0 {
		return true, nil
	}
	n := int(f.Size % int64(c.old.meta.BlockSize()))
	x, err := c.old.tail(f, n)
	if err != nil {
		return false, err
	}
	y, err := c.new.tail(g, n)
	return err == nil && bytes.Equal(x, y), err
}

func (c *comparison) sameBlock(i, j int32) (bool, error) {
	if i < 0 || j < 0 {
		return i == j, nil
	}
	x, y := c.old.meta.Blocks()[i], c.new.meta.Blocks()[j]
	if x.Stored != y.Stored || x.Compressed != y.Compressed {
		return false, nil
	}
	a, b := make([]byte, x.Stored), make([]byte, y.Stored)
	if _, err := c.old.source.ReadAt(a, x.Offset); err != nil {
		return false, err
	}
	if _, err := c.new.source.ReadAt(b, y.Offset); err != nil {
		return false, err
	}
	return bytes.Equal(a, b), nil
}

// tailCache keeps the content of the last fragment blocks: neighbours in the tree share them.
type tailCache struct {
	blocks [8]int32 // one more than the block's number; 0 is none
	data   [8][]byte
	next   int
}

func (im *image) tail(f *sqmeta.File, n int) ([]byte, error) {
	data, err := im.fragment(f.Fragment)
	if err != nil {
		return nil, err
	}
	from := int(f.FragmentOffset)
	if from+n > len(data) {
		return nil, &squashfs.CorruptError{Where: "fragment", Offset: im.meta.Blocks()[f.Fragment].Offset, Detail: "a tail lies outside of it"}
	}
	return data[from : from+n], nil
}

func (im *image) fragment(i int32) ([]byte, error) {
	t := &im.tails
	for k, block := range t.blocks {
		if block == i+1 {
			return t.data[k], nil
		}
	}
	b := im.meta.Blocks()[i]
	data, err := im.fs.Expand(squashfs.Block{Offset: b.Offset, Size: int64(b.Stored), Kind: squashfs.KindFragment, Raw: !b.Compressed})
	if err != nil {
		return nil, err
	}
	t.blocks[t.next], t.data[t.next] = i+1, data
	t.next = (t.next + 1) % len(t.blocks)
	return data, nil
}

// sameBytes reads both files.
func (c *comparison) sameBytes(a, b string) (bool, error) {
	f, err := c.old.fs.OpenFile(a)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }() // it was only read
	g, err := c.new.fs.OpenFile(b)
	if err != nil {
		return false, err
	}
	defer func() { _ = g.Close() }()
	x, y := make([]byte, 256<<10), make([]byte, 256<<10)
	for {
		if err := c.ctx.Err(); err != nil {
			return false, err
		}
		n, errA := io.ReadFull(f, x)
		m, errB := io.ReadFull(g, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		endA, endB := errors.Is(errA, io.EOF) || errors.Is(errA, io.ErrUnexpectedEOF), errors.Is(errB, io.EOF) || errors.Is(errB, io.ErrUnexpectedEOF)
		if errA != nil && !endA {
			return false, errA
		}
		if errB != nil && !endB {
			return false, errB
		}
		if endA || endB {
			return endA == endB, nil
		}
	}
}
