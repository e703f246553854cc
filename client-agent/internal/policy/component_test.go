//go:build component

package policy

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	tree "github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

// TestInstallOnOverlay writes over the /etc/ltsp of an image twice, as the initrd and then the resident agent do: the second time the files must be
// exchanged, which an overlay does only with directories of its writable layer.
func TestInstallOnOverlay(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4M"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	for _, name := range []string{"image/etc/ltsp/client", "up", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "image/etc/ltsp/client/old"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	layers := "lowerdir=" + dir + "/image,upperdir=" + dir + "/up,workdir=" + dir + "/work"
	if err := unix.Mount("overlay", root, "overlay", 0, layers); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(root, unix.MNT_DETACH)

	if err := Install(root, tree.Tree{file("a", "1")}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a"}, listing(t, filepath.Join(root, "etc/ltsp"))); diff != "" {
		t.Error(diff)
	}
	reader, err := os.Open(filepath.Join(root, "etc/ltsp"))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	etc, err := openEtc(root)
	if err != nil {
		t.Fatal(err)
	}
	defer etc.Close()
	if err := build(etc, tree.Tree{file("b", "2")}); err != nil {
		t.Fatal(err)
	}
	if err := exchange(etc); err != nil {
		t.Errorf("not exchanged: %v", err)
	}
	if diff := cmp.Diff([]string{"b"}, listing(t, filepath.Join(root, "etc/ltsp"))); diff != "" {
		t.Error(diff)
	}
	if names, err := reader.Readdirnames(-1); err != nil || !cmp.Equal(names, []string{"a"}) {
		t.Errorf("who has opened the directory before sees %v, %v", names, err)
	}
}
