//go:build component

package command

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// fleet is a controller of the built binary, and ltspctl for it.
type fleet struct {
	t        *testing.T
	contexts string
}

func startFleet(t *testing.T) *fleet {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(os.Getenv("LTSP_BIN"), "ltsp-controller")
	if os.Getenv("LTSP_BIN") == "" {
		binary = filepath.Join(dir, "ltsp-controller")
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../../../controller/cmd/ltsp-controller").CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close() // the controller takes the port over
	data := filepath.Join(dir, "data")
	if out, err := exec.CommandContext(t.Context(), binary, "init", "--data-dir", data, "--address", addr).CombinedOutput(); err != nil {
		t.Fatalf("init: %v\n%s", err, out)
	}
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, binary, "serve", "--data-dir", data, "--listen", addr, "--metrics", "")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	var log strings.Builder
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait() // it was interrupted
		if t.Failed() {
			t.Logf("log of the controller:\n%s", log.String())
		}
	})
	awaitListener(t, addr)
	return &fleet{t: t, contexts: filepath.Join(data, "admin.yaml")}
}

func awaitListener(t *testing.T, addr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		if conn, err := net.Dial("tcp", addr); err == nil {
			_ = conn.Close() // it was there: that is all we wanted
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal("the controller does not listen")
		case <-ticker.C:
		}
	}
}

// run runs ltspctl with an input. Arguments are words of one string; "'" keeps blanks together.
func (f *fleet) run(input, line string) (code int, stdout, stderr string) {
	f.t.Helper()
	var args []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			args = append(args, part)
			continue
		}
		args = append(args, strings.Fields(part)...)
	}
	var out, errs strings.Builder
	root := New(&out, &errs)
	root.SetIn(strings.NewReader(input))
	root.SetArgs(append([]string{"--contexts", f.contexts}, args...))
	err := root.ExecuteContext(f.t.Context())
	if err != nil {
		code = exitCode(f.t.Context(), err)
		errs.WriteString(message(err))
	}
	return code, out.String(), errs.String()
}

