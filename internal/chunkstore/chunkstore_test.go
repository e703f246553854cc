package chunkstore_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunkstore"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunkstore/chunkstoretest"
)

func TestMemory(t *testing.T) {
	chunkstoretest.Run(t, chunkstoretest.Setup{
		New: func(_ *testing.T, now func() time.Time) chunkstore.Store { return &chunkstore.Memory{Now: now} },
		Damage: func(t *testing.T, s chunkstore.Store, id chunk.ID) {
			if !s.(*chunkstore.Memory).Damage(id) {
				t.Fatal("nothing to damage")
			}
		},
	})
}

func TestDisk(t *testing.T) {
	dirs := map[chunkstore.Store]string{}
	chunkstoretest.Run(t, chunkstoretest.Setup{
		New: func(t *testing.T, now func() time.Time) chunkstore.Store {
			dir := filepath.Join(t.TempDir(), "chunks")
			s, err := chunkstore.OpenDisk(chunkstore.DiskConfig{Dir: dir, Now: now})
			if err != nil {
				t.Fatal(err)
			}
			dirs[s] = dir
			return s
		},
		Damage: func(t *testing.T, s chunkstore.Store, id chunk.ID) { flip(t, chunkFile(dirs[s], id)) },
	})
}

func chunkFile(dir string, id chunk.ID) string {
	return filepath.Join(dir, id.String()[:2], id.String())
}

func flip(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 0x10
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, cfg chunkstore.DiskConfig) *chunkstore.Disk {
	t.Helper()
	s, err := chunkstore.OpenDisk(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestDiskDamage(t *testing.T) {
	data := []byte("the bytes of a chunk")
	id := chunk.Sum(data)
	tests := map[string]func(path string) error{
		"truncated": func(path string) error { return os.Truncate(path, 3) },
		"empty":     func(path string) error { return os.Truncate(path, 0) },
		"grown":     func(path string) error { return os.Truncate(path, chunk.MaxSize+1) },
	}
	for name, harm := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, chunkstore.DiskConfig{Dir: dir})
			if err := s.Put(t.Context(), id, data); err != nil {
				t.Fatal(err)
			}
			if err := harm(chunkFile(dir, id)); err != nil {
				t.Fatal(err)
			}
			var corrupt *chunkstore.CorruptError
			if _, err := s.Get(t.Context(), id, nil); !errors.As(err, &corrupt) {
				t.Errorf("get: %v, want a CorruptError", err)
			}
			has, err := s.Has(t.Context(), []chunk.ID{id})
			if want := name != "empty"; err != nil || has[0] != want {
				t.Errorf("has %v, error %v; want %v", has, err, want)
			}
		})
	}
}

func TestDiskReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, chunkstore.DiskConfig{Dir: dir})
	data := []byte("stays")
	if err := s.Put(t.Context(), chunk.Sum(data), data); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, "tmp", "put-123")
	foreign := filepath.Join(dir, "aa", "lost+found")
	for _, path := range []string{left, foreign} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, chunkstore.DiskConfig{Dir: dir})
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("leftover of an interrupted put is still there: %v", err)
	}
	if got, err := s.Get(t.Context(), chunk.Sum(data), nil); err != nil || string(got) != string(data) {
		t.Errorf("got %q, error %v", got, err)
	}
	n := 0
	if err := s.Walk(t.Context(), func(chunkstore.Info) error { n++; return nil }); err != nil || n != 1 {
		t.Errorf("walk saw %d chunks, error %v; want 1", n, err)
	}
}

func TestNoSpace(t *testing.T) {
	data := []byte("does not fit")
	full := map[string]chunkstore.Store{
		"disk":   open(t, chunkstore.DiskConfig{Dir: t.TempDir(), ReserveBytes: 1 << 60}),
		"memory": &chunkstore.Memory{MaxBytes: 4},
	}
	for name, s := range full {
		err := s.Put(t.Context(), chunk.Sum(data), data)
		var detail *chunkstore.NoSpaceError
		if !errors.Is(err, chunkstore.ErrNoSpace) || !errors.As(err, &detail) || detail.NeedBytes != uint64(len(data)) {
			t.Errorf("%s: got error %v, want ErrNoSpace with the size", name, err)
		}
	}
}
