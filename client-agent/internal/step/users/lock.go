package users

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

const (
	lockWait = 15 * time.Second
	lockPoll = 50 * time.Millisecond
)

// lock takes the locks of lckpwdf(3) and, per file, those of shadow-utils, in its order. A lock whose owner is gone, or that came with the image, is none.
func lock(c *step.Context) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(c.Ctx, lockWait)
	defer cancel()
	var held []func()
	unlock = func() {
		for _, release := range slices.Backward(held) {
			release()
		}
	}
	release, err := lockAll(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("lock the accounts: %w", err)
	}
	held = append(held, release)
	for _, p := range []string{passwdFile, groupFile, gshadowFile, shadowFile} {
		release, err := lockOne(ctx, c, lockFile(p))
		if err != nil {
			unlock()
			return nil, fmt.Errorf("lock %s: %w", p, err)
		}
		held = append(held, release)
	}
	return unlock, nil
}

func lockAll(ctx context.Context, c *step.Context) (func(), error) {
	if err := c.Root.MkdirAll("/etc", 0o755); err != nil {
		return nil, err
	}
	place, err := c.Root.Place("/etc/.pwd.lock")
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(place, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = poll(ctx, func() (bool, error) {
		err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

func lockOne(ctx context.Context, c *step.Context, p string) (func(), error) {
	place, err := c.Root.Place(p)
	if err != nil {
		return nil, err
	}
	err = poll(ctx, func() (bool, error) {
		f, err := os.OpenFile(place, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			if c.Live && ownerLives(place) {
				return false, nil
			}
			return false, ignoreMissing(os.Remove(place))
		}
		if err != nil {
			return false, err
		}
		_, err = f.WriteString(strconv.Itoa(os.Getpid()))
		return err == nil, errors.Join(err, f.Close())
	})
	if err != nil {
		return nil, err
	}
	return func() { _ = os.Remove(place) }, nil // a lock that stays is recognised by its owner
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ownerLives tells whether the process named in a lock file is there.
func ownerLives(place string) bool {
	text, err := os.ReadFile(place)
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(strings.Trim(string(text), " \n\x00"))
	return err == nil && pid > 0 && pid != os.Getpid() && unix.Kill(pid, 0) == nil
}

// poll calls try until it is true, fails or the context ends.
func poll(ctx context.Context, try func() (bool, error)) error {
	for {
		done, err := try()
		if done || err != nil {
			return err
		}
		timer := time.NewTimer(lockPoll)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("somebody else holds it: %w", ctx.Err())
		case <-timer.C:
		}
	}
}