// want runs ltspctl and checks the exit code and words in what it printed.
func (f *fleet) want(code int, input, line string, words ...string) string {
	f.t.Helper()
	got, stdout, stderr := f.run(input, line)
	if got != code {
		f.t.Fatalf("ltspctl %s: exit code %d, want %d\n%s%s", line, got, code, stdout, stderr)
	}
	for _, w := range words {
		if !strings.Contains(stdout+stderr, w) {
			f.t.Errorf("ltspctl %s: no %q in\n%s%s", line, w, stdout, stderr)
		}
	}
	return stdout
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// An admin takes over an LTSP server's /etc/ltsp, changes it in all the ways that there are, and goes back.
func TestPolicyCommands(t *testing.T) {
	f := startFleet(t)
	dir := t.TempDir()
	f.want(ExitOK, "", "site create a")
	f.want(ExitOK, "", "subnet create lan --site a --cidr 10.1.0.0/24 --range 10.1.0.50-10.1.0.99 --room lab")
	f.want(ExitOK, "", "client set 52:54:00:00:00:01 --site a --name pc01 --address 10.1.0.11")
	f.want(ExitOK, "", "client set 52:54:00:00:00:02 --site a --name pc02 --room office")

	etc := filepath.Join(dir, "etc")
	write(t, filepath.Join(etc, "ltsp.conf"), "[server]\nNFS_HOME=1\n[common]\nSERVER=10.0.0.1\n[clients]\nAUTOLOGIN=guest\n[pc01]\nAUTOLOGIN=one\n")
	write(t, filepath.Join(etc, "client/init/60-x.sh"), "true\n")
	f.want(ExitOK, "", "policy import "+etc+" --site a", "ltsp.conf:4: SERVER", "[server]", "add --yes")
	f.want(ExitNotFound, "", "policy get --site a")
	f.want(ExitOK, "", "policy import "+etc+" --site a --yes", "site/a")
	if got := f.want(ExitOK, "", "policy get --site a"); !strings.Contains(got, "AUTOLOGIN=one") {
		t.Errorf("get: %s", got)
	}
	f.want(ExitOK, "", "client explain pc01 AUTOLOGIN", "ltsp.conf:8", "[pc01]", "lost: guest")
	f.want(ExitUsage, "", "policy get")
	f.want(ExitUsage, "", "policy get --org --site a")

	conf := filepath.Join(dir, "ltsp.conf")
	write(t, conf, "[clients]\nAUTOLOGIN=lab\n")
	f.want(ExitOK, "", "policy plan "+conf+" --room a/lab", "1 of 1 clients", "pc01", "one", "+ ltsp.conf")
	var plan planView
	if err := json.Unmarshal([]byte(f.want(ExitOK, "", "policy plan "+conf+" --room a/lab -o json")), &plan); err != nil || len(plan.Clients) != 1 || *plan.Clients[0].Changes[0].After != "lab" {
		t.Errorf("plan %+v, %v", plan, err)
	}
	f.want(ExitFailed, "n\n", "policy apply "+conf+" --room a/lab", "Apply it?", "nothing was changed")
	f.want(ExitUsage, "", "policy apply "+conf+" --room a/lab", "add --yes")
	f.want(ExitOK, "y\n", "policy apply "+conf+" --room a/lab --note 'for the lab'", "room/a/lab")
	f.want(ExitOK, "", "client explain pc01 AUTOLOGIN", "room/a/lab", "lost: one", "lost: guest")
	write(t, conf, "[clients\nif\n")
	f.want(ExitInvalid, "", "policy apply "+conf+" --room a/lab --yes", "room/a/lab/ltsp.conf")
	f.want(ExitInvalid, "", "policy plan "+conf+" --room a/lab", "would be refused")

	f.want(ExitOK, "A=1\n", "policy set ltsp-init.conf --from - --site a", "site/a")
	f.want(ExitUsage, "", "policy set x --site a")
	f.want(ExitInvalid, "", "policy set ../x --from "+conf+" --site a")
	f.want(ExitOK, "", "policy diff --site a", "new file (mode 0600) ltsp-init.conf", "+A=1")
	f.want(ExitOK, "", "policy set ltsp-init.conf --remove --site a")
	f.want(ExitNotFound, "", "policy set ltsp-init.conf --remove --site a")
	f.want(ExitOK, "", "policy history --site a", "3 ")
	f.want(ExitOK, "", "policy undo --site a --to 2", "as version 2 again")
	copied := filepath.Join(dir, "copy")
	f.want(ExitOK, "", "policy get --site a -d "+copied, "site/a@4")
	if got := f.want(ExitOK, "", "policy diff "+copied+" --site a"); strings.Contains(got, "@@") {
		t.Errorf("the copy differs: %s", got)
	}
	f.want(ExitOK, "", "policy list", "room/a/lab", "site/a")
	f.want(ExitOK, "", "policy list --site a", "client/init/60-x.sh")
	f.want(ExitOK, "", "audit list --object site/a", "policy.undo", "policy.apply")
}

// The editor is opened again after an error; what was not changed is not applied.
func TestPolicyEdit(t *testing.T) {
	f := startFleet(t)
	dir := t.TempDir()
	editor := filepath.Join(dir, "editor")
	t.Setenv("VISUAL", editor)
	write(t, editor, "#!/bin/sh\nif test -e "+dir+"/mended; then echo 'AUTOLOGIN=guest' >$1; else echo 'if' >$1; : >"+dir+"/mended; fi\n")
	f.want(ExitOK, "y\ny\n", "policy edit --org --note edited", "Edit again?", "Apply it?", "organisation")
	if got := f.want(ExitOK, "", "policy get --org"); got != "AUTOLOGIN=guest\n" {
		t.Errorf("got %q", got)
	}
	f.want(ExitFailed, "", "policy edit --org", "nothing was changed")
	write(t, editor, "#!/bin/sh\necho X=1 >$1\n")
	f.want(ExitFailed, "\n", "policy edit --org", "Apply it?", "nothing was changed")
	write(t, editor, "#!/bin/sh\nexit 3\n")
	f.want(ExitFailed, "", "policy edit --org", "editor")
}

func TestRemoteappCommands(t *testing.T) {
	f := startFleet(t)
	f.want(ExitOK, "", "site create a")
	f.want(ExitOK, "", "remoteapp add calc --site a --exec 'libreoffice --calc' --title Calc --host apps1 --host apps2:2222", "site/a")
	f.want(ExitUsage, "", "remoteapp add ../x --site a")
	f.want(ExitOK, "", "remoteapp add gimp --org")
	f.want(ExitOK, "", "remoteapp list", "libreoffice --calc", "apps1 apps2:2222", "organisation")
	f.want(ExitOK, "", "policy get remoteapps.d/calc.conf --site a", "Hosts=apps1 apps2:2222")
	f.want(ExitOK, "", "remoteapp remove calc --site a")
	f.want(ExitNotFound, "", "remoteapp remove calc --site a")
	if got := f.want(ExitOK, "", "remoteapp list --site a -o json"); strings.TrimSpace(got) != "[]" {
		t.Errorf("list %s", got)
	}
	f.want(ExitOK, "", "remoteapp sessions", "APPLICATION")
}

// sshServer answers handshakes with a key until the test ends, and returns its address, port and fingerprint.
func sshServer(t *testing.T) (port, fingerprint string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _, _, _ = ssh.NewServerConn(conn, config) // which the other side breaks off
			_ = conn.Close()                             // it has its answer
		}
	})
	t.Cleanup(func() {
		_ = l.Close() // which ends the goroutine
		wg.Wait()
	})
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port, ssh.FingerprintSHA256(signer.PublicKey())
}

