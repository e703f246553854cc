// Package imagediff tells what differs between two squashfs images: packages (by the database of dpkg or rpm, if the image has one), files, and
// bytes. It knows images only; what a delta between them costs is package delta's business.
package imagediff

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/sqmeta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// Kind of a change.
type Kind string

// Kinds of changes. Attributes are owner, mode, device numbers and the target of a symbolic link; times do not count.
const (
	Added      Kind = "added"
	Removed    Kind = "removed"
	Changed    Kind = "changed"    // content, or another kind of file
	Attributes Kind = "attributes" // of a file with the same content
	Upgraded   Kind = "upgraded"
	Downgraded Kind = "downgraded"
)

// DefaultMaxFiles is how many files a Result names.
const DefaultMaxFiles = 10_000

// Result is what differs. It is its own JSON form.
type Result struct {
	Old      Side      `json:"old"`
	New      Side      `json:"new"`
	Packages []Package `json:"packages"` // by name; empty if nothing differs or there is no database
	Files    []File    `json:"files"`    // by path; at most Options.MaxFiles
	// Counts are of all files, also those that Files does not name.
	AddedFiles      int   `json:"added_files"`
	RemovedFiles    int   `json:"removed_files"`
	ChangedFiles    int   `json:"changed_files"`
	AttributeFiles  int   `json:"attribute_files"`
	AddedBytes      int64 `json:"added_bytes"`   // content of added files
	RemovedBytes    int64 `json:"removed_bytes"` // content of removed files
	ChangedBytes    int64 `json:"changed_bytes"` // content of changed files, as it is now
	UnchangedBytes  int64 `json:"unchanged_bytes"`
	PackageDatabase bool  `json:"package_database"` // both images have one
}

// Side is one of the images.
type Side struct {
	SizeBytes    int64  `json:"size_bytes"` // of the squashfs
	Files        int    `json:"files"`
	ContentBytes int64  `json:"content_bytes"`
	OS           string `json:"os,omitempty"`
	Packages     int    `json:"packages"`
}

// Package is a package that differs.
type Package struct {
	Name string `json:"name"`
	Arch string `json:"arch,omitempty"`
	Kind Kind   `json:"kind"`
	Old  string `json:"old,omitempty"` // version
	New  string `json:"new,omitempty"`
	// Bytes is the content of its added and changed files.
	Bytes int64 `json:"bytes"`
}

// File is a file that differs. Directories count as files of no size.
type File struct {
	Path    string `json:"path"`
	Kind    Kind   `json:"kind"`
	OldSize int64  `json:"old_size"`
	NewSize int64  `json:"new_size"`
	Package string `json:"package,omitempty"` // that it belongs to
}

// Options say how to compare. The zero value is usable.
type Options struct {
	MaxFiles int // that Result.Files names; 0 means DefaultMaxFiles
	// Progress, if not nil, is told how many of total bytes of content have been looked at.
	Progress func(done, total int64)
}

// Source is an image: bytes at random, safe for concurrent use, and how many there are.
type Source interface {
	io.ReaderAt
	Size() int64
}

// Compare compares two images. It reads what cannot be told to be equal from the stored bytes. Errors are those of package squashfs, or come
// from the sources.
func Compare(ctx context.Context, old, new Source, opt Options) (*Result, error) {
	if opt.MaxFiles == 0 {
		opt.MaxFiles = DefaultMaxFiles
	}
	a, err := open(ctx, old)
	if err != nil {
		return nil, fmt.Errorf("old image: %w", err)
	}
	b, err := open(ctx, new)
	if err != nil {
		return nil, fmt.Errorf("new image: %w", err)
	}
	c := &comparison{ctx: ctx, opt: opt, old: a, new: b, result: &Result{Old: a.side(), New: b.side()}, perPackage: map[string]int64{}}
	if err := c.files(); err != nil {
		return nil, err
	}
	c.packages()
	return c.result, nil
}

// image is an open image with all its names.
type image struct {
	fs       *squashfs.FS
	source   Source
	meta     *sqmeta.Meta
	byInode  map[uint32]*sqmeta.File
	entries  []entry // by path
	bytes    int64
	packages []pkg
	tails    tailCache
}

type entry struct {
	path string
	info fs.FileInfo
}

func open(ctx context.Context, s Source) (*image, error) {
	f, err := squashfs.Open(s, s.Size())
	if err != nil {
		return nil, err
	}
	meta, err := sqmeta.Parse(s, s.Size())
	if err != nil {
		return nil, err
	}
	im := &image{fs: f, source: s, meta: meta, byInode: map[uint32]*sqmeta.File{}}
	files := meta.Files()
	for i := range files {
		im.byInode[files[i].Inode] = &files[i]
	}
	err = f.Walk(".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		im.entries = append(im.entries, entry{path: name, info: info})
		if info.Mode().IsRegular() {
			im.bytes += info.Size()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(im.entries, func(a, b entry) int { return strings.Compare(a.path, b.path) })
	im.packages, err = readPackages(f)
	return im, err
}

func (im *image) side() Side {
	return Side{SizeBytes: im.source.Size(), Files: len(im.entries), ContentBytes: im.bytes, OS: prettyName(im.fs), Packages: len(im.packages)}
}

// prettyName is the PRETTY_NAME of os-release, or nothing.
func prettyName(f *squashfs.FS) string {
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		text, err := f.ReadFile(name)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
				return strings.Trim(value, `"'`)
			}
		}
	}
	return ""
}

