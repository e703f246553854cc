// Package rootdir reads and writes a tree that is, or will be, a running system's "/": the mounted image before init starts, the running client's own
// root, a directory in a test. Symbolic links are followed as that system will see them: an absolute link stays inside.
package rootdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	// maxLinks bounds the symbolic links in one path, as the kernel does.
	maxLinks = 40
	// MaxFile bounds what ReadFile reads, in bytes.
	MaxFile = 32 << 20
)

// Root is a directory that will be "/". Its methods take absolute paths inside of it. Files are replaced whole: who reads sees the old or the new one.
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

// Place returns where the directory entry p lies outside of the root: links on the way to it are followed, p itself is not.
func (r Root) Place(p string) (string, error) {
	p = filepath.Clean("/" + p)
	dir, err := r.resolve(filepath.Dir(p))
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, filepath.Base(p)), nil
}

// Real returns p with all links followed, as a path inside of the root. What is not there stays as it is.
func (r Root) Real(p string) string {
	real, err := r.resolve(p)
	if err != nil {
		return p
	}
	rel, err := filepath.Rel(string(r), real)
	if err != nil {
		return p
	}
	return filepath.Clean("/" + rel)
}

// Exists tells whether p, with links followed, is there.
func (r Root) Exists(p string) bool {
	_, err := r.Stat(p)
	return err == nil
}

// Stat describes p with links followed.
func (r Root) Stat(p string) (fs.FileInfo, error) {
	real, err := r.resolve(p)
	if err != nil {
		return nil, err
	}
	return os.Lstat(real)
}

// Lstat describes p itself.
func (r Root) Lstat(p string) (fs.FileInfo, error) {
	place, err := r.Place(p)
	if err != nil {
		return nil, err
	}
	return os.Lstat(place)
}

// IsFile tells whether p, with links followed, is a regular file.
func (r Root) IsFile(p string) bool {
	info, err := r.Stat(p)
	return err == nil && info.Mode().IsRegular()
}

// IsDir tells whether p, with links followed, is a directory.
func (r Root) IsDir(p string) bool {
	info, err := r.Stat(p)
	return err == nil && info.IsDir()
}

// IsProgram tells whether p, with links followed, is an executable file.
func (r Root) IsProgram(p string) bool {
	info, err := r.Stat(p)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// commandDirs are searched for commands, as root's PATH has them.
var commandDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// HasCommand tells whether root finds a program of that name.
func (r Root) HasCommand(name string) bool {
	for _, dir := range commandDirs {
		if r.IsProgram(dir + "/" + name) {
			return true
		}
	}
	return false
}

// ReadFile reads p, with links followed. It refuses what is no regular file and what is longer than MaxFile.
func (r Root) ReadFile(p string) ([]byte, error) {
	real, err := r.resolve(p)
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(real)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > MaxFile {
		return nil, fmt.Errorf("read %s: no regular file of at most %d MiB", p, MaxFile>>20)
	}
	return os.ReadFile(real)
}

// ReadDir lists the directory p in the order of names.
func (r Root) ReadDir(p string) ([]fs.DirEntry, error) {
	real, err := r.resolve(p)
	if err != nil {
		return nil, err
	}
	return os.ReadDir(real)
}

// Readlink returns the target of p if p itself is a symbolic link, else "".
func (r Root) Readlink(p string) string {
	place, err := r.Place(p)
	if err != nil {
		return ""
	}
	target, err := os.Readlink(place)
	if err != nil {
		return ""
	}
	return target
}

// WriteFile makes p a regular file with mode 0644; what was there, a link too, is replaced. Missing directories are made.
func (r Root) WriteFile(p, content string) error { return r.WriteFileMode(p, content, 0o644) }

// WriteFileMode is WriteFile with other permissions.
func (r Root) WriteFileMode(p, content string, mode fs.FileMode) error {
	file, err := r.makeWay(p)
	if err != nil {
		return err
	}
	return replace(file, p, []byte(content), mode, -1, -1)
}

// EditFile changes the content of a file that is there. A link stays one, what it leads to is changed; permissions and owner stay.
func (r Root) EditFile(p, content string) error {
	real, err := r.resolve(p)
	if err != nil {
		return err
	}
	info, err := os.Lstat(real)
	if err != nil {
		return err
	}
	uid, gid := -1, -1
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		uid, gid = int(st.Uid), int(st.Gid)
	}
	return replace(real, p, []byte(content), info.Mode().Perm(), uid, gid)
}

