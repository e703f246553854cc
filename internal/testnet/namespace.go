package testnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// inNamespace runs f on an operating system thread that has entered the named network namespace, and waits for it. Sockets
// that f makes stay in the namespace; goroutines that f starts do not run in it.
func inNamespace(namespace string, f func() error) error {
	result := make(chan error, 1)
	go func() {
		result <- onLockedThread(filepath.Join(namespaceDir, namespace), f)
	}()
	return <-result
}

func onLockedThread(path string, f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("own network namespace: %w", err)
	}
	defer home.Close()
	target, err := os.Open(path)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("network namespace: %w", err)
	}
	defer target.Close()
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread stays locked and therefore ends with this goroutine: nobody else inherits the namespace.
		return errors.Join(err, fmt.Errorf("leave network namespace %s: %w", path, back))
	}
	runtime.UnlockOSThread()
	return err
}

// sysctl sets "key=value" pairs of the network namespace of the calling thread.
func sysctl(settings ...string) error {
	for _, setting := range settings {
		key, value, ok := strings.Cut(setting, "=")
		if !ok {
			return fmt.Errorf("sysctl %q: want key=value", setting)
		}
		path := filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/"))
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return fmt.Errorf("sysctl: %w", err)
		}
	}
	return nil
}

// killNamespace sends SIGKILL to every process whose network namespace is the one bound to path, and waits until none is
// left. A path that is not a live namespace (a crash between creating and binding it) holds no process.
func killNamespace(ctx context.Context, path string) error {
	var target unix.Stat_t
	if err := unix.Stat(path, &target); err != nil {
		return fmt.Errorf("network namespace %s: %w", path, err)
	}
	for {
		pids, err := namespacePIDs(target)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill pid %d in %s: %w", pid, path, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("pids %v in %s survive SIGKILL: %w", pids, path, ctx.Err())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// namespacePIDs lists the processes in a network namespace. Zombies have none any more. This process is left out: one of
// its threads may be inside for a Host.Do.
func namespacePIDs(target unix.Stat_t) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var own unix.Stat_t
		if unix.Stat(filepath.Join("/proc", entry.Name(), "ns/net"), &own) != nil {
			continue // ended meanwhile, or a kernel thread
		}
		if own.Ino == target.Ino && own.Dev == target.Dev {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
