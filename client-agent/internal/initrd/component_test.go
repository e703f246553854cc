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
