package squashfs

import (
	"container/list"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	metaBlockSize  = 8 << 10
	metaHeaderLen  = 2
	metaStoredRaw  = 1 << 15
	dataStoredRaw  = 1 << 24
	cachedMeta     = 256 // decoded metadata blocks kept: at most 2 MiB
	cachedFragment = 8   // decoded fragment blocks kept: at most 8 MiB
)

// blockCache keeps the blocks that were decoded last. What it hands out is never written to again.
type blockCache struct {
	limit int

	mu    sync.Mutex
	order *list.List // of *cachedBlock, the last used in front
	at    map[int64]*list.Element
}

type cachedBlock struct {
	pos    int64
	data   []byte
	stored int // length in the file
}

func newBlockCache(limit int) *blockCache {
	return &blockCache{limit: limit, order: list.New(), at: make(map[int64]*list.Element)}
}

func (c *blockCache) get(pos int64) *cachedBlock {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.at[pos]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*cachedBlock)
}

func (c *blockCache) put(b *cachedBlock) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at[b.pos] != nil {
		return
	}
	c.at[b.pos] = c.order.PushFront(b)
	if c.order.Len() > c.limit {
		last := c.order.Back()
		c.order.Remove(last)
		delete(c.at, last.Value.(*cachedBlock).pos)
	}
}

// readAt fills b from the file; a short file is a TruncatedError.
func (f *FS) readAt(b []byte, pos int64) error {
	n, err := f.r.ReadAt(b, pos)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &TruncatedError{Have: pos + int64(n), Want: f.sb.BytesUsed}
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(b), pos, err)
}

// metaHeader reads the header of the metadata block at pos; end is where its table ends. stored does not count the header.
func (f *FS) metaHeader(where string, pos, end int64) (stored int, raw bool, err error) {
	if pos < SuperblockSize || pos+metaHeaderLen > end {
		return 0, false, corrupt(where, pos, "metadata block outside of its table, which ends at %d", end)
	}
	var h [metaHeaderLen]byte
	if err := f.readAt(h[:], pos); err != nil {
		return 0, false, err
	}
	v := binary.LittleEndian.Uint16(h[:])
	stored = int(v &^ metaStoredRaw)
	if stored == 0 || stored > metaBlockSize || pos+metaHeaderLen+int64(stored) > end {
		return 0, false, corrupt(where, pos, "metadata block of %d bytes in a table that ends at %d", stored, end)
	}
	return stored, v&metaStoredRaw != 0, nil
}

// metaBlock gives the decoded metadata block at pos and the position of the next one.
func (f *FS) metaBlock(where string, pos, end int64) (data []byte, next int64, err error) {
	if b := f.meta.get(pos); b != nil {
		return b.data, pos + int64(b.stored), nil
	}
	stored, raw, err := f.metaHeader(where, pos, end)
	if err != nil {
		return nil, 0, err
	}
	src := make([]byte, stored)
	if err := f.readAt(src, pos+metaHeaderLen); err != nil {
		return nil, 0, err
	}
	b := &cachedBlock{pos: pos, data: src, stored: metaHeaderLen + stored}
	if !raw {
		dst := make([]byte, metaBlockSize)
		n, err := f.dec.decode(dst, src)
		if err != nil {
			return nil, 0, &CorruptError{Where: where, Offset: pos, Detail: "expand metadata block", Err: err}
		}
		b.data = dst[:n:n]
	}
	f.meta.put(b)
	return b.data, pos + int64(b.stored), nil
}

// metaReader reads the bytes of a metadata table as one stream across its blocks.
type metaReader struct {
	fs    *FS
	where string
	end   int64 // of the table
	pos   int64 // of the current block
	next  int64 // of the block behind it
	buf   []byte
	off   int
}

// metaAt starts a reader at offset bytes into the decoded block at pos.
func (f *FS) metaAt(where string, pos, end int64, offset int) (*metaReader, error) {
	m := &metaReader{fs: f, where: where, end: end, next: pos}
	if err := m.advance(); err != nil {
		return nil, err
	}
	if offset > len(m.buf) {
		return nil, corrupt(where, pos, "offset %d in a block of %d bytes", offset, len(m.buf))
	}
	m.off = offset
	return m, nil
}

func (m *metaReader) advance() error {
	buf, next, err := m.fs.metaBlock(m.where, m.next, m.end)
	if err != nil {
		return err
	}
	m.pos, m.next, m.buf, m.off = m.next, next, buf, 0
	return nil
}

// read fills b.
func (m *metaReader) read(b []byte) error {
	for len(b) > 0 {
		if m.off == len(m.buf) {
			if err := m.advance(); err != nil {
				return err
			}
			if len(m.buf) == 0 {
				return corrupt(m.where, m.pos, "empty metadata block")
			}
		}
		n := copy(b, m.buf[m.off:])
		b, m.off = b[n:], m.off+n
	}
	return nil
}

// skip passes over n bytes.
func (m *metaReader) skip(n int) error {
	for n > 0 {
		if m.off == len(m.buf) {
			if err := m.advance(); err != nil {
				return err
			}
			if len(m.buf) == 0 {
				return corrupt(m.where, m.pos, "empty metadata block")
			}
		}
		k := min(n, len(m.buf)-m.off)
		n, m.off = n-k, m.off+k
	}
	return nil
}