// replace writes a file beside the place and moves it there. It is not made durable: the tree is memory, or built anew after a crash.
func replace(place, name string, content []byte, mode fs.FileMode, uid, gid int) error {
	f, err := os.CreateTemp(filepath.Dir(place), ".ltsp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(content)
	if err == nil && uid >= 0 {
		// Who may not give files away keeps them.
		if e := f.Chown(uid, gid); e != nil && !errors.Is(e, fs.ErrPermission) {
			err = e
		}
	}
	if err == nil {
		err = f.Chmod(mode)
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), place)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the error that counts is err
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Symlink makes p a symbolic link to target; what was there, unless it is a directory with content, is replaced.
func (r Root) Symlink(target, p string) error {
	file, err := r.makeWay(p)
	if err != nil {
		return err
	}
	temp := file + ".ltsp-new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("link %s: %w", p, err)
	}
	if err := os.Symlink(target, temp); err != nil {
		return fmt.Errorf("link %s: %w", p, err)
	}
	if err := os.Rename(temp, file); err != nil {
		_ = os.Remove(temp)
		return fmt.Errorf("link %s: %w", p, err)
	}
	return nil
}

// makeWay makes p's directory and returns where p lies; an empty directory that is there is removed.
func (r Root) makeWay(p string) (string, error) {
	if err := r.MkdirAll(filepath.Dir(filepath.Clean("/"+p)), 0o755); err != nil {
		return "", err
	}
	file, err := r.Place(p)
	if err != nil {
		return "", err
	}
	if info, err := os.Lstat(file); err == nil && info.IsDir() {
		if err := os.Remove(file); err != nil {
			return "", fmt.Errorf("replace %s: %w", p, err)
		}
	}
	return file, nil
}

// MkdirAll makes a directory and those above it where they are missing.
func (r Root) MkdirAll(p string, mode fs.FileMode) error {
	real, err := r.resolve(p)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(real, mode); err != nil {
		return fmt.Errorf("make directory %s: %w", p, err)
	}
	return nil
}

// Remove removes p itself: a file, a link, an empty directory. What is not there is no error.
func (r Root) Remove(p string) error { return r.remove(p, os.Remove) }

// RemoveAll removes p itself and what lies below it.
func (r Root) RemoveAll(p string) error { return r.remove(p, os.RemoveAll) }

func (r Root) remove(p string, do func(string) error) error {
	if filepath.Clean("/"+p) == "/" {
		return errors.New("remove /: the root stays")
	}
	place, err := r.Place(p)
	if err != nil {
		return err
	}
	if err := do(place); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("remove %s: %w", p, err)
	}
	return nil
}

// Truncate empties the regular file p itself; a link is left alone.
func (r Root) Truncate(p string) error {
	place, err := r.Place(p)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(place, os.O_WRONLY|os.O_TRUNC|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("empty %s: %w", p, err)
	}
	return f.Close()
}

// Glob lists the paths that match a pattern (path/filepath.Match), sorted. Links are followed in the directories before the first pattern only.
func (r Root) Glob(pattern string) []string {
	pattern = filepath.Clean("/" + pattern)
	dir := pattern
	for dir != "/" && strings.ContainsAny(dir, `*?[\`) {
		dir = filepath.Dir(dir)
	}
	real, err := r.resolve(dir)
	if err != nil {
		return nil
	}
	rest := strings.TrimPrefix(strings.TrimPrefix(pattern, dir), "/")
	if rest == "" {
		return nil
	}
	found, err := filepath.Glob(filepath.Join(escape(real), rest))
	if err != nil {
		return nil // patterns are constants; a bad one finds nothing
	}
	for i, f := range found {
		found[i] = filepath.Join(dir, strings.TrimPrefix(f, real))
	}
	return found
}

// escape makes a path a pattern that matches only itself.
func escape(p string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(p)
}

// FindInit returns the first of the candidates that is an executable file, as it will be called after the root switch.
func (r Root) FindInit(candidates ...string) (string, error) {
	for _, c := range candidates {
		if r.IsProgram(c) {
			return c, nil
		}
	}
	return "", fmt.Errorf("no init in the image: tried %s", strings.Join(candidates, ", "))
}
