package delta

import (
	"fmt"
	"sync"
)

// plains keeps plaintexts of the declared streams of OLD. What is kept and what unpacking one takes are at most limit bytes
// together: streams are unpacked one at a time, after as many others were given up as is necessary. Safe for concurrent use.
type plains struct {
	mu    sync.RWMutex // held while a plaintext is used, so that one that is given up is not in use any more
	limit int64
	kept  *lru[int64, []byte]
}

func newPlains(limit int64) *plains {
	return &plains{limit: limit, kept: newLRU[int64, []byte](limit, func(b []byte) int64 { return int64(cap(b)) })}
}

// use calls f with plaintext i, which it makes with unpack unless it is there; need bounds the memory that this takes. More than
// there is at all is ErrLimit. f must not keep the slice.
func (p *plains) use(i, need int64, unpack func() ([]byte, error), f func([]byte)) error {
	if p.peek(i, f) {
		return nil
	}
	if need > p.limit {
		return fmt.Errorf("stream %d of the old image takes %d bytes of memory, %d are allowed: %w", i, need, p.limit, ErrLimit)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b, ok := p.kept.get(i)
	if !ok {
		p.kept.shrink(p.limit - need)
		var err error
		if b, err = unpack(); err != nil {
			return err
		}
		p.kept.put(i, b)
	}
	f(b)
	return nil
}

// peek calls f with plaintext i if it is there.
func (p *plains) peek(i int64, f func([]byte)) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	b, ok := p.kept.get(i)
	if ok {
		f(b)
	}
	return ok
}

// unpackMemory bounds what it takes to unpack the stream: where the content is longer than a deflate stream of that length usually
// holds, the buffer for it has to grow and be copied.
func (s *stream) unpackMemory() int64 {
	n := s.n + s.plain
	if s.plain > 4*s.n {
		n += s.plain + s.plain/2
	}
	return n
}
