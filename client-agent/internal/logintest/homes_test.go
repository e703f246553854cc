//go:build component

package logintest

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginconf"
)

var withSSHFS = loginconf.Settings{AuthType: loginconf.Primary, SSHFS: true, MkHomeDir: true}

// homeKind returns the type of what is mounted at a user's home on the client; empty for nothing.
func (c *client) homeKind(user string) string {
	c.t.Helper()
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		c.t.Fatal(err)
	}
	kind := ""
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[1] == c.path("home/"+user) {
			kind = f[2]
		}
	}
	return kind
}

// processes returns the numbers of the processes in a machine whose program's name is name.
func (m *machine) processes(name string) []int {
	m.t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		m.t.Fatal(err)
	}
	var out []int
	for _, d := range dirs {
		root, err := os.Readlink(d + "/root")
		comm, err2 := os.ReadFile(d + "/comm")
		if err != nil || err2 != nil || root != m.root || strings.TrimSpace(string(comm)) != name {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(d)); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

func TestHomeBySSHFS(t *testing.T) {
	host := newLoginHost(t, hostAddr)
	c := newClient(t, withSSHFS, host)
	if out, ok := c.authenticate("ann", "wrong"); ok || c.homeKind("ann") != "" || c.exists("home/ann") {
		t.Fatalf("a wrong password: %v, %q, home %v", ok, out, c.exists("home/ann"))
	}
	if out, ok := c.pam(as{}, "ann", annsPassword, "authenticate", "acct_mgmt", "open_session"); !ok {
		t.Fatalf("the right password: %s\n%s", out, host.log)
	}
	if kind := c.homeKind("ann"); kind != "fuse.sshfs" {
		t.Fatalf("home is %q", kind)
	}
	ann := as{uid: annUID}
	c.must(ann, "sh", "-c", "cat /home/ann/on-the-host && echo written >/home/ann/on-the-client")
	if got := host.read("home/ann/on-the-client"); got != "written\n" {
		t.Errorf("the host has %q", got)
	}
	if c.exists("home/ann/from-skel") {
		t.Error("a home on the host got what new homes have")
	}
	if out, code := c.run(as{uid: bobUID}, "cat", "/home/ann/on-the-client"); code != 0 {
		t.Errorf("bob may read what everybody may: %s", out)
	}
	host.must(as{}, "chmod", "700", "/home/ann")
	// While ann has a process, a second login asks by ssh and the end of a session unmounts nothing.
	stop, _ := c.start(ann, "sleep", "300")
	if out, ok := c.pam(as{}, "ann", annsPassword, "authenticate", "open_session", "close_session"); !ok {
		t.Fatalf("a second login: %s", out)
	}
	await(t, "a process waits for the end", func() bool { return len(c.processes("agent")) > 0 })
	if kind := c.homeKind("ann"); kind != "fuse.sshfs" {
		t.Errorf("home is %q while ann works", kind)
	}
	if out, ok := c.authenticate("ann", "wrong"); ok || c.homeKind("ann") == "" {
		t.Errorf("a wrong password meanwhile: %v, %q, home %q", ok, out, c.homeKind("ann"))
	}
	stop()
	awaitFor(t, 90*time.Second, "the home is unmounted", func() bool { return c.homeKind("ann") == "" })
	await(t, "sshfs and the waiting process end", func() bool { return len(c.processes("sshfs"))+len(c.processes("agent")) == 0 })
	if out, ok := c.authenticate("ann", annsPassword); !ok || c.homeKind("ann") != "fuse.sshfs" {
		t.Errorf("afterwards: %v, %s", ok, out)
	}
}

// TestHomeComesBack has the login host away for a while, and then an sshfs that was killed.
func TestHomeComesBack(t *testing.T) {
	host := newLoginHost(t, hostAddr)
	c := newClient(t, withSSHFS, host)
	if out, ok := c.pam(as{}, "ann", annsPassword, "authenticate", "open_session"); !ok {
		t.Fatal(out)
	}
	host.stop() // and the sessions with it: they are in other process groups
	for _, name := range []string{"sshd", "sftp-server"} {
		for _, pid := range host.processes(name) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	host.serve()
	await(t, "the home is there again: "+host.log.String(), func() bool {
		out, code := c.run(as{uid: annUID}, "cat", "/home/ann/on-the-host")
		return code == 0 && out == "ann"
	})
	for _, pid := range c.processes("sshfs") {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	await(t, "the home is dead", func() bool {
		out, _ := c.run(as{uid: annUID}, "ls", "/home/ann")
		return strings.Contains(out, "not connected")
	})
	if out, ok := c.authenticate("ann", annsPassword); !ok {
		t.Fatalf("a login over a dead home: %s", out)
	}
	if out := c.must(as{uid: annUID}, "cat", "/home/ann/on-the-host"); out != "ann" {
		t.Errorf("the home has %q", out)
	}
}

func TestAutomaticLogin(t *testing.T) {
	host := newLoginHost(t, hostAddr)
	c := newClient(t, withSSHFS, host)
	if out, ok := c.pam(as{}, "ann", "", "open_session"); !ok || c.homeKind("ann") != "" {
		t.Errorf("without a password at hand: %v, %s, home %q", ok, out, c.homeKind("ann"))
	}
	shadow := c.read("etc/shadow")
	store := func(password string) {
		c.write("etc/shadow", strings.Replace(shadow, "ann:pamltsp:", "ann:pamltsp="+base64.StdEncoding.EncodeToString([]byte(password))+":", 1), 0o644)
	}
	store("outdated")
	if out, _ := c.pam(as{}, "ann", "", "open_session"); !strings.Contains(out, "The stored password of ann is not valid") || c.homeKind("ann") != "" {
		t.Errorf("an outdated one: %s, home %q", out, c.homeKind("ann"))
	}
	store(annsPassword)
	if out, ok := c.pam(as{}, "ann", "", "open_session"); !ok || c.homeKind("ann") != "fuse.sshfs" {
		t.Fatalf("the right one: %v, %s, home %q", ok, out, c.homeKind("ann"))
	}
	if out, ok := c.pam(as{uid: annUID}, "ann", "", "authenticate"); !ok {
		t.Errorf("the screen of somebody without a password stays locked: %s", out)
	}
}

// TestOtherHomes has homes that something else has brought.
func TestOtherHomes(t *testing.T) {
	host := newLoginHost(t, hostAddr)
	for name, at := range map[string]string{"all homes": "home", "some homes": "home/nfs", "one home": "home/nfs/ann"} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, withSSHFS, host)
			home := "/home/nfs/ann"
			c.write("etc/passwd", strings.Replace(c.read("etc/passwd"), ":/home/ann:", ":"+home+":", 1), 0o644)
			if err := os.MkdirAll(c.path(at), 0o755); err != nil {
				t.Fatal(err)
			}
			c.mount("-t", "tmpfs", "tmpfs", at) // as NFS or a disk would be
			if out, ok := c.pam(as{}, "ann", annsPassword, "authenticate", "open_session", "close_session"); !ok {
				t.Fatal(out)
			}
			if n := len(c.processes("sshfs")); n != 0 {
				t.Errorf("%d sshfs", n)
			}
			if at != "home/nfs/ann" && !c.exists(home+"/from-skel") {
				t.Error("the home was not made")
			}
			if out, ok := c.pam(as{}, "bob", "x", "authenticate"); ok {
				t.Errorf("bob: %s", out)
			}
		})
	}
}

