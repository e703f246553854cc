package imagebuild

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// emptied are files whose content is the machine's own; glob patterns relative to the root. They stay, empty.
var emptied = []string{
	"etc/fstab", "etc/machine-id", "etc/cups/printers.conf", "etc/cups/printers.conf.O", "etc/cups/subscriptions.conf",
	"var/cache/debconf/passwords.dat", "var/cache/debconf/passwords.dat-old", "var/log/*",
}

// cleanUp rewrites, in a writable view of the source, what must not get into an image. It keeps each file's times, so that
// building twice gives the same image.
func cleanUp(root string) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	defer r.Close()
	if err := removePeople(r); err != nil {
		return fmt.Errorf("clean up accounts: %w", err)
	}
	for _, pattern := range emptied {
		names, err := fs.Glob(r.FS(), pattern)
		if err != nil {
			return fmt.Errorf("clean up %s: %w", pattern, err)
		}
		for _, name := range names {
			if err := rewrite(r, name, ""); err != nil {
				return fmt.Errorf("clean up %s: %w", name, err)
			}
		}
	}
	return nil
}

func removePeople(r *os.Root) error {
	have := accounts{}
	for _, name := range []string{"passwd", "shadow", "group", "gshadow", "subuid", "subgid"} {
		data, err := r.ReadFile(filepath.Join("etc", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		have[name] = string(data)
	}
	defs, err := r.ReadFile("etc/login.defs")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for name, text := range have.withoutPeople(parseLoginDefs(string(defs))) {
		if err := rewriteChanged(r, filepath.Join("etc", name), have[name], text); err != nil {
			return err
		}
	}
	return nil
}

// rewriteChanged is rewrite for a text that may be what the file holds already.
func rewriteChanged(r *os.Root, name, before, after string) error {
	if before == after {
		return nil
	}
	return rewrite(r, name, after)
}

// rewrite gives a regular file new content in place and keeps its modification time. Other kinds of files, and empty ones that stay
// empty, are left alone.
func rewrite(r *os.Root, name, text string) error {
	info, err := r.Lstat(name)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() == 0 && text == "" {
		return nil
	}
	f, err := r.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return r.Chtimes(name, time.Now(), info.ModTime())
}
