package onesession

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newSession returns a session of a user with a home; what it asks and ends is counted.
func newSession(t *testing.T, yes bool) (s *Session, asked *[]string, ended *int) {
	t.Helper()
	asked, ended = new([]string), new(int)
	return &Session{Home: t.TempDir(), Here: Here{Hostname: "pc01", Addr: "10.0.0.5/24", MAC: "aa:bb:cc:dd:ee:ff"},
		Now: func() time.Time { return time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC) },
		Ask: func(_, text string) bool { *asked = append(*asked, text); return yes }, End: func() { *ended++ }}, asked, ended
}

// elsewhere leaves the file of a session of LTSP's on another client.
func elsewhere(t *testing.T, s *Session) string {
	t.Helper()
	name := filepath.Join(s.Home, dir, "20260228-120000")
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("HOSTNAME=pc07\nIP_ADDRESS=10.0.0.7\nMAC_ADDRESS=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestOnlySession(t *testing.T) {
	t.Parallel()
	s, asked, ended := newSession(t, false)
	code := s.Run(t.Context(), []string{"sh", "-c", `cd "$0" && test "$(cat *)" = "HOSTNAME=pc01
IP_ADDRESS=10.0.0.5/24
MAC_ADDRESS=aa:bb:cc:dd:ee:ff" && test -f 20260301-080000 && exit 7`, filepath.Join(s.Home, dir)})
	if code != 7 || len(*asked) != 0 || *ended != 1 {
		t.Errorf("code %d, asked %q, ended %d", code, *asked, *ended)
	}
	if left, err := os.ReadDir(filepath.Join(s.Home, dir)); err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
	if code := s.Run(t.Context(), []string{"/nonexistent"}); code != 127 {
		t.Errorf("no such command: %d", code)
	}
}

func TestSecondSession(t *testing.T) {
	t.Parallel()
	s, asked, ended := newSession(t, false)
	theirs := elsewhere(t, s)
	if code := s.Run(t.Context(), []string{"sh", "-c", "exit 9"}); code != 0 || *ended != 0 {
		t.Errorf("the user said no: code %d, ended %d", code, *ended)
	}
	if len(*asked) != 1 || !strings.Contains((*asked)[0], "on pc07 since 20260228-120000\n") {
		t.Errorf("asked %q", *asked)
	}
	if _, err := os.Stat(theirs); err != nil {
		t.Errorf("the other session was ended: %v", err)
	}
	s.Ask = func(_, _ string) bool { return true }
	if code := s.Run(t.Context(), []string{"sh", "-c", "exit 9"}); code != 9 {
		t.Errorf("the user said yes: code %d", code)
	}
	if _, err := os.Stat(theirs); err == nil {
		t.Error("the other session goes on")
	}
}

func TestLaterSessionTakesOver(t *testing.T) {
	t.Parallel()
	s, _, ended := newSession(t, true)
	if code := s.Run(t.Context(), []string{"sh", "-c", `rm "$0"/*; exec sleep 600`, filepath.Join(s.Home, dir)}); code == 0 || *ended != 1 {
		t.Errorf("code %d, ended %d", code, *ended)
	}
}

func TestHomeThatTakesNothing(t *testing.T) {
	t.Parallel()
	s, _, _ := newSession(t, true)
	if err := os.WriteFile(filepath.Join(s.Home, ".config"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := s.Run(t.Context(), []string{"sh", "-c", "exit 5"}); code != 5 {
		t.Errorf("code %d", code)
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	if got := plain("pc $(reboot)`x`;'1\n"); got != "pcrebootx1" {
		t.Errorf("%q", got)
	}
	for text, want := range map[string]string{"HOSTNAME='a b'\n": "a b", "X=1\nHOSTNAME=a\x1b[1m": "a [1m", "": "another computer"} {
		if got := value(text, "HOSTNAME"); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
