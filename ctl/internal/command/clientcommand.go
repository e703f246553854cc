package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

// commandFlags say which clients a command means, and how long each may take.
type commandFlags struct {
	site, room string
	timeout    time.Duration
	yes        bool
}

func (f *commandFlags) register(c *cobra.Command, asks bool) {
	c.Flags().StringVar(&f.site, "site", "", "all clients of this site (or only the named ones there)")
	c.Flags().StringVar(&f.room, "room", "", "all clients of this room: SITE/ROOM")
	c.Flags().DurationVar(&f.timeout, "wait", 30*time.Second, "how long one client may take, 1s to 10m")
	if asks {
		c.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask before a whole site or room is meant")
	}
}

// request makes the request for the named clients, or for all of the site or room.
func (f *commandFlags) request(kind string, names []string) (*adminv1.CommandClientsRequest, error) {
	r := &adminv1.CommandClientsRequest{Kind: kind, Clients: names, Site: f.site, Timeout: durationpb.New(f.timeout)}
	if f.room != "" {
		site, room, slash := strings.Cut(f.room, "/")
		switch {
		case !slash && f.site != "":
			r.Room = f.room
		case slash && (f.site == "" || f.site == site):
			r.Site, r.Room = site, room
		default:
			return nil, usagef("room %q: want SITE/ROOM", f.room)
		}
	}
	if len(names) == 0 && r.Site == "" {
		return nil, usagef("name clients, or --site SITE, or --room SITE/ROOM")
	}
	return r, nil
}

type commandResultView struct {
	MAC    string `json:"mac"`
	Name   string `json:"name,omitempty"`
	Error  string `json:"error,omitempty"`
	Output string `json:"output,omitempty"`
	Exit   int32  `json:"exit,omitempty"`
}

// command sends a request and shows the answers. It fails if one client did.
func (a *app) command(ctx context.Context, r *adminv1.CommandClientsRequest) error {
	var views []commandResultView
	err := a.stream(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		stream, err := adminv1.NewClientServiceClient(conn).CommandClients(ctx, r)
		if err != nil {
			return err
		}
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			v := commandResultView{MAC: m.GetMac(), Name: m.GetName(), Error: m.GetError(), Output: m.GetOutput(), Exit: m.GetExit()}
			views = append(views, v)
			if a.output == string(printer.Table) {
				fmt.Fprint(a.stdout, v.text())
			}
		}
	})
	if a.output != string(printer.Table) && (err == nil || len(views) > 0) {
		err = errors.Join(err, a.print(printer.View{Value: append([]commandResultView{}, views...)}))
	}
	if err != nil {
		return err
	}
	failed := 0
	for _, v := range views {
		if v.Error != "" || v.Exit != 0 {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%s failed on %d of %d clients", r.GetKind(), failed, len(views))
	}
	return nil
}

// text is what people read of an answer: a line, and what the command printed below it.
func (v commandResultView) text() string {
	name := v.MAC
	if v.Name != "" {
		name = v.Name + " (" + v.MAC + ")"
	}
	state := "done"
	switch {
	case v.Error != "":
		state = v.Error
	case v.Exit != 0:
		state = fmt.Sprintf("exit code %d", v.Exit)
	}
	var b strings.Builder
	b.WriteString(plain(name+": "+state) + "\n")
	for line := range strings.Lines(v.Output) {
		b.WriteString("    " + plain(strings.TrimRight(line, "\r\n")) + "\n")
	}
	return b.String()
}

// askAll asks before a command means all clients of a site or a room.
func (a *app) askAll(cmd *cobra.Command, f *commandFlags, r *adminv1.CommandClientsRequest) error {
	if len(r.GetClients()) > 0 || f.yes {
		return nil
	}
	where := "site " + r.GetSite()
	if r.GetRoom() != "" {
		where = "room " + r.GetSite() + "/" + r.GetRoom()
	}
	ok, err := a.confirm(cmd, fmt.Sprintf("%s all clients of %s?", r.GetKind(), where))
	if err == nil && !ok {
		err = errDeclined
	}
	return err
}

