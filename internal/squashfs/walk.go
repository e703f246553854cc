package squashfs

import (
	"errors"
	"io/fs"
	"path"
)

// maxWalkEntries bounds how many names one walk visits.
const maxWalkEntries = 1 << 26

// Walk calls fn for root and everything below it in the order of fs.WalkDir, whose rules for fn it keeps: fs.SkipDir and fs.SkipAll
// work, an unreadable directory is reported to fn a second time. Symbolic links are not followed. Unlike fs.WalkDir it ends on every
// image: a directory that is met twice is corruption.
func (f *FS) Walk(root string, fn fs.WalkDirFunc) error {
	ino, err := f.find("walk", root, false)
	if err != nil {
		return skip(fn(root, nil, err))
	}
	fi, err := f.info(path.Base(root), ino)
	if err != nil {
		return skip(fn(root, nil, err))
	}
	w := &walker{fs: f, fn: fn, seen: make(map[uint64]struct{})}
	return skip(w.walk(root, fs.FileInfoToDirEntry(fi), ino.ref))
}

func skip(err error) error {
	if errors.Is(err, fs.SkipDir) || errors.Is(err, fs.SkipAll) {
		return nil
	}
	return err
}

type walker struct {
	fs    *FS
	fn    fs.WalkDirFunc
	seen  map[uint64]struct{} // directories by inode reference
	count int
}

func (w *walker) walk(name string, d fs.DirEntry, ref uint64) error {
	if w.count++; w.count > maxWalkEntries {
		return corrupt("directory", -1, "more than %d names in the tree", maxWalkEntries)
	}
	if err := w.fn(name, d, nil); err != nil || !d.IsDir() {
		if errors.Is(err, fs.SkipDir) && d.IsDir() {
			err = nil
		}
		return err
	}
	entries, err := w.list(name, ref)
	if err != nil {
		if err = w.fn(name, d, err); err != nil {
			if errors.Is(err, fs.SkipDir) {
				err = nil
			}
			return err
		}
	}
	for _, e := range entries {
		if err := w.walk(path.Join(name, e.Name()), e, e.(*dirEntry).ref); err != nil {
			if errors.Is(err, fs.SkipDir) {
				break
			}
			return err
		}
	}
	return nil
}

func (w *walker) list(name string, ref uint64) ([]fs.DirEntry, error) {
	if _, twice := w.seen[ref]; twice || len(name) > maxPathLen {
		return nil, &fs.PathError{Op: "walk", Path: name, Err: corrupt("directory", -1, "the directory contains itself or has two parents")}
	}
	w.seen[ref] = struct{}{}
	ino, err := w.fs.inode(ref)
	if err != nil {
		return nil, &fs.PathError{Op: "walk", Path: name, Err: err}
	}
	entries, err := w.fs.list(ino)
	if err != nil {
		return nil, &fs.PathError{Op: "walk", Path: name, Err: err}
	}
	return entries, nil
}
