// Package pam has PAM ask the agent when somebody logs in. It does to the files of a Debian root directory what pam-auth-update(8) does with LTSP's
// profile, in microseconds and without starting a program, and undoes it. What the agent answers is package login's business.
package pam

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginconf"
)

// Files in a root directory.
const (
	authPath    = "etc/pam.d/common-auth"
	sessionPath = "etc/pam.d/common-session"
	sssdDir     = "etc/sssd"
	profilesDir = "usr/share/pam-configs"
	savedDir    = "var/lib/pam"
	// logindPath has logind end all of a user's processes at logout, so that the home can be unmounted.
	logindPath = "etc/systemd/logind.conf.d/ltsp-login.conf"
)

const logindText = "# Made by the agent at each start.\n[Login]\nKillUserProcesses=yes\n"

// ErrUnmanaged is wrapped by the error of Configure for an image whose PAM files are not pam-auth-update's: another distribution's, or rewritten by hand.
// Nothing is changed then, and users of the login host cannot log in until the image itself calls "/run/ltsp/agent pam".
var ErrUnmanaged = errors.New("the image's PAM files are not managed by pam-auth-update")

// Report is what Configure did.
type Report struct {
	AuthType string   // what is in force: loginconf.Off, Primary or Additional
	Changed  []string // paths of files written or removed, relative to the root
}

// Configure brings PAM, logind and the settings of the login in a root directory to what settings say. It may be called again at any time: with the same
// settings it changes nothing, with AuthType loginconf.Off it removes all that it made. Each file is replaced whole.
func Configure(root *os.Root, settings loginconf.Settings) (Report, error) {
	var report Report
	var err error
	if settings.AuthType == loginconf.Auto { // LTSP's file says it where ltsp.conf does not
		extra, _ := root.ReadFile(loginconf.ExtraPath)
		settings.AuthType = loginconf.Parse(extra)["PAM_AUTH_TYPE"]
	}
	if report.AuthType, err = AuthType(root.FS(), settings.AuthType); err != nil {
		return report, fmt.Errorf("configure the login: %w", err)
	}
	settings.AuthType = report.AuthType
	files, err := plan(root.FS(), settings)
	if err != nil {
		return report, fmt.Errorf("configure the login: %w", err)
	}
	for _, f := range files {
		changed, err := f.put(root)
		if err != nil {
			return report, fmt.Errorf("configure the login: write %s: %w", f.path, err)
		}
		if changed {
			report.Changed = append(report.Changed, f.path)
		}
	}
	return report, nil
}

// file is a file as it shall be; nil text stands for none.
type file struct {
	path string
	text []byte
	mode fs.FileMode
}

// put writes or removes the file, unless it is so already.
func (f file) put(root *os.Root) (changed bool, err error) {
	old, err := root.ReadFile(f.path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return false, err
	}
	switch {
	case f.text == nil && missing, f.text != nil && !missing && bytes.Equal(old, f.text):
		return false, nil
	case f.text == nil:
		return true, root.Remove(f.path)
	}
	if err := root.MkdirAll(path.Dir(f.path), 0o755); err != nil {
		return false, err
	}
	temp := f.path + ".ltsp-new"
	if err := root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := root.WriteFile(temp, f.text, f.mode); err != nil {
		return false, err
	}
	if err := root.Chmod(temp, f.mode); err != nil { // the umask is the caller's
		return false, err
	}
	return true, root.Rename(temp, f.path)
}

// plan returns all files that Configure sees to, PAM's own last: they call for the others.
func plan(root fs.FS, settings loginconf.Settings) ([]file, error) {
	off := settings.AuthType == loginconf.Off
	files := []file{{path: loginconf.Path, mode: 0o600}, {path: logindPath, mode: 0o644}}
	if !off {
		files[0].text, files[1].text = settings.Text(), []byte(logindText)
	}
	stacks, err := planStacks(root, settings.AuthType)
	if off && (errors.Is(err, ErrUnmanaged) || errors.Is(err, fs.ErrNotExist)) {
		return files, nil // nothing of ours can be in there
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %v", ErrUnmanaged, err)
	}
	return append(files, stacks...), err
}

