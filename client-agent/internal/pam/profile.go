package pam

import (
	"bytes"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginconf"
)

// profileName is what pam-auth-update(8) knows our lines by. It is LTSP's, whose profile they replace.
const profileName = "ltsp"

// Program is what PAM runs.
const Program = "/run/ltsp/agent"

// Modules with their arguments. seteuid keeps root where PAM has it; stdout brings our words to who logs in.
const (
	authModule    = "pam_exec.so expose_authtok seteuid stdout quiet " + Program + " pam auth"
	sessionModule = "pam_exec.so seteuid stdout quiet " + Program + " pam session"
)

// authControl is the control of the auth line. "end" stands for the number of modules up to the end of the block, as in profiles.
func authControl(authType string) string {
	if authType == loginconf.Primary {
		return "[success=end default=ignore]\t"
	}
	return "optional\t\t\t"
}

const sessionControl = "optional\t\t\t"

// profile returns the text of our profile for pam-auth-update(8), so that it goes on working on the running client.
func profile(authType string) []byte {
	return []byte("Name: Login by LTSP Fleet\nDefault: yes\nPriority: 0\nAuth-Type: " + authType + "\nAuth:\n\t" + authControl(authType) + authModule +
		"\nSession-Interactive-Only: yes\nSession-Type: Additional\nSession:\n\t" + sessionControl + sessionModule + "\n")
}

// isOurs tells whether a line of a stack, or of what pam-auth-update saved, is ours or LTSP's own.
func isOurs(line string) bool {
	return strings.Contains(line, "pam_exec.so") && (strings.Contains(line, Program+" pam ") || strings.Contains(line, "ltsp/client/login/pamltsp "))
}

// saved is what pam-auth-update remembers of one stack: the Primary modules, then the Additional ones, without a mark between them.
type saved []savedModule

type savedModule struct {
	name  string
	lines []string
}

func parseSaved(text []byte) saved {
	var out saved
	for line := range strings.SplitSeq(strings.TrimSuffix(string(text), "\n"), "\n") {
		if name, ok := strings.CutPrefix(line, "Module: "); ok {
			out = append(out, savedModule{name: name})
		} else if len(out) > 0 {
			out[len(out)-1].lines = append(out[len(out)-1].lines, line)
		}
	}
	return out
}

func (s saved) text() []byte {
	var out bytes.Buffer
	for _, m := range s {
		out.WriteString("Module: " + m.name + "\n" + strings.Join(m.lines, "\n") + "\n")
	}
	return out.Bytes()
}

// owners returns the name of the module that each of the lines of the live file comes from, first Primary's, then Additional's; nil if what was saved
// does not fit them.
func (s saved) owners(lines int) []string {
	var out []string
	for _, m := range s {
		for range m.lines {
			out = append(out, m.name)
		}
	}
	if len(out) != lines {
		return nil
	}
	return out
}

// before tells whether a profile comes before ours: by priority, then by name, both downwards.
func before(root fs.FS, name string) bool {
	p := priority(root, name)
	return p > 0 || p == 0 && name > profileName
}

// priority reads the priority of a profile of the image; 0 if it is not known.
func priority(root fs.FS, name string) int {
	text, err := fs.ReadFile(root, path.Join(profilesDir, path.Base(name)))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, "Priority:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// place returns at which of the owners our line belongs: in front of the first that comes after us, else behind the last.
func place(root fs.FS, owners []string) int {
	i := slices.IndexFunc(owners, func(name string) bool { return !before(root, name) })
	if i < 0 {
		return len(owners)
	}
	return i
}
