package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/ltspimport"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/treedir"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

type importView struct {
	Scope   string              `json:"scope"`
	Files   int                 `json:"files"`
	Remarks []ltspimport.Remark `json:"remarks"`
	Plan    planView            `json:"plan"`
}

func (a *app) policyImport() *cobra.Command {
	var scope scopeFlags
	var note string
	var yes bool
	c := &cobra.Command{
		Use:   "import DIR",
		Short: "Take over /etc/ltsp of an LTSP server; tell what will be different, and why",
		Long: "Take over a directory as LTSP has it in /etc/ltsp. What will be different on clients of the fleet is told line by line, then what changes for the clients\n" +
			"that are known. Nothing is changed unless --yes is given.",
		Example: "  ltspctl policy import /etc/ltsp --site school1\n" +
			"  ltspctl policy import /etc/ltsp --site school1 --yes",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			level, err := scope.scope()
			if err != nil {
				return err
			}
			tree, lost, err := treedir.Read(args[0])
			if err != nil {
				return invalidError{err}
			}
			if tree.Conf() == nil {
				return invalidError{fmt.Errorf("%s holds no %s", args[0], policy.ConfName)}
			}
			v := importView{Scope: level, Files: len(tree), Remarks: append([]ltspimport.Remark{}, ltspimport.Review(tree)...)}
			for _, text := range lost {
				v.Remarks = append(v.Remarks, ltspimport.Remark{File: args[0], Text: text})
			}
			return a.stream(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				number, _, err := fetchPresent(ctx, conn, level)
				if err != nil {
					return err
				}
				d := &draft{progress: a.progress(), scope: level, note: note, basedOn: number, tree: tree}
				r, err := planDraft(ctx, conn, d)
				if err != nil {
					return err
				}
				v.Plan = viewPlan(level, r)
				return a.finishImport(ctx, conn, d, v, yes)
			})
		},
	}
	scope.register(c)
	c.Flags().StringVar(&note, "note", "imported", "text for the history")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "apply it")
	return c
}

// finishImport shows the review and applies the draft if the admin wants it.
func (a *app) finishImport(ctx context.Context, conn *grpc.ClientConn, d *draft, v importView, yes bool) error {
	if a.output != string(printer.Table) && !yes {
		return a.print(printer.View{Value: v})
	}
	for _, r := range v.Remarks {
		fmt.Fprintln(a.stderr, remarkText(r))
	}
	d.shown = true
	if err := writePlan(a.stderr, v.Plan); err != nil {
		return err
	}
	if v.Plan.bad() {
		return invalidError{fmt.Errorf("the policy has errors and would be refused")}
	}
	if !yes {
		a.say("%d files, %d remarks; nothing was changed: add --yes to apply it", v.Files, len(v.Remarks))
		return nil
	}
	return a.applyNow(ctx, conn, d)
}

func remarkText(r ltspimport.Remark) string {
	where := r.File
	if r.Line > 0 {
		where = fmt.Sprintf("%s:%d", r.File, r.Line)
	}
	s := where + ": "
	if r.What != "" && r.What != r.File {
		s += r.What + ": "
	}
	s += r.Text
	if r.Do != "" {
		s += "\n    " + r.Do
	}
	return plain(s)
}
