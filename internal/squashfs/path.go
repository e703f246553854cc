package squashfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

const (
	maxLinks   = 40 // as Linux: MAXSYMLINKS
	maxPathLen = 64 << 10
)

// resolve finds the inode of name. Symbolic links on the way are followed, the last element's only if follow is set.
func (f *FS) resolve(name string, follow bool) (*inode, error) {
	root, err := f.root()
	if err != nil {
		return nil, err
	}
	stack := []*inode{root} // the directories from the root to the current one, and the last element
	links := 0
	for rest := strings.Split(name, "/"); len(rest) > 0; {
		elem := rest[0]
		rest = rest[1:]
		dir := stack[len(stack)-1]
		if elem == "" || elem == "." {
			continue
		}
		if dir.kind != kindDir {
			return nil, fmt.Errorf("%w: an element of the path is no directory", fs.ErrNotExist)
		}
		if elem == ".." {
			stack = stack[:max(1, len(stack)-1)]
			continue
		}
		e, ok, err := f.lookup(dir, elem)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, fs.ErrNotExist
		}
		ino, err := f.inodeOf(e)
		if err != nil {
			return nil, err
		}
		if ino.kind != kindSymlink || len(rest) == 0 && !follow {
			stack = append(stack, ino)
			continue
		}
		if links++; links > maxLinks {
			return nil, ErrLoop
		}
		if strings.HasPrefix(ino.target, "/") {
			stack = stack[:1]
		}
		if rest, err = splice(ino.target, rest); err != nil {
			return nil, err
		}
	}
	return stack[len(stack)-1], nil
}

// splice puts the elements of a link's target before the rest of the path.
func splice(target string, rest []string) ([]string, error) {
	if len(target)+len(rest) > maxPathLen {
		return nil, ErrLoop
	}
	return append(strings.Split(target, "/"), rest...), nil
}

func (f *FS) find(op, name string, follow bool) (*inode, error) {
	if !validPath(name) {
		return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrInvalid}
	}
	ino, err := f.resolve(name, follow)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return ino, nil
}

func (f *FS) stat(op, name string, follow bool) (fs.FileInfo, error) {
	ino, err := f.find(op, name, follow)
	if err != nil {
		return nil, err
	}
	fi, err := f.info(path.Base(name), ino)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	return fi, nil
}

// Stat describes the file that name leads to, symbolic links followed.
func (f *FS) Stat(name string) (fs.FileInfo, error) { return f.stat("stat", name, true) }

// Lstat describes name itself, even if it is a symbolic link.
func (f *FS) Lstat(name string) (fs.FileInfo, error) { return f.stat("lstat", name, false) }

// ReadLink gives the target of the symbolic link name as it is stored: it may be absolute.
func (f *FS) ReadLink(name string) (string, error) {
	ino, err := f.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	if ino.kind != kindSymlink {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	return ino.target, nil
}

// ReadDir lists the directory that name leads to, sorted by name. At most 1,048,576 names are read.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	ino, err := f.find("readdir", name, true)
	if err != nil {
		return nil, err
	}
	if ino.kind != kindDir {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fmt.Errorf("%w: no directory", fs.ErrInvalid)}
	}
	all, err := f.list(ino)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return all, nil
}

// Open opens the file or directory that name leads to, symbolic links followed; for a regular file it gives a *File.
func (f *FS) Open(name string) (fs.File, error) {
	ino, err := f.find("open", name, true)
	if err != nil {
		return nil, err
	}
	fi, err := f.info(path.Base(name), ino)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	switch ino.kind {
	case kindFile:
		return f.open(name, fi)
	case kindDir:
		return &dirFile{fs: f, name: name, info: fi}, nil
	default:
		return &specialFile{name: name, info: fi}, nil
	}
}

// OpenFile opens the regular file that name leads to, symbolic links followed.
func (f *FS) OpenFile(name string) (*File, error) {
	ino, err := f.find("open", name, true)
	if err != nil {
		return nil, err
	}
	if ino.kind != kindFile {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fmt.Errorf("%w: no regular file", fs.ErrInvalid)}
	}
	fi, err := f.info(path.Base(name), ino)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return f.open(name, fi)
}

// MaxReadFile is the length in bytes up to which ReadFile reads a file; a sparse file may claim to be much longer than the image.
const MaxReadFile = 256 << 20

// ReadFile reads the whole regular file that name leads to, symbolic links followed.
func (f *FS) ReadFile(name string) ([]byte, error) {
	file, err := f.OpenFile(name)
	if err != nil {
		return nil, err
	}
	if file.Size() > MaxReadFile {
		return nil, file.fail("read", fmt.Errorf("%d bytes are more than %d", file.Size(), MaxReadFile))
	}
	b := make([]byte, file.Size())
	if _, err := file.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}
