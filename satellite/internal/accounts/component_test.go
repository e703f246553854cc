//go:build component

package accounts

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/accountfeed"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// loginHost is OpenSSH's server with its own configuration, in a mount namespace in which /etc/passwd and /etc/group are the test's.
type loginHost struct {
	t    *testing.T
	dir  string
	port uint16
	cmd  *exec.Cmd
	log  output
}

// output collects what a process prints.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

const sshdPath = "/usr/sbin/sshd"

func newLoginHost(t *testing.T, authorized string) *loginHost {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("root is needed")
	}
	h := &loginHost{t: t, dir: t.TempDir()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.port = netip.MustParseAddrPort(l.Addr().String()).Port()
	l.Close()
	for name, file := range map[string]string{"passwd": "/etc/passwd", "group": "/etc/group"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		h.write(name, string(text))
	}
	h.write("authorized_keys", authorized+"\n")
	h.newHostKey()
	h.write("sshd_config", strings.Join([]string{
		fmt.Sprintf("ListenAddress 127.0.0.1:%d", h.port), "HostKey " + h.dir + "/host_key", "PidFile none", "UsePAM no", "StrictModes no",
		"PermitRootLogin yes", "PasswordAuthentication no", "KbdInteractiveAuthentication no", "AuthorizedKeysFile " + h.dir + "/authorized_keys",
	}, "\n")+"\n")
	h.start()
	t.Cleanup(h.stop)
	return h
}

func (h *loginHost) write(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// add appends to a file by one write: who reads it meanwhile sees all or nothing of it.
func (h *loginHost) add(name, line string) {
	h.t.Helper()
	f, err := os.OpenFile(filepath.Join(h.dir, name), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		h.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(line + "\n"); err != nil {
		h.t.Fatal(err)
	}
}

func (h *loginHost) newHostKey() {
	h.t.Helper()
	for _, f := range []string{"host_key", "host_key.pub"} {
		_ = os.Remove(filepath.Join(h.dir, f)) // the first time there is none
	}
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(h.dir, "host_key")).CombinedOutput(); err != nil {
		h.t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
}

func (h *loginHost) setting() config.LoginHost {
	h.t.Helper()
	key, err := os.ReadFile(filepath.Join(h.dir, "host_key.pub"))
	if err != nil {
		h.t.Fatal(err)
	}
	return config.LoginHost{Address: "127.0.0.1", Port: h.port, User: "root", HostKeys: []string{strings.TrimSpace(string(key))}}
}

func (h *loginHost) start() {
	h.t.Helper()
	script := `mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/group" /etc/group && mkdir -p /run/sshd && exec ` + sshdPath + ` -D -e -f "$1/sshd_config"`
	h.cmd = exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", h.dir)
	h.cmd.Stdout, h.cmd.Stderr = &h.log, &h.log
	h.cmd.WaitDelay = 5 * time.Second
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", h.port))
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("sshd does not listen: %v\n%s", err, h.log.String())
		}
	}
}

// stop ends the server and its sessions: they are in its process namespace.
func (h *loginHost) stop() {
	if h.cmd == nil {
		return
	}
	_ = h.cmd.Process.Kill() // it may have ended
	_ = h.cmd.Wait()
	h.cmd = nil
}

// names waits for a change whose users have all of some names and none of others.
func (w *watched) names(has, hasNot string) {
	w.t.Helper()
	for {
		change := " " + strings.TrimSuffix(await(w.t, "change with "+has, w.changes), " []") + " "
		if strings.Contains(change, " "+has+" ") && (hasNot == "" || !strings.Contains(change, " "+hasNot+" ")) {
			return
		}
	}
}

func TestOpenSSH(t *testing.T) {
	dir := t.TempDir()
	w := watch(t, dir, nil)
	h := newLoginHost(t, "")
	w.SetHost(h.setting())
	if text := await(t, "problem", w.problems); !strings.Contains(text, "authorized_keys") || w.Status().State != Denied {
		t.Errorf("told %q, state %s; sshd says:\n%s", text, w.Status().State, h.log.String())
	}
	h.write("authorized_keys", "restrict "+w.Status().PublicKey+"\n")
	w.names("root", "anna")
	// A new user is known at once, one that goes is forgotten.
	before, err := os.ReadFile(filepath.Join(h.dir, "passwd"))
	if err != nil {
		t.Fatal(err)
	}
	h.add("passwd", "anna:x:1000:1000:Anna:/home/anna:/bin/bash")
	w.names("anna", "")
	h.write("passwd", string(before))
	w.names("root", "anna")
	if st := w.Status(); st.State != OK {
		t.Errorf("status %+v", st)
	}
}

func TestOpenSSHForcedCommand(t *testing.T) {
	w := watch(t, t.TempDir(), nil)
	h := newLoginHost(t, "")
	h.write("script", "#!/bin/sh\n"+accountfeed.Script()+"\n")
	if err := os.Chmod(filepath.Join(h.dir, "script"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.write("authorized_keys", `restrict,command="`+h.dir+`/script" `+w.Status().PublicKey+"\n")
	w.SetHost(h.setting())
	w.names("root", "ben")
	h.add("passwd", "ben:x:1001:1001::/home/ben:/bin/sh")
	w.names("ben", "")
}

func TestOpenSSHWithAnotherKey(t *testing.T) {
	dir := t.TempDir()
	w := watch(t, dir, nil)
	h := newLoginHost(t, w.Status().PublicKey)
	h.add("passwd", "anna:x:1000:1000:Anna:/home/anna:/bin/bash")
	setting := h.setting()
	w.SetHost(setting)
	w.names("anna", "")
	h.stop()
	h.newHostKey()
	h.start()
	for {
		if text := await(t, "problem", w.problems); strings.Contains(text, "is not the pinned one") && strings.Contains(text, "clients keep the accounts of") {
			break
		}
	}
	// The same after a restart of the satellite.
	again := watch(t, dir, nil)
	again.SetHost(setting)
	again.names("anna", "") // known from before
	if text := await(t, "problem", again.problems); !strings.Contains(text, "is not the pinned one") {
		t.Errorf("told %q", text)
	}
	if st := again.Status(); st.State != HostKey || st.Users == 0 {
		t.Errorf("status %+v", st)
	}
	again.SetHost(h.setting())
	for deadline := time.Now().Add(patience); again.Status().State != OK; {
		if time.Now().After(deadline) {
			t.Fatalf("not connected after the new key was pinned: %+v", again.Status())
		}
	}
}
