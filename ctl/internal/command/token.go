package command

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

type tokenView struct {
	ID      string     `json:"id"`
	Secret  string     `json:"token,omitempty"`
	Role    string     `json:"role"`
	Site    string     `json:"site,omitempty"`
	State   string     `json:"state"`
	Created *time.Time `json:"created,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
	By      string     `json:"created_by,omitempty"`
	UsedBy  string     `json:"used_by,omitempty"`
}

func viewToken(t *adminv1.Token) tokenView {
	return tokenView{
		ID: t.GetId(), Role: t.GetRole(), Site: t.GetSite(), State: t.GetState(), Created: stamp(t.GetCreated()), Expires: stamp(t.GetExpires()),
		By: t.GetCreatedBy(), UsedBy: t.GetUsedBy(),
	}
}

func (a *app) token() *cobra.Command {
	return group("token", "Manage join tokens, which let satellites and admins enrol",
		a.tokenCreate(), a.tokenRevoke(),
		a.listCommand("List join tokens", []string{"token"}, nil, func(ctx context.Context, conn *grpc.ClientConn) (printer.View, error) {
			r, err := adminv1.NewTokenServiceClient(conn).ListTokens(ctx, &adminv1.ListTokensRequest{})
			views := []tokenView{}
			var rows [][]string
			for _, t := range r.GetTokens() {
				v := viewToken(t)
				views = append(views, v)
				rows = append(rows, []string{v.ID, v.Role, v.Site, v.State, day(v.Created), day(v.Expires), v.By, v.UsedBy})
			}
			return printer.View{Value: views, Columns: []string{"ID", "ROLE", "SITE", "STATE", "CREATED", "EXPIRES", "BY", "USED BY"}, Rows: rows}, err
		}))
}

func (a *app) tokenCreate() *cobra.Command {
	var site, role string
	var lifetime time.Duration
	c := &cobra.Command{
		Use:   "create",
		Short: "Create a join token; it works once and is shown only now",
		Example: "  ltspctl token create --site school1            # for: ltsp-satellite join --controller HOST:7400 --token TOKEN\n" +
			"  ltspctl token create --role admin              # for: ltspctl context enrol NAME --controller HOST:7400 --token TOKEN",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if role == "satellite" && site == "" {
				return usagef("a satellite's token needs --site")
			}
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := adminv1.NewTokenServiceClient(conn).CreateToken(ctx, &adminv1.CreateTokenRequest{Site: site, Role: role, Lifetime: durationOrNil(lifetime)})
				if err != nil {
					return err
				}
				v := viewToken(r.GetToken())
				v.Secret = r.GetSecret()
				if a.output == string(printer.Table) {
					a.say("%s", v.Secret)
					return nil
				}
				return a.print(printer.View{Value: v})
			})
		},
	}
	c.Flags().StringVar(&site, "site", "", "site that the satellite will belong to")
	c.Flags().StringVar(&role, "role", "satellite", "what the token's user becomes: satellite or admin")
	c.Flags().DurationVar(&lifetime, "lifetime", 0, "how long the token may wait for its use, 1m to 720h (default 24h)")
	_ = c.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"satellite", "admin"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) tokenRevoke() *cobra.Command {
	return a.endCommand("revoke ID", "Make a token useless", "token %s revoked",
		func(ctx context.Context, conn *grpc.ClientConn, id string) error {
			_, err := adminv1.NewTokenServiceClient(conn).RevokeToken(ctx, &adminv1.RevokeTokenRequest{Id: id})
			return err
		})
}
