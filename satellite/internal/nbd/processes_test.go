//go:build component

package nbd

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Environment of the processes that the tests start from their own binary.
const (
	envServe = "LTSP_TEST_NBD_SERVE" // serve this file and print the address
	envBench = "LTSP_TEST_NBD_BENCH" // run benchmarks: in a network namespace of their own
)

// TestMain lets the test binary also be the server, whose CPU can then be told from the client's, and moves
// benchmarks into a network namespace where cubic is the default, so that servers that know only the default are not punished.
func TestMain(m *testing.M) {
	if file := os.Getenv(envServe); file != "" {
		if err := serveFile(file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	benchmarks := slices.ContainsFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "-test.bench=") })
	if benchmarks && os.Getenv(envBench) == "" {
		os.Exit(inNamespace())
	}
	if benchmarks {
		if err := prepareNamespace(); err != nil {
			fmt.Fprintln(os.Stderr, "prepare network namespace:", err)
			os.Exit(1)
		}
		// Each benchmark has rounds of its own; once is enough.
		flag.Parse()
		if err := flag.Set("test.benchtime", "1x"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func inNamespace() int {
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), envBench+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// prepareNamespace makes cubic the default of all connections to the loopback address, by its route: the sysctl refuses algorithms
// that the host does not allow to everybody.
func prepareNamespace() error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"route", "replace", "local", "127.0.0.0/8", "dev", "lo", "table", "local", "scope", "host", "src", "127.0.0.1", "congctl", congestionControl},
		{"route", "replace", "local", "127.0.0.1", "dev", "lo", "table", "local", "scope", "host", "src", "127.0.0.1", "congctl", congestionControl},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// serveFile serves one file as "" until stdin closes.
func serveFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var log *slog.Logger
	if os.Getenv("NBD_DEBUG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	srv, err := New(Config{Exports: oneFile{f, info.Size()}, MaxConnections: 4096, MaxPerAddr: -1, Logger: log})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ln, err := Listen(ctx, "127.0.0.1:0", nil)
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return srv.Serve(ctx, ln)
}

type oneFile struct {
	f    *os.File
	size int64
}

func (o oneFile) List(context.Context) []ExportInfo                { return []ExportInfo{o.Info()} }
func (o oneFile) Open(_ context.Context, _ string) (Export, error) { return o, nil }
func (o oneFile) Info() ExportInfo                                 { return ExportInfo{Name: "disk", Size: o.size} }
func (o oneFile) ReadAt(p []byte, off int64) (int, error)          { return o.f.ReadAt(p, off) }
func (o oneFile) File() (*os.File, int64)                          { return o.f, 0 }
func (o oneFile) Close() error                                     { return nil }

// server is a running server process.
type server struct {
	name, addr string
	cmd        *exec.Cmd
}

// cpu returns the CPU time that the process has used so far, all its threads included, with the clock's resolution.
func (s *server) cpu(t testing.TB) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^s.cmd.Process.Pid)<<3|2, &ts); err != nil {
		t.Fatalf("cpu clock of %s: %v", s.name, err)
	}
	return time.Duration(ts.Nano())
}

// memory returns the anonymous memory in kB and the number of threads.
func (s *server) memory(t testing.TB) (anonymous, threads int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		_, _ = fmt.Sscanf(line, "RssAnon: %d kB", &anonymous)
		_, _ = fmt.Sscanf(line, "Threads: %d", &threads)
	}
	return anonymous, threads
}

func startOurs(t testing.TB, file string) *server {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envServe+"="+file)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("server process: %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("server process printed no address: %v", err)
	}
	return &server{"ltsp", strings.TrimSpace(line), cmd}
}

func startNbdkit(t testing.TB, file string) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	_ = ln.Close()
	cmd := exec.Command("nbdkit", "-f", "-r", "-t", "1", "-i", "127.0.0.1", "-p", port, "file", file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &server{"nbdkit -t 1", "127.0.0.1:" + port, cmd}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for end := time.Now().Add(10 * time.Second); ; {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			_ = c.Close()
			return s
		}
		if time.Now().After(end) {
			t.Fatal("nbdkit does not listen")
		}
	}
}

// diskFile makes a file in the page cache.
func diskFile(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, zeroReader{}, size); err != nil {
		t.Fatal(err)
	}
	return path
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }
