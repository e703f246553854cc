// Package policy holds what a level of the fleet (organisation, site, room) says to its clients: a tree of files that becomes /etc/ltsp, with ltsp.conf
// in it. It checks trees, turns them into one archive and back (FORMAT.md), and lays several over each other. It knows no disk, no network and no
// shell; controller, satellite, agent and ltspctl import it.
package policy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Limits of a tree.
const (
	MaxFiles     = 4096
	MaxFileBytes = 16 << 20
	MaxTreeBytes = 64 << 20 // contents and paths together
	MaxConfBytes = 1 << 20  // of ltsp.conf and each ltsp-APPLET.conf
	MaxPath      = 1024
	maxDepth     = 32
)

// ConfName is the path of the configuration that is evaluated.
const ConfName = "ltsp.conf"

// ErrInvalid is wrapped by the error of a tree that may not be used; its text names the path and the rule.
var ErrInvalid = errors.New("policy tree")

// Kind is what a File is.
type Kind byte

// Kinds of files.
const (
	Regular Kind = 'f'
	Dir     Kind = 'd'
	Symlink Kind = 'l'
)

// File is one entry of a tree.
type File struct {
	// Path is relative to /etc/ltsp, with slashes, clean, without "..".
	Path string
	Kind Kind
	// Mode holds the nine permission bits; it is 0 for a Symlink. Owner is always root.
	Mode uint16
	// Content is a Regular's bytes or a Symlink's target; nil for a Dir.
	Content []byte
}

// Tree is the files of one level in the order of their paths. Directories that only lead to files need no entry; they are made with mode 0755.
type Tree []File

// Digest is the SHA-256 of a tree's archive.
type Digest [sha256.Size]byte

// Sort puts the files in order.
func (t Tree) Sort() {
	slices.SortFunc(t, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
}

// Find returns the file at a path, or false.
func (t Tree) Find(name string) (File, bool) {
	i, ok := slices.BinarySearchFunc(t, name, func(f File, p string) int { return strings.Compare(f.Path, p) })
	if !ok {
		return File{}, false
	}
	return t[i], true
}

// Conf returns the text of ltsp.conf, nil if the tree has none.
func (t Tree) Conf() []byte {
	f, _ := t.Find(ConfName)
	return f.Content
}

// Put returns the tree with a file added or replaced.
func (t Tree) Put(f File) Tree {
	out := slices.DeleteFunc(slices.Clone(t), func(g File) bool { return g.Path == f.Path })
	out = append(out, f)
	out.Sort()
	return out
}

// Remove returns the tree without a path and what lies below it.
func (t Tree) Remove(name string) Tree {
	return slices.DeleteFunc(slices.Clone(t), func(g File) bool { return g.Path == name || strings.HasPrefix(g.Path, name+"/") })
}

// Check reports the first rule that the tree breaks: order, paths, kinds, sizes, links that leave the tree, files below files.
func (t Tree) Check() error {
	if len(t) > MaxFiles {
		return fmt.Errorf("%w: %d files, at most %d are allowed", ErrInvalid, len(t), MaxFiles)
	}
	total := 0
	files := make(map[string]Kind, len(t))
	for i, f := range t {
		if i > 0 && t[i-1].Path >= f.Path {
			return fmt.Errorf("%w: %q is out of order or named twice", ErrInvalid, f.Path)
		}
		if err := f.check(); err != nil {
			return fmt.Errorf("%w: %q: %s", ErrInvalid, f.Path, err)
		}
		for dir := path.Dir(f.Path); dir != "."; dir = path.Dir(dir) {
			if kind, ok := files[dir]; ok && kind != Dir {
				return fmt.Errorf("%w: %q lies below %q, which is no directory", ErrInvalid, f.Path, dir)
			}
		}
		files[f.Path] = f.Kind
		if total += len(f.Path) + len(f.Content); total > MaxTreeBytes {
			return fmt.Errorf("%w: more than %d MiB in all", ErrInvalid, MaxTreeBytes>>20)
		}
	}
	return nil
}

func (f *File) check() error {
	if err := checkPath(f.Path); err != nil {
		return err
	}
	if f.Mode&^0o777 != 0 {
		return fmt.Errorf("mode %o has other bits than permissions", f.Mode)
	}
	switch f.Kind {
	case Dir:
		if len(f.Content) > 0 {
			return errors.New("a directory with content")
		}
	case Regular:
		if len(f.Content) > MaxFileBytes {
			return fmt.Errorf("%d bytes, at most %d are allowed", len(f.Content), MaxFileBytes)
		}
		if IsConf(f.Path) && len(f.Content) > MaxConfBytes {
			return fmt.Errorf("%d bytes, at most %d are allowed in a configuration", len(f.Content), MaxConfBytes)
		}
	case Symlink:
		if f.Mode != 0 {
			return errors.New("a link has no mode")
		}
		return f.checkTarget()
	default:
		return fmt.Errorf("kind %q: want a file, a directory or a link", f.Kind)
	}
	return nil
}

// IsConf tells whether a path is that of a configuration: ltsp.conf or ltsp-APPLET.conf.
func IsConf(name string) bool {
	return name == ConfName || strings.HasPrefix(name, "ltsp-") && strings.HasSuffix(name, ".conf") && !strings.Contains(name, "/")
}

func checkPath(p string) error {
	switch {
	case p == "" || len(p) > MaxPath:
		return fmt.Errorf("a path has 1 to %d bytes", MaxPath)
	case strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("a path holds a control character")
	case path.IsAbs(p) || path.Clean(p) != p || p == "." || p == ".." || strings.HasPrefix(p, "../"):
		return errors.New("a path must be relative and clean, and may not lead upwards")
	case strings.Count(p, "/") >= maxDepth:
		return fmt.Errorf("more than %d levels deep", maxDepth)
	}
	return nil
}

// checkTarget allows links within the tree and absolute ones, which mean the client's own files. A relative one that leaves the tree is refused: what it
// means would depend on where the tree lies.
func (f *File) checkTarget() error {
	target := string(f.Content)
	switch {
	case target == "" || len(target) > MaxPath || strings.ContainsRune(target, 0):
		return fmt.Errorf("a link's target has 1 to %d bytes", MaxPath)
	case path.IsAbs(target):
		return nil
	}
	if to := path.Join(path.Dir(f.Path), target); to == ".." || strings.HasPrefix(to, "../") {
		return fmt.Errorf("the link to %q leaves the tree", target)
	}
	return nil
}

// Merge lays trees over each other, the first at the bottom: a file replaces the one of the same path below it, and what lies below a directory that it
// replaces. Configurations (IsConf) are left out, because they are evaluated level by level and not replaced.
func Merge(trees ...Tree) Tree {
	out := map[string]File{}
	for _, t := range trees {
		for _, f := range t {
			if IsConf(f.Path) {
				continue
			}
			place(out, f)
		}
	}
	merged := make(Tree, 0, len(out))
	for _, f := range out {
		merged = append(merged, f)
	}
	merged.Sort()
	return merged
}

// place puts a file over what is there: no file stays below one that is no directory, none above.
func place(out map[string]File, f File) {
	if f.Kind != Dir {
		for p := range out {
			if strings.HasPrefix(p, f.Path+"/") {
				delete(out, p)
			}
		}
	}
	for dir := path.Dir(f.Path); dir != "."; dir = path.Dir(dir) {
		if above, ok := out[dir]; ok && above.Kind != Dir {
			delete(out, dir)
		}
	}
	out[f.Path] = f
}
