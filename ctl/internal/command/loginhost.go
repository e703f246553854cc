package command

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/hostkeys"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/loginkey"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

// loginHostFlags are the settings of a site's login host.
type loginHostFlags struct {
	address, user string
	port          uint32
	keys          []string
	allowRun      bool
}

func (f *loginHostFlags) register(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&f.address, "login-host", "", "where users log in and have their homes: address, host name, or \"local\" for the satellite itself; empty for none")
	fs.Uint32Var(&f.port, "login-port", 0, "SSH port of the login host (default 22)")
	fs.StringVar(&f.user, "login-user", "", "account with which satellites read the accounts there (default ltsp)")
	fs.StringSliceVar(&f.keys, "login-host-key", nil, "pinned host key of the login host, \"TYPE BASE64\" (repeatable; replaces the list); see also \"site pin\"")
	fs.BoolVar(&f.allowRun, "allow-run", false, "allow \"client run\" on the site's clients")
}

func (f *loginHostFlags) apply(changed func(string) bool, s *adminv1.Site) error {
	if changed("allow-run") {
		s.AllowRun = f.allowRun
	}
	l := s.GetLoginHost()
	if l == nil {
		l = &satellitev1.LoginHost{}
	}
	if changed("login-host") {
		if f.address == "" {
			l = &satellitev1.LoginHost{}
		} else if l.GetAddress() != f.address {
			// Another host has other keys: pinned ones must not go over to it.
			l.Address, l.HostKeys = f.address, nil
		}
	}
	if changed("login-port") {
		l.Port = f.port
	}
	if changed("login-user") {
		l.User = f.user
	}
	if changed("login-host-key") {
		l.HostKeys = nil
		for _, line := range f.keys {
			k, err := hostkeys.Parse(line)
			if err != nil {
				return usageError{err}
			}
			l.HostKeys = append(l.HostKeys, k.Line)
		}
	}
	s.LoginHost = l
	return nil
}

type loginHostView struct {
	Address  string        `json:"address"`
	Port     uint32        `json:"port"`
	User     string        `json:"user"`
	HostKeys []hostKeyView `json:"host_keys"`
}

type hostKeyView struct {
	Type        string `json:"type"`
	Fingerprint string `json:"fingerprint"`
	Key         string `json:"key"`
}

func viewLoginHost(l *satellitev1.LoginHost) *loginHostView {
	if l.GetAddress() == "" {
		return nil
	}
	v := &loginHostView{Address: l.GetAddress(), Port: l.GetPort(), User: l.GetUser(), HostKeys: []hostKeyView{}}
	if v.Port == 0 {
		v.Port = 22
	}
	if v.User == "" {
		v.User = "ltsp"
	}
	for _, line := range l.GetHostKeys() {
		key := hostKeyView{Key: line}
		if k, err := hostkeys.Parse(line); err == nil {
			key.Type, key.Fingerprint = k.Type, k.Fingerprint
		}
		v.HostKeys = append(v.HostKeys, key)
	}
	return v
}

// pairs are the lines of "site show".
func (v *loginHostView) pairs() [][2]string {
	if v == nil {
		return [][2]string{{"login host", ""}}
	}
	if v.Address == "local" {
		return [][2]string{{"login host", "the satellite itself"}}
	}
	pairs := [][2]string{{"login host", fmt.Sprintf("%s port %d as %s", v.Address, v.Port, v.User)}}
	if len(v.HostKeys) == 0 {
		pairs = append(pairs, [2]string{"login host key", "none is pinned: satellites do not connect; see \"ltspctl site pin\""})
	}
	for _, k := range v.HostKeys {
		pairs = append(pairs, [2]string{"login host key", k.Type + " " + k.Fingerprint})
	}
	return pairs
}

func (a *app) sitePin() *cobra.Command {
	var fingerprints []string
	var yes bool
	c := &cobra.Command{
		Use:   "pin SITE",
		Short: "Ask the site's login host for its SSH host keys and pin them",
		Long: "Ask the site's login host, from here, for its SSH host keys, show their fingerprints and store them with the site: satellites and clients then accept no\n" +
			"others. Compare the fingerprints with what \"ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\" prints on the login host; or give that with --fingerprint:\n" +
			"then only the key that has it is pinned, and nobody asks.",
		Example: "  ltspctl site pin school1\n  ltspctl site pin school1 --fingerprint SHA256:5tX0...",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.stream(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				api := adminv1.NewSiteServiceClient(conn)
				r, err := api.GetSite(ctx, &adminv1.GetSiteRequest{Name: args[0]})
				if err != nil {
					return err
				}
				s := r.GetSite()
				keys, err := scanLoginHost(ctx, s)
				if err != nil {
					return err
				}
				if keys, err = a.choose(cmd, s, keys, fingerprints, yes); err != nil {
					return err
				}
				s.LoginHost.HostKeys = nil
				for _, k := range keys {
					s.LoginHost.HostKeys = append(s.LoginHost.HostKeys, k.Line)
				}
				u, err := api.UpdateSite(ctx, &adminv1.UpdateSiteRequest{Site: s})
				if err != nil {
					return err
				}
				a.say("%d host keys of %s pinned for site %s", len(keys), s.GetLoginHost().GetAddress(), s.GetName())
				if a.output == string(printer.Table) {
					return nil
				}
				return a.print(printer.View{Value: viewSite(u.GetSite())})
			})
		},
	}
	c.Flags().StringSliceVar(&fingerprints, "fingerprint", nil, "fingerprint (SHA256:...) of a key to pin (repeatable)")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "pin what answers, without asking (only in a network that you trust)")
	return c
}

