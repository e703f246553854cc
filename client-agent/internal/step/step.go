// Package step defines what the client applets consist of: steps with the names of LTSP's scripts, made of functions with the names of LTSP's, each of
// which knows what it depends on and whether it can be done again on a running client. The steps themselves are the packages below; package applet puts
// them in order and runs them.
package step

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Facts are what the client knows of itself before it reads its policy.
type Facts struct {
	// Device is the NIC that the root hangs on, MAC its address, Addr its IPv4 address with the length of the network's prefix.
	Device string
	MAC    net.HardwareAddr
	Addr   netip.Prefix
	// Gateway, DNS, Domain, DHCPServer, RootServer and Lease are what came with the address; zero: not known.
	Gateway    netip.Addr
	DNS        []netip.Addr
	Domain     string
	DHCPServer string
	RootServer string
	Lease      time.Duration
	// Hostname is the name that the PC was given by the administrator or with its address; empty if none was.
	Hostname string
	// Server is SERVER: the site's login and home host; empty if it has none. ServerPort is its SSH port; zero means 22.
	Server     string
	ServerPort uint16
	// CommandLine is the kernel's (/proc/cmdline).
	CommandLine string
	// Sys is where sysfs is; empty means /sys.
	Sys string
}

// Values are variables of ltsp.conf by name. A variable that is not set has the empty value.
type Values map[string]string

// Family returns the non-empty values of the variables whose name begins with prefix and goes on, in the order of their names.
func (v Values) Family(prefix string) []string {
	names := v.Names(prefix)
	for i, name := range names {
		names[i] = v[name]
	}
	return names
}

// A Function is one of LTSP's, or one of ours, within a step.
type Function struct {
	// Name is what OMIT_FUNCTIONS calls it.
	Name string
	// Needs are the variables and inputs that its result depends on; a name that ends in "*" is a family: HOSTS_* means all that begins with HOSTS_. What
	// Context calls an input is named by a constant.
	Needs []string
	// Always functions only work out values for those behind them; they are done again whenever others are.
	Always bool
	// Live functions can be done again on a running client, with other values, and then take back what they did before.
	Live bool
	// Do does it. A nil Do has no effect here; Omitting it is no error.
	Do func(*Context) error
}

// Inputs are what functions depend on beside variables. They cannot be names of shell variables.
const (
	InputUsers   = "input:users"   // the accounts of the login host
	InputScripts = "input:scripts" // drop-in scripts and hooks' helpers
	InputFiles   = "input:files"   // other files of the policy's tree: sshfs, the epoptes certificate, xorg.conf
)

// A Step is one script of an applet.
type Step struct {
	// Name is the script's file name without ".sh", for example 45-networking.
	Name string
	// Main is the function that runs the others in order; omitting it omits them.
	Main      string
	Functions []Function
}

// Short is the name as LTSP_SKIP_SCRIPTS has it: networking for 45-networking, display_manager for 55-display-manager.
func (s Step) Short() string { return ShortName(s.Name) }

// ShortName makes the name of a script that of its functions: what is before the first letter and behind the first dot goes, and what is no letter or
// digit becomes "_".
func ShortName(file string) string {
	file = strings.TrimLeftFunc(file, func(r rune) bool { return !isLetter(r) })
	file, _, _ = strings.Cut(file, ".")
	return strings.Map(func(r rune) rune {
		if isLetter(r) || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, file)
}

func isLetter(r rune) bool { return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' }

// PAM puts the login modules into a root. It is called again on a running client when what it depends on has changed.
type PAM interface {
	Install(ctx context.Context, root rootdir.Root, settings PAMSettings) error
}

// PAMSettings are PAM_AUTH_TYPE ("", "0", "Primary" or "Additional"), SSH_SERVER, SSH_OPTIONS, SSHFS and MKHOMEDIR.
type PAMSettings struct {
	AuthType, SSHServer, SSHOptions, SSHFS, MkHomeDir string
}

// RemoteApps registers the applications of REMOTEAPPS, and no others, with a root. What else it goes by is in the values.
type RemoteApps interface {
	Register(ctx context.Context, root rootdir.Root, values Values) error
}

// System is the running kernel and, on a running client, its service manager. A tree that nothing runs in has None.
type System interface {
	SetHostname(name string) error
	// Systemctl runs systemctl with these arguments. It is called on a running client only.
	Systemctl(ctx context.Context, args ...string) error
}

// None is the System of a tree.
type None struct{}

// SetHostname does nothing.
func (None) SetHostname(string) error { return nil }

// Systemctl does nothing.
func (None) Systemctl(context.Context, ...string) error { return nil }

// Context is what a function works with. Functions run one after the other.
type Context struct {
	Ctx    context.Context
	Root   rootdir.Root
	Facts  Facts
	Values Values // functions may set values for those behind them, and for POST hooks
	// Users are the accounts of the login host; nil if they are not known.
	Users *agentproto.Users
	// Live means that the root is that of a running client.
	Live       bool
	System     System
	PAM        PAM        // nil: none
	RemoteApps RemoteApps // nil: none
	Memory     *Memory
	// Expand replaces %{...} late, as LTSP does for some values: the shell expands the text with "$" for "%".
	Expand func(text string) (string, error)
	// Lookup finds the IPv4 address of a host name at one of the name servers; nil asks them by DNS.
	Lookup func(ctx context.Context, servers []string, name string) (netip.Addr, error)
	Log    *slog.Logger
	// Remarks are short lines for the administrator about what was given and not done.
	Remarks []string
}
