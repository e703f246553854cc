package resident

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

const (
	// commandTimeout bounds one call of systemctl.
	commandTimeout = 15 * time.Second
	maxOutput      = 64 << 10
	// maxCalls is how many calls may be under way: one that waits for the end of the boot, and one that asks.
	maxCalls = 2
)

var systemctlPaths = []string{"/usr/bin/systemctl", "/bin/systemctl"}

// Systemctl runs systemctl with the arguments and returns what it prints. Its exit code says little: "degraded" is one of the failures.
type Systemctl func(ctx context.Context, args ...string) (string, error)

// errBusy tells that an earlier call hangs, most likely because the root connection is down.
var errBusy = errors.New("systemctl hangs")

// NewSystemctl returns a Systemctl that starts the image's program.
func NewSystemctl() Systemctl {
	return limit(maxCalls, func(ctx context.Context, args []string, ended func()) (string, error) {
		return runCommand(ctx, systemctlPaths, args, ended)
	})
}

// limit bounds the calls. One that hangs on the root file system is left behind when its time is over, but counts until its process is gone.
func limit(calls int, run func(ctx context.Context, args []string, ended func()) (string, error)) Systemctl {
	slot := make(chan struct{}, calls)
	return func(ctx context.Context, args ...string) (string, error) {
		select {
		case slot <- struct{}{}:
		default:
			return "", errBusy
		}
		return run(ctx, args, func() { <-slot })
	}
}

// runCommand starts the first of the programs that is there and calls ended when its process is gone, which may be long after the return.
func runCommand(ctx context.Context, programs, args []string, ended func()) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		ended()
		return "", err
	}
	defer r.Close()
	p, err := startFirst(programs, args, w)
	w.Close()
	if err != nil {
		ended()
		return "", err
	}
	gone := make(chan struct{})
	go func() { // ends with the process, which ctx kills
		defer close(gone)
		defer ended()
		_, _ = p.Wait()
	}()
	stop := context.AfterFunc(ctx, func() {
		_ = p.Kill()
		_ = r.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	out, err := io.ReadAll(io.LimitReader(r, maxOutput))
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return "", err
	}
	r.Close() // a process that has more to say must not wait for us
	select {
	case <-gone:
	case <-ctx.Done():
	}
	return string(out), nil
}

func startFirst(programs, args []string, out *os.File) (*os.Process, error) {
	var err error
	for _, path := range programs {
		var p *os.Process
		p, err = os.StartProcess(path, append([]string{path}, args...), &os.ProcAttr{
			Env:   []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER="},
			Files: []*os.File{nil, out, nil},
		})
		if err == nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("start systemctl: %w", err)
}

// AwaitBoot returns when systemd has finished starting, or at once if this systemd cannot be waited for (before version 240). The word is
// that of is-system-running.
func AwaitBoot(ctx context.Context, run Systemctl) (string, error) {
	out, err := run(ctx, "is-system-running", "--wait")
	return strings.TrimSpace(out), err
}

// Ask returns systemd's state and when it started, since the kernel did; zero if it does not say.
func Ask(ctx context.Context, run Systemctl) (System, time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	out, err := run(ctx, "show", "--property=SystemState,NFailedUnits,NJobs,UserspaceTimestampMonotonic")
	if err != nil {
		return System{Err: err.Error()}, 0
	}
	values := parseShow(out)
	s := System{State: values["SystemState"]}
	if s.State == "" { // before version 240: the property came with 215, but a reduced systemctl may not have it
		word, err := run(ctx, "is-system-running")
		if err != nil {
			return System{Err: err.Error()}, 0
		}
		s.State = strings.TrimSpace(word)
	}
	if values["NFailedUnits"] != "0" {
		out, err := run(ctx, "list-units", "--state=failed", "--plain", "--no-legend", "--no-pager", "--full")
		if err != nil {
			s.Err = err.Error()
		}
		s.Failed = parseColumn(out, 0)
	}
	if values["NJobs"] != "0" && (s.State == "starting" || s.State == "initializing") {
		out, err := run(ctx, "list-jobs", "--plain", "--no-legend", "--no-pager", "--full")
		if err != nil {
			s.Err = err.Error()
		}
		s.Jobs = parseJobs(out)
	}
	started, err := strconv.ParseUint(values["UserspaceTimestampMonotonic"], 10, 62)
	if err != nil {
		started = 0
	}
	return s, time.Duration(started) * time.Microsecond
}

// parseShow reads lines of KEY=VALUE.
func parseShow(out string) map[string]string {
	values := map[string]string{}
	for line := range strings.Lines(out) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			values[key] = value
		}
	}
	return values
}

// parseColumn returns the n-th word of each line. A bullet in front, which some versions print, does not count.
func parseColumn(out string, n int) []string {
	var list []string
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) > 0 && (f[0] == "●" || f[0] == "*" || f[0] == "×") {
			f = f[1:]
		}
		if len(f) > n && len(f[n]) <= 255 {
			list = append(list, f[n])
		}
	}
	return list
}

// parseJobs reads "ID UNIT TYPE STATE" lines: what runs, or if nothing does, what waits.
func parseJobs(out string) []string {
	var running, waiting []string
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 4 || len(f[1]) > 255 {
			continue
		}
		if f[3] == "running" {
			running = append(running, f[1])
		} else {
			waiting = append(waiting, f[1])
		}
	}
	if len(running) > 0 {
		return running
	}
	return waiting
}
