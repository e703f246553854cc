//go:build component

package logintest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bootSystemd makes systemd the machine's first process, as on a real client, with nothing but its own units.
func (m *machine) bootSystemd() {
	m.t.Helper()
	for _, d := range []string{"system", "user"} {
		if err := os.RemoveAll(m.path("etc/systemd/" + d)); err != nil {
			m.t.Fatal(err)
		}
	}
	m.write("etc/machine-id", "", 0o644)
	m.write("etc/systemd/system/lab.target", "[Unit]\nDefaultDependencies=no\n", 0o644)
	// The control groups of a namespace of their own; everything else is the machine's.
	script := "umount /proc; mount -t proc proc /proc && mount -t tmpfs tmpfs /sys/fs/cgroup && umount /sys/fs/cgroup; mount -t sysfs -o ro sysfs /sys && mount -t cgroup2 cgroup2 /sys/fs/cgroup && " +
		"exec env -i container=lab PATH=$PATH /lib/systemd/systemd --unit=lab.target --log-target=null"
	cmd := m.command(m.t.Context(), as{}, "unshare", "--pid", "--cgroup", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-c", script)
	log := new(safeBuffer)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	await(m.t, "systemd is up", func() bool {
		if pids := m.processes("systemd"); len(pids) > 0 {
			m.first = pids[0]
		}
		if m.first == 0 {
			return false
		}
		out, err := exec.Command("nsenter", "-t", strconv.Itoa(m.first), "-p", "-C", "-r", "-w", "systemctl", "is-active", "lab.target").CombinedOutput()
		return err == nil && strings.TrimSpace(string(out)) == "active"
	})
}

// controlGroup returns where a process is in the machine's hierarchy.
func (m *machine) controlGroup(pid int) string {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSpace(path)
		}
	}
	return ""
}

// TestUnderSystemd has what stays behind a login in units of its own: it must not end with the display manager or the session.
func TestUnderSystemd(t *testing.T) {
	host := newLoginHost(t, hostAddr)
	c := newClientUnder(t, withSSHFS, (*machine).bootSystemd, host)
	if out, ok := c.pam(as{}, "ann", "wrong", "authenticate"); ok {
		t.Fatalf("a wrong password was taken: %s", out)
	}
	if out, ok := c.pam(as{}, "ann", annsPassword, "authenticate", "open_session"); !ok {
		t.Fatalf("the right password: %s\n%s", out, host.log)
	}
	for _, pid := range c.processes("sshfs") {
		if group := c.controlGroup(pid); !strings.Contains(group, "/system.slice/run-") || !strings.HasSuffix(group, ".scope") {
			t.Errorf("sshfs is in %q", group)
		}
	}
	stop, _ := c.start(as{uid: annUID}, "sleep", "300")
	if out, ok := c.pam(as{}, "ann", annsPassword, "open_session", "close_session"); !ok {
		t.Fatal(out)
	}
	await(t, "one process waits for the end", func() bool { return len(c.processes("agent")) == 1 })
	for _, pid := range c.processes("agent") {
		if group := c.controlGroup(pid); !strings.HasSuffix(group, ".service") {
			t.Errorf("what waits is in %q", group)
		}
	}
	stop()
	if c.homeKind("ann") != "fuse.sshfs" {
		t.Error("the home is gone too early")
	}
	awaitFor(t, 90*time.Second, "the home is unmounted", func() bool { return c.homeKind("ann") == "" })
}
