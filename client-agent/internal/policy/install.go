package policy

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	tree "github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

// Names in /etc. The tree is built beside the one that is in use.
const (
	etcName = "ltsp"
	newName = ".ltsp.new"
)

// Install makes a tree the /etc/ltsp of a root. A reader sees the files from before or the new ones. Nothing is written outside of /etc/ltsp, whatever
// the tree or the image holds.
func Install(root string, files tree.Tree) error {
	etc, err := openEtc(root)
	if err != nil {
		return fmt.Errorf("write /etc/ltsp: %w", err)
	}
	defer etc.Close()
	if err := build(etc, files); err != nil {
		return errors.Join(fmt.Errorf("write /etc/ltsp: %w", err), etc.RemoveAll(newName))
	}
	if err := swap(etc); err != nil {
		return fmt.Errorf("replace /etc/ltsp: %w", err)
	}
	return etc.RemoveAll(newName) // the files from before
}

func openEtc(root string) (*os.Root, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := r.Mkdir("etc", 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	return r.OpenRoot("etc")
}

// build writes the tree under its temporary name.
func build(etc *os.Root, files tree.Tree) error {
	if err := etc.RemoveAll(newName); err != nil {
		return err
	}
	if err := etc.Mkdir(newName, 0o755); err != nil {
		return err
	}
	dir, err := etc.OpenRoot(newName)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Chmod(".", 0o755); err != nil {
		return err
	}
	for _, f := range files {
		if err := put(dir, f); err != nil {
			return err
		}
	}
	return setDirModes(dir, files)
}

// put writes one entry. Directories stay open to us until all files are written.
func put(dir *os.Root, f tree.File) error {
	if err := makeDirs(dir, path.Dir(f.Path)); err != nil {
		return err
	}
	switch f.Kind {
	case tree.Dir:
		return makeDirs(dir, f.Path)
	case tree.Symlink:
		return dir.Symlink(string(f.Content), f.Path)
	default:
		if err := dir.WriteFile(f.Path, f.Content, 0o600); err != nil {
			return err
		}
		return dir.Chmod(f.Path, os.FileMode(f.Mode))
	}
}

// makeDirs makes a directory and those above it with mode 0755, whatever the umask is.
func makeDirs(dir *os.Root, name string) error {
	if name == "." {
		return nil
	}
	if _, err := dir.Lstat(name); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := makeDirs(dir, path.Dir(name)); err != nil {
		return err
	}
	if err := dir.Mkdir(name, 0o755); err != nil {
		return err
	}
	return dir.Chmod(name, 0o755)
}

func setDirModes(dir *os.Root, files tree.Tree) error {
	for _, f := range slices.Backward(files) { // what lies in a directory before the directory
		if f.Kind != tree.Dir {
			continue
		}
		if err := dir.Chmod(f.Path, os.FileMode(f.Mode)); err != nil {
			return err
		}
	}
	return nil
}

// swap exchanges the new tree and /etc/ltsp. Where the file system cannot exchange them (on an overlay, if the image has an /etc/ltsp of its own), the old
// one goes first: that happens in the initrd, where nobody reads.
func swap(etc *os.Root) error {
	if exchange(etc) == nil {
		return nil
	}
	if err := etc.RemoveAll(etcName); err != nil {
		return err
	}
	return etc.Rename(newName, etcName)
}

// exchange gives the new tree and the one in use each other's name.
func exchange(etc *os.Root) error {
	d, err := etc.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	fd := int(d.Fd())
	return unix.Renameat2(fd, newName, fd, etcName, unix.RENAME_EXCHANGE)
}
