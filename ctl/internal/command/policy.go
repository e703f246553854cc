package command

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/linediff"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/progress"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/treedir"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

type policyVersionView struct {
	Scope     string     `json:"scope"`
	Number    uint64     `json:"number"`
	SHA256    string     `json:"sha256"`
	SizeBytes uint64     `json:"size_bytes"`
	Files     uint32     `json:"files"`
	Created   *time.Time `json:"created,omitempty"`
	Author    string     `json:"author"`
	Note      string     `json:"note,omitempty"`
	UndoOf    uint64     `json:"undo_of,omitempty"`
}

func viewPolicyVersion(v *adminv1.PolicyVersion) policyVersionView {
	return policyVersionView{
		Scope: v.GetScope(), Number: v.GetNumber(), SHA256: hex.EncodeToString(v.GetSha256()), SizeBytes: v.GetSizeBytes(), Files: v.GetFiles(),
		Created: stamp(v.GetCreated()), Author: v.GetAuthor(), Note: v.GetNote(), UndoOf: v.GetUndoOf(),
	}
}

var policyColumns = []string{"LEVEL", "VERSION", "FILES", "SIZE", "APPLIED", "BY", "NOTE"}

func (v policyVersionView) row() []string {
	note := v.Note
	if v.UndoOf != 0 {
		note = strings.TrimSpace(fmt.Sprintf("as version %d again; %s", v.UndoOf, note))
		note = strings.TrimSuffix(note, ";")
	}
	return []string{v.Scope, fmt.Sprint(v.Number), fmt.Sprint(v.Files), progress.Bytes(v.SizeBytes), day(v.Created), v.Author, note}
}

func policyVersionsView(versions []*adminv1.PolicyVersion) printer.View {
	views := []policyVersionView{}
	var rows [][]string
	for _, p := range versions {
		v := viewPolicyVersion(p)
		views, rows = append(views, v), append(rows, v.row())
	}
	return printer.View{Value: views, Columns: policyColumns, Rows: rows}
}

func (a *app) policy() *cobra.Command {
	c := group("policy", "Say what clients do: ltsp.conf and the files of /etc/ltsp, for the organisation, sites and rooms",
		a.policyList(), a.policyGet(), a.policySet(), a.policyEdit(), a.policyPlan(), a.policyApply(), a.policyDiff(), a.policyHistory(), a.policyUndo(),
		a.policyImport(), policyEvalFile(a), policyLintFile(a))
	c.Long = "A policy is a tree of files that becomes /etc/ltsp on clients, with ltsp.conf in it. The organisation, each site and each room may have one; a client gets\n" +
		"the organisation's, over that its site's, over that its room's. Each change makes a new version; \"undo\" goes back."
	c.Example = "  ltspctl policy import /etc/ltsp --site school1\n" +
		"  ltspctl policy edit --room school1/lab\n" +
		"  ltspctl policy plan ./etc-ltsp --org\n" +
		"  ltspctl policy undo --site school1"
	return c
}

// scopeFlags name a level of policy.
type scopeFlags struct {
	org        bool
	site, room string
}

func (f *scopeFlags) register(c *cobra.Command) {
	c.Flags().BoolVar(&f.org, "org", false, "the organisation's level: all clients")
	c.Flags().StringVar(&f.site, "site", "", "this site's level")
	c.Flags().StringVar(&f.room, "room", "", "this room's level: SITE/ROOM")
}

func (f *scopeFlags) given() bool { return f.org || f.site != "" || f.room != "" }

// scope returns the level that the flags name: exactly one.
func (f *scopeFlags) scope() (string, error) {
	site, room, slash := strings.Cut(f.room, "/")
	switch {
	case f.org && f.site == "" && f.room == "":
		return "organisation", nil
	case !f.org && f.site != "" && f.room == "":
		return "site/" + f.site, nil
	case !f.org && f.room != "" && slash && (f.site == "" || f.site == site):
		return "room/" + site + "/" + room, nil
	case !f.org && f.room != "" && !slash && f.site != "":
		return "room/" + f.site + "/" + f.room, nil
	}
	return "", usagef("name one level: --org, --site SITE or --room SITE/ROOM")
}

func (a *app) policyList() *cobra.Command {
	var scope scopeFlags
	c := a.listCommand("List the levels that have a policy, or the files of one", []string{"policy"}, scope.register,
		func(ctx context.Context, conn *grpc.ClientConn) (printer.View, error) {
			if !scope.given() {
				r, err := adminv1.NewPolicyServiceClient(conn).ListPolicies(ctx, &adminv1.ListPoliciesRequest{})
				return policyVersionsView(r.GetPolicies()), err
			}
			level, err := scope.scope()
			if err != nil {
				return printer.View{}, err
			}
			_, tree, err := fetchPolicy(ctx, conn, level, 0)
			return viewTree(tree), err
		})
	c.Example = "  ltspctl policy list\n  ltspctl policy list --site school1"
	return c
}

