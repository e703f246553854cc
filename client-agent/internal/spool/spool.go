// Package spool is how the short-lived programs of a client (what PAM runs, remote applications) tell the resident agent of events and sessions: small
// JSON files. Root's lie in /run/ltsp, which only root can write; a user's lie in his own run directory, which only he and root can. What a user wrote is
// believed only so far: it counts as his, is bounded, and may be nothing but a remote application.
package spool

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Bounds of what is read.
const (
	maxFile    = 4 << 10 // bytes of one record
	maxUsers   = 256     // run directories looked at
	maxRecords = 64      // of one kind in one directory
	maxText    = 512     // bytes of an event's text
	maxName    = 200     // bytes of a name in a session
	maxKind    = 32
)

// Spool names the directories.
type Spool struct {
	Root  string // root's, "/run/ltsp"
	Users string // where users' run directories lie under their numbers, "/run/user"
	Proc  string // "/proc"
}

// System is the spool of the running client.
var System = Spool{Root: "/run/ltsp", Users: "/run/user", Proc: "/proc"}

// Directories for the two kinds of records. A user's lie under userDir in his run directory.
const (
	eventsDir   = "events"
	sessionsDir = "sessions"
	userDir     = "ltsp"
)

// Record is a session and the process that it ends with.
type Record struct {
	agentproto.Session
	PID int `json:"pid"`
	// Start is when the process started, in clock ticks since the kernel did (proc(5), stat field 22): numbers of processes come again.
	Start uint64 `json:"start"`
}

// AddEvent leaves an event for the resident agent. A caller who is not root leaves it as his own.
func (s Spool) AddEvent(e agentproto.Event) error {
	_, err := s.put(eventsDir, e)
	return err
}

// AddSession tells that a session has begun that lasts while the process pid does. It returns the path of the record, for os.Remove at its end; nobody
// has to, the process's end is enough.
func (s Spool) AddSession(session agentproto.Session, pid int) (string, error) {
	start, err := s.started(pid)
	if err != nil {
		return "", fmt.Errorf("leave a session: %w", err)
	}
	return s.put(sessionsDir, Record{Session: session, PID: pid, Start: start})
}

// EndSession removes root's records of sessions that hang on a process.
func (s Spool) EndSession(pid int) {
	each(path.Join(s.Root, sessionsDir), 0, func(text []byte) bool {
		var r Record
		return json.Unmarshal(text, &r) == nil && r.PID == pid
	})
}

// put writes a record under a new name, whole or not at all.
func (s Spool) put(kind string, v any) (string, error) {
	dir := path.Join(s.Root, kind)
	if uid := os.Geteuid(); uid != 0 {
		dir = path.Join(s.Users, strconv.Itoa(uid), userDir, kind)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("leave a record: %w", err)
	}
	if len(text) > maxFile {
		return "", fmt.Errorf("leave a record: %d bytes", len(text))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("leave a record: %w", err)
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	name := path.Join(dir, hex.EncodeToString(id[:])+".json")
	temp := strings.TrimSuffix(name, ".json") + ".new"
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		_ = os.Remove(temp)
		return "", fmt.Errorf("leave a record: %w", err)
	}
	if err := os.Rename(temp, name); err != nil {
		return "", fmt.Errorf("leave a record: %w", err)
	}
	return name, nil
}

// TakeEvents returns the events that were left, the oldest first, at most limit, and removes them. What is more is dropped.
func (s Spool) TakeEvents(limit int) []agentproto.Event {
	var out []agentproto.Event
	for _, d := range s.dirs(eventsDir) {
		each(d.path, d.uid, func(text []byte) bool {
			var e agentproto.Event
			if json.Unmarshal(text, &e) != nil || d.uid != 0 && e.Kind != agentproto.EventRemoteApp {
				return true
			}
			e.Kind, e.Text = Clean(e.Kind, maxKind), Clean(e.Text, maxText)
			if e.Text != "" {
				out = append(out, e)
			}
			return true
		})
	}
	slices.SortStableFunc(out, func(a, b agentproto.Event) int { return a.Time.Compare(b.Time) })
	return out[:min(len(out), limit)]
}

// Kinds of sessions (agentproto.Session.Kind).
const (
	KindLogin     = "login"
	KindRemoteApp = "remoteapp"
)

// Sessions returns the remote applications that run, the oldest first, at most agentproto.MaxSessions, and removes records of those that ended. userName
// turns a user's number into a name; it returns "" for a user that is not known.
func (s Spool) Sessions(userName func(uid int) string) []agentproto.Session {
	return s.sessions(s.dirs(sessionsDir), KindRemoteApp, userName)
}

// Logins is Sessions for who is logged in, as PAM tells: at the console, on the desktop and over the network, whether or not there is a logind.
func (s Spool) Logins() []agentproto.Session {
	return s.sessions(s.dirs(sessionsDir)[:1], KindLogin, nil) // root's alone are believed
}

