// Package chunkstoretest checks that an implementation of chunkstore.Store keeps the contract. Tests import it, nobody else.
package chunkstoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunkstore"
)

// Setup makes stores to test.
type Setup struct {
	// New returns an empty store that takes its time from now.
	New func(t *testing.T, now func() time.Time) chunkstore.Store
	// Damage flips a bit of a chunk that s holds, behind its back.
	Damage func(t *testing.T, s chunkstore.Store, id chunk.ID)
}

// Run runs the suite.
func Run(t *testing.T, setup Setup) {
	tests := []struct {
		name string
		run  func(*testing.T, *bench)
	}{
		{"get what was put", getWhatWasPut},
		{"sizes", sizes},
		{"not found", notFound},
		{"wrong bytes are refused", wrongBytes},
		{"damage is found and healed", damage},
		{"use is marked", use},
		{"walk", walk},
		{"ended context", ended},
		{"many at once", many},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b := &bench{setup: setup, clock: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
			b.Store = setup.New(t, func() time.Time { return b.clock })
			test.run(t, b)
		})
	}
}

type bench struct {
	chunkstore.Store
	setup Setup
	clock time.Time
}

func sample(n, size int) (chunk.ID, []byte) {
	data := bytes.Repeat([]byte{byte(n), byte(n >> 8), 7}, size/3+1)[:size]
	return chunk.Sum(data), data
}

func put(t *testing.T, s chunkstore.Store, n, size int) chunk.ID {
	t.Helper()
	id, data := sample(n, size)
	if err := s.Put(t.Context(), id, data); err != nil {
		t.Fatalf("put: %v", err)
	}
	return id
}

func getWhatWasPut(t *testing.T, b *bench) {
	id, data := sample(1, 1000)
	kept := bytes.Clone(data)
	if err := b.Put(t.Context(), id, data); err != nil {
		t.Fatal(err)
	}
	clear(data) // the store must not have kept the slice
	for _, buf := range [][]byte{nil, make([]byte, 10), make([]byte, 0, 1000), make([]byte, 5000)} {
		got, err := b.Get(t.Context(), id, buf)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, kept) {
			t.Fatalf("got other bytes than were put")
		}
		if cap(buf) >= 1000 && &got[0] != &buf[:1][0] {
			t.Errorf("a buffer of %d bytes was not used", cap(buf))
		}
	}
	if err := b.Sync(t.Context()); err != nil {
		t.Errorf("sync: %v", err)
	}
}

func sizes(t *testing.T, b *bench) {
	for _, size := range []int{1, chunk.MaxSize} {
		id := put(t, b, 9, size)
		if got, err := b.Get(t.Context(), id, nil); err != nil || len(got) != size {
			t.Errorf("chunk of %d bytes: got %d bytes, error %v", size, len(got), err)
		}
	}
	for _, size := range []int{0, chunk.MaxSize + 1} {
		id, data := sample(9, size)
		var corrupt *chunkstore.CorruptError
		if err := b.Put(t.Context(), id, data); !errors.As(err, &corrupt) {
			t.Errorf("chunk of %d bytes: got error %v, want a CorruptError", size, err)
		}
	}
}

func notFound(t *testing.T, b *bench) {
	id, _ := sample(1, 10)
	if _, err := b.Get(t.Context(), id, nil); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Errorf("get: %v, want ErrNotFound", err)
	}
	if _, err := b.Stat(t.Context(), id); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Errorf("stat: %v, want ErrNotFound", err)
	}
	if err := b.Delete(t.Context(), id); err != nil {
		t.Errorf("delete: %v", err)
	}
	put(t, b, 1, 10)
	if err := b.Delete(t.Context(), id); err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, err := b.Get(t.Context(), id, nil); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Errorf("get after delete: %v, want ErrNotFound", err)
	}
}