// clientPower makes a command without arguments.
func (a *app) clientPower(kind, short string, asks bool) *cobra.Command {
	var f commandFlags
	c := &cobra.Command{
		Use:     kind + " [PC...]",
		Short:   short,
		Example: fmt.Sprintf("  ltspctl client %s pc01 pc02\n  ltspctl client %s --room school1/lab", kind, kind),
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.request(kind, args)
			if err != nil {
				return err
			}
			if asks {
				if err := a.askAll(cmd, &f, r); err != nil {
					return err
				}
			}
			return a.command(cmd.Context(), r)
		},
	}
	f.register(c, asks)
	return c
}

func (a *app) clientMessage() *cobra.Command {
	var f commandFlags
	var text string
	c := &cobra.Command{
		Use:     "message [PC...] --text TEXT",
		Short:   "Show a message to who sits at clients",
		Example: "  ltspctl client message --room school1/lab --text 'Five minutes left'",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.request("message", args)
			if err != nil {
				return err
			}
			r.Text = text
			return a.command(cmd.Context(), r)
		},
	}
	f.register(c, false)
	c.Flags().StringVarP(&text, "text", "t", "", "the message, at most 4 KiB")
	_ = c.MarkFlagRequired("text")
	return c
}

func (a *app) clientLogs() *cobra.Command {
	var f commandFlags
	var units []string
	c := &cobra.Command{
		Use:     "logs [PC...]",
		Short:   "Show the end of clients' journals",
		Example: "  ltspctl client logs pc01\n  ltspctl client logs pc01 --unit display-manager.service",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := f.request("logs", args)
			if err != nil {
				return err
			}
			r.Args = units
			return a.command(cmd.Context(), r)
		},
	}
	f.register(c, false)
	c.Flags().StringSliceVarP(&units, "unit", "u", nil, "only this unit's messages (repeatable)")
	return c
}

func (a *app) clientRun() *cobra.Command {
	var f commandFlags
	c := &cobra.Command{
		Use:   "run [PC...] -- PROGRAM [ARGUMENT...]",
		Short: "Run a program as root on clients, where the site allows it",
		Long: "Run a program as root on clients and show what it prints. It is refused unless the site allows it (\"ltspctl site set SITE --allow-run\"); the audit log\n" +
			"holds the program with its arguments, so do not put secrets there.",
		Example: "  ltspctl client run pc01 -- systemctl restart cups\n  ltspctl client run --room school1/lab --wait 2m -- sh -c 'df -h | tail -n 1'",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			if dash < 0 || dash == len(args) {
				return usagef("write the program behind --")
			}
			r, err := f.request("run", args[:dash])
			if err != nil {
				return err
			}
			r.Args = args[dash:]
			if err := a.askAll(cmd, &f, r); err != nil {
				return err
			}
			return a.command(cmd.Context(), r)
		},
	}
	f.register(c, true)
	return c
}

type clientEventView struct {
	Time *time.Time `json:"time"`
	Site string     `json:"site"`
	MAC  string     `json:"mac"`
	Name string     `json:"name,omitempty"`
	Kind string     `json:"kind"`
	Text string     `json:"text"`
}

func (a *app) clientEvents() *cobra.Command {
	var site string
	var limit uint32
	c := &cobra.Command{
		Use:     "events [PC]",
		Short:   "List what happened on clients, the newest first: login hosts that do not answer, policies that failed",
		Example: "  ltspctl client events --site school1\n  ltspctl client events pc01 --limit 20",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request := &adminv1.ListClientEventsRequest{Site: site, Limit: limit, Client: strings.Join(args, "")}
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := adminv1.NewClientServiceClient(conn).ListClientEvents(ctx, request)
				if err != nil {
					return err
				}
				views := []clientEventView{}
				var rows [][]string
				for _, e := range r.GetEvents() {
					v := clientEventView{Time: stamp(e.GetTime()), Site: e.GetSite(), MAC: e.GetMac(), Name: e.GetName(), Kind: e.GetKind(), Text: e.GetText()}
					name := v.Name
					if name == "" {
						name = v.MAC
					}
					views, rows = append(views, v), append(rows, []string{day(v.Time), v.Site, name, v.Kind, v.Text})
				}
				return a.print(printer.View{Value: views, Columns: []string{"TIME", "SITE", "CLIENT", "KIND", "TEXT"}, Rows: rows})
			})
		},
	}
	c.Flags().StringVar(&site, "site", "", "only this site")
	c.Flags().Uint32Var(&limit, "limit", 100, "how many, 1 to 1000")
	return c
}