type treeFileView struct {
	Path   string `json:"path"`
	Kind   string `json:"kind"`
	Mode   string `json:"mode,omitempty"`
	Size   int    `json:"size_bytes"`
	Target string `json:"target,omitempty"`
}

func viewTree(tree policy.Tree) printer.View {
	views := []treeFileView{}
	var rows [][]string
	for _, f := range tree {
		v := treeFileView{Path: f.Path, Mode: fmt.Sprintf("%04o", f.Mode), Size: len(f.Content)}
		switch f.Kind {
		case policy.Dir:
			v.Kind = "directory"
		case policy.Symlink:
			v.Kind, v.Mode, v.Target = "link", "", string(f.Content)
		case policy.Regular:
			v.Kind = "file"
		}
		views, rows = append(views, v), append(rows, []string{v.Path, v.Kind, v.Mode, fmt.Sprint(v.Size), v.Target})
	}
	return printer.View{Value: views, Columns: []string{"PATH", "KIND", "MODE", "BYTES", "TARGET"}, Rows: rows}
}

func (a *app) policyGet() *cobra.Command {
	var scope scopeFlags
	var dir string
	var number uint64
	c := &cobra.Command{
		Use:   "get [FILE]",
		Short: "Print a file of a policy (default: ltsp.conf), or write all of them to a directory",
		Example: "  ltspctl policy get --site school1\n" +
			"  ltspctl policy get client/init/60-printers.sh --org --version 3\n" +
			"  ltspctl policy get --site school1 -d ./etc-ltsp",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			level, err := scope.scope()
			if err != nil {
				return err
			}
			if dir != "" && len(args) > 0 {
				return usagef("a directory is for all files: leave out %s", args[0])
			}
			name := policy.ConfName
			if len(args) > 0 {
				name = args[0]
			}
			return a.stream(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				v, tree, err := fetchPolicy(ctx, conn, level, number)
				if err != nil {
					return err
				}
				if dir != "" {
					if err := treedir.Write(dir, tree); err != nil {
						return err
					}
					a.say("%s@%d: %d files written to %s", v.GetScope(), v.GetNumber(), len(tree), dir)
					return nil
				}
				f, ok := tree.Find(name)
				if !ok || f.Kind != policy.Regular {
					return notFound("policy %s@%d has no file %s", v.GetScope(), v.GetNumber(), name)
				}
				_, err = a.stdout.Write(f.Content)
				return err
			})
		},
	}
	scope.register(c)
	c.Flags().StringVarP(&dir, "directory", "d", "", "write all files to this directory, which must be new or empty")
	c.Flags().Uint64Var(&number, "version", 0, "an earlier version (default: the present one)")
	_ = c.MarkFlagDirname("directory")
	return c
}

func (a *app) policyHistory() *cobra.Command {
	var scope scopeFlags
	c := &cobra.Command{
		Use:     "history",
		Short:   "List the versions of a policy, the newest first",
		Example: "  ltspctl policy history --site school1",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			level, err := scope.scope()
			if err != nil {
				return err
			}
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := adminv1.NewPolicyServiceClient(conn).ListPolicyVersions(ctx, &adminv1.ListPolicyVersionsRequest{Scope: level})
				if err != nil {
					return err
				}
				return a.print(policyVersionsView(r.GetVersions()))
			})
		},
	}
	scope.register(c)
	return c
}

func (a *app) policyUndo() *cobra.Command {
	var scope scopeFlags
	var to uint64
	c := &cobra.Command{
		Use:     "undo",
		Short:   "Make an earlier version of a policy the present one",
		Example: "  ltspctl policy undo --site school1\n  ltspctl policy undo --org --to 12",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			level, err := scope.scope()
			if err != nil {
				return err
			}
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := adminv1.NewPolicyServiceClient(conn).UndoPolicy(ctx, &adminv1.UndoPolicyRequest{Scope: level, Number: to})
				if err != nil {
					return err
				}
				return a.print(policyVersionsView([]*adminv1.PolicyVersion{r.GetVersion()}))
			})
		},
	}
	scope.register(c)
	c.Flags().Uint64Var(&to, "to", 0, "version to go back to (default: the one before the present one)")
	return c
}

func (a *app) policyDiff() *cobra.Command {
	var scope scopeFlags
	var from, to uint64
	c := &cobra.Command{
		Use:   "diff [DIR|FILE]",
		Short: "Compare two versions of a policy, or a directory with the present version, line by line",
		Example: "  ltspctl policy diff --site school1                 # the present version with the one before\n" +
			"  ltspctl policy diff --site school1 --from 3 --to 7\n" +
			"  ltspctl policy diff ./etc-ltsp --site school1",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			level, err := scope.scope()
			if err != nil {
				return err
			}
			return a.stream(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				b, err := diffSides(ctx, conn, level, args, from, to)
				if err != nil {
					return err
				}
				_, err = fmt.Fprint(a.stdout, diffTrees(b))
				return err
			})
		},
	}
	scope.register(c)
	c.Flags().Uint64Var(&from, "from", 0, "version to compare with (default: the present one for a directory, else the one before --to)")
	c.Flags().Uint64Var(&to, "to", 0, "version to compare (default: the present one)")
	return c
}

