package delta

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/ltsp-fleet/ltsp-fleet/internal/nested"
)

// maxPlainsFiles bounds the plaintexts that are kept in files.
const maxPlainsFiles = 1 << 30

// plains keeps plaintexts of the declared streams of OLD: short ones in memory, long ones (an initrd's) in files without a name. Streams are
// unpacked one at a time, after as many others were given up as is necessary. Safe for concurrent use.
type plains struct {
	dir   string
	limit int64 // of the memory for short ones, with what unpacking takes
	mu    sync.RWMutex
	short *lru[int64, []byte]
	long  *lru[int64, *plainFile]
}

// plainFile is a plaintext in a file.
type plainFile struct {
	f *os.File
	n int64
}

func newPlains(dir string, limit int64) *plains {
	p := &plains{dir: dir, limit: limit}
	p.short = newLRU[int64, []byte](limit, func(b []byte) int64 { return int64(cap(b)) })
	p.long = newLRU[int64, *plainFile](maxPlainsFiles, func(f *plainFile) int64 { return f.n })
	p.long.dropped = func(f *plainFile) { _ = f.f.Close() } // it was only read since it was written
	return p
}

// read fills b from offset off of plaintext i, which it unpacks from stored unless it is there.
func (p *plains) read(b []byte, off, i int64, st *stream, stored func() io.Reader) error {
	p.mu.RLock()
	ok, err := p.peek(b, off, i)
	p.mu.RUnlock()
	if ok || err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if ok, err := p.peek(b, off, i); ok || err != nil {
		return err
	}
	if st.unpackMemory() <= p.limit {
		err = p.unpackShort(i, st, stored())
	} else {
		err = p.unpackLong(i, st, stored())
	}
	if err != nil {
		return err
	}
	_, err = p.peek(b, off, i)
	return err
}

// peek fills b if plaintext i is there.
func (p *plains) peek(b []byte, off, i int64) (ok bool, err error) {
	if plain, ok := p.short.get(i); ok {
		copy(b, plain[off:])
		return true, nil
	}
	f, ok := p.long.get(i)
	if !ok {
		return false, nil
	}
	if _, err := f.f.ReadAt(b, off); err != nil {
		return false, fmt.Errorf("read plaintext of the old image: %w", err)
	}
	return true, nil
}

func (p *plains) unpackShort(i int64, st *stream, stored io.Reader) error {
	p.short.shrink(p.limit - st.unpackMemory())
	packed := make([]byte, st.n)
	if _, err := io.ReadFull(stored, packed); err != nil {
		return err
	}
	plain, err := st.unpack(packed)
	if err != nil {
		return oldStreamError(err)
	}
	p.short.put(i, plain)
	return nil
}

func (p *plains) unpackLong(i int64, st *stream, stored io.Reader) error {
	p.long.shrink(maxPlainsFiles - st.plain)
	f, err := unnamed(p.dir, "delta-plaintext-")
	if err != nil {
		return fmt.Errorf("keep plaintext of the old image: %w", err)
	}
	if err := nested.Unpack(f, st.described(), stored, maxNestedPlain); err != nil {
		return errors.Join(oldStreamError(err), f.Close())
	}
	p.long.put(i, &plainFile{f, st.plain})
	return nil
}

// oldStreamError tells a stream that is not as declared from a file that cannot be read or written.
func oldStreamError(err error) error {
	if errors.Is(err, nested.ErrStream) || errors.Is(err, nested.ErrLimit) {
		return fmt.Errorf("stream of the old image: %w: %w", err, ErrFormat)
	}
	return fmt.Errorf("stream of the old image: %w", err)
}

// close gives up all. No method may be running or be called later.
func (p *plains) close() {
	p.short.shrink(0)
	p.long.shrink(0)
}

// unpackMemory bounds what it takes to unpack the stream at once: where the content is longer than a deflate stream of that length usually
// holds, the buffer for it has to grow and be copied.
func (s *stream) unpackMemory() int64 {
	n := s.n + s.plain
	if s.plain > 4*s.n {
		n += s.plain + s.plain/2
	}
	return n
}
