// Package treedir turns a directory of the admin's computer into a tree of policy and back. Only ltspctl uses it.
package treedir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

// ErrNotEmpty tells that Write would mix a tree with files that are there.
var ErrNotEmpty = errors.New("the directory is not empty")

// Read makes a tree of what is in a directory. Owners and set-user-ID bits are lost: everything belongs to root on clients. Remarks say what of the
// directory is not in the tree as it was. The error wraps policy.ErrInvalid if the directory holds what no tree may hold, such as a device.
func Read(dir string) (tree policy.Tree, remarks []string, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		if len(tree) >= policy.MaxFiles {
			return fmt.Errorf("%w: more than %d files", policy.ErrInvalid, policy.MaxFiles)
		}
		f, remark, err := readFile(root, name)
		if err != nil {
			return err
		}
		if remark != "" {
			remarks = append(remarks, remark)
		}
		tree = append(tree, f)
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", dir, err)
	}
	tree.Sort()
	return tree, remarks, tree.Check()
}

func readFile(root *os.Root, name string) (f policy.File, remark string, err error) {
	info, err := root.Lstat(name)
	if err != nil {
		return f, "", err
	}
	f = policy.File{Path: name, Mode: uint16(info.Mode().Perm())}
	switch info.Mode().Type() {
	case fs.ModeDir:
		f.Kind = policy.Dir
	case fs.ModeSymlink:
		f.Kind, f.Mode = policy.Symlink, 0
		target, err := root.Readlink(name)
		f.Content = []byte(target)
		return f, "", err
	case 0:
		f.Kind = policy.Regular
		if f.Content, err = readContent(root, name); err != nil {
			return f, "", err
		}
	default:
		return f, "", fmt.Errorf("%w: %q is neither a file nor a directory nor a link", policy.ErrInvalid, name)
	}
	if special := info.Mode() & (fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky); special != 0 {
		remark = fmt.Sprintf("%s: %s does not go along", name, special)
	}
	return f, remark, nil
}

func readContent(root *os.Root, name string) ([]byte, error) {
	r, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, policy.MaxFileBytes+1))
	if err == nil && len(b) > policy.MaxFileBytes {
		err = fmt.Errorf("%w: %q has more than %d bytes", policy.ErrInvalid, name, policy.MaxFileBytes)
	}
	return b, err
}

// Write puts a tree into a directory, which it makes; ErrNotEmpty if there is something in it. Nothing is written outside of it, whatever the tree says.
func Write(dir string, tree policy.Tree) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if there, err := fs.ReadDir(root.FS(), "."); err != nil {
		return err
	} else if len(there) > 0 {
		return fmt.Errorf("write to %s: %w", dir, ErrNotEmpty)
	}
	for _, f := range tree {
		if err := writeFile(root, f); err != nil {
			return fmt.Errorf("write to %s: %w", dir, err)
		}
	}
	// Directories get their modes last, the deepest first: one that must not be written to has to be filled before.
	for _, f := range slices.Backward(tree) {
		if f.Kind == policy.Dir {
			if err := root.Chmod(f.Path, fs.FileMode(f.Mode)); err != nil {
				return fmt.Errorf("write to %s: %w", dir, err)
			}
		}
	}
	return nil
}

func writeFile(root *os.Root, f policy.File) error {
	if f.Kind == policy.Dir {
		return root.MkdirAll(f.Path, 0o755)
	}
	if parent := path.Dir(f.Path); parent != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	if f.Kind == policy.Symlink {
		return root.Symlink(string(f.Content), f.Path)
	}
	w, err := root.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(f.Mode))
	if err != nil {
		return err
	}
	_, err = w.Write(f.Content)
	// The umask may have taken bits away.
	return errors.Join(err, w.Chmod(fs.FileMode(f.Mode)), w.Close())
}
