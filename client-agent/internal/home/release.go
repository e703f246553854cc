package home

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/account"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginhost"
)

// Times of the unmounting.
const (
	patience  = 120 * time.Second // what logind and the desktop get to end a user's processes
	pollEvery = time.Second
	// freshLogin is how long a login counts as under way: between the password and the first process lie the display manager's own affairs.
	freshLogin = 30 * time.Second
	startTime  = 5 * time.Second // what systemd-run gets
)

// Release sees to it that a user's home is unmounted when his processes have gone, and returns at once. Program with arguments and the user's name behind
// them is what does it (Wait); it must outlive the session that ends here, whose processes logind is about to kill.
func Release(ctx context.Context, a account.Account, program string, args ...string) error {
	if !Mounted(a) {
		return nil
	}
	line := append(append([]string{program}, args...), a.Name)
	if run, err := loginhost.Find("systemd-run"); err == nil && systemdRuns() {
		ctx, cancel := context.WithTimeout(ctx, startTime)
		defer cancel()
		cmd := exec.CommandContext(ctx, run, append([]string{"--quiet", "--collect", "--no-block", "--description=unmount the home of user " + strconv.Itoa(a.UID), "--"}, line...)...)
		cmd.Env, cmd.Dir = []string{"LC_ALL=C"}, "/"
		if cmd.Run() == nil {
			return nil
		}
	}
	cmd := exec.Command(line[0], line[1:]...) // with nothing of ours: PAM waits for the end of our output
	cmd.Env, cmd.Dir = []string{"LC_ALL=C"}, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("unmount the home of user %d later: %w", a.UID, err)
	}
	return cmd.Process.Release()
}

// Wait unmounts a user's home when his last process has gone. It blocks at most a little more than two minutes after the last logout; if other sessions
// of the user are there then, their end brings the next call. A later call takes over from an earlier one.
func Wait(ctx context.Context, a account.Account) error {
	me := strconv.Itoa(os.Getpid())
	waiter := filepath.Join(stateDir, strconv.Itoa(a.UID)+".waiter")
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return fmt.Errorf("unmount a home: %w", err)
	}
	if err := os.WriteFile(waiter, []byte(me), 0o600); err != nil {
		return fmt.Errorf("unmount a home: %w", err)
	}
	deadline := uptime() + patience
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if text, err := os.ReadFile(waiter); err == nil && string(text) != me {
			return nil
		}
		done, err := tryRelease(a, uptime() > deadline)
		if done || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// action is what to do about a home.
type action int

const (
	wait action = iota
	leave
	unmount
	detach
)

// situation is what there is.
type situation struct {
	mounted   bool // by sshfs
	loggingIn bool
	processes int // of the user
	sessions  int // processes that tell of a session of his; counted when it is late
	late      bool
}

// decide says what to do. A home in which processes of no session are left after all that time is taken out from under them: they hang on a login host that
// is away, or nobody will ever end them.
func decide(s situation) action {
	switch {
	case !s.mounted:
		return leave
	case s.loggingIn:
		return wait
	case s.processes == 0:
		return unmount
	case !s.late:
		return wait
	case s.sessions > 0:
		return leave
	}
	return detach
}

// tryRelease looks at a home and acts. No login begins meanwhile.
func tryRelease(a account.Account, late bool) (done bool, err error) {
	f, err := lockFile(a.UID)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return late, nil // a login is at work
	}
	mounts, err := readMounts()
	if err != nil {
		return false, err
	}
	dir := resolve(a.Home)
	s := situation{mounted: overSSHFS(mounts, dir), loggingIn: marked(a.UID), late: late}
	s.processes, s.sessions = processes("/proc", a.UID, late)
	flags := unix.UMOUNT_NOFOLLOW
	switch decide(s) {
	case wait:
		return false, nil
	case leave:
		return true, nil
	case detach:
		flags |= unix.MNT_DETACH
	}
	err = unix.Unmount(dir, flags)
	if errors.Is(err, unix.EBUSY) {
		if !late {
			return false, nil // somebody else looks in
		}
		err = unix.Unmount(dir, flags|unix.MNT_DETACH)
	}
	if err != nil {
		return false, fmt.Errorf("unmount %s: %w", dir, err)
	}
	return true, nil
}

// processes counts a user's processes, and if sessions are asked for what tells of a session of his: a process of anybody in a scope of logind's, or one of
// his outside his slice, where logind does not end it. Dead ones do not count.
func processes(proc string, uid int, withSessions bool) (all, inSessions int) {
	dir, err := os.Open(proc)
	if err != nil {
		return 0, 0
	}
	defer dir.Close()
	slice := fmt.Sprintf("/user-%d.slice/", uid)
	names, _ := dir.Readdirnames(-1) // what was read counts
	for _, name := range names {
		if _, err := strconv.Atoi(name); err != nil {
			continue
		}
		status, err := os.ReadFile(filepath.Join(proc, name, "status"))
		if err != nil {
			continue // it has ended
		}
		his := belongs(string(status), uid)
		if his {
			all++
		}
		if !withSessions {
			continue
		}
		group, err := os.ReadFile(filepath.Join(proc, name, "cgroup"))
		inSlice := strings.Contains(string(group), slice)
		if err == nil && strings.Contains(string(group), slice+"session-") || his && !inSlice {
			inSessions++
		}
	}
	return all, inSessions
}

// belongs tells whether a process that is not dead has a user's number, as its own or in effect.
func belongs(status string, uid int) bool {
	want := strconv.Itoa(uid)
	is := false
	for line := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(line, "State:"); ok && strings.HasPrefix(strings.TrimSpace(v), "Z") {
			return false
		}
		if v, ok := strings.CutPrefix(line, "Uid:"); ok {
			ids := strings.Fields(v)
			is = len(ids) >= 2 && (ids[0] == want || ids[1] == want)
		}
	}
	return is
}

// mark tells that a login of a user is under way.
func mark(uid int) error {
	name := filepath.Join(stateDir, strconv.Itoa(uid)+".login")
	if err := os.WriteFile(name, []byte(strconv.FormatInt(int64(uptime()), 10)), 0o600); err != nil {
		return fmt.Errorf("mark a login: %w", err)
	}
	return nil
}

// Unmark tells that a login has failed. One that succeeds stays marked, until its processes speak for themselves.
func Unmark(a account.Account) {
	_ = os.Remove(filepath.Join(stateDir, strconv.Itoa(a.UID)+".login")) // else it counts for a minute
}

func marked(uid int) bool {
	text, err := os.ReadFile(filepath.Join(stateDir, strconv.Itoa(uid)+".login"))
	if err != nil {
		return false
	}
	at, err := strconv.ParseInt(string(text), 10, 64)
	return err == nil && uptime()-time.Duration(at) < freshLogin
}

// uptime is the time since the kernel started; clocks are set during logins.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
