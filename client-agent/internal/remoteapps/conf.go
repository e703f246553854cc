package remoteapps

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginconf"
)

// App is a program of another host, as a launcher on the client.
type App struct {
	// Name is what the launcher is called, of letters, digits and ._+-, at most 64.
	Name string `json:"name"`
	// Exec is the program with its arguments as the host's shell shall read them; the launcher's own arguments follow.
	Exec string `json:"exec"`
	// Title, Comment, Icon and Categories are for the menu; only Title is never empty.
	Title      string `json:"title"`
	Comment    string `json:"comment,omitempty"`
	Icon       string `json:"icon,omitempty"`
	Categories string `json:"categories,omitempty"`
	// Hosts that have it, "NAME" or "NAME:PORT"; never empty in what Load returns.
	Hosts []Host `json:"hosts"`
	// Trusted gives it the whole X display, as ssh -Y does.
	Trusted bool `json:"trusted,omitempty"`
}

// Host is where applications run.
type Host struct {
	Name string `json:"name"`
	Port uint16 `json:"port,omitempty"` // zero means 22, or what Options say
	// Options are words for ssh's command line.
	Options []string `json:"options,omitempty"`
}

// Settings come from ltsp.conf.
type Settings struct {
	Words     string // REMOTEAPPS: names of applications
	Servers   string // REMOTEAPPS_SERVER: hosts
	Trusted   bool   // REMOTEAPPS_TRUSTED=1
	SSHServer string // SSH_SERVER
	// SSHOptions (SSH_OPTIONS) belong to SSHServer and the host behind it.
	SSHOptions []string
	Server     string // SERVER
}

// FromVariables takes the settings from the variables of ltsp.conf.
func FromVariables(value func(name string) string) Settings {
	return Settings{Words: value("REMOTEAPPS"), Servers: value("REMOTEAPPS_SERVER"), Trusted: value("REMOTEAPPS_TRUSTED") == "1",
		SSHServer: value("SSH_SERVER"), SSHOptions: strings.Fields(value("SSH_OPTIONS")), Server: value("SERVER")}
}

// Dir holds a file NAME.conf for each application that wants more than a name, relative to the root directory.
const Dir = "etc/ltsp/remoteapps.d"

// Bounds.
const (
	maxApps  = 512
	maxHosts = 16
	maxConf  = 16 << 10 // bytes of one file
	maxValue = 512      // bytes of one value
)

// reserved are programs that launchers themselves, or logins, start by name.
var reserved = []string{"ssh", "sshfs", "ssh-keygen", "sh", "waypipe", "xauth", "zenity", "kdialog", "xmessage", "notify-send", "systemd-run"}

const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// isAppName tells whether a name is good for a file and a word of a shell.
func isAppName(name string) bool {
	return len(name) <= 64 && strings.Trim(name, alphanumeric+"._+-") == "" && name != "" && strings.IndexByte(alphanumeric, name[0]) >= 0
}

// isHostName tells whether a name is a host's name or address.
func isHostName(name string) bool {
	if addr, err := netip.ParseAddr(name); err == nil {
		return addr.Zone() == ""
	}
	return len(name) <= 253 && name != "" && strings.Trim(name, alphanumeric+".-") == "" && strings.Trim(name, ".-") == name
}

// Load returns the applications that settings and the files of Dir name, in the order of their names, and remarks on what cannot be used.
func Load(root fs.FS, s Settings) (apps []App, remarks []string) {
	names := strings.Fields(s.Words)
	confs, _ := fs.Glob(root, path.Join(Dir, "*.conf")) // the pattern is good
	for _, c := range confs {
		names = append(names, strings.TrimSuffix(path.Base(c), ".conf"))
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if !isAppName(name) {
			remarks = append(remarks, fmt.Sprintf("remote application %q: a name has letters, digits and ._+- only", name))
			continue
		}
		if slices.Contains(reserved, name) {
			remarks = append(remarks, fmt.Sprintf("remote application %s: the client needs its own", name))
			continue
		}
		if len(apps) == maxApps {
			return apps, append(remarks, fmt.Sprintf("more than %d remote applications: the others are left out", maxApps))
		}
		app, err := load(root, name, s)
		if err != nil {
			remarks = append(remarks, fmt.Sprintf("remote application %s: %v", name, err))
			continue
		}
		apps = append(apps, app)
	}
	return apps, remarks
}

