package accounts

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/ssh"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// patience bounds waits; it is reached only when something is broken.
const patience = 60 * time.Second

const (
	anna   = "root:x:0:0:root:/root:/bin/bash\nanna:x:1000:1000::/home/anna:/bin/bash"
	annaBe = anna + "\nben:x:1001:1001::/home/ben:/bin/bash"
	groups = "root:x:0:\npupils:x:1000:anna"
)

// watched is a Watcher that runs, with what it tells.
type watched struct {
	*Watcher
	t        *testing.T
	changes  chan string // "ADDRESS: NAME NAME ... [KEYS]"
	problems chan string // of the login host; not the ends
}

func watch(t *testing.T, dir string, change func(*Config)) *watched {
	t.Helper()
	w := &watched{t: t, changes: make(chan string, 100), problems: make(chan string, 100)}
	cfg := Config{Dir: dir, Comment: "sat1", Metrics: prometheus.NewRegistry(),
		Changed: func(address string, a Accounts) {
			u, err := agentproto.ParseUsers(a.Users)
			if err != nil {
				t.Error(err)
				return
			}
			var names []string
			for line := range lines(u.Passwd) {
				name, _, _ := strings.Cut(line, ":")
				names = append(names, name)
			}
			w.changes <- fmt.Sprintf("%s: %s %v", address, strings.Join(names, " "), a.HostKeys)
		},
		Problem: func(key, text string) {
			if key == "login-host" && text != "" {
				w.problems <- text
			}
		}}
	if change != nil {
		change(&cfg)
	}
	var err error
	if w.Watcher, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

func await(t *testing.T, what string, ch <-chan string) string {
	t.Helper()
	select {
	case s := <-ch:
		return s
	case <-time.After(patience):
		t.Fatalf("no %s", what)
		return ""
	}
}

func (w *watched) expect(change string) {
	w.t.Helper()
	if got := await(w.t, "change "+change, w.changes); got != change {
		w.t.Errorf("changed to %q, want %q", got, change)
	}
}

func TestAccountsComeAndChange(t *testing.T) {
	t.Parallel()
	more := make(chan string)
	s := newSSHD(t, prints("Welcome to the login host\n"+frame(anna, groups), more))
	dir := t.TempDir()
	w := watch(t, dir, nil)
	if st := w.Status(); st.State != Unset || !strings.HasPrefix(st.PublicKey, "ssh-ed25519 ") || !strings.HasSuffix(st.PublicKey, " sat1") {
		t.Errorf("status without a login host: %+v", st)
	}
	s.mu.Lock()
	s.accept = w.Status().PublicKey
	s.mu.Unlock()
	w.SetHost(s.host(newKey(t), s.key))
	w.expect("127.0.0.1: root anna []")
	if st := w.Status(); st.State != OK || st.Error != "" || st.Users != 1 || st.Updated.IsZero() {
		t.Errorf("status: %+v", st)
	}
	more <- aliveMark + "\n"
	more <- frame(anna, groups) // the same is no news
	more <- frame(annaBe, groups)
	w.expect("127.0.0.1: root anna ben []")
	w.SetHost(s.host(newKey(t), s.key)) // as before
	w.SetHost(config.LoginHost{})
	for deadline := time.Now().Add(patience); w.Status().State != Unset; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the login host is still watched")
		}
	}
	if info, err := os.Stat(filepath.Join(dir, keyName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", info, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.users) == 0 || s.users[0] != "reader" {
		t.Errorf("logged in as %q", s.users)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	good := prints(frame(anna, groups), make(chan string))
	tests := []struct {
		name  string
		run   func(string, ssh.Channel)
		setup func(*sshd) config.LoginHost
		state State
		text  string
	}{
		{"no key pinned", good, func(s *sshd) config.LoginHost { return s.host() }, HostKey, "no host key is pinned"},
		{"another key pinned", good, func(s *sshd) config.LoginHost { return s.host(newKey(s.t)) }, HostKey, "is not the pinned one"},
		{"nonsense pinned", good, func(s *sshd) config.LoginHost {
			h := s.host()
			h.HostKeys = []string{"ssh-ed25519 AAAA"}
			return h
		}, HostKey, "pinned host key"},
		{"key not accepted", good, func(s *sshd) config.LoginHost {
			s.accept = "ssh-ed25519 someone else's"
			return s.host(s.key)
		}, Denied, "authorized_keys"},
		{"nobody there", good, func(s *sshd) config.LoginHost { s.stop(); return s.host(s.key) }, Unreachable, "refused"},
		{"no accounts", prints(frame("", ""), make(chan string)), func(s *sshd) config.LoginHost { return s.host(s.key) }, Failed, "no users"},
		{"something else", prints("hello\n"+aliveMark+"\nbye\n", make(chan string)), func(s *sshd) config.LoginHost { return s.host(s.key) }, Failed, "something else"},
		{"a command that ends", func(_ string, ch ssh.Channel) {
			_, _ = ch.Stderr().Write([]byte("getent: not\x1b found\n"))
		}, func(s *sshd) config.LoginHost { return s.host(s.key) }, Failed, "getent: not found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSSHD(t, tt.run)
			w := watch(t, t.TempDir(), nil)
			w.SetHost(tt.setup(s))
			text := await(t, "problem", w.problems)
			if !strings.Contains(text, tt.text) || !strings.Contains(text, "no accounts are known") {
				t.Errorf("told %q", text)
			}
			if st := w.Status(); st.State != tt.state || st.Error == "" {
				t.Errorf("status %+v, want %s", st, tt.state)
			}
			if tt.state == HostKey {
				s.mu.Lock()
				defer s.mu.Unlock()
				if len(s.users) != 0 {
					t.Error("the satellite tried to log in at a host that it does not know")
				}
			}
		})
	}
}

