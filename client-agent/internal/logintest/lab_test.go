//go:build component

package logintest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tests of this package run in namespaces of their own: no mount, address, process or user of theirs is the machine's. TestMain starts the test binary
// again in there. Client and login hosts are the machine's own files under writable layers, each with its own users, entered by chroot(2).

const inLab = "LTSP_TEST_IN_LAB"

// Addresses in the lab. The login hosts' names are in the clients' /etc/hosts.
const (
	hostAddr   = "127.0.0.2" // "server"
	secondAddr = "127.0.0.3" // "second"
	clientAddr = "127.0.0.4"
	silentAddr = "192.0.2.9" // "silent": nothing answers, not even with a refusal
)

// labDir is where the roots are mounted; only the lab's mount namespace has them there.
const labDir = "/mnt"

func TestMain(m *testing.M) {
	if os.Getenv(inLab) == "" {
		os.Exit(enterLab())
	}
	if err := prepareLab(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// enterLab runs this program again in new namespaces, whose processes end with it, and returns its exit code.
func enterLab() int {
	agent := filepath.Join(os.Getenv("LTSP_BIN"), "ltsp-agent")
	if os.Getenv("LTSP_BIN") == "" {
		dir, err := os.MkdirTemp("", "ltsp-agent-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		agent = filepath.Join(dir, "ltsp-agent")
		build := exec.Command("go", "build", "-o", agent, "github.com/ltsp-fleet/ltsp-fleet/client-agent/cmd/ltsp-agent")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the agent: %v\n%s", err, out)
			return 1
		}
	}
	args := append([]string{"-m", "-n", "-p", "--fork", "--kill-child", "--mount-proc", "--propagation", "private", os.Args[0]}, os.Args[1:]...)
	cmd := exec.Command("unshare", args...)
	cmd.Env = append(os.Environ(), inLab+"="+agent)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return exit.ExitCode()
		}
		fmt.Fprintf(os.Stderr, "these tests need root: %v\n", err)
		return 1
	}
	return 0
}

func prepareLab() error {
	for _, line := range []string{
		"ip link set lo up", "ip addr add " + silentAddr + "/32 dev lo", "nft add table ip lab", "nft add chain ip lab in { type filter hook input priority 0 ; }",
		"nft add rule ip lab in ip daddr " + silentAddr + " drop", "mount -t tmpfs lab " + labDir,
	} {
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return nil
}

// machine is a root directory that processes of the lab are in.
type machine struct {
	t    testing.TB
	root string
	// first is a process, by its number in the lab, in whose process namespace the machine's are; zero means the lab's.
	first int
}

// separate gives the machine a process namespace: its users have the same numbers as others'.
func (m *machine) separate() {
	m.t.Helper()
	m.start(as{}, "unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "umount /proc; mount -t proc proc /proc && exec sleep infinity")
	await(m.t, "the machine has its first process", func() bool {
		if pids := m.processes("sleep"); len(pids) == 1 {
			m.first = pids[0]
		}
		return m.first != 0
	})
}

// newMachine lays a writable layer over the machine's files. It has no users of its own but system ones, and no daemons.
func newMachine(t testing.TB, name string) *machine {
	t.Helper()
	base, err := os.MkdirTemp(labDir, name+"-") //nolint:usetesting // an overlay over / cannot have its layers in /
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, root: filepath.Join(base, "root")}
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(base, 0o755); err != nil { // users go through it
		t.Fatal(err)
	}
	m.mount("-t", "overlay", "overlay", "-o", "lowerdir=/,upperdir="+base+"/upper,workdir="+base+"/work", "")
	t.Cleanup(func() { _ = syscall.Unmount(m.root, syscall.MNT_DETACH) })
	m.mount("-t", "proc", "proc", "proc")
	m.mount("--rbind", "/dev", "dev")
	for _, d := range []string{"run", "tmp", "home"} {
		m.mount("-t", "tmpfs", "tmpfs", d)
	}
	if err := os.Chmod(m.path("tmp"), 0o1777); err != nil {
		t.Fatal(err)
	}
	// /home is a mount of the lab's making; a client of LTSP has none there, so it is a directory of the layer again.
	if err := syscall.Unmount(m.path("home"), 0); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"passwd", "shadow", "group"} {
		m.write("etc/"+f, systemLines(t, filepath.Join("/etc", f)), 0o644)
	}
	m.write("etc/hosts", "127.0.0.1 localhost\n"+hostAddr+" server\n"+secondAddr+" second\n"+silentAddr+" silent\n", 0o644)
	m.write("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files\n", 0o644)
	return m
}

