// Package ramdisk copies a block device into memory and makes a block device of the copy: a file on a tmpfs behind the kernel's loop driver.
package ramdisk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	fileName = "image"
	// block is how much is copied at a time, in bytes.
	block = 1 << 20
	// reserve is what memory must have left beside the copy, in bytes: for the writable layer and programs.
	reserve = 256 << 20
	// slack is what a tmpfs needs beside the file, in bytes.
	slack = 1 << 20
	// loopTries bounds how often another process may be faster with a free loop device.
	loopTries = 16
)

// ErrNoRoom is wrapped by the error of a copy that does not fit into memory.
var ErrNoRoom = errors.New("not enough memory")

// CheckRoom tells whether a copy of so many bytes fits, by the text of /proc/meminfo.
func CheckRoom(meminfo string, sizeBytes uint64) error {
	for line := range strings.Lines(meminfo) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "MemAvailable:" {
			continue
		}
		kilobytes, err := strconv.ParseUint(f[1], 10, 53)
		if err != nil {
			break
		}
		if free := kilobytes << 10; sizeBytes > free || free-sizeBytes < reserve {
			return fmt.Errorf("%w: the image has %d MiB and %d MiB are free, of which %d MiB must stay", ErrNoRoom, sizeBytes>>20, free>>20, reserve>>20)
		}
		return nil
	}
	return errors.New("read free memory: no MemAvailable in /proc/meminfo")
}

// Copy mounts a tmpfs at dir, copies the first sizeBytes of a device into it and returns the path of a read-only block device with the copy. Both stay
// until the PC is switched off. Progress is called after each percent.
func Copy(ctx context.Context, device, dir string, sizeBytes uint64, progress func(percent int)) (loop string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := unix.Mount("ltsp-image", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=0700,size=%d", sizeBytes+slack)); err != nil {
		return "", fmt.Errorf("mount %s: %w", dir, err)
	}
	path := filepath.Join(dir, fileName)
	err = fill(ctx, device, path, sizeBytes, progress)
	if err == nil {
		loop, err = attach(path)
	}
	if err != nil {
		return "", errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
	}
	return loop, nil
}

func fill(ctx context.Context, device, path string, sizeBytes uint64, progress func(percent int)) (err error) {
	in, err := os.Open(device)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	// What has been copied need not stay in the page cache a second time.
	counted := &meter{in: in, ctx: ctx, total: sizeBytes, progress: progress, drop: func(offset, n int64) {
		_ = unix.Fadvise(int(in.Fd()), offset, n, unix.FADV_DONTNEED)
	}}
	// Without the file's own ReadFrom, which would read less at a time.
	if _, err := io.CopyBuffer(struct{ io.Writer }{out}, io.LimitReader(counted, int64(sizeBytes)), make([]byte, block)); err != nil {
		return fmt.Errorf("copy %s: %w", device, err)
	}
	if counted.done < sizeBytes {
		return fmt.Errorf("copy %s: %w after %d bytes", device, io.ErrUnexpectedEOF, counted.done)
	}
	return nil
}

// meter counts what is read.
type meter struct {
	in          io.Reader
	ctx         context.Context
	done, total uint64
	told        int
	progress    func(percent int)
	drop        func(offset, n int64)
}

func (m *meter) Read(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, context.Cause(m.ctx)
	}
	n, err := m.in.Read(p)
	m.drop(int64(m.done), int64(n))
	m.done += uint64(n)
	if percent := int(m.done * 100 / max(m.total, 1)); percent > m.told {
		m.told = percent
		m.progress(percent)
	}
	return n, err
}

// attach makes a loop device of a file (loop(4)).
func attach(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("the kernel has no loop devices: %w", err)
	}
	defer control.Close()
	for range loopTries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return "", fmt.Errorf("find a free loop device: %w", err)
		}
		name := fmt.Sprintf("/dev/loop%d", n)
		err = bind(name, f)
		if err == nil {
			return name, nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return "", fmt.Errorf("set up %s: %w", name, err)
		}
	}
	return "", errors.New("find a free loop device: none stays free")
}

func bind(name string, file *os.File) error {
	dev, err := os.Open(name)
	if err != nil {
		return err
	}
	defer dev.Close()
	// Both are open for reading only, and so is the device then.
	return unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_SET_FD, int(file.Fd()))
}
