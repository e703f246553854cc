// Package spool is how processes that live shortly (a login, a remote application) tell the resident agent something: each leaves a small JSON file in
// a directory into which everybody may write and from which only root reads. Nothing in it is trusted but the file's owner.
package spool

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxRecord bounds one file in bytes.
	MaxRecord = 4 << 10
	// maxRecords is how many files one pass looks at. What lies beyond is removed unread.
	maxRecords = 256
	// maxBatches ends a pass over a spool that grows faster than it can be emptied.
	maxBatches = 64
	// stale is the age at which a file that was never finished is removed.
	stale = time.Minute
	// dirMode lets everybody add a file, but list none and remove only his own.
	dirMode = 0o733 | os.ModeSticky
)

// Record is one file of a spool.
type Record struct {
	Name string
	// UID owns the file. It is the one thing that the writer cannot choose.
	UID  uint32
	Time time.Time // when it was written
	Data []byte
}

// Make makes the directory if it is missing, and sets its mode.
func Make(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make spool: %w", err)
	}
	if err := os.Chmod(dir, dirMode); err != nil {
		return fmt.Errorf("make spool: %w", err)
	}
	return nil
}

// Put adds v as a file and returns its path, which the writer may remove. A reader sees the whole file or none.
func Put(dir string, v any) (string, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("write to spool: %w", err)
	}
	if len(data) > MaxRecord {
		return "", fmt.Errorf("write to spool: %d bytes, at most %d are allowed", len(data), MaxRecord)
	}
	name := strings.ToLower(rand.Text())
	temp, path := filepath.Join(dir, "."+name), filepath.Join(dir, name)
	if err := write(temp, data); err != nil {
		return "", fmt.Errorf("write to spool: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		_ = os.Remove(temp)
		return "", fmt.Errorf("write to spool: %w", err)
	}
	return path, nil
}

func write(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		_ = os.Remove(path)
		return err
	}
	return f.Close()
}

// Each hands the records to visit, in no order, and removes those for which it returns false, and whatever else is no record. A directory that is
// not there has none.
func Each(dir string, visit func(Record) (keep bool)) error {
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read spool: %w", err)
	}
	defer d.Close()
	kept := 0
	for range maxBatches {
		names, err := d.Readdirnames(maxRecords)
		for _, name := range names {
			if kept < maxRecords && look(dir, name, visit) {
				kept++
				continue
			}
			_ = os.RemoveAll(filepath.Join(dir, name)) // what cannot be removed is looked at again
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read spool: %w", err)
		}
	}
	return nil
}

// look tells whether a file may stay.
func look(dir, name string, visit func(Record) bool) bool {
	r, err := read(filepath.Join(dir, name))
	if err != nil {
		return false
	}
	if strings.HasPrefix(name, ".") {
		return time.Since(r.Time) < stale
	}
	r.Name = name
	return visit(r)
}

// errNoRecord tells of a file that no Put has written.
var errNoRecord = errors.New("no record")

// read reads a file that anybody may have made: a pipe must not hold us up, a link must not lead us elsewhere.
func read(path string) (Record, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return Record{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Record{}, err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || info.Size() > MaxRecord {
		return Record{}, errNoRecord
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxRecord))
	if err != nil {
		return Record{}, err
	}
	return Record{UID: owner.Uid, Time: info.ModTime(), Data: data}, nil
}