// systemLines returns root's and the system users' lines of an account file: enough for daemons to start.
func systemLines(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		f := strings.Split(line, ":")
		if len(f) > 2 && (filepath.Base(file) == "shadow" || len(f[2]) < 4 || f[0] == "nogroup" || f[0] == "nobody") {
			out.WriteString(line)
		}
	}
	return out.String()
}

func (m *machine) path(name string) string { return filepath.Join(m.root, name) }

// mount mounts onto a path of the machine, the last argument.
func (m *machine) mount(args ...string) {
	m.t.Helper()
	args[len(args)-1] = m.path(args[len(args)-1])
	if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
		m.t.Fatalf("mount %v: %v: %s", args, err, out)
	}
}

func (m *machine) write(name, text string, mode os.FileMode) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.path(name)), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Remove(m.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.path(name), []byte(text), mode); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Chmod(m.path(name), mode); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) read(name string) string {
	m.t.Helper()
	text, err := os.ReadFile(m.path(name))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(text)
}

func (m *machine) exists(name string) bool {
	_, err := os.Lstat(m.path(name))
	return err == nil
}

// append adds a line to an account file.
func (m *machine) append(name, line string) {
	m.t.Helper()
	m.write(name, m.read(name)+line+"\n", 0o644)
}

// addUser adds a user with a field for shadow and numbers from 2000 on; the machine's own users have others.
func (m *machine) addUser(name string, uid int, field string) {
	m.t.Helper()
	m.append("etc/passwd", fmt.Sprintf("%s:x:%d:%d:%s:/home/%s:/bin/sh", name, uid, uid, name, name))
	m.append("etc/group", fmt.Sprintf("%s:x:%d:", name, uid))
	m.append("etc/shadow", name+":"+field+":19000:0:99999:7:::")
}

// as is a process of the machine: root's, or a user's.
type as struct {
	uid   int
	stdin string
	env   []string
}

// command returns a program of the machine, not started.
func (m *machine) command(ctx context.Context, a as, line ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	if filepath.IsAbs(line[0]) { // as the machine sees it
		cmd.Path, cmd.Err = line[0], nil
	}
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/root"}, a.env...)
	cmd.Stdin = strings.NewReader(a.stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: m.root, Setsid: true}
	if m.first != 0 {
		enter := []string{"nsenter", "-t", strconv.Itoa(m.first), "-p", "-r", "-w"}
		if a.uid != 0 {
			enter = append(enter, "-G", strconv.Itoa(a.uid), "-S", strconv.Itoa(a.uid))
		}
		cmd.Path, cmd.Err, cmd.Args = "/usr/bin/nsenter", nil, slices.Concat(enter, []string{"--"}, line)
		cmd.SysProcAttr.Chroot = ""
	} else if a.uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.uid)}
	}
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// run runs a program of the machine and returns what it printed and its exit code.
func (m *machine) run(a as, line ...string) (out string, code int) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 90*time.Second)
	defer cancel()
	var text bytes.Buffer
	cmd := m.command(ctx, a, line...)
	cmd.Stdout, cmd.Stderr = &text, &text
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatalf("%v: %v: %s", line, err, text.String())
	}
	return text.String(), cmd.ProcessState.ExitCode()
}

// must is run for what has to succeed.
func (m *machine) must(a as, line ...string) string {
	m.t.Helper()
	out, code := m.run(a, line...)
	if code != 0 {
		m.t.Fatalf("%v: exit code %d: %s", line, code, out)
	}
	return out
}

// start starts a program that runs until the test ends or stop is called.
func (m *machine) start(a as, line ...string) (stop func(), log *safeBuffer) {
	m.t.Helper()
	log = new(safeBuffer)
	cmd := m.command(context.Background(), a, line...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		m.t.Fatalf("%v: %v", line, err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			_ = cmd.Wait()
		}
	}
	m.t.Cleanup(stop)
	return stop, log
}

// await waits until a condition holds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	awaitFor(t, 20*time.Second, what, holds)
}

func awaitFor(t testing.TB, limit time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not in %v: %s", limit, what)
		}
	}
}
