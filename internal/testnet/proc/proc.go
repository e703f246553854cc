// Package proc starts programs for the test labs and makes sure that none of them outlives the program that started it.
//
// Every process is the leader of its own process group and asks the kernel for a SIGKILL when its parent dies
// (prctl(2), PR_SET_PDEATHSIG). That signal is bound to the *thread* that forked, therefore a Spawner forks from one
// thread that it keeps until Close. Only testnet, testvm and the programs that use them import this package.
package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// ErrClosed is returned by Spawner.Start after Close.
var ErrClosed = errors.New("process spawner is closed")

// killWait bounds how long Kill9 waits for the kernel to reap; only a process stuck in the kernel needs longer.
const killWait = 5 * time.Second

// Spec says what to run. The zero value of every field but Path is usable.
type Spec struct {
	Path      string   // program; without a slash it is looked up in PATH
	Args      []string // arguments without the program name
	Env       []string // "KEY=value" entries added to the environment of this process
	Dir       string   // working directory; empty: that of this process
	LogFile   string   // stdout and stderr are appended to it; empty: discarded
	Namespace string   // network namespace by name (ip-netns(8)); empty: that of this process
	Stdin     *os.File // nil: /dev/null; the caller closes its copy after Start
	Stdout    *os.File // nil: LogFile; stderr goes to LogFile in any case
}

// Process is a started program. All methods are safe for concurrent use.
type Process struct {
	Pid  int    // process ID, also the ID of its process group
	Name string // base name of the program, for messages

	cmd  *exec.Cmd
	done chan struct{}
	err  error // valid after done is closed
}

// Spawner forks processes from one operating system thread. Create it with NewSpawner.
type Spawner struct {
	requests chan func()
	closing  chan struct{}
	ended    chan struct{}
	once     sync.Once
}

// NewSpawner starts the forking thread. The caller must Close it.
func NewSpawner() *Spawner {
	s := &Spawner{requests: make(chan func()), closing: make(chan struct{}), ended: make(chan struct{})}
	go s.loop()
	return s
}

func (s *Spawner) loop() {
	defer close(s.ended)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case f := <-s.requests:
			f()
		case <-s.closing:
			return
		}
	}
}

// Close gives the forking thread back. Processes that still run are left alone; end them first.
func (s *Spawner) Close() {
	s.once.Do(func() { close(s.closing) })
	<-s.ended
}

// Start runs spec. When ctx ends the whole process group is killed; a ctx that is already over starts nothing.
// The error names the program; exec.ErrNotFound can be tested for.
func (s *Spawner) Start(ctx context.Context, spec Spec) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Path, err)
	}
	cmd, logFile, err := command(spec)
	if err != nil {
		return nil, err
	}
	if logFile != nil {
		defer logFile.Close()
	}
	result := make(chan error, 1)
	select {
	case s.requests <- func() { result <- cmd.Start() }:
	case <-s.closing:
		return nil, fmt.Errorf("start %s: %w", spec.Path, ErrClosed)
	}
	if err := <-result; err != nil {
		return nil, fmt.Errorf("start %s: %w", spec.Path, err)
	}
	p := &Process{Pid: cmd.Process.Pid, Name: filepath.Base(spec.Path), cmd: cmd, done: make(chan struct{})}
	stop := context.AfterFunc(ctx, p.signalGroup)
	go func() {
		defer close(p.done)
		defer stop()
		p.err = cmd.Wait()
	}()
	return p, nil
}

// command turns spec into an exec.Cmd that has not been started; the returned log file may be nil.
func command(spec Spec) (*exec.Cmd, *os.File, error) {
	path, err := exec.LookPath(spec.Path)
	if err != nil {
		return nil, nil, fmt.Errorf("find program: %w", err)
	}
	args := spec.Args
	if spec.Namespace != "" {
		args = append([]string{"netns", "exec", spec.Namespace, path}, spec.Args...)
		if path, err = exec.LookPath("ip"); err != nil {
			return nil, nil, fmt.Errorf("find ip (package iproute2): %w", err)
		}
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = spec.Dir
	cmd.Env = append(os.Environ(), spec.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// A nil *os.File in the io.Reader field would not be a nil interface.
	if spec.Stdin != nil {
		cmd.Stdin = spec.Stdin
	}
	var logFile *os.File
	if spec.LogFile != "" {
		logFile, err = os.OpenFile(spec.LogFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return nil, nil, fmt.Errorf("log of %s: %w", spec.Path, err)
		}
		cmd.Stdout, cmd.Stderr = logFile, logFile
	}
	if spec.Stdout != nil {
		cmd.Stdout = spec.Stdout
	}
	return cmd, logFile, nil
}

// Done is closed when the process has ended and was reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait blocks until the process has ended (nil for exit status 0, else an *exec.ExitError) or ctx is over.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		if p.err != nil {
			return fmt.Errorf("%s (pid %d): %w", p.Name, p.Pid, p.err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for %s (pid %d): %w", p.Name, p.Pid, ctx.Err())
	}
}

// Signal sends sig to the process alone. After its end it returns os.ErrProcessDone.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill9 ends the whole process group with SIGKILL, as a power cut would, and waits until the process is reaped, so that its
// ports and files are free. Ending an ended process does nothing.
func (p *Process) Kill9() error {
	p.signalGroup()
	ctx, cancel := context.WithTimeout(context.Background(), killWait)
	defer cancel()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s (pid %d) survives SIGKILL for %v", p.Name, p.Pid, killWait)
	}
}

// Stop asks the process to end with SIGTERM and waits until it has; when ctx is over first it kills the group and says so.
// The exit status is not judged.
func (p *Process) Stop(ctx context.Context) error {
	_ = p.Signal(syscall.SIGTERM) // the only error is that the process is gone, which is what was asked for
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("%s (pid %d) did not end on SIGTERM: %w", p.Name, p.Pid, ctx.Err()), p.Kill9())
	}
}

// CPU returns user plus system time of the process after its end; zero while it runs (see CPUTime).
func (p *Process) CPU() time.Duration {
	select {
	case <-p.done:
		return p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	default:
		return 0
	}
}

// signalGroup kills the group unless its leader was reaped already: from then on its ID may belong to somebody else.
func (p *Process) signalGroup() {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(-p.Pid, syscall.SIGKILL)
	}
}
