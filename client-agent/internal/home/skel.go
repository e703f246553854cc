package home

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/account"
)

// skelDir is what a new home has.
const skelDir = "/etc/skel"

// Make makes a user's home if it is missing, with what new homes have. It is there whole or not at all.
func Make(a account.Account) error { return makeHome(a, skelDir) }

func makeHome(a account.Account, skel string) error {
	if _, err := os.Lstat(a.Home); !errors.Is(err, fs.ErrNotExist) || a.Home == "/" {
		return err
	}
	parent := filepath.Dir(a.Home)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("make the home: %w", err)
	}
	temp, err := os.MkdirTemp(parent, ".ltsp-new-")
	if err != nil {
		return fmt.Errorf("make the home: %w", err)
	}
	defer os.RemoveAll(temp) // nothing is there any more if all went well
	if err := fill(temp, skel, a); err != nil {
		return fmt.Errorf("make the home: %w", err)
	}
	if err := os.Rename(temp, a.Home); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the home: %w", err)
	}
	return nil
}

// fill copies skel into a directory that nobody else can enter yet, and gives all to the user.
func fill(dir, skel string, a account.Account) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	err = filepath.WalkDir(skel, func(name string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(skel, name)
		if err != nil || rel == "." {
			return err
		}
		return copyEntry(root, rel, name, d, a)
	})
	if err != nil {
		return err
	}
	if err := root.Chown(".", a.UID, a.GID); err != nil {
		return err
	}
	return root.Chmod(".", 0o755)
}

func copyEntry(root *os.Root, rel, name string, d fs.DirEntry, a account.Account) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	switch {
	case d.IsDir():
		if err := root.Mkdir(rel, 0o700); err != nil {
			return err
		}
	case d.Type()&fs.ModeSymlink != 0:
		target, err := os.Readlink(name)
		if err != nil {
			return err
		}
		if err := root.Symlink(target, rel); err != nil {
			return err
		}
		return root.Lchown(rel, a.UID, a.GID)
	case d.Type().IsRegular():
		if err := copyFile(root, rel, name); err != nil {
			return err
		}
	default:
		return nil // devices and pipes are nothing to start a home with
	}
	if err := root.Chmod(rel, info.Mode().Perm()); err != nil {
		return err
	}
	return root.Chown(rel, a.UID, a.GID)
}

func copyFile(root *os.Root, rel, name string) error {
	in, err := os.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := root.OpenFile(rel, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
