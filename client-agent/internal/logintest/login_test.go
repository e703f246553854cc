//go:build component

package logintest

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginconf"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/pam"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/spool"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

const (
	annsPassword = "Correct-Horse-%s'\"$`\\ü"
	annUID       = 2001
	bobUID       = 2002
)

// loginHost is a machine with users and an SSH server.
type loginHost struct {
	*machine
	addr string
	stop func()
	log  *safeBuffer
}

// newLoginHost starts a login host at an address, with options for its sshd.
func newLoginHost(t testing.TB, addr string, options ...string) *loginHost {
	t.Helper()
	h := &loginHost{machine: newMachine(t, "host"), addr: addr}
	for name, uid := range map[string]int{"ann": annUID, "bob": bobUID} {
		h.addUser(name, uid, "*")
		h.write("home/"+name+"/on-the-host", name, 0o644)
		if err := os.Chown(h.path("home/"+name), uid, uid); err != nil {
			t.Fatal(err)
		}
	}
	h.setPassword("ann", annsPassword)
	h.must(as{}, "sed", "-i", "s/pam_unix.so nullok/pam_unix.so nullok nodelay/", "/etc/pam.d/common-auth")
	h.must(as{}, "sh", "-c", "rm -f /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key")
	h.serve(options...)
	return h
}

func (h *loginHost) setPassword(user, password string) {
	h.t.Helper()
	h.must(as{stdin: user + ":" + password + "\n"}, "chpasswd", "-c", "SHA512")
}