// comparison is one Compare under way.
type comparison struct {
	ctx        context.Context
	opt        Options
	old, new   *image
	result     *Result
	owner      map[string]string // package by path
	perPackage map[string]int64  // content of added and changed files
	done       int64
}

// files walks both lists of names side by side.
func (c *comparison) files() error {
	c.owner = owners(c.old.packages, c.new.packages)
	a, b := c.old.entries, c.new.entries
	for len(a)+len(b) > 0 {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		order := 0
		switch {
		case len(a) == 0:
			order = 1
		case len(b) == 0:
			order = -1
		default:
			order = strings.Compare(a[0].path, b[0].path)
		}
		switch {
		case order < 0:
			c.note(Removed, a[0].path, size(a[0].info), 0)
			a = a[1:]
		case order > 0:
			c.note(Added, b[0].path, 0, size(b[0].info))
			b = b[1:]
		default:
			if err := c.both(a[0], b[0]); err != nil {
				return fmt.Errorf("compare %s: %w", a[0].path, err)
			}
			a, b = a[1:], b[1:]
		}
	}
	return nil
}

func size(i fs.FileInfo) int64 {
	if i.Mode().IsRegular() {
		return i.Size()
	}
	return 0
}

func (c *comparison) both(a, b entry) error {
	c.done += size(b.info)
	if c.opt.Progress != nil {
		c.opt.Progress(c.done, c.new.bytes)
	}
	if a.info.Mode().Type() != b.info.Mode().Type() {
		c.note(Changed, a.path, size(a.info), size(b.info))
		return nil
	}
	if a.info.Mode().IsRegular() {
		same, err := c.sameContent(a, b)
		if err != nil {
			return err
		}
		if !same {
			c.note(Changed, a.path, size(a.info), size(b.info))
			return nil
		}
		c.result.UnchangedBytes += size(b.info)
	}
	same, err := c.sameAttributes(a, b)
	if err != nil {
		return err
	}
	if !same {
		c.note(Attributes, a.path, size(a.info), size(b.info))
	}
	return nil
}

func (c *comparison) sameAttributes(a, b entry) (bool, error) {
	x, okA := a.info.Sys().(*squashfs.Stat)
	y, okB := b.info.Sys().(*squashfs.Stat)
	if !okA || !okB {
		return false, fmt.Errorf("attributes of type %T", a.info.Sys())
	}
	if a.info.Mode() != b.info.Mode() || x.UID != y.UID || x.GID != y.GID || x.Major != y.Major || x.Minor != y.Minor || x.Xattrs != y.Xattrs {
		return false, nil
	}
	if a.info.Mode().Type() != fs.ModeSymlink {
		return true, nil
	}
	from, err := c.old.fs.ReadLink(a.path)
	if err != nil {
		return false, err
	}
	to, err := c.new.fs.ReadLink(b.path)
	return from == to, err
}

func (c *comparison) note(kind Kind, name string, oldSize, newSize int64) {
	r := c.result
	switch kind {
	case Added:
		r.AddedFiles++
		r.AddedBytes += newSize
	case Removed:
		r.RemovedFiles++
		r.RemovedBytes += oldSize
	case Changed:
		r.ChangedFiles++
		r.ChangedBytes += newSize
	default:
		r.AttributeFiles++
	}
	owner := c.owner[name]
	if owner != "" && (kind == Added || kind == Changed) {
		c.perPackage[owner] += newSize
	}
	if len(r.Files) < c.opt.MaxFiles {
		pkgName, _, _ := strings.Cut(owner, ":")
		r.Files = append(r.Files, File{Path: "/" + strings.TrimPrefix(name, "."), Kind: kind, OldSize: oldSize, NewSize: newSize, Package: pkgName})
	}
}

// packages compares the lists of packages.
func (c *comparison) packages() {
	r := c.result
	r.PackageDatabase = len(c.old.packages) > 0 && len(c.new.packages) > 0
	if !r.PackageDatabase {
		return
	}
	before := map[string]pkg{}
	for _, p := range c.old.packages {
		before[p.key()] = p
	}
	for _, p := range c.new.packages {
		change := Package{Name: p.name, Arch: p.arch, New: p.version, Bytes: c.perPackage[p.key()]}
		old, known := before[p.key()]
		delete(before, p.key())
		switch {
		case !known:
			change.Kind = Added
		case old.version == p.version && change.Bytes == 0:
			continue
		case old.version == p.version:
			change.Kind, change.Old = Changed, old.version
		case compareVersions(old.version, p.version) < 0:
			change.Kind, change.Old = Upgraded, old.version
		default:
			change.Kind, change.Old = Downgraded, old.version
		}
		r.Packages = append(r.Packages, change)
	}
	for _, p := range before {
		r.Packages = append(r.Packages, Package{Name: p.name, Arch: p.arch, Kind: Removed, Old: p.version})
	}
	slices.SortFunc(r.Packages, func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Old, b.Old))
	})
}
