package imagebuild

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockFiles are what apt and dpkg hold while they work: the frontend's lock from beginning to end, the other around each run of dpkg.
var lockFiles = []string{"var/lib/dpkg/lock-frontend", "var/lib/dpkg/lock"}

// lockDpkg keeps apt and dpkg from changing the source while it is read, by the same fcntl locks that they take. It waits until ctx
// ends; busy is called once if it has to. A source without dpkg needs no lock.
func lockDpkg(ctx context.Context, root string, busy func()) (unlock func(), err error) {
	var held []*os.File
	unlock = func() {
		for _, f := range held {
			f.Close()
		}
	}
	for _, name := range lockFiles {
		f, err := lockFile(ctx, filepath.Join(root, name), busy)
		if err != nil {
			unlock()
			return nil, err
		}
		if f != nil {
			held = append(held, f)
		}
	}
	return unlock, nil
}

// lockFile returns the locked file, or nil if there is none or it cannot be written, as on a read-only source that nobody changes.
func lockFile(ctx context.Context, path string, busy func()) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lock the package database: %w", err)
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if busy != nil {
			busy()
			busy = nil
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("another program is installing packages in the source (lock %s): wait until it is done, then run this again", path)
		case <-tick.C:
		}
	}
}
