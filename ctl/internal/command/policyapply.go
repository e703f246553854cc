package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

type policyFindingView struct {
	Scope    string `json:"scope,omitempty"`
	File     string `json:"file"`
	Line     uint32 `json:"line,omitempty"`
	Severity string `json:"severity"`
	Rule     string `json:"rule"`
	Text     string `json:"text"`
	Remedy   string `json:"remedy,omitempty"`
}

func viewFindings(findings []*adminv1.LintFinding) []policyFindingView {
	views := []policyFindingView{}
	for _, f := range findings {
		views = append(views, policyFindingView{
			Scope: f.GetScope(), File: f.GetFile(), Line: f.GetLine(), Severity: f.GetSeverity(), Rule: f.GetRule(), Text: f.GetText(), Remedy: f.GetRemedy(),
		})
	}
	return views
}

func (f policyFindingView) String() string {
	where := f.File
	if f.Line > 0 {
		where += ":" + strconv.Itoa(int(f.Line))
	}
	s := fmt.Sprintf("%s: %s %s: %s [%s]", f.Severity, f.Scope, where, f.Text, f.Rule)
	if f.Remedy != "" {
		s += "\n    " + f.Remedy
	}
	return plain(s)
}

type planView struct {
	Scope          string              `json:"scope"`
	Files          []string            `json:"files"`
	ClientsTotal   uint32              `json:"clients_total"`
	ClientsChanged uint32              `json:"clients_changed"`
	Clients        []clientPlanView    `json:"clients"`
	Findings       []policyFindingView `json:"findings"`
	EvaluationS    float64             `json:"evaluation_seconds"`
}

type clientPlanView struct {
	MAC     string            `json:"mac"`
	Name    string            `json:"name,omitempty"`
	Site    string            `json:"site"`
	Room    string            `json:"room,omitempty"`
	Changes []valueChangeView `json:"changes"`
	Error   string            `json:"error,omitempty"`
}

type valueChangeView struct {
	Variable string  `json:"variable"`
	Before   *string `json:"before"`
	After    *string `json:"after"`
	Effect   string  `json:"effect"`
}

func viewPlan(scope string, r *adminv1.PlanPolicyResponse) planView {
	v := planView{
		Scope: scope, Files: append([]string{}, r.GetFiles()...), ClientsTotal: r.GetClientsTotal(), ClientsChanged: r.GetClientsChanged(),
		Clients: []clientPlanView{}, Findings: viewFindings(r.GetFindings()), EvaluationS: r.GetEvaluation().AsDuration().Seconds(),
	}
	for _, c := range r.GetClients() {
		client := clientPlanView{MAC: c.GetMac(), Name: c.GetName(), Site: c.GetSite(), Room: c.GetRoom(), Error: c.GetError(), Changes: []valueChangeView{}}
		for _, change := range c.GetChanges() {
			client.Changes = append(client.Changes, valueChangeView{Variable: change.GetVariable(), Before: change.Before, After: change.After, Effect: change.GetEffect()})
		}
		v.Clients = append(v.Clients, client)
	}
	return v
}

// bad tells whether the plan has an error for which it would be refused: other findings are for the admin to judge.
func (v planView) bad() bool {
	return slices.ContainsFunc(v.Findings, func(f policyFindingView) bool { return f.Rule == "syntax" })
}

// effects says when a change is in force.
var effects = map[string]string{"live": "at once", "reboot": "after a reboot", "boot": "at the next boot", "login": "at the next login"}

// writePlan shows a plan to people.
func writePlan(w io.Writer, v planView) error {
	for _, f := range v.Findings {
		fmt.Fprintln(w, f)
	}
	if len(v.Files) == 0 {
		fmt.Fprintf(w, "The files of %s stay as they are.\n", v.Scope)
	}
	for _, f := range v.Files {
		fmt.Fprintf(w, "%s %s\n", f[:1], f[1:])
	}
	fmt.Fprintf(w, "Values change for %d of %d clients (looked at in %.2f s).\n", v.ClientsChanged, v.ClientsTotal, v.EvaluationS)
	if len(v.Clients) == 0 {
		return nil
	}
	var rows [][]string
	for _, c := range v.Clients {
		rows = append(rows, c.rows()...)
	}
	if int(v.ClientsChanged) > len(v.Clients) {
		defer fmt.Fprintf(w, "... and %d clients more.\n", int(v.ClientsChanged)-len(v.Clients))
	}
	return printer.Print(w, printer.Table, printer.View{Columns: []string{"CLIENT", "SITE", "ROOM", "VARIABLE", "BEFORE", "AFTER", "IN FORCE"}, Rows: rows})
}

