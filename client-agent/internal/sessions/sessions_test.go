package sessions

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// session is a session file as systemd 252 writes it.
func session(user, class, state, more string) string {
	return "# This is private data. Do not parse.\nUID=1001\nUSER=" + user + "\nACTIVE=1\nIS_DISPLAY=1\nSTATE=" + state + "\nREMOTE=0\nCLASS=" + class +
		"\nSCOPE=session-3.scope\nFIFO=/run/systemd/sessions/3.ref\nSEAT=seat0\nVTNR=7\nLEADER=812\nREALTIME=1700000000000000\nMONOTONIC=1\n" + more
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestLogins(t *testing.T) {
	t.Parallel()
	run := t.TempDir()
	if got := Logins(run); got != nil {
		t.Errorf("without logind: %v", got)
	}
	dir := filepath.Join(run, logindDir)
	write(t, dir, "3", session("anna", "user", "active", "TYPE=x11\nDISPLAY=:0\n"))
	write(t, dir, "2", strings.Replace(session("bert", "user-early", "online", "TYPE=tty\nTTY=tty3\n"), "REALTIME=17", "REALTIME=16", 1))
	write(t, dir, "c1", session("lightdm", "greeter", "active", "TYPE=x11\n"))
	write(t, dir, "4", session("carl", "user", "closing", "TYPE=tty\n"))
	write(t, dir, "5", session("dora", "manager", "active", "TYPE=unspecified\n"))
	write(t, dir, "6", "UID=x\nUSER=eve\nCLASS=user\n")
	write(t, dir, "7", session("", "user", "active", ""))
	write(t, dir, "3.ref", session("fred", "user", "active", "TYPE=tty\n"))
	want := []Login{
		{ID: "2", User: "bert", UID: 1001, Since: time.Unix(1600000000, 0).UTC(), Type: "tty", TTY: "tty3"},
		{ID: "3", User: "anna", UID: 1001, Since: time.Unix(1700000000, 0).UTC(), Type: "x11", Display: ":0"},
	}
	got := Logins(run)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	if got[0].Graphical() || !got[1].Graphical() {
		t.Error("graphical is who is not")
	}
}

func TestUserName(t *testing.T) {
	t.Parallel()
	run := t.TempDir()
	write(t, filepath.Join(run, usersDir), "1001", "# This is private data. Do not parse.\nNAME=anna\nSTATE=active\n")
	if got := UserName(run, 1001) + UserName(run, 1002); got != "anna" {
		t.Errorf("got %q", got)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	early, late := time.Unix(1700000000, 0).UTC(), time.Unix(1700000100, 0).UTC()
	logins := []Login{{User: "anna", Since: early}, {User: "bert", Since: late}, {User: "anna", Since: late}}
	got := List(logins, []agentproto.Session{{Kind: "remoteapp", User: "anna", App: "writer\n\x1b[2J", Host: "10.0.0.5", Since: late}})
	want := []agentproto.Session{
		{Kind: "login", User: "anna", Since: early}, {Kind: "login", User: "bert", Since: late},
		{Kind: "remoteapp", User: "anna", App: "writer??[2J", Host: "10.0.0.5", Since: late},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	many := make([]agentproto.Session, 100)
	for i := range many {
		many[i].App = strings.Repeat("ü", 1000)
	}
	if got := List(logins, many); len(got) != agentproto.MaxSessions || len(got[5].App) > maxName {
		t.Errorf("%d sessions", len(got))
	}
}

func FuzzParseLogin(f *testing.F) {
	f.Add(session("anna", "user", "active", "TYPE=x11\n"))
	f.Fuzz(func(t *testing.T, text string) {
		if l, ok := parseLogin("1", text); ok && (l.User == "" || len(l.User) > maxName) {
			t.Errorf("user %q", l.User)
		}
	})
}
