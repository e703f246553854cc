package spool

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// newSpool returns a spool in a directory of the test, with user 1000's run directory; only root can make that, so others test less.
func newSpool(t *testing.T) Spool {
	t.Helper()
	dir := t.TempDir()
	s := Spool{Root: filepath.Join(dir, "ltsp"), Users: filepath.Join(dir, "user"), Proc: "/proc"}
	for _, d := range []string{s.Root, s.Users} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// userPut writes a file as a user would.
func userPut(t *testing.T, s Spool, kind, name, text string) string {
	t.Helper()
	dir := s.Users
	for _, d := range []string{"1000", userDir, kind} {
		dir = filepath.Join(dir, d)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, 1000, 1000); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(file, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	return file
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root has other users' files")
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSpool(t)
	now := time.Now().UTC().Round(0)
	for _, e := range []agentproto.Event{
		{Time: now, Kind: agentproto.EventLoginHost, Text: "second"},
		{Time: now.Add(-time.Second), Kind: agentproto.EventHostKey, Text: "first\n\x1b[31mred"},
	} {
		if err := s.AddEvent(e); err != nil {
			t.Fatal(err)
		}
	}
	want := []agentproto.Event{
		{Time: now.Add(-time.Second), Kind: agentproto.EventHostKey, Text: "first  [31mred"},
		{Time: now, Kind: agentproto.EventLoginHost, Text: "second"},
	}
	if diff := cmp.Diff(want, s.TakeEvents(10)); diff != "" {
		t.Error(diff)
	}
	if again := s.TakeEvents(10); len(again) != 0 {
		t.Errorf("they came again: %v", again)
	}
}

func TestEventsOfUsers(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSpool(t)
	good := `{"time":"2026-01-01T00:00:00Z","kind":"remoteapp","text":"from a user"}`
	userPut(t, s, eventsDir, "good.json", good)
	userPut(t, s, eventsDir, "kind.json", strings.Replace(good, `"remoteapp"`, `"host-key"`, 1))
	userPut(t, s, eventsDir, "broken.json", `{"time":`)
	userPut(t, s, eventsDir, "big.json", good+strings.Repeat(" ", maxFile))
	stolen := filepath.Join(s.Root, "secret")
	if err := os.WriteFile(stolen, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(userPut(t, s, eventsDir, "x.new", "unfinished"))
	if err := os.Symlink(stolen, filepath.Join(dir, "link.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(stolen, filepath.Join(dir, "hard.json")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	got := s.TakeEvents(10)
	if len(got) != 1 || got[0].Text != "from a user" {
		t.Errorf("got %+v", got)
	}
	if _, err := os.Stat(stolen); err != nil {
		t.Errorf("a file elsewhere is gone: %v", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 { // dir.json, x.new
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestRedirected has a user whose directory is a link to where root's files are.
func TestRedirected(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, at := range []string{userDir, filepath.Join(userDir, eventsDir)} {
		s := newSpool(t)
		if err := s.AddEvent(Event(agentproto.EventHostKey, "root's")); err != nil {
			t.Fatal(err)
		}
		link := filepath.Join(s.Users, "1000", at)
		if err := os.MkdirAll(filepath.Dir(link), 0o700); err != nil {
			t.Fatal(err)
		}
		target := s.Root
		if at != userDir {
			target = filepath.Join(s.Root, eventsDir)
		}
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		if got := s.TakeEvents(10); len(got) != 1 {
			t.Errorf("%s: %v", at, got)
		}
	}
}

func TestManyEvents(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSpool(t)
	for i := range 2 * maxRecords {
		userPut(t, s, eventsDir, strconv.Itoa(i)+".json", `{"time":"2026-01-01T00:00:00Z","kind":"remoteapp","text":"flood"}`)
	}
	if got := s.TakeEvents(1000); len(got) != maxRecords {
		t.Errorf("%d at once", len(got))
	}
	if got := s.TakeEvents(5); len(got) != 5 {
		t.Errorf("%d of at most 5", len(got))
	}
}

func TestSessions(t *testing.T) {
	t.Parallel()
	needRoot(t)
	s := newSpool(t)
	since := time.Now().UTC().Round(0)
	login := agentproto.Session{Kind: KindLogin, User: "ann", Since: since}
	if _, err := s.AddSession(login, os.Getpid()); err != nil {
		t.Fatal(err)
	}
	users := func(uid int) string { return map[int]string{1000: "bob"}[uid] }
	// A user's record that hangs on somebody else's process, one of a process that was another, and one of none.
	userPut(t, s, sessionsDir, "a.json", `{"kind":"login","user":"root","pid":1,"start":0}`)
	start, err := s.started(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(os.Getpid())
	userPut(t, s, sessionsDir, "b.json", `{"kind":"remoteapp","user":"root","pid":`+pid+`,"start":`+strconv.FormatUint(start, 10)+`}`)
	userPut(t, s, sessionsDir, "c.json", `{"kind":"remoteapp","pid":`+pid+`,"start":`+strconv.FormatUint(start+1, 10)+`}`)
	userPut(t, s, sessionsDir, "d.json", `{"pid":-1}`)
	if got := s.Sessions(users); len(got) != 0 {
		t.Errorf("applications: %v", got)
	}
	if diff := cmp.Diff([]agentproto.Session{login}, s.Logins()); diff != "" {
		t.Error(diff)
	}
	s.EndSession(os.Getpid())
	if got := s.Logins(); len(got) != 0 {
		t.Errorf("after its end: %v", got)
	}
}

func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"plain": "plain", " a\nb\x00 ": "a b", "\xff\xfeü": "ü", "\u202eevil": "evil", strings.Repeat("ü", 400): strings.Repeat("ü", 256)} {
		if got := Clean(in, 512); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