func (c clientPlanView) rows() [][]string {
	name := c.Name
	if name == "" {
		name = c.MAC
	}
	var rows [][]string
	if c.Error != "" {
		rows = append(rows, []string{name, c.Site, c.Room, "error", c.Error})
	}
	for _, change := range c.Changes {
		rows = append(rows, []string{name, c.Site, c.Room, change.Variable, brief(change.Before), brief(change.After), effects[change.Effect]})
	}
	return rows
}

// brief shortens a value for a table; one that is not set is "", an empty one '""'.
func brief(s *string) string {
	const most = 48
	if s == nil {
		return ""
	}
	if *s == "" {
		return `""`
	}
	r := []rune(strings.ReplaceAll(*s, "\n", `\n`))
	if len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return string(r)
}

func (a *app) policyPlan() *cobra.Command {
	var scope scopeFlags
	c := &cobra.Command{
		Use:   "plan DIR|FILE",
		Short: "Show what applying a directory, or an ltsp.conf, would change for which clients",
		Example: "  ltspctl policy plan ./etc-ltsp --site school1\n" +
			"  ltspctl policy plan ltsp.conf --room school1/lab -o json",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			level, err := scope.scope()
			if err != nil {
				return err
			}
			return a.stream(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				d, err := a.draftFrom(ctx, conn, level, args[0])
				if err != nil {
					return err
				}
				r, err := planDraft(ctx, conn, d)
				if err != nil {
					return err
				}
				v := viewPlan(level, r)
				if a.output != string(printer.Table) {
					err = a.print(printer.View{Value: v})
				} else {
					err = writePlan(a.stdout, v)
				}
				if err == nil && v.bad() {
					err = invalidError{errors.New("the policy has errors and would be refused")}
				}
				return err
			})
		},
	}
	scope.register(c)
	return c
}

// draftFrom reads a directory or a configuration as the next version of a level.
func (a *app) draftFrom(ctx context.Context, conn *grpc.ClientConn, level, path string) (*draft, error) {
	number, present, err := fetchPresent(ctx, conn, level)
	if err != nil {
		return nil, err
	}
	tree, remarks, err := readLocal(path, present)
	for _, r := range remarks {
		fmt.Fprintf(a.stderr, "note: %s\n", r)
	}
	return &draft{progress: a.progress(), scope: level, basedOn: number, tree: tree}, err
}

func (a *app) policyApply() *cobra.Command {
	var scope scopeFlags
	var note string
	var yes bool
	c := &cobra.Command{
		Use:   "apply DIR|FILE",
		Short: "Make a directory, or an ltsp.conf, the new version of a policy",
		Long: "Make a directory the new version of a policy: all of its files, those that are not in it go. Of a single ltsp.conf or ltsp-APPLET.conf only that file is\n" +
			"replaced. The plan is shown first and you are asked, unless --yes is given.",
		Example: "  ltspctl policy apply ./etc-ltsp --site school1 --note 'new printers'\n" +
			"  ltspctl policy apply ltsp.conf --org --yes",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			level, err := scope.scope()
			if err != nil {
				return err
			}
			return a.stream(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				d, err := a.draftFrom(ctx, conn, level, args[0])
				if err != nil {
					return err
				}
				d.note = note
				return a.apply(ctx, cmd, conn, d, yes)
			})
		},
	}
	scope.register(c)
	c.Flags().StringVar(&note, "note", "", "text for the history")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "apply without a plan and without asking")
	return c
}

// errDeclined ends a command that the admin did not want after all.
var errDeclined = errors.New("nothing was changed")

// apply shows the plan of a draft and asks, unless yes, and makes it the level's new version.
func (a *app) apply(ctx context.Context, cmd *cobra.Command, conn *grpc.ClientConn, d *draft, yes bool) error {
	if !yes {
		r, err := planDraft(ctx, conn, d)
		if err != nil {
			return err
		}
		v := viewPlan(d.scope, r)
		d.shown = true
		if err := writePlan(a.stderr, v); err != nil {
			return err
		}
		if v.bad() {
			return invalidError{errors.New("the policy has errors and would be refused")}
		}
		if ok, err := a.confirm(cmd, "Apply it?"); err != nil || !ok {
			return errors.Join(err, errDeclined)
		}
	}
	return a.applyNow(ctx, conn, d)
}