func wrongBytes(t *testing.T, b *bench) {
	id, data := sample(1, 100)
	for name, wrong := range map[string][]byte{"flipped": append([]byte{data[0] ^ 1}, data[1:]...), "truncated": data[:99]} {
		var corrupt *chunkstore.CorruptError
		if err := b.Put(t.Context(), id, wrong); !errors.As(err, &corrupt) || corrupt.ID != id {
			t.Errorf("%s: got error %v, want a CorruptError with the ID", name, err)
		}
	}
	if has, err := b.Has(t.Context(), []chunk.ID{id}); err != nil || has[0] {
		t.Errorf("has %v, error %v after refused puts", has, err)
	}
}

func damage(t *testing.T, b *bench) {
	id, data := sample(1, 100)
	put(t, b, 1, 100)
	b.setup.Damage(t, b.Store, id)
	var corrupt *chunkstore.CorruptError
	if _, err := b.Get(t.Context(), id, nil); !errors.As(err, &corrupt) || corrupt.ID != id {
		t.Fatalf("get of a damaged chunk: %v, want a CorruptError with the ID", err)
	}
	put(t, b, 1, 100)
	if got, err := b.Get(t.Context(), id, nil); err != nil || !bytes.Equal(got, data) {
		t.Errorf("get after it was put again: error %v", err)
	}
}

func use(t *testing.T, b *bench) {
	id, other := put(t, b, 1, 10), put(t, b, 2, 20)
	start := b.clock
	b.clock = start.Add(time.Hour)
	absent, _ := sample(3, 30)
	has, err := b.Has(t.Context(), []chunk.ID{absent, id})
	if err != nil || has[0] || !has[1] {
		t.Fatalf("has %v, error %v; want false, true", has, err)
	}
	for want, id := range map[time.Time]chunk.ID{b.clock: id, start: other} {
		if info, err := b.Stat(t.Context(), id); err != nil || !info.Used.Equal(want) {
			t.Errorf("used %v, error %v; want %v", info.Used, err, want)
		}
	}
	put(t, b, 2, 20)
	if info, err := b.Stat(t.Context(), other); err != nil || !info.Used.Equal(b.clock) {
		t.Errorf("used %v, error %v after another put; want %v", info.Used, err, b.clock)
	}
}

func walk(t *testing.T, b *bench) {
	want := map[chunk.ID]int64{}
	for i := range 40 {
		want[put(t, b, i, 10+i)] = int64(10 + i)
	}
	err := b.Walk(t.Context(), func(info chunkstore.Info) error {
		if want[info.ID] != info.SizeBytes {
			t.Errorf("chunk %s: %d bytes, want %d", info.ID, info.SizeBytes, want[info.ID])
		}
		delete(want, info.ID)
		return b.Delete(t.Context(), info.ID)
	})
	if err != nil || len(want) > 0 {
		t.Errorf("walk: error %v, %d chunks not seen", err, len(want))
	}
	put(t, b, 1, 10)
	stop := errors.New("stop")
	if err := b.Walk(t.Context(), func(chunkstore.Info) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("walk returned %v, want fn's error", err)
	}
}

func ended(t *testing.T, b *bench) {
	id, data := sample(1, 10)
	put(t, b, 1, 10)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := b.Get(ctx, id, nil)
	_, hasErr := b.Has(ctx, []chunk.ID{id})
	_, statErr := b.Stat(ctx, id)
	for name, err := range map[string]error{
		"put": b.Put(ctx, id, data), "get": getErr, "has": hasErr, "stat": statErr, "delete": b.Delete(ctx, id),
		"walk": b.Walk(ctx, func(chunkstore.Info) error { return nil }), "sync": b.Sync(ctx),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want the context's error", name, err)
		}
	}
}

func many(t *testing.T, b *bench) {
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for w := range 16 {
		wg.Go(func() {
			for i := range 20 {
				id, data := sample(i, 3000) // the same chunks from all sides
				if err := b.Put(t.Context(), id, data); err != nil {
					errs <- fmt.Errorf("writer %d: put: %w", w, err)
					return
				}
				if got, err := b.Get(t.Context(), id, nil); err != nil || !bytes.Equal(got, data) {
					errs <- fmt.Errorf("writer %d: get: %w", w, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}