// planStacks returns the stacks and what pam-auth-update knows of them.
func planStacks(root fs.FS, authType string) ([]file, error) {
	var auth, session insertion
	if authType != loginconf.Off {
		auth = insertion{additional: authType == loginconf.Additional, control: authControl(authType), module: authModule}
		session = insertion{additional: true, control: sessionControl, module: sessionModule}
	}
	authFiles, err := planStack(root, "auth", authPath, auth)
	if err != nil {
		return nil, err
	}
	sessionFiles, err := planStack(root, "session", sessionPath, session)
	if err != nil {
		return nil, err
	}
	return slices.Concat(planProfile(root, authType), authFiles, sessionFiles), nil
}

// planProfile returns the profile, if the image has profiles, and the list of profiles seen.
func planProfile(root fs.FS, authType string) []file {
	if _, err := fs.Stat(root, profilesDir); err != nil {
		return nil
	}
	out := file{path: path.Join(profilesDir, profileName), mode: 0o644}
	if authType != loginconf.Off {
		out.text = profile(authType)
	}
	seenPath := path.Join(savedDir, "seen")
	seen, err := fs.ReadFile(root, seenPath)
	if err != nil {
		return []file{out}
	}
	names := slices.DeleteFunc(strings.Fields(string(seen)), func(n string) bool { return n == profileName })
	if authType != loginconf.Off {
		names = slices.Insert(names, place(root, names), profileName)
	}
	return []file{out, {path: seenPath, text: []byte(strings.Join(names, "\n") + "\n"), mode: 0o644}}
}

// insertion is the line of ours in one stack; the zero value stands for none.
type insertion struct {
	additional      bool
	control, module string
}

// planStack returns a stack, and what pam-auth-update saved of it if that is there, with our line as wanted and without any other of ours.
func planStack(root fs.FS, kind, name string, want insertion) ([]file, error) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return nil, err
	}
	live, err := parseStack(kind, text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	savedPath := path.Join(savedDir, kind)
	savedText, err := fs.ReadFile(root, savedPath)
	remembered := parseSaved(savedText)
	live.strip()
	remembered = slices.DeleteFunc(remembered, func(m savedModule) bool { return slices.ContainsFunc(m.lines, isOurs) })
	if want.module != "" {
		remembered = live.add(root, remembered, want)
	}
	files := []file{{path: name, text: live.text(), mode: 0o644}}
	if err == nil {
		files = append(files, file{path: savedPath, text: remembered.text(), mode: 0o644})
	}
	return files, nil
}

// strip removes our lines.
func (s *stack) strip() {
	for i := range slices.Backward(s.lines) {
		if s.isModule(s.lines[i]) && isOurs(s.lines[i]) {
			s.remove(i)
		}
	}
	if from, to := s.block(false); from == to { // PAM needs something there that jumps over the refusal
		s.lines = slices.Insert(s.lines, from, s.kind+"\t"+emptyPrimary)
	}
}

// add inserts our line where pam-auth-update would, and returns what it would remember then.
func (s *stack) add(root fs.FS, remembered saved, want insertion) saved {
	primaryFrom, primaryTo := s.block(false)
	additionalFrom, additionalTo := s.block(true)
	primaryLines := primaryTo - primaryFrom
	owners := remembered.owners(primaryLines + additionalTo - additionalFrom)
	from, to := primaryFrom, primaryTo
	if want.additional {
		from, to = additionalFrom, additionalTo
	}
	at := to
	index := len(owners) // in owners
	if owners != nil {
		first, last := 0, primaryLines
		if want.additional {
			first, last = primaryLines, len(owners)
		}
		index = first + place(root, owners[first:last])
		at = from + index - first
	}
	line := want.control + want.module
	ours := savedModule{name: profileName, lines: []string{line}}
	control := strings.ReplaceAll(want.control, "end", fmt.Sprint(to-at+1))
	if !want.additional && primaryLines == 1 && strings.HasSuffix(s.lines[primaryFrom], emptyPrimary) {
		s.lines[primaryFrom] = s.kind + "\t" + control + want.module
		return slices.Concat(saved{ours}, dropNull(remembered))
	}
	s.insert(at, s.kind+"\t"+control+want.module)
	if owners == nil {
		return remembered
	}
	return slices.Insert(remembered, moduleAt(remembered, index), ours)
}

func dropNull(s saved) saved {
	return slices.DeleteFunc(slices.Clone(s), func(m savedModule) bool { return m.name == "null" })
}

// moduleAt returns the index of the module that the line index of all lines begins.
func moduleAt(s saved, line int) int {
	for i, m := range s {
		if line <= 0 {
			return i
		}
		line -= len(m.lines)
	}
	return len(s)
}