func scanLoginHost(ctx context.Context, s *adminv1.Site) ([]hostkeys.Key, error) {
	l := s.GetLoginHost()
	switch l.GetAddress() {
	case "":
		return nil, notFound("site %s has no login host; \"ltspctl site set %s --login-host ADDRESS\" gives it one", s.GetName(), s.GetName())
	case "local":
		return nil, usagef("the login host of site %s is the satellite itself, which needs no key", s.GetName())
	}
	port := l.GetPort()
	if port == 0 {
		port = 22
	}
	return hostkeys.Scan(ctx, net.JoinHostPort(l.GetAddress(), strconv.Itoa(int(port))))
}

// choose returns the keys to pin: those with the fingerprints, or all if the admin says so.
func (a *app) choose(cmd *cobra.Command, s *adminv1.Site, keys []hostkeys.Key, fingerprints []string, yes bool) ([]hostkeys.Key, error) {
	for _, k := range keys {
		state := "new"
		if slices.Contains(s.GetLoginHost().GetHostKeys(), k.Line) {
			state = "pinned"
		}
		fmt.Fprintf(a.stderr, "%s  %s  (%s)\n", k.Fingerprint, k.Type, state)
	}
	for _, line := range s.GetLoginHost().GetHostKeys() {
		if slices.ContainsFunc(keys, func(k hostkeys.Key) bool { return k.Line == line }) {
			continue
		}
		if k, err := hostkeys.Parse(line); err == nil {
			fmt.Fprintf(a.stderr, "%s  %s  (pinned, but the login host does not have it any more)\n", k.Fingerprint, k.Type)
		}
	}
	if len(fingerprints) == 0 {
		if yes {
			return keys, nil
		}
		ok, err := a.confirm(cmd, "Are these the keys of the login host? Pin them?")
		if err == nil && !ok {
			err = errDeclined
		}
		return keys, err
	}
	var chosen []hostkeys.Key
	for _, f := range fingerprints {
		i := slices.IndexFunc(keys, func(k hostkeys.Key) bool { return k.Fingerprint == "SHA256:"+strings.TrimPrefix(f, "SHA256:") })
		if i < 0 {
			return nil, invalidError{fmt.Errorf("the login host has no key with the fingerprint %s: it is another host, or somebody sits in between", f)}
		}
		chosen = append(chosen, keys[i])
	}
	return chosen, nil
}

type loginKeyView struct {
	Satellite string `json:"satellite"`
	State     string `json:"state"`
	Error     string `json:"error,omitempty"`
	Users     uint32 `json:"users"`
	Line      string `json:"line,omitempty"`
}

func (a *app) siteLoginKey() *cobra.Command {
	return &cobra.Command{
		Use:   "login-key SITE",
		Short: "Print the lines for authorized_keys that let the site's satellites read the accounts of the login host",
		Long: "Print a line per satellite for ~/.ssh/authorized_keys of the login user on the site's login host. Each lets one satellite do one thing: read the names of\n" +
			"users and groups. The login user needs no password and no rights.",
		Example: "  ltspctl site login-key school1 | ssh root@srv 'cat >> ~ltsp/.ssh/authorized_keys'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := adminv1.NewSatelliteServiceClient(conn).ListSatellites(ctx, &adminv1.ListSatellitesRequest{Site: args[0]})
				if err != nil {
					return err
				}
				views := []loginKeyView{}
				for _, s := range r.GetSatellites() {
					v := viewLoginKey(s)
					views = append(views, v)
					if a.output != string(printer.Table) {
						continue
					}
					if v.Line == "" {
						fmt.Fprintf(a.stderr, "note: satellite %s has told no key: %s\n", v.Satellite, orNone(v.Error))
						continue
					}
					fmt.Fprintln(a.stdout, v.Line)
				}
				if a.output == string(printer.Table) {
					return nil
				}
				return a.print(printer.View{Value: views})
			})
		},
	}
}

func viewLoginKey(s *adminv1.Satellite) loginKeyView {
	l := s.GetStatus().GetLoginHost()
	v := loginKeyView{Satellite: s.GetName(), State: l.GetState(), Error: l.GetError(), Users: l.GetUsers()}
	if l.GetPublicKey() == "" {
		return v
	}
	line, err := loginkey.Line(s.GetName(), l.GetPublicKey())
	if err != nil {
		v.Error = err.Error()
	}
	v.Line = line
	return v
}
