package command

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/contexts"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	"github.com/ltsp-fleet/ltsp-fleet/internal/buildinfo"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
	"google.golang.org/grpc"
)

type contextView struct {
	Name       string `json:"name"`
	Controller string `json:"controller"`
	Admin      string `json:"admin"`
	Expires    string `json:"certificate_expires"`
	Current    bool   `json:"current"`
}

func viewContext(c contexts.Context, current string) contextView {
	v := contextView{Name: c.Name, Controller: c.Controller, Current: c.Name == current}
	if leaf, err := pki.ParseCertificate([]byte(c.Certificate)); err == nil {
		v.Expires = leaf.NotAfter.UTC().Format("2006-01-02")
		if id, err := pki.FromCertificate(leaf); err == nil {
			v.Admin = id.Name
		}
	}
	return v
}

func (a *app) context() *cobra.Command {
	c := group("context", "Choose the controller, and get a credential for it", a.contextList(), a.contextUse(), a.contextEnrol())
	c.Long = "A context is a controller's address together with your credential for it. They live in one file (mode 0600), " +
		"by default " + strings.TrimSuffix(contexts.DefaultPath(), "/") + ", or the one named by --contexts or $LTSPCTL_CONTEXTS."
	return c
}

func (a *app) contextList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List contexts", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			f, err := contexts.Read(a.contextsPath)
			if err != nil {
				return err
			}
			views := []contextView{}
			var rows [][]string
			for _, c := range f.Contexts {
				v := viewContext(c, f.Current)
				mark := ""
				if v.Current {
					mark = "*"
				}
				views, rows = append(views, v), append(rows, []string{mark, v.Name, v.Controller, v.Admin, v.Expires})
			}
			return a.print(printer.View{Value: views, Columns: []string{"CURRENT", "NAME", "CONTROLLER", "ADMIN", "EXPIRES"}, Rows: rows})
		},
	}
}

func (a *app) contextUse() *cobra.Command {
	return &cobra.Command{
		Use: "use NAME", Short: "Make a context the current one", Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := contexts.Read(a.contextsPath)
			if err != nil {
				return err
			}
			if _, err := f.Get(args[0]); err != nil {
				return err
			}
			f.Current = args[0]
			return f.Write(a.contextsPath)
		},
	}
}

func (a *app) contextEnrol() *cobra.Command {
	var controller, token, name string
	c := &cobra.Command{
		Use:     "enrol NAME",
		Short:   "Become the admin NAME by an admin join token",
		Example: "  ltspctl context enrol maria --controller fleet.example.org:7400 --token ltsp-...",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if name == "" {
				name = "default"
			}
			entry, err := a.enrol(cmd.Context(), controller, token, args[0])
			if err != nil {
				return err
			}
			entry.Name = name
			f, err := contexts.Read(a.contextsPath)
			if errors.Is(err, contexts.ErrNoFile) {
				f, err = &contexts.File{}, nil
			}
			if err != nil {
				return err
			}
			f.Set(*entry)
			if err := f.Write(a.contextsPath); err != nil {
				return err
			}
			a.say("context %q written to %s", name, a.contextsPath)
			return nil
		},
	}
	c.Flags().StringVar(&controller, "controller", "", "the controller's HOST:PORT")
	c.Flags().StringVar(&token, "token", "", "join token of role admin")
	c.Flags().StringVar(&name, "as-context", "", "name of the context (default: default)")
	_ = c.MarkFlagRequired("controller")
	_ = c.MarkFlagRequired("token")
	return c
}

// enrol trades a token for a certificate; the token's last part is the fingerprint of the CA.
func (a *app) enrol(ctx context.Context, controller, token, name string) (*contexts.Context, error) {
	i := strings.LastIndexByte(token, '-')
	if i < 0 || len(token)-i-1 != 64 {
		return nil, usagef("that is no join token: it should end in a fingerprint of 64 hex digits")
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		return nil, err
	}
	conn, err := dial(controller, pki.EnrolTLS(token[i+1:]))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	r, err := satellitev1.NewEnrolmentServiceClient(conn).Enrol(ctx, &satellitev1.EnrolRequest{Token: token, Csr: csr, Name: name})
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(r.GetCertificate())
	if err != nil {
		return nil, fmt.Errorf("the controller's answer: %w", err)
	}
	if id, err := pki.FromCertificate(leaf); err != nil || id.Role != pki.Admin {
		return nil, usagef("that is a satellite's token: use it with \"ltsp-satellite join\"")
	}
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		return nil, err
	}
	return &contexts.Context{Controller: controller, CA: string(pki.EncodeCertificate(r.GetCaCertificate())),
		Certificate: string(pki.EncodeCertificate(r.GetCertificate())), Key: string(keyPEM)}, nil
}

type versionView struct {
	Client     string `json:"ltspctl"`
	Controller string `json:"controller,omitempty"`
}

func (a *app) version() *cobra.Command {
	var clientOnly bool
	c := &cobra.Command{
		Use: "version", Short: "Show the versions of ltspctl and of the controller", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versionView{Client: buildinfo.Version()}
			if !clientOnly {
				err := a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
					r, err := adminv1.NewServerServiceClient(conn).GetVersion(ctx, &adminv1.GetVersionRequest{})
					v.Controller = r.GetBuild()
					return err
				})
				if err != nil {
					return err
				}
			}
			return a.print(fields(v, [][2]string{{"ltspctl", v.Client}, {"controller", v.Controller}}))
		},
	}
	c.Flags().BoolVar(&clientOnly, "client", false, "do not ask the controller")
	return c
}