func load(root fs.FS, name string, s Settings) (App, error) {
	app := App{Name: name, Exec: name, Title: name, Trusted: s.Trusted}
	text, err := fs.ReadFile(root, path.Join(Dir, name+".conf"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return App{}, err
	}
	if err := app.parse(text); err != nil {
		return App{}, err
	}
	if len(app.Hosts) > 0 {
		return app, nil
	}
	app.Hosts, err = s.hosts()
	return app, err
}

// hosts returns where applications run that do not say it themselves.
func (s Settings) hosts() ([]Host, error) {
	if strings.TrimSpace(s.Servers) != "" {
		return parseHosts(s.Servers)
	}
	for _, name := range []string{s.SSHServer, s.Server, loginconf.DefaultServer} {
		if name == "" {
			continue
		}
		hosts, err := parseHosts(name)
		if err == nil {
			hosts[0].Options = s.SSHOptions
		}
		return hosts, err
	}
	return nil, errors.New("no host")
}

// parse reads lines KEY=VALUE; # begins a comment line. Keys that are not known are errors: a typo would be a wrong host.
func (a *App) parse(text []byte) error {
	if len(text) > maxConf {
		return fmt.Errorf("%d bytes, at most %d are read", len(text), maxConf)
	}
	number := 0
	for line := range bytes.Lines(text) {
		number++
		entry := strings.TrimSpace(string(line))
		if entry == "" || entry[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(entry, "=")
		if !ok {
			return fmt.Errorf("line %d: want KEY=VALUE", number)
		}
		if err := a.set(strings.TrimSpace(key), unquote(strings.TrimSpace(value))); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
	}
	return nil
}

func (a *App) set(key, value string) error {
	if len(value) > maxValue || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fmt.Errorf("%s is too long or has control characters", key)
	}
	var err error
	switch key {
	case "Name":
		a.Title = value
	case "Comment":
		a.Comment = value
	case "Exec":
		a.Exec = value
	case "Icon":
		a.Icon = value
	case "Categories":
		a.Categories = value
	case "Hosts":
		a.Hosts, err = parseHosts(value)
	case "Trusted":
		a.Trusted, err = strconv.ParseBool(value)
	default:
		err = fmt.Errorf("unknown key %q", key)
	}
	if err == nil && value == "" && (key == "Name" || key == "Exec") {
		err = fmt.Errorf("%s is empty", key)
	}
	return err
}

func unquote(value string) string {
	if len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
		return value[1 : len(value)-1]
	}
	return value
}

// parseHosts reads hosts with blanks or commas between them.
func parseHosts(text string) ([]Host, error) {
	var out []Host
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' }) {
		host, err := parseHost(word)
		if err != nil {
			return nil, err
		}
		out = append(out, host)
	}
	if len(out) > maxHosts {
		return nil, fmt.Errorf("%d hosts, at most %d", len(out), maxHosts)
	}
	return out, nil
}

func parseHost(word string) (Host, error) {
	name, port := word, ""
	switch {
	case strings.HasPrefix(word, "["):
		inside, behind, ok := strings.Cut(word[1:], "]")
		if !ok || behind != "" && behind[0] != ':' {
			return Host{}, fmt.Errorf("host %q: want NAME, NAME:PORT or [ADDRESS]:PORT", word)
		}
		name, port = inside, strings.TrimPrefix(behind, ":")
	case strings.Count(word, ":") == 1:
		name, port, _ = strings.Cut(word, ":")
	}
	host := Host{Name: name}
	if !isHostName(name) {
		return Host{}, fmt.Errorf("host %q: not a host name or address", word)
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return Host{}, fmt.Errorf("host %q: port %q is no port", word, port)
		}
		host.Port = uint16(n)
	}
	return host, nil
}