type explainView struct {
	MAC      string               `json:"mac"`
	Name     string               `json:"name,omitempty"`
	Site     string               `json:"site"`
	Room     string               `json:"room,omitempty"`
	Address  string               `json:"address,omitempty"`
	Hostname string               `json:"hostname,omitempty"`
	Values   []explainedValueView `json:"values"`
	Remarks  []string             `json:"remarks"`
}

type explainedValueView struct {
	Variable    string              `json:"variable"`
	Value       string              `json:"value"`
	Inexact     bool                `json:"inexact,omitempty"`
	Assignments []explainedLineView `json:"assignments"`
}

type explainedLineView struct {
	Scope   string `json:"scope"`
	File    string `json:"file"`
	Line    uint32 `json:"line"`
	Section string `json:"section,omitempty"`
	Value   string `json:"value"`
}

func viewExplain(r *adminv1.ExplainClientResponse) explainView {
	v := explainView{
		MAC: r.GetMac(), Name: r.GetName(), Site: r.GetSite(), Room: r.GetRoom(), Address: r.GetAddress(), Hostname: r.GetHostname(),
		Values: []explainedValueView{}, Remarks: append([]string{}, r.GetRemarks()...),
	}
	for _, e := range r.GetValues() {
		value := explainedValueView{Variable: e.GetVariable(), Value: e.GetValue(), Inexact: e.GetInexact(), Assignments: []explainedLineView{}}
		for _, s := range e.GetAssignments() {
			value.Assignments = append(value.Assignments, explainedLineView{Scope: s.GetScope(), File: s.GetFile(), Line: s.GetLine(), Section: s.GetSection(), Value: s.GetValue()})
		}
		v.Values = append(v.Values, value)
	}
	return v
}

// rows has a line for each assignment: the first of a variable won, the others lost.
func (v explainView) rows() [][]string {
	var rows [][]string
	for _, e := range v.Values {
		value := brief(&e.Value)
		if e.Inexact {
			value += " (known on the client only)"
		}
		if len(e.Assignments) == 0 {
			rows = append(rows, []string{e.Variable, value, "predefined"})
		}
		for i, s := range e.Assignments {
			section := ""
			if s.Section != "" {
				section = "[" + s.Section + "]"
			}
			row := []string{"", "lost: " + brief(&s.Value), s.Scope, fmt.Sprintf("%s:%d", s.File, s.Line), section}
			if i == 0 {
				row[0], row[1] = e.Variable, value
			}
			rows = append(rows, row)
		}
	}
	return rows
}

func (a *app) clientExplain() *cobra.Command {
	var applet string
	c := &cobra.Command{
		Use:   "explain PC [VARIABLE...]",
		Short: "Tell which line of which policy gives a client each of its values, and which lines lost",
		Example: "  ltspctl client explain pc01\n" +
			"  ltspctl client explain pc01 AUTOLOGIN FSTAB_HOME\n" +
			"  ltspctl client explain 52:54:00:67:00:10 --applet initrd-bottom -o json",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request := &adminv1.ExplainClientRequest{Client: args[0], Variables: args[1:], Applet: applet}
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := adminv1.NewPolicyServiceClient(conn).ExplainClient(ctx, request)
				if err != nil {
					return err
				}
				v := viewExplain(r)
				if a.output == string(printer.Table) {
					fmt.Fprintf(a.stderr, "%s %s, site %s, room %s, address %s, host name %s\n", v.MAC, orNone(v.Name), v.Site, orNone(v.Room), orNone(v.Address), orNone(v.Hostname))
					for _, remark := range v.Remarks {
						fmt.Fprintln(a.stderr, "note: "+plain(remark))
					}
				}
				return a.print(printer.View{Value: v, Columns: []string{"VARIABLE", "VALUE", "LEVEL", "LINE", "SECTION"}, Rows: v.rows()})
			})
		},
	}
	c.Flags().StringVar(&applet, "applet", "", "as this applet sees it (default: init)")
	_ = c.RegisterFlagCompletionFunc("applet", cobra.FixedCompletions([]string{"init", "initrd-bottom"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return plain(s)
}