// serve starts sshd.
func (h *loginHost) serve(options ...string) {
	h.t.Helper()
	if err := os.MkdirAll(h.path("run/sshd"), 0o755); err != nil {
		h.t.Fatal(err)
	}
	h.write("etc/ssh/sshd_config", "HostKey /etc/ssh/ssh_host_ed25519_key\nListenAddress "+h.addr+"\nUsePAM yes\nKbdInteractiveAuthentication no\n"+
		"X11Forwarding yes\nX11UseLocalhost yes\nSubsystem sftp /usr/lib/openssh/sftp-server\nPrintMotd no\nLogLevel VERBOSE\n", 0o600)
	args := []string{"/usr/sbin/sshd", "-D", "-e"}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	h.stop, h.log = h.start(as{}, args...)
	await(h.t, "sshd listens: "+h.log.String(), func() bool {
		conn, err := net.DialTimeout("tcp", h.addr+":22", time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// knownHosts returns the host's line under a name.
func (h *loginHost) knownHosts(name string) string {
	h.t.Helper()
	return name + " " + h.read("etc/ssh/ssh_host_ed25519_key.pub")
}

// wantLogged waits until sshd has logged a text n times, and fails if it logs it more often. Its words take a moment to arrive.
func (h *loginHost) wantLogged(text string, n int) {
	h.t.Helper()
	await(h.t, fmt.Sprintf("sshd says %q %d times", text, n), func() bool { return h.count(text) >= n })
	h.t.Cleanup(func() {
		if got := h.count(text); got != n {
			h.t.Errorf("sshd said %q %d times, want %d:\n%s", text, got, n, h.log)
		}
	})
}

// count counts what sshd has logged.
func (h *loginHost) count(text string) int { return strings.Count(h.log.String(), text) }

// client is a machine with the agent.
type client struct{ *machine }

// newClient makes a client of login hosts; the first is "server", the second "second". Its ann is the login host's.
func newClient(t testing.TB, settings loginconf.Settings, hosts ...*loginHost) *client {
	t.Helper()
	return newClientUnder(t, settings, (*machine).separate, hosts...)
}

// newClientUnder is newClient with a way to start the first process.
func newClientUnder(t testing.TB, settings loginconf.Settings, boot func(*machine), hosts ...*loginHost) *client {
	t.Helper()
	c := &client{newMachine(t, "client")}
	boot(c.machine)
	c.addUser("ann", annUID, "pamltsp")
	c.addUser("bob", bobUID, "pamltsp")
	agent, err := os.ReadFile(os.Getenv(inLab))
	if err != nil {
		t.Fatal(err)
	}
	c.write("run/ltsp/agent", string(agent), 0o755)
	known := ""
	for i, h := range hosts {
		known += h.knownHosts([]string{"server", "second"}[i])
	}
	c.write(loginconf.KnownHostsPath, known, 0o644)
	c.write("etc/skel/from-skel", "", 0o644)
	// What this machine's packages have put into its PAM files is not the matter here.
	c.must(as{}, "sh", "-c", "for t in auth account session; do cp /usr/share/pam/common-$t /etc/pam.d/; done; cd /usr/share/pam-configs && for p in *; do [ $p = unix ] || rm $p; done; "+
		"DEBIAN_FRONTEND=noninteractive pam-auth-update --force >/dev/null; sed -i 's/nullok/nullok nodelay/' /etc/pam.d/common-auth")
	c.write("etc/pam.d/ltsp-test", "@include common-auth\n@include common-account\n@include common-session\n", 0o644)
	c.configure(settings)
	return c
}

func (c *client) configure(settings loginconf.Settings) {
	c.t.Helper()
	root, err := os.OpenRoot(c.root)
	if err != nil {
		c.t.Fatal(err)
	}
	defer root.Close()
	if settings.SSHServer == "" {
		settings.SSHServer = loginconf.DefaultServer
	}
	if _, err := pam.Configure(root, settings); err != nil {
		c.t.Fatal(err)
	}
}

// pam has a stock PAM client do things for a user; what is typed is the password.
func (c *client) pam(a as, user, typed string, operations ...string) (out string, ok bool) {
	c.t.Helper()
	a.stdin = typed + "\n"
	out, code := c.run(a, append([]string{"pamtester", "ltsp-test", user}, operations...)...)
	return out, code == 0
}

func (c *client) authenticate(user, typed string) (out string, ok bool) {
	c.t.Helper()
	return c.pam(as{}, user, typed, "authenticate")
}

// spool is the client's spool as the resident agent sees it.
func (c *client) spool() spool.Spool {
	return spool.Spool{Root: c.path("run/ltsp"), Users: c.path("run/user"), Proc: c.path("proc")}
}

// kinds returns the kinds of the events that were left.
func (c *client) kinds() []string {
	var out []string
	for _, e := range c.spool().TakeEvents(100) {
		out = append(out, e.Kind)
	}
	return out
}

func (c *client) wantEvents(kinds ...string) {
	c.t.Helper()
	if got := c.kinds(); fmt.Sprint(got) != fmt.Sprint(kinds) {
		c.t.Errorf("events %v, want %v", got, kinds)
	}
}

var noSSHFS = loginconf.Settings{AuthType: loginconf.Primary, MkHomeDir: true}

func TestPasswordBySSH(t *testing.T) {
	host := newLoginHost(t, hostAddr)
	c := newClient(t, noSSHFS, host)
	if out, ok := c.authenticate("ann", "wrong"); ok {
		t.Errorf("a wrong password was taken: %s", out)
	}
	host.wantLogged("Failed password for ann", 1)
	if c.exists("home/ann") {
		t.Error("a wrong password made a home")
	}
	out, ok := c.pam(as{}, "ann", annsPassword, "authenticate", "acct_mgmt", "open_session", "close_session")
	if !ok {
		t.Fatalf("the right password was refused: %s\n%s", out, host.log)
	}
	info, err := os.Stat(c.path("home/ann"))
	if err != nil || info.Mode().Perm() != 0o755 || info.Sys().(*syscall.Stat_t).Uid != annUID || !c.exists("home/ann/from-skel") {
		t.Errorf("home: %v, %v", info, err)
	}
	if out, ok := c.authenticate("bob", ""); ok {
		t.Errorf("an empty password was taken: %s", out)
	}
	if out, ok := c.authenticate("bob", annsPassword); ok {
		t.Errorf("ann's password was taken for bob: %s", out)
	}
	c.wantEvents()
}

// TestInteractiveOnly has a host that takes passwords in a dialogue only.
func TestInteractiveOnly(t *testing.T) {
	host := newLoginHost(t, hostAddr, "PasswordAuthentication=no", "KbdInteractiveAuthentication=yes")
	const failed = "Failed keyboard-interactive"
	tries := 0
	for name, settings := range map[string]loginconf.Settings{"ssh": noSSHFS, "sshfs": withSSHFS} {
		t.Run(name, func(t *testing.T) {
			c := newClient(t, settings, host)
			tries++
			if out, ok := c.authenticate("ann", "wrong"); ok {
				t.Errorf("a wrong password was taken: %s", out)
			}
			await(t, "the host was asked", func() bool { return host.count(failed) >= tries })
			if out, ok := c.authenticate("ann", annsPassword); !ok {
				t.Errorf("the right password was refused: %s\n%s", out, host.log)
			}
		})
	}
	host.wantLogged(failed, tries)
}

// TestBothMethods has a host that takes both, where a wrong password must not be tried by each.
func TestBothMethods(t *testing.T) {
	host := newLoginHost(t, hostAddr, "KbdInteractiveAuthentication=yes")
	c := newClient(t, loginconf.Settings{AuthType: loginconf.Primary, SSHFS: true, MkHomeDir: true}, host)
	if out, ok := c.authenticate("ann", "wrong"); ok {
		t.Errorf("a wrong password was taken: %s", out)
	}
	host.wantLogged("Failed ", 1)
	if out, ok := c.authenticate("ann", annsPassword); !ok {
		t.Errorf("the right password was refused: %s", out)
	}
}

func TestHostKey(t *testing.T) {
	host := newLoginHost(t, hostAddr)
	c := newClient(t, noSSHFS, host)
	pinned := c.read(loginconf.KnownHostsPath)
	c.must(as{}, "sh", "-c", "rm -f /tmp/other*; ssh-keygen -q -t ed25519 -N '' -f /tmp/other && echo server $(cat /tmp/other.pub) > /"+loginconf.KnownHostsPath)
	for _, sshfs := range []bool{false, true} {
		c.configure(loginconf.Settings{AuthType: loginconf.Primary, SSHFS: sshfs, MkHomeDir: true, SSHOptions: []string{"-o", "StrictHostKeyChecking=no"}})
		out, ok := c.authenticate("ann", annsPassword)
		if ok || !strings.Contains(out, "The login host server is not the one this computer knows (its host key is not the pinned one)") {
			t.Errorf("another key: %v, %q", ok, out)
		}
		c.wantEvents(agentproto.EventHostKey)
	}
	c.write(loginconf.KnownHostsPath, "", 0o644)
	if out, ok := c.authenticate("ann", annsPassword); ok || !strings.Contains(out, "no host key is pinned for it") {
		t.Errorf("no key: %v, %q", ok, out)
	}
	c.wantEvents(agentproto.EventHostKey)
	if n := host.count("password"); n != 0 {
		t.Errorf("a host that is not believed saw %d passwords", n)
	}
	c.write(loginconf.KnownHostsPath, pinned, 0o644)
	if out, ok := c.authenticate("ann", annsPassword); !ok {
		t.Errorf("the pinned key: %s", out)
	}
}

func TestHostAway(t *testing.T) {
	host := newLoginHost(t, hostAddr)
	c := newClient(t, noSSHFS, host)
	if out, ok := c.authenticate("ann", annsPassword); !ok {
		t.Fatal(out)
	}
	host.stop()
	for _, sshfs := range []bool{false, true} {
		for _, server := range []string{"server", "silent", "no-such-host"} {
			c.configure(loginconf.Settings{AuthType: loginconf.Primary, SSHFS: sshfs, MkHomeDir: true, SSHServer: server})
			out, ok := c.authenticate("ann", annsPassword)
			if ok || !strings.Contains(out, "The login host "+server+" does not answer.") {
				t.Errorf("sshfs %v, %s: %v, %q", sshfs, server, ok, out)
			}
			c.wantEvents(agentproto.EventLoginHost)
		}
	}
}

func TestStoredPasswords(t *testing.T) {
	host := newLoginHost(t, hostAddr)
	c := newClient(t, noSSHFS, host)
	c.addUser("guest", 2003, "pamltsp=")
	if out, ok := c.pam(as{}, "guest", "", "authenticate", "acct_mgmt", "open_session"); !ok {
		t.Errorf("guest: %s", out)
	}
	if !c.exists("home/guest/from-skel") {
		t.Error("guest has no home")
	}
	if host.count("guest") != 0 {
		t.Error("the host was asked about guest")
	}
	shadow := c.read("etc/shadow")
	for password, want := range map[string]bool{annsPassword: true, annsPassword + "\n": true, "outdated": false} {
		c.write("etc/shadow", strings.Replace(shadow, "ann:pamltsp:", "ann:pamltsp="+base64.StdEncoding.EncodeToString([]byte(password))+":", 1), 0o644)
		if out, ok := c.authenticate("ann", "whatever"); ok != want {
			t.Errorf("stored %q: %v, %s", password, ok, out)
		}
	}
	c.write("etc/shadow", strings.Replace(shadow, "ann:pamltsp:", "ann:!pamltsp=:", 1), 0o644)
	if out, ok := c.authenticate("ann", annsPassword); ok {
		t.Errorf("a locked user: %s", out)
	}
}

func TestHostileNames(t *testing.T) {
	host := newLoginHost(t, hostAddr)
	c := newClient(t, noSSHFS, host)
	connections := host.count("Connection from")
	for _, name := range []string{"nobody-there", "-oProxyCommand=touch /tmp/owned", "ann;touch /tmp/owned", "$(touch /tmp/owned)", "../ann", "ann@evil", strings.Repeat("a", 300), "root", "a b", "ann\nbob"} {
		if out, ok := c.authenticate(name, annsPassword); ok {
			t.Errorf("%q was let in: %s", name, out)
		}
	}
	if c.exists("tmp/owned") {
		t.Error("a name was run")
	}
	if n := host.count("Connection from") - connections; n != 0 {
		t.Errorf("the host was asked %d times", n)
	}
	// root is the client's own, whatever shadow says.
	c.write("etc/shadow", strings.Replace(c.read("etc/shadow"), "root:", "root:pamltsp=:1::::::\nwas:", 1), 0o644)
	if out, ok := c.authenticate("root", ""); ok {
		t.Errorf("root was let in: %s", out)
	}
}

// TestEnvironment has whoever starts PAM put words into its environment that mean something to the agent elsewhere.
func TestEnvironment(t *testing.T) {
	c := newClient(t, noSSHFS, newLoginHost(t, hostAddr))
	out, code := c.run(as{stdin: "wrong\n"}, "pamtester", "-ELTSP_AGENT_ASKPASS=1", "-EPATH=/tmp", "ltsp-test", "ann", "authenticate")
	if code == 0 {
		t.Errorf("let in: %s", out)
	}
}

func TestUnlock(t *testing.T) {
	host := newLoginHost(t, hostAddr)
	c := newClient(t, noSSHFS, host)
	ann, bob := as{uid: annUID}, as{uid: bobUID}
	if out, ok := c.pam(ann, "ann", annsPassword, "authenticate"); ok {
		t.Errorf("before any login: %s", out)
	}
	if out, ok := c.authenticate("ann", annsPassword); !ok {
		t.Fatal(out)
	}
	entry, err := os.Stat(c.path(fmt.Sprintf("run/ltsp/pam/%d", annUID)))
	if err != nil || entry.Mode() != 0o400 || entry.Sys().(*syscall.Stat_t).Uid != annUID {
		t.Errorf("entry: %v, %v", entry, err)
	}
	if text := c.read(fmt.Sprintf("run/ltsp/pam/%d", annUID)); strings.Contains(text, "Horse") {
		t.Errorf("the password can be read: %s", text)
	}
	host.setPassword("ann", "new one")
	if out, ok := c.pam(ann, "ann", "new one", "authenticate"); !ok {
		t.Errorf("a password that has changed on the host: %s", out)
	}
	host.stop()
	if out, ok := c.pam(ann, "ann", annsPassword, "authenticate"); !ok {
		t.Errorf("with the host away: %s", out)
	}
	if out, ok := c.pam(ann, "ann", "wrong", "authenticate"); ok || !strings.Contains(out, "does not answer") {
		t.Errorf("a wrong password, with the host away: %v, %s", ok, out)
	}
	if out, ok := c.pam(bob, "ann", annsPassword, "authenticate"); ok {
		t.Errorf("bob unlocked as ann: %s", out)
	}
	if out, ok := c.pam(ann, "bob", annsPassword, "authenticate"); ok {
		t.Errorf("ann unlocked as bob: %s", out)
	}
}

// TestWholeLogin has ann log in to the client over the network: a stock program that uses PAM from the password to the last process.
func TestWholeLogin(t *testing.T) {
	host := newLoginHost(t, hostAddr)
	c := newClient(t, withSSHFS, host)
	c.write("etc/ssh/sshd_config", "ListenAddress "+clientAddr+"\nHostKey /etc/ssh/key\nUsePAM yes\nKbdInteractiveAuthentication yes\nPasswordAuthentication no\n", 0o600)
	c.write("etc/pam.d/sshd", c.read("etc/pam.d/ltsp-test"), 0o644)
	c.must(as{}, "sh", "-c", "mkdir -p /run/sshd; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/key")
	c.start(as{}, "/usr/sbin/sshd", "-D", "-e")
	host.write("tmp/askpass", "#!/bin/sh\ncat /tmp/password\n", 0o755)
	host.write("tmp/password", annsPassword+"\n", 0o644)
	ssh := func(command string) []string {
		return []string{"ssh", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "NumberOfPasswordPrompts=1", "-o", "PubkeyAuthentication=no",
			"ann@" + clientAddr, command}
	}
	user := as{env: []string{"SSH_ASKPASS=/tmp/askpass", "SSH_ASKPASS_REQUIRE=force"}}
	await(t, "the client's sshd answers", func() bool {
		out, _ := host.run(as{env: []string{"SSH_ASKPASS=/bin/false", "SSH_ASKPASS_REQUIRE=force"}}, ssh("true")...)
		return strings.Contains(out, "Permission denied")
	})
	stop, log := host.start(user, ssh("cat on-the-host; echo yes >from-the-session; exec sleep 300")...)
	await(t, "the session works in the home: "+log.String(), func() bool { return host.exists("home/ann/from-the-session") })
	sessions := c.spool().Logins()
	if len(sessions) != 1 || sessions[0].Kind != "login" || sessions[0].User != "ann" {
		t.Errorf("sessions %+v", sessions)
	}
	await(t, "the session sleeps", func() bool { return len(c.processes("sleep")) == 2 })
	for _, pid := range c.processes("sleep") { // the first process of the client is one, too
		if pid != c.first {
			_ = syscall.Kill(pid, syscall.SIGTERM)
		}
	}
	stop()
	await(t, "the session is over", func() bool { return len(c.spool().Logins()) == 0 })
	awaitFor(t, 60*time.Second, "the home is unmounted", func() bool { return c.homeKind("ann") == "" })
	host.write("tmp/password", "wrong\n", 0o644)
	if out, code := host.run(user, ssh("true")...); code != 255 {
		t.Errorf("a wrong password: %d, %s", code, out)
	}
	host.stop()
	host.write("tmp/password", annsPassword+"\n", 0o644)
	if out, code := host.run(user, ssh("true")...); code != 255 || !strings.Contains(out, "does not answer") {
		t.Errorf("the login host is away: %d, %s", code, out)
	}
}

// TestOneSession has the wrapper end what its session leaves.
func TestOneSession(t *testing.T) {
	c := newClient(t, noSSHFS)
	c.must(as{}, "install", "-d", "-o", "ann", "-g", "ann", "/home/ann")
	ann := as{uid: annUID, env: []string{"HOME=/home/ann"}}
	out, code := c.run(ann, "/run/ltsp/agent", "session", "sh", "-c", "setsid sleep 300 >/dev/null 2>&1 & ls /home/ann/.config/ltsp/session; exit 3")
	if code != 3 || len(strings.Fields(out)) != 1 {
		t.Errorf("%d, %q", code, out)
	}
	await(t, "nothing is left", func() bool { return len(c.processes("sleep")) == 1 }) // the first process
	if out, code := c.run(as{}, "/run/ltsp/agent", "session", "true"); code != 2 {
		t.Errorf("root: %d, %s", code, out)
	}
}

// TestPasswordIsNowhere looks at all processes while a password is being checked, and at what is left.
func TestPasswordIsNowhere(t *testing.T) {
	host := newLoginHost(t, hostAddr)
	host.must(as{}, "sed", "-i", "s/ nodelay//", "/etc/pam.d/common-auth") // so that there is time to look
	const secret = "S3cret-That-Shows"
	for _, sshfs := range []bool{false, true} {
		c := newClient(t, loginconf.Settings{AuthType: loginconf.Primary, SSHFS: sshfs, MkHomeDir: true}, host)
		host.setPassword("ann", secret)
		done := make(chan struct{})
		seen := make(chan string, 1)
		looks := 0
		go func() {
			defer close(seen)
			for {
				select {
				case <-done:
					return
				default:
				}
				if where := showing(secret); where != "" {
					seen <- where
					return
				}
				looks++
			}
		}()
		for _, typed := range []string{secret + "-wrong", secret} { // a wrong one takes seconds
			_, ok := c.authenticate("ann", typed)
			if ok != (typed == secret) {
				t.Errorf("%s: %v", typed, ok)
			}
		}
		close(done)
		if where := <-seen; where != "" {
			t.Errorf("sshfs %v: the password shows in %s", sshfs, where)
		}
		if looks < 10 {
			t.Errorf("only %d looks", looks)
		}
		out, err := exec.Command("grep", "-rlsF", secret, c.path("run"), c.path("etc"), c.path("tmp"), c.path("var/log")).Output()
		if len(out) > 0 || err == nil {
			t.Errorf("sshfs %v: the password is in %s", sshfs, out)
		}
	}
}

// showing returns where a text shows in the arguments or the environment of a process that is not the test's own doing.
func showing(secret string) string {
	files, _ := filepath.Glob("/proc/[0-9]*/[ce][mn][dv]*") // cmdline, environ
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), secret) {
			return f + ": " + strings.ReplaceAll(string(text), "\x00", " ")
		}
	}
	return ""
}