// TestAdditional has something else in the image check passwords; the typed one still brings the home.
func TestAdditional(t *testing.T) {
	host := newLoginHost(t, hostAddr)
	c := newClient(t, loginconf.Settings{AuthType: loginconf.Additional, SSHFS: true, MkHomeDir: true}, host)
	c.addUser("carol", 2004, strings.TrimSpace(c.must(as{}, "openssl", "passwd", "-6", "-salt", "abc", annsPassword)))
	if out, ok := c.pam(as{}, "carol", annsPassword, "authenticate", "open_session"); !ok || c.homeKind("carol") != "" {
		t.Errorf("a user of the client's own: %v, %s, home %q", ok, out, c.homeKind("carol"))
	}
	if host.count("carol") != 0 {
		t.Error("the host was asked about a user of the client's own")
	}
	// In place of LDAP something takes any password.
	c.write("etc/pam.d/ltsp-test", "auth optional pam_unix.so\nauth optional pam_exec.so expose_authtok seteuid stdout quiet /run/ltsp/agent pam auth\nauth required pam_permit.so\n"+
		"@include common-account\n@include common-session\n", 0o644)
	if out, ok := c.pam(as{}, "ann", annsPassword, "authenticate", "open_session"); !ok || c.homeKind("ann") != "fuse.sshfs" {
		t.Errorf("a user of LDAP: %v, %s, home %q", ok, out, c.homeKind("ann"))
	}
	if out, ok := c.pam(as{}, "bob", "not bob's", "authenticate", "open_session"); !ok || c.homeKind("bob") != "" || !strings.Contains(out, "could not be mounted") {
		t.Errorf("a user whose password the host does not take: %v, %s", ok, out)
	}
}
