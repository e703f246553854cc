package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Program is one to be started.
type Program struct {
	// Paths are where it is looked for; the first that is there is started.
	Paths []string
	Args  []string
	// Input is what it reads.
	Input string
	// As runs it with a user's rights and environment; nil as root.
	As *Desktop
	// Leave lets it run on after it has not failed for a moment.
	Leave bool
}

// Exit is how a program ended.
type Exit struct {
	// Code is its exit code, -1 if a signal ended it.
	Code int
	// Output is the end of what it printed.
	Output []byte
}

const (
	// leaveAfter is how long a program with Leave is watched.
	leaveAfter = 2 * time.Second
	// drainTime is how long output is waited for when the program has ended but somebody else holds its standard output.
	drainTime = time.Second
	// dieTime is how long a killed program may take to go: one that waits for the root connection cannot.
	dieTime = 2 * time.Second
	// keep is how much of the output is held. Made fit for a line it gets shorter, never longer.
	keep = agentproto.MaxOutput
)

// Start runs a program in a process group of its own until it ends. If ctx ends first the group is killed and the error is ctx's cause. Its standard
// output and error come in one.
func Start(ctx context.Context, p Program) (Exit, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return Exit{}, err
	}
	in, feed, err := os.Pipe()
	if err != nil {
		r.Close()
		w.Close()
		return Exit{}, err
	}
	process, err := spawn(p, in, w)
	w.Close()
	in.Close()
	if err != nil {
		r.Close()
		feed.Close()
		return Exit{}, err
	}
	var wg sync.WaitGroup
	out := new(tail)
	copied := make(chan struct{})
	wg.Go(func() { defer close(copied); _, _ = io.Copy(out, r) })
	wg.Go(func() { defer feed.Close(); _, _ = io.WriteString(feed, p.Input) })
	ended := make(chan *os.ProcessState, 1)
	go func() { // ends with the process
		state, err := process.Wait()
		if err != nil {
			state = nil
		}
		ended <- state
	}()
	exit, err := await(ctx, p, process.Pid, ended)
	select {
	case <-copied:
	case <-time.After(drainTime):
	}
	r.Close()
	feed.Close()
	wg.Wait()
	exit.Output = out.bytes()
	return exit, err
}

// await waits for the end of a process, or brings it about.
func await(ctx context.Context, p Program, pid int, ended <-chan *os.ProcessState) (Exit, error) {
	var leave <-chan time.Time
	if p.Leave {
		leave = time.After(leaveAfter)
	}
	select {
	case state := <-ended:
		if state == nil {
			return Exit{Code: -1}, errors.New("its end is not known")
		}
		return Exit{Code: state.ExitCode()}, nil
	case <-leave:
		return Exit{}, nil
	case <-ctx.Done():
		_ = syscall.Kill(-pid, syscall.SIGKILL) // it may just have ended
	}
	select {
	case <-ended:
	case <-time.After(dieTime):
	}
	return Exit{Code: -1}, context.Cause(ctx)
}

// spawn starts the first of the programs that is there.
func spawn(p Program, in, out *os.File) (*os.Process, error) {
	attr := &os.ProcAttr{
		Dir: "/", Files: []*os.File{in, out, out}, Sys: &syscall.SysProcAttr{Setpgid: true},
		Env: []string{"PATH=" + path, "LC_ALL=C.UTF-8", "HOME=/root", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER="},
	}
	if p.As != nil {
		attr.Env = p.As.Env
		attr.Sys.Credential = &syscall.Credential{Uid: p.As.UID, Gid: p.As.GID, Groups: p.As.Groups}
	}
	for _, name := range p.Paths {
		process, err := os.StartProcess(name, append([]string{name}, p.Args...), attr)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return process, err
		}
	}
	return nil, fmt.Errorf("start %s: %w", p.Paths[len(p.Paths)-1], fs.ErrNotExist)
}

// tail keeps the end of what is written.
type tail struct {
	mu   sync.Mutex
	data []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, b[max(0, len(b)-keep):]...)
	if extra := len(t.data) - keep; extra > keep { // seldom, so that each byte is moved once or twice
		t.data = append(t.data[:0], t.data[extra:]...)
	}
	return len(b), nil
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.data[max(0, len(t.data)-keep):]
}
