package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestMain lets the test binary stand in for the programs that the tests start.
func TestMain(m *testing.M) {
	switch os.Getenv("PROC_TEST_ROLE") {
	case "parent": // starts a sleeping child through a Spawner, prints its pid and waits to be killed
		s := NewSpawner()
		p, err := s.Start(context.Background(), Spec{Path: "sleep", Args: []string{"600"}})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(p.Pid)
		select {}
	default:
		os.Exit(m.Run())
	}
}

func start(ctx context.Context, t *testing.T, spec Spec) *Process {
	t.Helper()
	s := NewSpawner()
	t.Cleanup(s.Close)
	p, err := s.Start(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill9() })
	return p
}

func TestOutputAndStatus(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	p := start(t.Context(), t, Spec{Path: "sh", Args: []string{"-c", "echo $WORD; echo bad >&2; exit 3"}, Env: []string{"WORD=good"}, LogFile: log})
	err := p.Wait(t.Context())
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("Wait: %v, want exit status 3", err)
	}
	if got, _ := os.ReadFile(log); string(got) != "good\nbad\n" {
		t.Errorf("log is %q", got)
	}
}

func TestStdinStdout(t *testing.T) {
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer outRead.Close()
	p := start(t.Context(), t, Spec{Path: "cat", Stdin: inRead, Stdout: outWrite})
	inRead.Close()
	outWrite.Close()
	if _, err := inWrite.WriteString("echo me"); err != nil {
		t.Fatal(err)
	}
	inWrite.Close()
	var got bytes.Buffer
	if _, err := got.ReadFrom(outRead); err != nil || got.String() != "echo me" {
		t.Errorf("read %q, %v", got.String(), err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestKill9EndsTheGroup(t *testing.T) {
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p := start(t.Context(), t, Spec{Path: "sh", Args: []string{"-c", "sleep 600 & echo up; wait"}, Stdout: in})
	in.Close()
	if _, err := fmt.Fscan(out, new(string)); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill9(); err != nil {
		t.Fatal(err)
	}
	// The grandchild holds the pipe too: end of file proves that it is gone.
	if n, err := out.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("pipe still open: %d bytes, %v", n, err)
	}
	if err := p.Kill9(); err != nil {
		t.Errorf("second Kill9: %v", err)
	}
}

func TestContextEndsProcess(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := start(ctx, t, Spec{Path: "sleep", Args: []string{"600"}})
	cancel()
	if err := p.Wait(t.Context()); err == nil {
		t.Error("a killed process reports success")
	}
}

func TestStopFallsBackToKill(t *testing.T) {
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p := start(t.Context(), t, Spec{Path: "sh", Args: []string{"-c", "trap '' TERM; echo up; while :; do sleep 600; done"}, Stdout: in})
	in.Close()
	if _, err := fmt.Fscan(out, new(string)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Stop: %v, want deadline exceeded", err)
	}
	select {
	case <-p.Done():
	default:
		t.Error("still running after Stop")
	}
}

func TestStartErrors(t *testing.T) {
	s := NewSpawner()
	if _, err := s.Start(t.Context(), Spec{Path: "no-such-program"}); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("unknown program: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Start(ctx, Spec{Path: "true"}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	s.Close()
	if _, err := s.Start(t.Context(), Spec{Path: "true"}); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	s.Close()
}

// TestParentDeath kills a process that owns a child and checks that the kernel ends the child too.
func TestParentDeath(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	// Not through a group: the child has a group of its own, so only PDEATHSIG can reach it.
	parent := start(t.Context(), t, Spec{Path: self, Env: []string{"PROC_TEST_ROLE=parent"}, Stdout: in})
	in.Close()
	var child int
	if _, err := fmt.Fscan(out, &child); err != nil {
		t.Fatal(err)
	}
	if err := parent.Kill9(); err != nil {
		t.Fatal(err)
	}
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for alive(child) {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("child %d survived its parent", child)
		}
	}
}

// alive tells whether pid runs; a zombie that its new parent has not reaped yet does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return len(rest) > 0 && rest[0] != 'Z' && rest[0] != 'X'
}

func TestParseStat(t *testing.T) {
	tests := []struct {
		name, in string
		want     time.Duration
		bad      bool
	}{
		{name: "plain", in: "7 (cat) S 1 7 7 0 -1 4194560 100 0 0 0 150 25 0 0 20 0 1 0", want: 1750 * time.Millisecond},
		{name: "odd name", in: "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 1 2 0 0", want: 30 * time.Millisecond},
		{name: "short", in: "7 (cat) S 1 7", bad: true},
		{name: "no name", in: "7 cat S", bad: true},
		{name: "not a number", in: "7 (cat) S 1 7 7 0 -1 4194560 100 0 0 0 x 25 0", bad: true},
		{name: "empty", in: "", bad: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseStat([]byte(test.in))
			if got != test.want || (err != nil) != test.bad {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func TestCPUTime(t *testing.T) {
	p := start(t.Context(), t, Spec{Path: "sh", Args: []string{"-c", "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done"}})
	if _, err := p.CPUTime(); err != nil {
		t.Error(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if used, err := p.CPUTime(); err != nil || used <= 0 || used != p.CPU() {
		t.Errorf("after the end: %v, %v; want %v", used, err, p.CPU())
	}
}
