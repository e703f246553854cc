package spool

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

type note struct{ Text string }

// texts reads all notes and keeps those that begin with "keep".
func texts(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := Each(dir, func(r Record) bool {
		var n note
		if err := json.Unmarshal(r.Data, &n); err != nil {
			return false
		}
		if int(r.UID) != os.Getuid() {
			t.Errorf("owner %d", r.UID)
		}
		list = append(list, n.Text)
		return strings.HasPrefix(n.Text, "keep")
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(list)
	return list
}

func TestPutAndEach(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "spool")
	if got := texts(t, dir); got != nil {
		t.Errorf("no directory: %v", got)
	}
	for range 2 { // a second time changes nothing
		if err := Make(dir); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode() != os.ModeDir|os.ModeSticky|0o733 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	var paths []string
	for _, text := range []string{"keep 1", "once", "keep 2"} {
		path, err := Put(dir, note{text})
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	if diff := cmp.Diff([]string{"keep 1", "keep 2", "once"}, texts(t, dir)); diff != "" {
		t.Error(diff)
	}
	if err := os.Remove(paths[0]); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"keep 2"}, texts(t, dir)); diff != "" {
		t.Error(diff)
	}
	if _, err := Put(dir, note{strings.Repeat("x", MaxRecord)}); err == nil {
		t.Error("a record without bound was written")
	}
}

// TestHostile puts into a spool what a pupil could.
func TestHostile(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte(`{"Text":"keep"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.Symlink(outside, filepath.Join(dir, "link")),
		os.MkdirAll(filepath.Join(dir, "dir", "sub"), 0o755),
		unix.Mkfifo(filepath.Join(dir, "pipe"), 0o666),
		os.WriteFile(filepath.Join(dir, "long"), make([]byte, MaxRecord+1), 0o666),
		os.WriteFile(filepath.Join(dir, "bad"), []byte("{"), 0o666),
		os.WriteFile(filepath.Join(dir, ".young"), nil, 0o666),
		os.WriteFile(filepath.Join(dir, ".old"), nil, 0o666),
		os.Chtimes(filepath.Join(dir, ".old"), time.Time{}, time.Now().Add(-2*stale)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range maxRecords + 10 {
		if _, err := Put(dir, note{"keep"}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(texts(t, dir)); n > maxRecords {
		t.Errorf("%d records were read", n)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if strings.HasPrefix(e.Name(), ".") && e.Name() != ".young" || !e.Type().IsRegular() || e.Name() == "long" || e.Name() == "bad" {
			t.Errorf("%s has stayed", e.Name())
		}
	}
	if len(left) > maxRecords {
		t.Errorf("%d files are left", len(left))
	}
	if _, err := os.Stat(outside); err != nil {
		t.Errorf("a link was followed: %v", err)
	}
}
