package keeper

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// heapLimit keeps the garbage collector at work early; the keeper needs far less.
const heapLimit = 16 << 20

// stayInMemory makes the process independent of the storage that it serves: nothing of it may be paged out, its allocations must not wait for
// I/O, and the kernel must not choose it when memory runs out.
func stayInMemory(log *slog.Logger) error {
	debug.SetMemoryLimit(heapLimit)
	// What is not allowed here (an old kernel, a test without privilege) makes the keeper weaker, not wrong.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0o644); err != nil {
		log.Warn("not safe from the out-of-memory killer", "err", err)
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0); errno != 0 && errno != unix.EINVAL {
		log.Warn("allocations may wait for I/O", "err", errno)
	}
	// On fault: Go reserves far more address space than it uses, and all of it would be filled otherwise.
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("lock memory: %w", err)
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("lock binary: %w", err)
	}
	var list []error
	for _, r := range fileRanges(maps) {
		// Plain mlock reads the pages in now.
		if _, _, errno := unix.Syscall(unix.SYS_MLOCK, r.from, r.to-r.from, 0); errno != 0 {
			list = append(list, fmt.Errorf("lock binary at %#x: %w", r.from, errno))
		}
	}
	return errors.Join(list...)
}

type addrRange struct{ from, to uintptr }

// fileRanges reads proc(5)'s maps and returns the ranges that come from a file: the binary's code and data.
func fileRanges(maps []byte) []addrRange {
	var list []addrRange
	lines := bufio.NewScanner(bytes.NewReader(maps))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 6 || !strings.HasPrefix(f[5], "/") {
			continue
		}
		low, high, ok := strings.Cut(f[0], "-")
		from, err1 := strconv.ParseUint(low, 16, 64)
		to, err2 := strconv.ParseUint(high, 16, 64)
		if ok && err1 == nil && err2 == nil && from < to {
			list = append(list, addrRange{uintptr(from), uintptr(to)})
		}
	}
	return list
}