func (s Spool) sessions(dirs []dir, kind string, userName func(uid int) string) []agentproto.Session {
	out := []agentproto.Session{}
	for _, d := range dirs {
		each(d.path, d.uid, func(text []byte) bool {
			var r Record
			if json.Unmarshal(text, &r) != nil || !s.alive(r, d.uid) {
				return true
			}
			if d.uid != 0 {
				r.Kind, r.User = KindRemoteApp, userName(d.uid)
			}
			if r.User != "" && r.Kind == kind {
				out = append(out, agentproto.Session{Kind: kind, User: Clean(r.User, maxName), App: Clean(r.App, maxName), Host: Clean(r.Host, maxName), Since: r.Since})
			}
			return false
		})
	}
	slices.SortStableFunc(out, func(a, b agentproto.Session) int { return a.Since.Compare(b.Since) })
	return out[:min(len(out), agentproto.MaxSessions)]
}

// OwnSessions returns the remote applications of the caller.
func (s Spool) OwnSessions() []agentproto.Session {
	uid := os.Geteuid()
	var out []agentproto.Session
	each(path.Join(s.Users, strconv.Itoa(uid), userDir, sessionsDir), uid, func(text []byte) bool {
		var r Record
		if json.Unmarshal(text, &r) == nil && s.alive(r, uid) {
			out = append(out, r.Session)
		}
		return false
	})
	return out
}

// alive tells whether a session's process is there and, for a user's record, is the user's.
func (s Spool) alive(r Record, uid int) bool {
	start, err := s.started(r.PID)
	if err != nil || start != r.Start {
		return false
	}
	if uid == 0 {
		return true
	}
	info, err := os.Stat(path.Join(s.Proc, strconv.Itoa(r.PID)))
	if err != nil {
		return false
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(owner.Uid) == uid
}

// started returns when a process started, in clock ticks. One that is dead and only waits to be taken note of counts as gone.
func (s Spool) started(pid int) (uint64, error) {
	text, err := os.ReadFile(path.Join(s.Proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, err
	}
	// The name, the second field, may hold anything; it ends at the last parenthesis.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("process %d: %d fields in stat", pid, len(fields))
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, fmt.Errorf("process %d: %w", pid, fs.ErrNotExist)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// dir is a directory of records and who may have written them.
type dir struct {
	path string
	uid  int
}

// dirs returns root's directory and the users' of one kind.
func (s Spool) dirs(kind string) []dir {
	out := []dir{{path.Join(s.Root, kind), 0}}
	entries, _ := os.ReadDir(s.Users) // none without logind
	for _, e := range entries[:min(len(entries), maxUsers)] {
		if uid, err := strconv.Atoi(e.Name()); err == nil && uid > 0 {
			out = append(out, dir{path.Join(s.Users, e.Name(), userDir, kind), uid})
		}
	}
	return out
}

// each has visit look at the records of a directory, and removes those that it says so of. A user may do what he likes in his own directory, meanwhile
// too: links, pipes and other people's files are not read, and nothing is removed by way of a path.
func each(name string, uid int, visit func(text []byte) (remove bool)) {
	d, err := openDir(name, uid)
	if err != nil {
		return
	}
	defer d.Close()
	names, err := d.Readdirnames(4 * maxRecords)
	if err != nil && !errors.Is(err, io.EOF) {
		return
	}
	seen := 0
	for _, n := range names {
		if !strings.HasSuffix(n, ".json") || seen == maxRecords {
			continue
		}
		seen++
		text, err := readRecord(d, n, uid)
		if err != nil || visit(text) {
			_ = unix.Unlinkat(int(d.Fd()), n, 0) // its owner may have been faster; a directory stays and is passed over
		}
	}
}

// openDir opens a directory without following a link at its end or at its parent, and sees to it that it is the user's.
func openDir(name string, uid int) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	parent, err := unix.Open(path.Dir(name), flags, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path.Dir(name), err)
	}
	defer unix.Close(parent)
	fd, err := unix.Openat(parent, path.Base(name), flags, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := owned(f, uid); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func readRecord(d *os.File, name string, uid int) ([]byte, error) {
	fd, err := unix.Openat(int(d.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrInvalid)
	}
	if err := owned(f, uid); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}

func owned(f *os.File, uid int) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != uid {
		return fmt.Errorf("%s is not user %d's: %w", f.Name(), uid, fs.ErrPermission)
	}
	return nil
}

// Clean makes text one line of printable characters of at most limit bytes, whatever it was.
func Clean(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	text = strings.TrimSpace(text)
	if len(text) > limit {
		text = strings.ToValidUTF8(text[:limit], "")
	}
	return text
}

// Event returns an event of now.
func Event(kind, text string) agentproto.Event {
	return agentproto.Event{Time: time.Now(), Kind: kind, Text: Clean(text, maxText)}
}
