package delta

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestSpoolSpills keeps groups of which only some fit into memory; they come back in order, and the file has no name.
func TestSpoolSpills(t *testing.T) {
	dir := t.TempDir()
	s := newSpool(dir, 6, 100)
	var want []byte
	groups := [][]byte{bytes.Repeat([]byte{1}, 60), bytes.Repeat([]byte{2}, 70), {}, bytes.Repeat([]byte{3}, 40), {4}, bytes.Repeat([]byte{5}, 500)}
	for _, g := range []int{5, 0, 1, 3, 4, 2} {
		if err := s.put(g, groups[g]); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range groups {
		want = append(want, g...)
	}
	if s.used != 100 || s.end != 571 {
		t.Errorf("%d bytes in memory and %d in the file, want 100 and 571", s.used, s.end)
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) > 0 {
		t.Errorf("files %v, error %v; want none", names, err)
	}
	var got bytes.Buffer
	if err := s.writeTo(&got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("other bytes come back")
	}
	s.close(&err)
	if err != nil {
		t.Error(err)
	}
}

func TestSpoolWithoutDirectory(t *testing.T) {
	s := newSpool(filepath.Join(t.TempDir(), "missing"), 1, 10)
	if err := s.put(0, make([]byte, 11)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want ErrNotExist", err)
	}
}