type appliedView struct {
	Version  policyVersionView   `json:"version"`
	Created  bool                `json:"created"`
	Findings []policyFindingView `json:"findings"`
}

func (a *app) applyNow(ctx context.Context, conn *grpc.ClientConn, d *draft) error {
	r, err := applyDraft(ctx, conn, d)
	if err != nil {
		return err
	}
	v := appliedView{Version: viewPolicyVersion(r.GetVersion()), Created: r.GetCreated(), Findings: viewFindings(r.GetFindings())}
	if a.output == string(printer.Table) && !d.shown {
		for _, f := range v.Findings {
			fmt.Fprintln(a.stderr, f)
		}
	}
	if !v.Created {
		a.say("that is in force already, as version %d", v.Version.Number)
	}
	return a.print(printer.View{Value: v, Columns: policyColumns, Rows: [][]string{v.Version.row()}})
}

// confirm asks on standard error; only yes is yes. Without anybody to answer it is a usage error.
func (a *app) confirm(cmd *cobra.Command, question string) (bool, error) {
	answer, err := a.ask(cmd, question+" [y/N] ")
	return answer == "y" || answer == "yes", err
}

// ask returns the answer in lower case.
func (a *app) ask(cmd *cobra.Command, question string) (string, error) {
	fmt.Fprint(a.stderr, question)
	// One byte after the other: what follows the line belongs to the next question.
	var line []byte
	in, one := cmd.InOrStdin(), make([]byte, 1)
	for len(line) < 1<<10 {
		n, err := in.Read(one)
		if n == 1 && one[0] == '\n' {
			return strings.ToLower(strings.TrimSpace(string(line))), nil
		}
		line = append(line, one[:n]...)
		if errors.Is(err, io.EOF) {
			if len(line) > 0 {
				return strings.ToLower(strings.TrimSpace(string(line))), nil
			}
			fmt.Fprintln(a.stderr)
			return "", usagef("nobody answers; add --yes")
		}
		if err != nil {
			return "", err
		}
	}
	return "", nil
}

func (a *app) policySet() *cobra.Command {
	var scope scopeFlags
	var from, note, mode string
	var remove bool
	c := &cobra.Command{
		Use:   "set PATH",
		Short: "Put one file into a policy, or take it out",
		Example: "  ltspctl policy set client/init/60-printers.sh --from printers.sh --mode 0755 --site school1\n" +
			"  sed s/OLD/NEW/ ltsp.conf | ltspctl policy set ltsp.conf --from - --org\n" +
			"  ltspctl policy set xorg.conf --remove --room school1/lab",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			level, err := scope.scope()
			if err != nil {
				return err
			}
			if remove == (from != "") {
				return usagef("want --from FILE (or --from - for standard input), or --remove")
			}
			f := policy.File{Path: args[0], Kind: policy.Regular}
			if !remove {
				if f, err = fileFrom(cmd.InOrStdin(), args[0], from, mode); err != nil {
					return err
				}
			}
			return a.stream(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				number, tree, err := fetchPresent(ctx, conn, level)
				if err != nil {
					return err
				}
				d := &draft{progress: a.progress(), scope: level, note: note, basedOn: number}
				if remove {
					if d.tree = tree.Remove(args[0]); len(d.tree) == len(tree) {
						return notFound("the policy of %s has no file %s", level, args[0])
					}
				} else {
					if old, ok := tree.Find(args[0]); ok && old.Kind == policy.Regular && mode == "" {
						f.Mode = old.Mode
					}
					if d.tree, _, err = withFile(tree, f); err != nil {
						return err
					}
				}
				return a.applyNow(ctx, conn, d)
			})
		},
	}
	scope.register(c)
	c.Flags().StringVar(&from, "from", "", "file with the content; - is standard input")
	c.Flags().StringVar(&mode, "mode", "", "permissions, in octal (default: those of the file that is there, else 0644; 0600 for a configuration)")
	c.Flags().BoolVar(&remove, "remove", false, "take the file out, or a directory with all below it")
	c.Flags().StringVar(&note, "note", "", "text for the history")
	return c
}

