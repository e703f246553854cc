//go:build component

package chunkstore_test

import (
	"crypto/rand"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunkstore"
)

// A real full file system: what was stored before stays whole, nothing half-written appears, and deleting makes room again.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatalf("mount tmpfs (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	s := open(t, chunkstore.DiskConfig{Dir: dir, ReserveBytes: -1})
	stored, last := fill(t, s)
	if len(stored) == 0 {
		t.Fatal("not even one chunk fitted")
	}
	for _, id := range stored {
		if _, err := s.Get(t.Context(), id, nil); err != nil {
			t.Errorf("chunk stored before the disk was full: %v", err)
		}
	}
	if _, err := s.Get(t.Context(), chunk.Sum(last), nil); !errors.Is(err, chunkstore.ErrNotFound) {
		t.Errorf("chunk that did not fit: %v, want ErrNotFound", err)
	}
	left, err := os.ReadDir(dir + "/tmp")
	if err != nil || len(left) > 0 {
		t.Errorf("leftovers %v, error %v", left, err)
	}
	if err := s.Delete(t.Context(), stored[0]); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), chunk.Sum(last), last); err != nil {
		t.Errorf("put after room was made: %v", err)
	}
}

// fill puts random chunks until one does not fit, and returns that one.
func fill(t *testing.T, s *chunkstore.Disk) (stored []chunk.ID, last []byte) {
	t.Helper()
	for range 100 {
		data := make([]byte, 300<<10)
		_, _ = rand.Read(data) // never fails
		err := s.Put(t.Context(), chunk.Sum(data), data)
		if errors.Is(err, chunkstore.ErrNoSpace) {
			return stored, data
		}
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, chunk.Sum(data))
	}
	t.Fatal("the disk never got full")
	return nil, nil
}
