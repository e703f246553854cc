package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// fileID tells files apart.
type fileID struct {
	Size   int64
	SHA256 string
}

func identify(path string) (fileID, error) {
	file, err := os.Open(path)
	if err != nil {
		return fileID{}, err
	}
	defer file.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, file)
	if err != nil {
		return fileID{}, fmt.Errorf("hash %s: %w", path, err)
	}
	return fileID{Size: n, SHA256: hex.EncodeToString(hash.Sum(nil))}, nil
}

// measure runs a program to its end in dir and tells what it and its children cost, and what it printed.
//
// The peak is getrusage(2)'s ru_maxrss, which a process inherits from the one that it is forked from: it can't be less than what
// this program itself has used, and is marked when it is not more.
func measure(ctx context.Context, dir, name string, args ...string) (usage, []byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	// The group ends with the context and with this process.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the signal is sent at the end of the thread that forks
	defer runtime.UnlockOSThread()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	own, err := ownPeak()
	if err != nil {
		return usage{}, nil, err
	}
	if err := cmd.Run(); err != nil {
		return usage{}, nil, fmt.Errorf("%s: %w: %s", filepath.Base(name), errors.Join(err, ctx.Err()), tail(out.String()))
	}
	u, err := usageOf(cmd.ProcessState, own)
	return u, out.Bytes(), err
}

func usageOf(state *os.ProcessState, own int64) (usage, error) {
	r, ok := state.SysUsage().(*syscall.Rusage)
	if !ok {
		return usage{}, errors.New("this system does not tell what a process used")
	}
	peak := r.Maxrss << 10
	return usage{
		CPUSeconds: (state.UserTime() + state.SystemTime()).Seconds(),
		PeakBytes:  peak,
		PeakBelow:  peak <= own+own/8,
	}, nil
}

// ownPeak is the peak of this process in bytes.
func ownPeak() (int64, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return r.Maxrss << 10, nil
}

// tail is the end of what a program printed, for an error.
func tail(s string) string {
	s = strings.TrimSpace(s)
	return s[max(0, len(s)-2000):]
}

// version runs a program that prints its version and returns the first line.
func version(ctx context.Context, name, flag string) (string, error) {
	out, err := exec.CommandContext(ctx, name, flag).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, flag, err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line, nil
}

// copyFile copies with the kernel's help.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// fileSize is the size of a file in bytes.
func fileSize(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
