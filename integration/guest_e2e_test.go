//go:build e2e

package integration

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testvm"
)

// guest is a PC on whose serial console root is logged in.
type guest struct {
	*testvm.VM
	t *testing.T
}

// in is the guest for a subtest.
func (g guest) in(t *testing.T) guest { return guest{g.VM, t} }

var answers atomic.Int64

// sh runs a command in the shell that has the console and returns what it printed, and its exit code.
func (g guest) sh(command string) (string, int) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 2*time.Minute)
	defer cancel()
	n := answers.Add(1)
	// The terminal echoes the command: the quotes keep the echo from looking like the answer.
	g.must(g.Send(fmt.Sprintf("echo 'BE''GIN%d'; %s; echo 'E''ND%d='$?=\n", n, command, n)))
	m, err := g.Expect(ctx, fmt.Sprintf(`(?s)BEGIN%d\r?\n(.*?)END%d=(\d+)=`, n, n))
	if err != nil {
		g.t.Fatalf("%s: %v\nconsole:\n%s", command, err, g.Tail(60))
	}
	code := 0
	if _, err := fmt.Sscan(m.Groups[1], &code); err != nil {
		g.t.Fatal(err)
	}
	return strings.ReplaceAll(strings.TrimSpace(m.Groups[0]), "\r", ""), code
}

// wants runs a command and compares what it printed with a pattern.
func (g guest) wants(what, command, pattern string) {
	g.t.Helper()
	if got, _ := g.sh(command); !regexp.MustCompile(`(?m)` + pattern).MatchString(got) {
		g.t.Errorf("%s: %s printed %q, want %s", what, command, got, pattern)
	}
}

// until runs a command again and again until its output matches, and returns how long that took.
func (g guest) until(what, command, pattern string, limit time.Duration) time.Duration {
	g.t.Helper()
	began := time.Now()
	re := regexp.MustCompile(`(?m)` + pattern)
	for {
		got, _ := g.sh(command)
		if took := time.Since(began); re.MatchString(got) {
			return took
		} else if took > limit {
			g.t.Fatalf("%s: after %v %s prints %q, want %s\nconsole:\n%s", what, took.Round(time.Second), command, got, pattern, g.Tail(20))
		}
		g.sh("sleep 0.5")
	}
}

// logIn types a name and a password at the program login. True: a shell of the user has the console now; logOut ends it. False: refused.
func (g guest) logIn(name, password string) bool {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 2*time.Minute)
	defer cancel()
	g.must(g.Send("login; echo LOGIN''OVER\n"))
	g.expect(ctx, `login: `)
	g.must(g.Send(name + "\n"))
	m := g.expect(ctx, `Password: |\$ `)
	if strings.HasPrefix(m.Text, "Password") {
		g.must(g.Send(password + "\n"))
		m = g.expect(ctx, `\$ |Login incorrect|LOGINOVER`)
	}
	if strings.HasPrefix(m.Text, "$") {
		g.sh("stty -echo; PS1='$ '")
		return true
	}
	g.must(g.Send("\x03\n")) // login asks again; this ends it and the whole line
	g.must(g.Send("echo LOGIN''OVER\n"))
	g.expect(ctx, `LOGINOVER`)
	return false
}

// logOut ends the shell that logIn began.
func (g guest) logOut() {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	g.must(g.Send("exit\n"))
	g.expect(ctx, `LOGINOVER`)
}

func (g guest) expect(ctx context.Context, pattern string) testvm.Match {
	g.t.Helper()
	m, err := g.Expect(ctx, pattern)
	if err != nil {
		g.t.Fatalf("%v\nconsole:\n%s", err, g.Tail(60))
	}
	return m
}

func (g guest) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// takeConsole makes the root shell on the console quiet, so that what is typed is not shown.
func takeConsole(t *testing.T, vm *testvm.VM) guest {
	t.Helper()
	g := guest{vm, t}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	g.must(vm.Send("\nstty -echo; PS1='# '; export SYSTEMD_PAGER= PAGER=cat; dmesg -n 1; echo CONSOLE''TAKEN\n"))
	g.expect(ctx, `CONSOLETAKEN`)
	return g
}