func TestLoginHostCommands(t *testing.T) {
	f := startFleet(t)
	port, fingerprint := sshServer(t)
	f.want(ExitOK, "", "site create a")
	f.want(ExitNotFound, "", "site pin a", "no login host")
	f.want(ExitOK, "", "site set a --login-host 127.0.0.1 --login-user reader --login-port "+port)
	f.want(ExitOK, "", "site show a", "127.0.0.1 port "+port+" as reader", "none is pinned")
	f.want(ExitInvalid, "", "site pin a --fingerprint SHA256:another", "somebody sits in between")
	f.want(ExitFailed, "no\n", "site pin a", fingerprint, "nothing was changed")
	f.want(ExitOK, "", "site pin a --fingerprint "+fingerprint, "1 host keys")
	f.want(ExitOK, "yes\n", "site pin a", "(pinned)")
	f.want(ExitOK, "", "site show a", "ssh-ed25519 "+fingerprint)
	f.want(ExitOK, "", "site set a --login-host srv.example.org")
	f.want(ExitOK, "", "site show a", "none is pinned") // another host's keys are others
	f.want(ExitUsage, "", "site set a --login-host-key rubbish")
	f.want(ExitOK, "", "site set a --login-host local")
	f.want(ExitUsage, "", "site pin a", "the satellite itself")
	f.want(ExitOK, "", "site login-key a")
}

func TestClientCommands(t *testing.T) {
	f := startFleet(t)
	f.want(ExitOK, "", "site create a")
	f.want(ExitOK, "", "client set 52:54:00:00:00:01 --site a --name pc01")
	f.want(ExitFailed, "", "client wake pc01", "pc01 (52:54:00:00:00:01): no satellite of the site is connected", "failed on 1 of 1")
	f.want(ExitFailed, "n\n", "client reboot --site a", "reboot all clients of site a?")
	f.want(ExitFailed, "", "client reboot --site a --yes", "failed on 1 of 1")
	f.want(ExitFailed, "", "client message pc01 --text 'Lunch!'")
	f.want(ExitUsage, "", "client message pc01")
	f.want(ExitUsage, "", "client reboot")
	f.want(ExitUsage, "", "client run pc01 id", "behind --")
	f.want(ExitDenied, "", "client run pc01 -- id", "--allow-run")
	f.want(ExitOK, "", "site set a --allow-run")
	f.want(ExitFailed, "", "client run pc01 -- id")
	var results []commandResultView
	_, out, _ := f.run("", "client logs pc01 -o json")
	if err := json.Unmarshal([]byte(out), &results); err != nil || len(results) != 1 || results[0].Name != "pc01" || results[0].Error == "" {
		t.Errorf("results %s, %v", out, err)
	}
	f.want(ExitOK, "", "client events --site a", "KIND")
	f.want(ExitOK, "", "audit list", "client.wake", "client.run")
}
