package corpus

import (
	"bufio"
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed scripts/bootstrap.sh
var bootstrapScript []byte

//go:embed scripts/change.sh
var changeScript []byte

// Files that the scripts leave in the work directory.
const (
	imageFile    = "image"
	packagesFile = "packages"
)

const (
	wallpaperBytes = 400_000
	lockPoll       = 200 * time.Millisecond
	lastLines      = 40 // of a failed script, in its error
	marker         = "CORPUS: "
)

// runStep leaves the image of a step and the list of its packages in work.
func (b *builder) runStep(ctx context.Context, work string, s step) error {
	if err := prepare(ctx, work); err != nil {
		return err
	}
	script, args := bootstrapScript, append([]string{release}, s.args...)
	if s.base != nil {
		script, args = changeScript, append([]string{b.Path(b.variant, *s.base), s.action}, s.args...)
	}
	path := filepath.Join(work, "script")
	if err := os.WriteFile(path, script, 0o755); err != nil {
		return err
	}
	// Measurements and people come first.
	cmd := exec.CommandContext(ctx, "nice", append([]string{"-n", "15", "/bin/sh", path}, args...)...)
	cmd.Env = environment(os.Environ(), work, s.compressor)
	return b.run(cmd)
}

// environment is that of a script: without what would change its result.
func environment(inherited []string, work, compressor string) []string {
	var env []string
	for _, variable := range inherited {
		switch name, _, _ := strings.Cut(variable, "="); name {
		case "SOURCE_DATE_EPOCH", "APT_CONFIG", "DPKG_ROOT", "TMPDIR", "LANG", "LANGUAGE", "work", "compressor":
		default:
			env = append(env, variable)
		}
	}
	return append(env, "work="+work, "compressor="+compressor, "TMPDIR=/tmp", "LC_ALL=C.UTF-8")
}

// prepare writes what the scripts read.
func prepare(ctx context.Context, work string) error {
	all, err := archives(ctx)
	if err != nil {
		return err
	}
	options, err := fetchOptions(ctx)
	if err != nil {
		return err
	}
	wallpaper := make([]byte, wallpaperBytes)
	_, _ = rand.NewChaCha8([32]byte{'w', 'a', 'l', 'l'}).Read(wallpaper) // never fails
	lines := func(list []string) []byte { return []byte(strings.Join(append(list, ""), "\n")) }
	return errors.Join(
		writeSources(filepath.Join(work, "release.list"), all, true),
		writeSources(filepath.Join(work, "all.list"), all, false),
		collectKeys(filepath.Join(work, "keys")),
		os.WriteFile(filepath.Join(work, "fetch.conf"), lines(options), 0o644),
		os.WriteFile(filepath.Join(work, "excludes"), lines(excludes()), 0o644),
		os.WriteFile(filepath.Join(work, "wallpaper"), wallpaper, 0o644),
	)
}

// run runs a script in a mount and a process namespace of its own: nothing of it survives its end, however it ends, no process
// and no mount below the work directory, which is removed afterwards.
func (b *builder) run(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNS, Cloneflags: syscall.CLONE_NEWPID,
		Setpgid: true, Pdeathsig: syscall.SIGKILL, // sent at the end of the thread that forks, so this goroutine keeps it
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.WaitDelay = 10 * time.Second
	messages, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	last := make(chan []string, 1)
	go func() { last <- b.follow(messages) }()
	err := cmd.Run()
	_ = write.Close() // of a pipe in memory, never fails
	lines := <-last
	if err != nil {
		return fmt.Errorf("build script: %w\n%s", err, strings.Join(lines, "\n"))
	}
	return nil
}

// follow logs how far a script is and returns the last lines of everything that it says.
func (b *builder) follow(messages io.Reader) []string {
	var last []string
	lines := bufio.NewReader(messages)
	for {
		line, err := lines.ReadString('\n')
		line = strings.TrimRight(line, "\r\n")
		if text, found := strings.CutPrefix(line, marker); found {
			b.Log("  %s", text)
		}
		if line != "" {
			last = append(last, line)
		}
		if len(last) > lastLines {
			last = last[1:]
		}
		if err != nil {
			return last
		}
	}
}

// workDir makes a directory to work in. The caller holds the lock, so one that is there already belongs to a builder that was
// killed, and is removed.
func (b *builder) workDir() (string, error) {
	work := filepath.Join(b.CacheDir, b.variant.Name, "work")
	if err := os.RemoveAll(work); err != nil {
		return "", fmt.Errorf("what a killed builder left: %w", err)
	}
	return work, os.Mkdir(work, 0o755)
}

// lock takes the exclusive lock of the variant. The kernel drops it when its holder dies; the file stays.
func (b *builder) lock(ctx context.Context) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(b.CacheDir, b.variant.Name, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
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
			return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		if !waited {
			b.Log("another process builds this corpus, waiting for it")
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			file.Close()
			return nil, fmt.Errorf("wait for lock %s: %w", file.Name(), ctx.Err())
		}
	}
}