func TestLastKnownAccountsStay(t *testing.T) {
	t.Parallel()
	s := newSSHD(t, prints(frame(anna, groups), make(chan string)))
	dir := t.TempDir()
	w := watch(t, dir, nil)
	w.SetHost(s.host(s.key))
	w.expect("127.0.0.1: root anna []")
	s.stop()
	if text := await(t, "problem", w.problems); !strings.Contains(text, "clients keep the accounts of") {
		t.Errorf("told %q", text)
	}
	// Another satellite process, the login host away: what was known is told at once.
	again := watch(t, dir, nil)
	again.SetHost(s.host(s.key))
	again.expect("127.0.0.1: root anna []")
	await(t, "problem", again.problems)
	if st := again.Status(); st.State != Unreachable || st.Users != 1 || st.Updated.IsZero() {
		t.Errorf("status %+v", st)
	}
	if again.Status().PublicKey != w.Status().PublicKey {
		t.Error("the key is another after a restart")
	}
	// It comes back, and with another key it is not believed.
	s.mu.Lock()
	key := s.key
	s.key, s.run = newKey(t), prints(frame(annaBe, groups), make(chan string))
	s.mu.Unlock()
	s.start()
	for {
		if text := await(t, "problem", again.problems); strings.Contains(text, "is not the pinned one") {
			break
		}
	}
	s.stop()
	s.mu.Lock()
	s.key = key
	s.mu.Unlock()
	s.start()
	again.expect("127.0.0.1: root anna ben []")
	// Accounts of another host are not this one's.
	other := watch(t, dir, nil)
	other.SetHost(config.LoginHost{Address: "127.0.0.2", Port: 1, User: "reader", HostKeys: s.host(s.key).HostKeys})
	await(t, "problem", other.problems)
	if n := len(other.changes); n != 0 {
		t.Errorf("told %q", <-other.changes)
	}
}

func TestDamagedFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, lastName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if w, err := New(Config{Dir: dir}); err != nil || w.last != nil {
		t.Errorf("damaged accounts: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, keyName), []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Dir: dir}); err == nil {
		t.Error("a damaged key was accepted: a new one would be unknown to the login host")
	}
}

func TestLocal(t *testing.T) {
	t.Parallel()
	etc := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(etc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		// As vipw and useradd do: a new file takes the old one's place.
		if err := os.WriteFile(path+"+", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+"+", path); err != nil {
			t.Fatal(err)
		}
	}
	key := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(newKey(t).PublicKey())))
	write("passwd", anna+"\n")
	write("group", groups+"\n")
	write("ssh/ssh_host_ed25519_key.pub", key+" root@host\n")
	write("ssh/ssh_host_rsa_key.pub", "nonsense\n")
	w := watch(t, t.TempDir(), func(c *Config) { c.Etc = etc })
	w.SetHost(config.LoginHost{Address: config.LocalLogin, Port: 22, User: "ltsp"})
	w.expect("local: root anna [" + key + "]")
	write("passwd", annaBe+"\n")
	w.expect("local: root anna ben [" + key + "]")
	if st := w.Status(); st.State != OK || st.Users != 2 {
		t.Errorf("status %+v", st)
	}
	if err := os.Remove(filepath.Join(etc, "group")); err != nil {
		t.Fatal(err)
	}
	if text := await(t, "problem", w.problems); !strings.Contains(text, "accounts of this machine") {
		t.Errorf("told %q", text)
	}
}

func TestMetricsAreThoseOfTheDocumentation(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	if _, err := New(Config{Dir: t.TempDir(), Metrics: reg}); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(doc), "ltsp_satellite_"); n != len(families) {
		t.Errorf("%d metrics documented, %d registered", n, len(families))
	}
	for _, f := range families {
		if !strings.Contains(string(doc), f.GetName()) {
			t.Errorf("%s is not documented", f.GetName())
		}
	}
}
