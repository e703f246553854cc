//go:build component

package initrd

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRemoveTreeStopsAtMounts empties a tree in which another file system is mounted, as the new root is in the initrd.
func TestRemoveTreeStopsAtMounts(t *testing.T) {
	dir := t.TempDir()
	inner := filepath.Join(dir, "newroot", "etc")
	if err := os.MkdirAll(filepath.Join(dir, "lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	m := mount{"tmpfs", filepath.Join(dir, "newroot"), "tmpfs", 0, "size=1M"}
	if err := m.do(); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(m.target, 0)
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := removeTree(fd); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(inner); err != nil {
		t.Errorf("the mounted file system was touched: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "lib")); !os.IsNotExist(err) {
		t.Errorf("the tree around it is there: %v", err)
	}
}

// TestEnterRoot mounts something in a root as a hook could, and looks where it is afterwards.
func TestEnterRoot(t *testing.T) {
	dir := t.TempDir()
	run, root := filepath.Join(dir, "run"), filepath.Join(dir, "newroot")
	for _, m := range []mount{{"tmpfs", run, "tmpfs", 0, "size=1M"}, {"tmpfs", root, "tmpfs", 0, "size=1M"}} {
		if err := m.do(); err != nil {
			t.Fatal(err)
		}
		defer unix.Unmount(m.target, unix.MNT_DETACH)
	}
	leave, err := enterRoot(root, []string{run})
	if err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(root, run)
	if err := (mount{"tmpfs", filepath.Join(inside, "hook"), "tmpfs", 0, "size=1M"}).do(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(inside, "hook", "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(run, "hook", "file")); err != nil {
		t.Errorf("what was mounted is gone: %v", err)
	}
	if left, err := os.ReadDir(inside); err != nil || len(left) != 0 {
		t.Errorf("left in the root: %v, %v", left, err)
	}
	// A mount whose parent is shared could not be moved to the new root.
	if err := unix.Mount(run, inside, "", unix.MS_MOVE, ""); err != nil {
		t.Errorf("it cannot be moved: %v", err)
	}
	defer unix.Unmount(inside, unix.MNT_DETACH)
}

// TestEnterRootGivesUp leaves nothing mounted where a directory is missing.
func TestEnterRootGivesUp(t *testing.T) {
	dir := t.TempDir()
	run, root := filepath.Join(dir, "run"), filepath.Join(dir, "newroot")
	if err := (mount{"tmpfs", run, "tmpfs", 0, "size=1M"}).do(); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(run, unix.MNT_DETACH)
	if _, err := enterRoot(root, []string{run, filepath.Join(dir, "none")}); err == nil {
		t.Fatal("no error")
	}
	if err := os.Remove(filepath.Join(root, run)); err != nil {
		t.Errorf("still mounted: %v", err)
	}
}
