package command

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	"github.com/ltsp-fleet/ltsp-fleet/internal/remoteapp"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

func (a *app) remoteapp() *cobra.Command {
	c := group("remoteapp", "Manage remote applications: programs of another host, shown on clients",
		a.remoteappList(), a.remoteappAdd(), a.remoteappRemove(), a.remoteappSessions())
	c.Long = "Remote applications run on the site's application hosts and are shown on clients. Each is a file remoteapps.d/NAME.conf in a policy; adding or removing one\n" +
		"makes a new version of that policy. REMOTEAPPS in ltsp.conf goes on to work."
	return c
}

type remoteappView struct {
	Scope string `json:"scope"`
	remoteappFlags
}

func (a *app) remoteappList() *cobra.Command {
	var scope scopeFlags
	c := a.listCommand("List remote applications of all levels, or of one", []string{"policy"}, scope.register,
		func(ctx context.Context, conn *grpc.ClientConn) (printer.View, error) {
			levels, err := levelsOf(ctx, conn, &scope)
			if err != nil {
				return printer.View{}, err
			}
			views := []remoteappView{}
			var rows [][]string
			for _, level := range levels {
				_, tree, err := fetchPresent(ctx, conn, level)
				if err != nil {
					return printer.View{}, err
				}
				apps, err := remoteappsIn(tree)
				if err != nil {
					fmt.Fprintf(a.stderr, "note: %s: %s\n", level, plain(err.Error()))
				}
				for _, app := range apps {
					views = append(views, remoteappView{Scope: level, remoteappFlags: app})
					rows = append(rows, []string{app.Name, level, app.Title, app.Exec, app.Hosts, app.Categories})
				}
			}
			return printer.View{Value: views, Columns: []string{"NAME", "LEVEL", "TITLE", "PROGRAM", "HOSTS", "CATEGORIES"}, Rows: rows}, nil
		})
	c.Example = "  ltspctl remoteapp list\n  ltspctl remoteapp list --site school1"
	return c
}

// levelsOf is the level that flags name, or all that have a policy.
func levelsOf(ctx context.Context, conn *grpc.ClientConn, scope *scopeFlags) ([]string, error) {
	if scope.given() {
		level, err := scope.scope()
		return []string{level}, err
	}
	r, err := adminv1.NewPolicyServiceClient(conn).ListPolicies(ctx, &adminv1.ListPoliciesRequest{})
	var levels []string
	for _, p := range r.GetPolicies() {
		levels = append(levels, p.GetScope())
	}
	return levels, err
}

func (a *app) remoteappAdd() *cobra.Command {
	var scope scopeFlags
	var app remoteappFlags
	var hosts []string
	c := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a remote application to a policy, or change it",
		Example: "  ltspctl remoteapp add gimp --site school1 --title Gimp --categories 'Graphics;'\n" +
			"  ltspctl remoteapp add calc --room school1/lab --exec 'libreoffice --calc' --host apps1 --host apps2:2222",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			level, err := scope.scope()
			if err != nil {
				return err
			}
			app.Name, app.Hosts = args[0], strings.Join(hosts, " ")
			f, err := app.file()
			if err != nil {
				return usageError{err}
			}
			return a.stream(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				number, tree, err := fetchPresent(ctx, conn, level)
				if err != nil {
					return err
				}
				d := &draft{progress: a.progress(), scope: level, note: "remote application " + app.Name, basedOn: number, shown: true}
				if d.tree, _, err = withFile(tree, f); err != nil {
					return err
				}
				return a.applyNow(ctx, conn, d)
			})
		},
	}
	scope.register(c)
	fs := c.Flags()
	fs.StringVar(&app.Exec, "exec", "", "program and arguments, as the host's shell reads them (default: NAME)")
	fs.StringVar(&app.Title, "title", "", "name in menus (default: NAME)")
	fs.StringVar(&app.Comment, "comment", "", "explanation in menus")
	fs.StringVar(&app.Icon, "icon", "", "name or path of an icon on the client")
	fs.StringVar(&app.Categories, "categories", "", "menu categories, such as 'Graphics;Education;'")
	fs.StringSliceVar(&hosts, "host", nil, "application host, HOST or HOST:PORT (repeatable; default: SSH_SERVER or the login host)")
	fs.BoolVar(&app.Trusted, "trusted", false, "give it the whole display, as ssh -Y does")
	return c
}

func (a *app) remoteappRemove() *cobra.Command {
	var scope scopeFlags
	c := &cobra.Command{
		Use: "remove NAME", Aliases: []string{"rm"}, Short: "Take a remote application out of a policy",
		Example: "  ltspctl remoteapp remove gimp --site school1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			level, err := scope.scope()
			if err != nil {
				return err
			}
			return a.stream(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				number, tree, err := fetchPresent(ctx, conn, level)
				if err != nil {
					return err
				}
				path := remoteapp.Path(args[0])
				if _, ok := tree.Find(path); !ok {
					return notFound("the policy of %s has no remote application %s", level, args[0])
				}
				d := &draft{progress: a.progress(), scope: level, note: "without remote application " + args[0], basedOn: number, shown: true, tree: tree.Remove(path)}
				return a.applyNow(ctx, conn, d)
			})
		},
	}
	scope.register(c)
	return c
}

type sessionView struct {
	Kind  string     `json:"kind"`
	User  string     `json:"user"`
	App   string     `json:"app,omitempty"`
	Host  string     `json:"host,omitempty"`
	Since *time.Time `json:"since,omitempty"`
}

type remoteSessionView struct {
	sessionView
	MAC    string `json:"mac"`
	Client string `json:"client,omitempty"`
	Site   string `json:"site"`
}

func (a *app) remoteappSessions() *cobra.Command {
	var site string
	c := a.listCommand("List the remote applications that run", []string{"client"},
		func(c *cobra.Command) { c.Flags().StringVar(&site, "site", "", "only this site") },
		func(ctx context.Context, conn *grpc.ClientConn) (printer.View, error) {
			r, err := adminv1.NewClientServiceClient(conn).ListClients(ctx, &adminv1.ListClientsRequest{Site: site})
			views := []remoteSessionView{}
			var rows [][]string
			for _, client := range r.GetClients() {
				for _, v := range remoteSessions(client) {
					name := v.Client
					if name == "" {
						name = v.MAC
					}
					views, rows = append(views, v), append(rows, []string{v.User, v.App, v.Host, name, v.Site, age(v.Since)})
				}
			}
			return printer.View{Value: views, Columns: []string{"USER", "APPLICATION", "HOST", "CLIENT", "SITE", "SINCE"}, Rows: rows}, err
		})
	c.Use, c.Aliases = "sessions", nil
	c.Example = "  ltspctl remoteapp sessions --site school1 --watch"
	return c
}

// remoteSessions are the remote applications that run on a client.
func remoteSessions(c *adminv1.Client) []remoteSessionView {
	client := viewClient(c)
	if client.Report == nil {
		return nil
	}
	var list []remoteSessionView
	for _, s := range client.Report.Sessions {
		if s.Kind != "remoteapp" {
			continue
		}
		v := remoteSessionView{sessionView: s, MAC: client.MAC, Client: client.Name, Site: client.Site}
		if v.Client == "" {
			v.Client = client.Report.Hostname
		}
		list = append(list, v)
	}
	return list
}
