// Package rootprep makes the mounted root file system that of this PC before init starts: names, resolver, units, and configuration that keeps
// network managers away from the NIC that the root hangs on. Everything goes into the overlay or into /run; the image is not changed.
package rootprep

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// maxLinks bounds the symbolic links in one path, as the kernel does.
const maxLinks = 40

// Root is a directory that will be "/". Its methods take absolute paths inside of it and follow symbolic links as init will see them: an absolute link
// stays inside.
type Root string

// resolve returns the real path of p, whose last elements need not exist.
func (r Root) resolve(p string) (string, error) {
	rest := strings.Split(filepath.Clean("/"+p), "/")[1:]
	var done []string // real elements so far
	for links := 0; len(rest) > 0; {
		element := rest[0]
		rest = rest[1:]
		switch element {
		case "", ".":
			continue
		case "..":
			done = done[:max(0, len(done)-1)]
			continue
		}
		target, err := os.Readlink(r.join(append(done, element)))
		if err != nil { // no link, or nothing there
			done = append(done, element)
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("resolve %s: too many symbolic links", p)
		}
		if filepath.IsAbs(target) {
			done = nil
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return r.join(done), nil
}

func (r Root) join(elements []string) string {
	return filepath.Join(string(r), filepath.Join(elements...))
}

// Exists tells whether p, with links followed, is there.
func (r Root) Exists(p string) bool {
	real, err := r.resolve(p)
	if err != nil {
		return false
	}
	_, err = os.Lstat(real)
	return err == nil
}

// ReadFile reads p, with links followed.
func (r Root) ReadFile(p string) ([]byte, error) {
	real, err := r.resolve(p)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(real)
}

// Readlink returns the target of p if p itself is a symbolic link, else "".
func (r Root) Readlink(p string) string {
	dir, err := r.resolve(filepath.Dir(p))
	if err != nil {
		return ""
	}
	target, err := os.Readlink(filepath.Join(dir, filepath.Base(p)))
	if err != nil {
		return ""
	}
	return target
}

// WriteFile makes p a regular file with mode 0644; what was there, a link too, is replaced. Missing directories are made.
func (r Root) WriteFile(p, content string) error {
	file, err := r.makeWay(p)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", p, err)
	}
	return nil
}

// Symlink makes p a symbolic link to target; what was there is replaced.
func (r Root) Symlink(target, p string) error {
	file, err := r.makeWay(p)
	if err != nil {
		return err
	}
	if err := os.Symlink(target, file); err != nil {
		return fmt.Errorf("link %s: %w", p, err)
	}
	return nil
}

// makeWay makes p's directory, removes p, and returns where it lies.
func (r Root) makeWay(p string) (string, error) {
	dir, err := r.resolve(filepath.Dir(p))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make directory of %s: %w", p, err)
	}
	file := filepath.Join(dir, filepath.Base(p))
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("replace %s: %w", p, err)
	}
	return file, nil
}

// FindInit returns the first of the candidates that is an executable file, as it will be called after the root switch.
func (r Root) FindInit(candidates ...string) (string, error) {
	for _, c := range candidates {
		real, err := r.resolve(c)
		if err != nil {
			continue
		}
		if info, err := os.Stat(real); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return c, nil
		}
	}
	return "", fmt.Errorf("no init in the image: tried %s", strings.Join(candidates, ", "))
}
