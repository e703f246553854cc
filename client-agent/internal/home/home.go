// Package home sees to the home directories of users as they come and go: it mounts them by sshfs where nothing else has brought them, makes those that are
// missing, and unmounts them when the last process of a user has gone. Homes that come by NFS, from a local disk or in any other way are left alone.
package home

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/account"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginconf"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginhost"
)

// stateDir holds locks and marks by user number; root's alone.
const stateDir = "/run/ltsp/home"

// mountOptions are sshfs's: the user has what is his on the login host, others have what they have there, and a login host that was away comes back.
const mountOptions = "password_stdin,allow_other,default_permissions,reconnect,sshfs_verbose"

// aliveTimeout is how long a mounted home may take to say that it is there.
const aliveTimeout = 3 * time.Second

// ErrBusy is wrapped by the error of Lock if another login of the user takes too long.
var ErrBusy = errors.New("another login of this user is at work")

// Wants tells whether a user's home has to be mounted by sshfs: it may be, the image can, and nothing has brought it. A mount of sshfs that is dead is taken
// away first. Lock must be held.
func Wants(s loginconf.Settings, a account.Account) (bool, error) {
	if !s.SSHFS || a.UID == 0 {
		return false, nil
	}
	if _, err := loginhost.Find("sshfs"); err != nil {
		return false, nil
	}
	mounts, err := readMounts()
	if err != nil {
		return false, err
	}
	dir := resolve(a.Home)
	if overSSHFS(mounts, dir) && dead(dir) {
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return false, fmt.Errorf("take away the dead home %s: %w", dir, err)
		}
		return true, nil
	}
	return !brought(mounts, dir), nil
}

// Mounted tells whether a user's home is mounted by sshfs.
func Mounted(a account.Account) bool {
	mounts, err := readMounts()
	return err == nil && overSSHFS(mounts, resolve(a.Home))
}

func readMounts() ([]mount, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read what is mounted: %w", err)
	}
	return parseMounts(text), nil
}

// resolve follows links above a home, and at it. A network file system that hangs must not hang the login, so it gets little time; the path as it is is
// good enough then.
func resolve(dir string) string {
	return bounded(func() string {
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			return real
		}
		if parent, err := filepath.EvalSymlinks(filepath.Dir(dir)); err == nil {
			return filepath.Join(parent, filepath.Base(dir))
		}
		return dir
	}, dir)
}

// dead tells whether the process behind a mount has gone. One that merely does not answer may come back, and reconnects by itself.
func dead(dir string) bool {
	return bounded(func() bool {
		var st unix.Statfs_t
		return errors.Is(unix.Statfs(dir, &st), unix.ENOTCONN)
	}, false)
}

// bounded returns what f does, or otherwise after aliveTimeout. A goroutine that hangs in the kernel ends with the process.
func bounded[T any](f func() T, otherwise T) T {
	done := make(chan T, 1)
	go func() { done <- f() }()
	timer := time.NewTimer(aliveTimeout)
	defer timer.Stop()
	select {
	case v := <-done:
		return v
	case <-timer.C:
		return otherwise
	}
}

// Mount mounts a user's home by sshfs with his password, which is checked by that. Lock must be held. A directory that was made for nothing is removed.
func Mount(ctx context.Context, host loginhost.Host, s loginconf.Settings, a account.Account, password []byte) loginhost.Answer {
	dir := resolve(a.Home)
	if s.MkHomeDir {
		if err := makeMountPoint(dir, a); err != nil {
			return loginhost.Answer{Outcome: loginhost.Broken, Text: err.Error()}
		}
	}
	// gnome-keyring wants hard links, which sshfs has not, and stops the desktop for minutes over it. LTSP removes it too.
	_ = os.Remove("/usr/bin/gnome-keyring-daemon")
	answer := host.Mount(ctx, scope(a), a.Name, dir, options(), password)
	if answer.Outcome != loginhost.Accepted {
		if mounts, err := readMounts(); err == nil && overSSHFS(mounts, dir) { // it was stopped half-way
			_ = unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
		_ = unix.Rmdir(dir) // only if it is empty
	}
	return answer
}

// options returns mountOptions, with what sshfs before version 3 wants.
func options() string {
	if _, err := loginhost.Find("fusermount3"); err != nil {
		return mountOptions + ",nonempty"
	}
	return mountOptions
}

// scope returns the command line that starts sshfs in a scope of its own, so that it does not end with whatever called PAM, and at shutdown ends after the
// user's sessions and before the network. Without systemd there is nothing to be kept out of.
func scope(a account.Account) []string {
	run, err := loginhost.Find("systemd-run")
	if err != nil || !systemdRuns() {
		return nil
	}
	uid := strconv.Itoa(a.UID)
	return []string{run, "--scope", "--quiet", "--collect", "--description=home of user " + uid, "--property=Before=user-" + uid + ".slice",
		"--property=After=network.target", "--"}
}

// systemdRuns is sd_booted(3).
func systemdRuns() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir()
}

// makeMountPoint makes an empty directory, without what new homes have: the real one has it.
func makeMountPoint(dir string, a account.Account) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make the home: %w", err)
	}
	if err := os.Mkdir(dir, 0o755); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("make the home: %w", err)
	}
	if err := os.Chown(dir, a.UID, a.GID); err != nil {
		return fmt.Errorf("make the home: %w", err)
	}
	return nil
}

// lockTimeout bounds the wait for another login of the same user.
const lockTimeout = loginhost.Timeout + 5*time.Second

// Lock keeps other logins and the unmounting of a user's home out until unlock is called. It tells that a login is under way, too.
func Lock(ctx context.Context, a account.Account) (unlock func(), err error) {
	f, err := lockFile(a.UID)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			err = mark(a.UID)
		}
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock the home of user %d: %w", a.UID, err)
		}
		timer := time.NewTimer(50 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			f.Close()
			return nil, fmt.Errorf("lock the home of user %d: %w", a.UID, ErrBusy)
		}
	}
}

func lockFile(uid int) (*os.File, error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, fmt.Errorf("lock the home of user %d: %w", uid, err)
	}
	f, err := os.OpenFile(filepath.Join(stateDir, strconv.Itoa(uid)+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the home of user %d: %w", uid, err)
	}
	return f, nil
}
