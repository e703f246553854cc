package chunkstore

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
)

// Memory is a Store for tests and small things. The zero Memory is empty and ready.
type Memory struct {
	// MaxBytes bounds the sum of the chunks' sizes; 0 means no bound. It must not change while the store is in use.
	MaxBytes uint64
	// Now is the clock for Info.Used; nil means time.Now.
	Now func() time.Time

	mu     sync.Mutex
	chunks map[chunk.ID]*held
	bytes  uint64
}

type held struct {
	data []byte
	used time.Time
}

func (m *Memory) now() time.Time {
	if m.Now != nil {
		return m.Now()
	}
	return time.Now()
}

// Put implements Store.
func (m *Memory) Put(ctx context.Context, id chunk.ID, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := check(id, data); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.chunks == nil {
		m.chunks = make(map[chunk.ID]*held)
	}
	before := uint64(0)
	if old, ok := m.chunks[id]; ok {
		before = uint64(len(old.data))
	}
	total := m.bytes - before + uint64(len(data))
	if m.MaxBytes > 0 && total > m.MaxBytes {
		return &NoSpaceError{Dir: "memory", NeedBytes: uint64(len(data)), FreeBytes: m.MaxBytes - m.bytes}
	}
	m.chunks[id] = &held{data: bytes.Clone(data), used: m.now()}
	m.bytes = total
	return nil
}

// Get implements Store.
func (m *Memory) Get(ctx context.Context, id chunk.ID, buf []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	h, ok := m.chunks[id]
	if ok {
		buf = append(buf[:0], h.data...)
	}
	m.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("get chunk %s: %w", id, ErrNotFound)
	}
	return buf, check(id, buf)
}

// Has implements Store.
func (m *Memory) Has(ctx context.Context, ids []chunk.ID) ([]bool, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	has := make([]bool, len(ids))
	for i, id := range ids {
		if h, ok := m.chunks[id]; ok {
			has[i], h.used = true, m.now()
		}
	}
	return has, nil
}

// Stat implements Store.
func (m *Memory) Stat(ctx context.Context, id chunk.ID) (Info, error) {
	if err := ctx.Err(); err != nil {
		return Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	h, ok := m.chunks[id]
	if !ok {
		return Info{}, fmt.Errorf("stat chunk %s: %w", id, ErrNotFound)
	}
	return Info{ID: id, SizeBytes: int64(len(h.data)), Used: h.used}, nil
}

// Delete implements Store.
func (m *Memory) Delete(ctx context.Context, id chunk.ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if h, ok := m.chunks[id]; ok {
		m.bytes -= uint64(len(h.data))
		delete(m.chunks, id)
	}
	return nil
}

// Walk implements Store.
func (m *Memory) Walk(ctx context.Context, fn func(Info) error) error {
	m.mu.Lock()
	infos := make([]Info, 0, len(m.chunks))
	for id, h := range m.chunks {
		infos = append(infos, Info{ID: id, SizeBytes: int64(len(h.data)), Used: h.used})
	}
	m.mu.Unlock()
	for _, info := range infos {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(info); err != nil {
			return err
		}
	}
	return nil
}

// Sync implements Store; there is nothing to do.
func (m *Memory) Sync(ctx context.Context) error { return ctx.Err() }

// Damage flips one bit of a stored chunk, for tests of what comes then. It tells whether the chunk was there.
func (m *Memory) Damage(id chunk.ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, ok := m.chunks[id]
	if ok {
		h.data[len(h.data)/2] ^= 1
	}
	return ok
}
