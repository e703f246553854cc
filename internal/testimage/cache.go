package testimage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const lockPoll = 100 * time.Millisecond

// once calls build, which makes result, unless result is there. Only one builder of a result is at work on this machine; the
// kernel drops its lock when it dies.
func (c Config) once(ctx context.Context, result string, build func() error) error {
	if exists(result) {
		return nil
	}
	unlock, err := c.lock(ctx, result+".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if exists(result) {
		return nil // another builder has finished meanwhile
	}
	return build()
}

// workDir makes a directory beside result to work in. The caller holds the lock of result, so a work directory that is there
// already belongs to a builder that was killed, and is removed.
func workDir(result string) (string, error) {
	stale, err := filepath.Glob(result + ".work-*")
	if err != nil {
		return "", err
	}
	for _, dir := range stale {
		if err := os.RemoveAll(dir); err != nil {
			return "", fmt.Errorf("what a killed builder left: %w", err)
		}
	}
	return os.MkdirTemp(filepath.Dir(result), filepath.Base(result)+".work-")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// lock takes an exclusive lock on a file, which stays.
func (c Config) lock(ctx context.Context, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for waited := false; ; waited = true {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !waited {
			c.Log("another process builds the same, waiting for it")
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			file.Close()
			return nil, fmt.Errorf("wait for lock %s: %w", path, ctx.Err())
		}
	}
}