func fileFrom(stdin io.Reader, path, from, mode string) (policy.File, error) {
	f := policy.File{Path: path, Kind: policy.Regular, Mode: 0o644}
	if policy.IsConf(path) {
		f.Mode = 0o600
	}
	if mode != "" {
		bits, err := strconv.ParseUint(mode, 8, 16)
		if err != nil || bits > 0o777 {
			return f, usagef("mode %q: want permissions in octal, such as 0755", mode)
		}
		f.Mode = uint16(bits)
	}
	in := stdin
	if from != "-" {
		file, err := os.Open(from)
		if err != nil {
			return f, invalidError{err}
		}
		defer file.Close()
		in = file
	}
	var err error
	f.Content, err = io.ReadAll(io.LimitReader(in, policy.MaxFileBytes+1)) // one too many is refused by the tree's check
	return f, err
}

func (a *app) policyEdit() *cobra.Command {
	var scope scopeFlags
	var note string
	c := &cobra.Command{
		Use:   "edit [FILE]",
		Short: "Edit a file of a policy (default: ltsp.conf) with $EDITOR",
		Long:  "Edit a file of a policy with $VISUAL or $EDITOR. What you have written is checked; after an error you may go on editing. Then the plan is shown and you are asked.",
		Example: "  ltspctl policy edit --site school1\n" +
			"  ltspctl policy edit client/init/60-printers.sh --room school1/lab",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			level, err := scope.scope()
			if err != nil {
				return err
			}
			name := policy.ConfName
			if len(args) > 0 {
				name = args[0]
			}
			return a.stream(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				number, tree, err := fetchPresent(ctx, conn, level)
				if err != nil {
					return err
				}
				return a.edit(ctx, cmd, conn, &draft{progress: a.progress(), scope: level, note: note, basedOn: number, tree: tree}, name)
			})
		},
	}
	scope.register(c)
	c.Flags().StringVar(&note, "note", "", "text for the history")
	return c
}

// edit lets the admin work on a file of the draft until it is applied or given up.
func (a *app) edit(ctx context.Context, cmd *cobra.Command, conn *grpc.ClientConn, d *draft, name string) error {
	f, ok := d.tree.Find(name)
	if ok && f.Kind != policy.Regular {
		return usagef("%s is no file", name)
	}
	if !ok {
		f = policy.File{Path: name, Kind: policy.Regular, Mode: 0o644}
		if policy.IsConf(name) {
			f.Mode = 0o600
		}
	}
	dir, err := os.MkdirTemp("", "ltspctl-edit-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, filepath.Base(name))
	if err := os.WriteFile(path, f.Content, 0o600); err != nil {
		return err
	}
	original := f.Content
	for {
		if f.Content, err = runEditor(ctx, path); err != nil {
			return err
		}
		if bytes.Equal(f.Content, original) {
			return errDeclined
		}
		d.tree = d.tree.Put(f)
		again, err := a.review(ctx, cmd, conn, d)
		if err != nil {
			return err
		}
		if !again {
			return a.applyNow(ctx, conn, d)
		}
	}
}

// review shows the plan of an edited draft and asks: again tells that the admin wants to go on editing.
func (a *app) review(ctx context.Context, cmd *cobra.Command, conn *grpc.ClientConn, d *draft) (again bool, err error) {
	question := "Apply it? [y/N/e(dit again)] "
	if err := d.tree.Check(); err != nil {
		fmt.Fprintf(a.stderr, "error: %v\n", err)
		question = "Edit again? [Y/n] "
	} else {
		r, err := planDraft(ctx, conn, d)
		if err != nil {
			return false, err
		}
		v := viewPlan(d.scope, r)
		d.shown = true
		if err := writePlan(a.stderr, v); err != nil {
			return false, err
		}
		if v.bad() {
			question = "Edit again? [Y/n] "
		}
	}
	answer, err := a.ask(cmd, question)
	if err != nil {
		return false, err
	}
	if strings.HasPrefix(question, "Edit") {
		if answer == "n" || answer == "no" {
			return false, errDeclined
		}
		return true, nil
	}
	switch answer {
	case "e", "edit":
		return true, nil
	case "y", "yes":
		return false, nil
	}
	return false, errDeclined
}

// runEditor lets the admin's editor work on a file and reads it back.
func runEditor(ctx context.Context, path string) ([]byte, error) {
	editor := "vi"
	for _, name := range []string{"EDITOR", "VISUAL"} {
		if s := os.Getenv(name); s != "" {
			editor = s
		}
	}
	// Editors are given as command lines ("code --wait"): the shell takes them apart.
	c := exec.CommandContext(ctx, "sh", "-c", editor+` "$1"`, "sh", path)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := c.Run(); err != nil {
		return nil, fmt.Errorf("editor %q: %w", editor, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, policy.MaxFileBytes+1))
}
