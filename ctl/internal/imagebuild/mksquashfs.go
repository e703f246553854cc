package imagebuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoSpace says that the image did not fit.
var ErrNoSpace = errors.New("the disk is full before the image was complete")

// ErrNoMksquashfs says that the program is missing.
var ErrNoMksquashfs = errors.New("mksquashfs is not installed; run: apt-get install squashfs-tools")

// defaultParams are chosen for small deltas and reproducible images: zstd, whose blocks can be made again bit by bit; the default block
// size; a fixed creation time. What the admin passes comes later and wins.
var defaultParams = []string{"-comp", "zstd", "-mkfs-time", "0"}

// pack runs mksquashfs over root. progress gets 0 to 100.
func pack(ctx context.Context, root, output string, o Options, progress func(percent int)) error {
	program, err := exec.LookPath("mksquashfs")
	if err != nil {
		return ErrNoMksquashfs
	}
	list, err := os.CreateTemp("", "ltspctl-excludes-")
	if err != nil {
		return err
	}
	defer os.Remove(list.Name())
	_, err = list.WriteString(strings.Join(withDotFiles(o.Excludes), "\n") + "\n")
	if err := errors.Join(err, list.Close()); err != nil {
		return fmt.Errorf("write exclude list: %w", err)
	}
	args := append([]string{program, root, output, "-noappend", "-progress", "-wildcards"}, defaultParams...)
	args = append(append(args, o.Params...), "-ef", list.Name())
	err = runMksquashfs(ctx, polite(o, args), progress)
	if err != nil && strings.Contains(err.Error(), "No space left on device") {
		return fmt.Errorf("%w: %s", ErrNoSpace, freeSpace(output))
	}
	return err
}

// freeSpace says how much is free where path lies.
func freeSpace(path string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &st); err != nil {
		return err.Error()
	}
	written := int64(0)
	if info, err := os.Stat(path); err == nil {
		written = info.Size()
	}
	return fmt.Sprintf("%d MB were written and %d MB are free there; make room or name another file by --to", written/1e6, int64(st.Bavail)*st.Bsize/1e6)
}

// withDotFiles adds to each pattern DIR/* its companion DIR/.*, because mksquashfs's "*" leaves out names that begin with a dot.
func withDotFiles(patterns []string) []string {
	var all []string
	for _, p := range patterns {
		all = append(all, p)
		if dir, ok := strings.CutSuffix(p, "/*"); ok {
			all = append(all, dir+"/.*")
		}
	}
	return all
}

// polite prefixes a command with nice and ionice, where installed, so that a build does not disturb the machine's users.
func polite(o Options, args []string) []string {
	if o.FullSpeed {
		return args
	}
	if p, err := exec.LookPath("ionice"); err == nil {
		args = append([]string{p, "-c3"}, args...)
	}
	if p, err := exec.LookPath("nice"); err == nil {
		args = append([]string{p}, args...)
	}
	return args
}

func runMksquashfs(ctx context.Context, args []string, progress func(int)) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	var messages bytes.Buffer
	cmd.Stderr = &messages
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start mksquashfs: %w", err)
	}
	watch(stdout, progress)
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("mksquashfs: %w: %s", err, lastLines(messages.String(), 3))
	}
	return nil
}

// watch reads mksquashfs's bar, whose states are separated by carriage returns, to its end.
func watch(r io.Reader, progress func(int)) {
	buf := make([]byte, 4096)
	var line []byte
	for {
		n, err := r.Read(buf)
		for _, c := range buf[:n] {
			if c != '\r' && c != '\n' {
				if len(line) < 1024 {
					line = append(line, c)
				}
				continue
			}
			if p := parseProgress(string(line)); p >= 0 && progress != nil {
				progress(p)
			}
			line = line[:0]
		}
		if err != nil {
			return
		}
	}
}

var barState = regexp.MustCompile(`^\[.*\]\s+\d+/\d+\s+(\d+)%`)

// parseProgress returns the percentage in one state of mksquashfs's bar, or -1.
func parseProgress(line string) int {
	m := barState.FindStringSubmatch(line)
	if m == nil {
		return -1
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		return -1
	}
	return n
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}
