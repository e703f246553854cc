package remoteapps

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/loginconf"
	"github.com/ltsp-fleet/ltsp-fleet/internal/remoteapp"
)

// App is a program of another host, as a launcher on the client.
type App struct {
	// Name is what the launcher is called; remoteapp.CheckName takes it.
	Name string `json:"name"`
	// Exec is the program with its arguments as the host's shell shall read them; the launcher's own arguments follow.
	Exec string `json:"exec"`
	// Title, Comment, Icon and Categories are for the menu; only Title is never empty.
	Title      string `json:"title"`
	Comment    string `json:"comment,omitempty"`
	Icon       string `json:"icon,omitempty"`
	Categories string `json:"categories,omitempty"`
	// Hosts that have it; never empty in what Load returns.
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

// policyDir is where the policy's tree lies, relative to the root directory.
const policyDir = "etc/ltsp/"

// Dir holds a file NAME.conf (internal/remoteapp) for each application that wants more than a name, relative to the root directory.
const Dir = policyDir + remoteapp.Dir

// maxApps bounds the launchers of a client.
const maxApps = 512

// Load returns the applications that settings and the files of Dir name, in the order of their names, and remarks on what cannot be used.
func Load(root fs.FS, s Settings) (apps []App, remarks []string) {
	names := strings.Fields(s.Words)
	files, _ := fs.Glob(root, policyDir+remoteapp.Path("*")) // the pattern is good
	for _, file := range files {
		if name, ok := remoteapp.NameOf(strings.TrimPrefix(file, policyDir)); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if err := remoteapp.CheckName(name); err != nil {
			remarks = append(remarks, fmt.Sprintf("remote application %q: %v", name, err))
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
	text, err := fs.ReadFile(root, policyDir+remoteapp.Path(name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return App{}, err
	}
	file, err := remoteapp.Parse(text)
	if err != nil {
		return App{}, err
	}
	app := App{Name: name, Exec: cmp.Or(file.Exec, name), Title: cmp.Or(file.Title, name), Comment: file.Comment, Icon: file.Icon, Categories: file.Categories,
		Hosts: hostsOf(file.Hosts), Trusted: s.Trusted}
	if file.Trusted != nil {
		app.Trusted = *file.Trusted
	}
	if len(app.Hosts) > 0 {
		return app, nil
	}
	app.Hosts, err = s.hosts()
	if err == nil && len(app.Hosts) == 0 {
		err = errors.New("no host")
	}
	return app, err
}

func hostsOf(hosts []remoteapp.Host) []Host {
	var out []Host
	for _, h := range hosts {
		out = append(out, Host{Name: h.Name, Port: h.Port})
	}
	return out
}

// hosts returns where applications run that do not say it themselves.
func (s Settings) hosts() ([]Host, error) {
	if strings.TrimSpace(s.Servers) != "" {
		hosts, err := remoteapp.ParseHosts(s.Servers)
		return hostsOf(hosts), err
	}
	parsed, err := remoteapp.ParseHosts(cmp.Or(s.SSHServer, s.Server, loginconf.DefaultServer))
	hosts := hostsOf(parsed)
	if err == nil && len(hosts) > 0 {
		hosts[0].Options = s.SSHOptions
	}
	return hosts, err
}
