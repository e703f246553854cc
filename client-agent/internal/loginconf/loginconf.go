// Package loginconf holds what the login of a client goes by: how PAM takes part, which host checks passwords, how homes come. The init stage writes it
// (package pam), the program that PAM calls reads it (package login). It is pure but for Load.
package loginconf

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
)

// Ways in which PAM takes part, the values of PAM_AUTH_TYPE. Auto stands for a look at the image.
const (
	Auto       = ""
	Off        = "0"          // users and PAM are left alone
	Primary    = "Primary"    // the login host checks passwords
	Additional = "Additional" // something else in the image does (LDAP, SSSD); only homes are mounted
)

// Paths, relative to the root directory.
const (
	// Path is the file of Settings, readable by root alone.
	Path = "etc/ltsp-login.conf"
	// ExtraPath is LTSP's own file. Hooks and the policy's tree write it; what it says wins.
	ExtraPath = "etc/ltsp/pamltsp.conf"
	// KnownHostsPath lists the host keys that are accepted.
	KnownHostsPath = "etc/ltsp/ssh_known_hosts"
)

// DefaultServer is the login host's name on every client, from /etc/hosts.
const DefaultServer = "server"

// maxFile bounds a settings file, in bytes.
const maxFile = 64 << 10

// Settings of the login.
type Settings struct {
	AuthType string // one of the constants above
	// SSHServer checks passwords and has the homes; never empty in what Load and FromVariables return.
	SSHServer string
	// SSHOptions are words for the command lines of ssh and sshfs.
	SSHOptions []string
	SSHFS      bool // homes are mounted by sshfs where the image has it and nothing else brought them
	MkHomeDir  bool // homes that are missing are made
}

// keys in the order of the file.
var keys = []string{"PAM_AUTH_TYPE", "SSH_SERVER", "SSH_OPTIONS", "SSHFS", "MKHOMEDIR"}

// FromVariables takes the settings from the variables of ltsp.conf.
func FromVariables(value func(name string) string) Settings {
	s := Settings{
		AuthType: value("PAM_AUTH_TYPE"), SSHServer: value("SSH_SERVER"), SSHOptions: strings.Fields(value("SSH_OPTIONS")),
		SSHFS: value("SSHFS") != "0", MkHomeDir: value("MKHOMEDIR") != "0",
	}
	if s.SSHServer == "" {
		s.SSHServer = DefaultServer
	}
	return s
}

// Text returns the content of the file at Path.
func (s Settings) Text() []byte {
	var out bytes.Buffer
	out.WriteString("# Made by the agent at each start from ltsp.conf; /" + ExtraPath + " wins over it.\n")
	flag := map[bool]string{true: "1", false: "0"}
	for i, v := range []string{s.AuthType, s.SSHServer, strings.Join(s.SSHOptions, " "), flag[s.SSHFS], flag[s.MkHomeDir]} {
		fmt.Fprintf(&out, "%s='%s'\n", keys[i], strings.ReplaceAll(v, "'", ""))
	}
	return out.Bytes()
}

// Parse reads assignments NAME=VALUE, NAME='VALUE' and NAME="VALUE" of the known names, the last one of a name wins. LTSP's file is a shell script; of
// other lines nothing is understood and nothing is run.
func Parse(text []byte) map[string]string {
	found := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxFile)
	for lines.Scan() {
		line := strings.TrimPrefix(strings.TrimSpace(lines.Text()), "export ")
		name, value, ok := strings.Cut(line, "=")
		if ok && slices.Contains(keys, name) {
			found[name] = unquote(value)
		}
	}
	return found
}

// unquote takes the first shell word of a value, without variables and escapes.
func unquote(value string) string {
	if value == "" {
		return ""
	}
	if q := value[0]; q == '\'' || q == '"' {
		word, _, _ := strings.Cut(value[1:], string(q))
		return word
	}
	word, _, _ := strings.Cut(value, ";")
	if fields := strings.Fields(word); len(fields) > 0 && !strings.HasPrefix(fields[0], "#") {
		return fields[0]
	}
	return ""
}

// Load reads the settings in a root directory: Path, then ExtraPath. Files that are missing change nothing.
func Load(root fs.FS) (Settings, error) {
	values := map[string]string{}
	for _, name := range []string{Path, ExtraPath} {
		text, err := fs.ReadFile(root, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Settings{}, fmt.Errorf("read settings of the login: %w", err)
		}
		if len(text) > maxFile {
			return Settings{}, fmt.Errorf("read settings of the login: %s has %d bytes, at most %d are read", name, len(text), maxFile)
		}
		maps.Copy(values, Parse(text))
	}
	return FromVariables(func(name string) string { return values[name] }), nil
}

// LoadRoot is Load for the running system.
func LoadRoot() (Settings, error) { return Load(os.DirFS("/")) }
