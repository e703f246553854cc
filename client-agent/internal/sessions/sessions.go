// Package sessions finds out who is at a client: the logins that systemd-logind knows. It reads files in /run only, so it works while the root connection
// is down.
package sessions

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

const (
	// logindDir has one file for each session of systemd-logind, below /run.
	logindDir = "systemd/sessions"
	// usersDir has one for each user who has any.
	usersDir = "systemd/users"
	maxFile  = 16 << 10
	maxFiles = 256
	// maxName bounds what a pupil can write into a report, in bytes.
	maxName = 64
)

// Login is a session of a person.
type Login struct {
	ID    string
	User  string
	UID   uint32
	Since time.Time
	// Type is "tty", "x11", "wayland" or what else logind says. TTY and Display are empty if the session has none.
	Type, TTY, Display string
}

// Graphical tells whether a message can be shown in a window.
func (l Login) Graphical() bool { return l.Type == "x11" || l.Type == "wayland" }

// Logins returns the sessions of people, the oldest first. Greeters and what systemd runs for itself are none. Run is /run.
func Logins(run string) []Login {
	names := readNames(filepath.Join(run, logindDir))
	var list []Login
	for _, name := range names {
		if strings.HasSuffix(name, ".ref") { // a pipe
			continue
		}
		text, err := readFile(filepath.Join(run, logindDir, name))
		if err != nil {
			continue // has ended meanwhile
		}
		if l, ok := parseLogin(name, text); ok {
			list = append(list, l)
		}
	}
	slices.SortFunc(list, func(a, b Login) int {
		if c := a.Since.Compare(b.Since); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

// UserName is the name of a user who has logged in, as logind knows it; empty if it does not.
func UserName(run string, uid int) string {
	text, err := readFile(filepath.Join(run, usersDir, strconv.Itoa(uid)))
	if err != nil {
		return ""
	}
	return clean(parse(text)["NAME"])
}

// readNames lists a directory, but not without end.
func readNames(dir string) []string {
	d, err := os.Open(dir)
	if err != nil {
		return nil // no logind
	}
	defer d.Close()
	names, err := d.Readdirnames(maxFiles)
	if err != nil {
		return nil
	}
	return names
}

func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	return string(data), err
}

// parseLogin reads a session file of logind (systemd, src/login/logind-session.c, session_save): lines of NAME=VALUE, values sometimes in quotes.
func parseLogin(id, text string) (Login, bool) {
	v := parse(text)
	uid, err := strconv.ParseUint(v["UID"], 10, 32)
	// CLASS is user, user-early, user-incomplete, greeter, lock-screen, background, manager ...
	if err != nil || v["USER"] == "" || !strings.HasPrefix(v["CLASS"], "user") || v["STATE"] == "closing" {
		return Login{}, false
	}
	micros, err := strconv.ParseInt(v["REALTIME"], 10, 64)
	if err != nil {
		micros = 0
	}
	return Login{
		ID: id, User: clean(v["USER"]), UID: uint32(uid), Since: time.UnixMicro(micros).UTC(), Type: v["TYPE"], TTY: v["TTY"], Display: v["DISPLAY"],
	}, true
}

func parse(text string) map[string]string {
	v := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			v[key] = strings.Trim(value, `"`)
		}
	}
	return v
}

// List returns all sessions for a report, logins first, at most agentproto.MaxSessions. A user with several logins is there once. Apps are the remote
// applications that run.
func List(logins []Login, apps []agentproto.Session) []agentproto.Session {
	var list []agentproto.Session
	seen := map[string]bool{}
	for _, l := range logins {
		if !seen[l.User] {
			seen[l.User] = true
			list = append(list, agentproto.Session{Kind: "login", User: l.User, Since: l.Since})
		}
	}
	for _, app := range apps {
		app.User, app.App, app.Host = clean(app.User), clean(app.App), clean(app.Host)
		list = append(list, app)
	}
	return list[:min(len(list), agentproto.MaxSessions)]
}

// clean makes a name fit for a report.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s[:min(len(s), maxName)])
	return s
}