// sides are two trees to compare, with their names.
type sides struct {
	fromName, toName string
	from, to         policy.Tree
}

func diffSides(ctx context.Context, conn *grpc.ClientConn, level string, args []string, from, to uint64) (*sides, error) {
	name := func(v *adminv1.PolicyVersion) string { return fmt.Sprintf("%s@%d", level, v.GetNumber()) }
	if len(args) > 0 {
		v, present, err := fetchPolicy(ctx, conn, level, from)
		if err != nil {
			return nil, err
		}
		tree, _, err := readLocal(args[0], present)
		return &sides{fromName: name(v), toName: args[0], from: present, to: tree}, err
	}
	newer, toTree, err := fetchPolicy(ctx, conn, level, to)
	if err != nil {
		return nil, err
	}
	if from == 0 {
		if from = newer.GetNumber() - 1; from == 0 {
			return &sides{fromName: level + "@0", toName: name(newer), to: toTree}, nil
		}
	}
	older, fromTree, err := fetchPolicy(ctx, conn, level, from)
	return &sides{fromName: name(older), toName: name(newer), from: fromTree, to: toTree}, err
}

// diffTrees tells how two trees differ, in the order of the paths.
func diffTrees(s *sides) string {
	var b strings.Builder
	paths := append(policy.Tree{}, s.from...)
	for _, f := range s.to {
		if _, ok := s.from.Find(f.Path); !ok {
			paths = append(paths, f)
		}
	}
	paths.Sort()
	for _, f := range paths {
		older, had := s.from.Find(f.Path)
		newer, has := s.to.Find(f.Path)
		b.WriteString(diffFile(s, f.Path, older, newer, had, has))
	}
	return b.String()
}

func diffFile(s *sides, name string, older, newer policy.File, had, has bool) string {
	var b strings.Builder
	switch {
	case !had:
		fmt.Fprintf(&b, "new %s %s\n", describe(newer), name)
	case !has:
		fmt.Fprintf(&b, "deleted %s %s\n", describe(older), name)
	case describe(older) != describe(newer):
		fmt.Fprintf(&b, "changed %s: %s, now %s\n", name, describe(older), describe(newer))
	}
	if older.Kind != policy.Regular && newer.Kind != policy.Regular || older.Kind == policy.Symlink || newer.Kind == policy.Symlink {
		return b.String()
	}
	if binary(older.Content) || binary(newer.Content) {
		if string(older.Content) != string(newer.Content) {
			fmt.Fprintf(&b, "binary file %s: %d bytes, now %d\n", name, len(older.Content), len(newer.Content))
		}
		return b.String()
	}
	b.WriteString(linediff.Unified(s.fromName+"/"+name, s.toName+"/"+name, older.Content, newer.Content))
	return b.String()
}

func describe(f policy.File) string {
	switch f.Kind {
	case policy.Dir:
		return fmt.Sprintf("directory (mode %04o)", f.Mode)
	case policy.Symlink:
		return fmt.Sprintf("link to %s", f.Content)
	}
	return fmt.Sprintf("file (mode %04o)", f.Mode)
}

// binary tells whether bytes are no text.
func binary(b []byte) bool { return strings.IndexByte(string(b[:min(len(b), 8000)]), 0) >= 0 }

// readLocal reads what an admin wants to apply: a directory is the whole tree; a configuration file takes the place of the present tree's one of the same
// name, the other files stay.
func readLocal(path string, present policy.Tree) (policy.Tree, []string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, invalidError{err}
	}
	if info.IsDir() {
		tree, remarks, err := treedir.Read(path)
		if errors.Is(err, policy.ErrInvalid) {
			err = invalidError{err}
		}
		return tree, remarks, err
	}
	name := info.Name()
	if !policy.IsConf(name) {
		return nil, nil, usagef("%s: want a directory, ltsp.conf or ltsp-APPLET.conf; \"policy set\" is for other files", path)
	}
	if info.Size() > policy.MaxConfBytes {
		return nil, nil, invalidError{fmt.Errorf("%s has %d bytes, at most %d are allowed", path, info.Size(), policy.MaxConfBytes)}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	return withFile(present, policy.File{Path: name, Kind: policy.Regular, Mode: uint16(info.Mode().Perm()), Content: text})
}

// withFile puts a file into a tree and checks the result.
func withFile(tree policy.Tree, f policy.File) (policy.Tree, []string, error) {
	tree = tree.Put(f)
	if err := tree.Check(); err != nil {
		return nil, nil, invalidError{err}
	}
	return tree, nil, nil
}
