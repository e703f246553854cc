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

// lockDpkg keeps apt and dpkg from changing the source while it is read: the same fcntl lock that dpkg takes. It waits until ctx ends; busy
// is called once if it has to. A source without dpkg needs no lock.
func lockDpkg(ctx context.Context, root string, busy func()) (unlock func(), err error) {
	path := filepath.Join(root, "var/lib/dpkg/lock")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lock the package database: %w", err)
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		if err == nil {
			return func() { f.Close() }, nil
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
