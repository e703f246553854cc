package command

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

type siteView struct {
	Name             string         `json:"name"`
	Description      string         `json:"description,omitempty"`
	Images           []string       `json:"images"`
	Boot             string         `json:"boot,omitempty"`
	KernelParameters string         `json:"kernel_parameters,omitempty"`
	Initrd           string         `json:"initrd"`
	Shell            bool           `json:"shell"`
	BytesPerSecond   uint64         `json:"bytes_per_second"`
	Window           string         `json:"window,omitempty"`
	Transfer         string         `json:"transfer"`
	CompleteOnly     bool           `json:"complete_only"`
	LoginHost        *loginHostView `json:"login_host,omitempty"`
	AllowRun         bool           `json:"allow_run"`
	Satellites       uint32         `json:"satellites"`
	Clients          uint32         `json:"clients"`
	Created          *time.Time     `json:"created,omitempty"`
	Revision         uint64         `json:"revision"`
}

func viewSite(s *adminv1.Site) siteView {
	b, t := s.GetBoot(), s.GetTransfer()
	method := methodText(t.GetMethod())
	if method == "" {
		method = "auto"
	}
	return siteView{
		BytesPerSecond: t.GetBytesPerSecond(), Window: t.GetWindow(), Transfer: method, CompleteOnly: t.GetCompleteOnly(),
		Name: s.GetName(), Description: s.GetDescription(), Images: slices.Clone(s.GetImages()), Boot: b.GetBoot(),
		KernelParameters: b.GetKernelParameters(), Initrd: b.GetInitrd(), Shell: b.GetShell(),
		LoginHost: viewLoginHost(s.GetLoginHost()), AllowRun: s.GetAllowRun(),
		Satellites: s.GetSatellites(), Clients: s.GetClients(), Created: stamp(s.GetCreated()), Revision: s.GetRevision(),
	}
}

var siteColumns = []string{"NAME", "IMAGES", "SATELLITES", "CLIENTS", "DESCRIPTION"}

func (v siteView) row() []string {
	return []string{v.Name, list(v.Images), fmt.Sprint(v.Satellites), fmt.Sprint(v.Clients), v.Description}
}

func (a *app) site() *cobra.Command {
	return group("site", "Manage sites: classroom networks that satellites serve together",
		a.siteCreate(), a.siteSet(), a.siteShow(), a.siteDelete(), a.sitePin(), a.siteLoginKey(),
		a.listCommand("List sites", []string{"site", "satellite"}, nil, func(ctx context.Context, conn *grpc.ClientConn) (printer.View, error) {
			r, err := adminv1.NewSiteServiceClient(conn).ListSites(ctx, &adminv1.ListSitesRequest{})
			views := []siteView{}
			var rows [][]string
			for _, s := range r.GetSites() {
				v := viewSite(s)
				views, rows = append(views, v), append(rows, v.row())
			}
			return printer.View{Value: views, Columns: siteColumns, Rows: rows}, err
		}))
}

// siteFlags are the settings of a site that create and set share.
type siteFlags struct {
	description, boot, params, initrd string
	images, add, remove               []string
	shell                             bool
	nbdTimeout, deadTimeout           time.Duration
	transfer                          transferFlags
	login                             loginHostFlags
}

func (f *siteFlags) register(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&f.description, "description", "", "text for people")
	fs.StringSliceVar(&f.images, "image", nil, "IMAGE:CHANNEL that the satellites hold (repeatable; replaces the list; the first is booted by default)")
	fs.StringVar(&f.boot, "boot", "", "IMAGE:CHANNEL or IMAGE@NUMBER that clients boot where neither client nor subnet says (default: the first --image)")
	fs.StringVar(&f.params, "kernel-parameters", "", "kernel parameters for all clients of the site")
	fs.StringVar(&f.initrd, "initrd", "", "initrd that clients get: full (every Ethernet driver; default) or school (usual PCs, smaller)")
	fs.BoolVar(&f.shell, "shell", false, "offer a root shell on the console after a failed boot")
	fs.DurationVar(&f.nbdTimeout, "nbd-timeout", 0, "how long a satellite may leave a read unanswered before a client looks for another (default 5s)")
	fs.DurationVar(&f.deadTimeout, "dead-timeout", 0, "how long clients wait for any satellite before programs see I/O errors (default 10m)")
	f.transfer.register(c)
	f.login.register(c)
}

// apply puts the flags that were given into s.
func (f *siteFlags) apply(c *cobra.Command, s *adminv1.Site) error {
	if s.Boot == nil {
		s.Boot = &satellitev1.BootPolicy{}
	}
	changed := c.Flags().Changed
	if changed("description") {
		s.Description = f.description
	}
	if changed("image") {
		s.Images = f.images
	}
	for _, ref := range f.add {
		if !slices.Contains(s.Images, ref) {
			s.Images = append(s.Images, ref)
		}
	}
	for _, ref := range f.remove {
		i := slices.Index(s.Images, ref)
		if i < 0 {
			return usagef("site %s has no image %s", s.GetName(), ref)
		}
		s.Images = slices.Delete(s.Images, i, i+1)
	}
	f.applyBoot(changed, s.Boot)
	if err := f.login.apply(changed, s); err != nil {
		return err
	}
	if s.Transfer == nil {
		s.Transfer = &satellitev1.TransferPolicy{}
	}
	return f.transfer.apply(changed, s.Transfer)
}

func (f *siteFlags) applyBoot(changed func(string) bool, b *satellitev1.BootPolicy) {
	if changed("boot") {
		b.Boot = f.boot
	}
	if changed("kernel-parameters") {
		b.KernelParameters = f.params
	}
	if changed("initrd") {
		b.Initrd = f.initrd
	}
	if changed("shell") {
		b.Shell = f.shell
	}
	if changed("nbd-timeout") {
		b.NbdTimeout = durationOrNil(f.nbdTimeout)
	}
	if changed("dead-timeout") {
		b.DeadTimeout = durationOrNil(f.deadTimeout)
	}
}

func (a *app) siteCreate() *cobra.Command {
	var f siteFlags
	c := &cobra.Command{
		Use:     "create NAME",
		Short:   "Create a site",
		Example: "  ltspctl site create school1 --image lab:stable --description 'Primary school, room 12'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := &adminv1.Site{Name: args[0]}
			if err := f.apply(cmd, s); err != nil {
				return err
			}
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := adminv1.NewSiteServiceClient(conn).CreateSite(ctx, &adminv1.CreateSiteRequest{Site: s})
				if err != nil {
					return err
				}
				return a.printSite(r.GetSite())
			})
		},
	}
	f.register(c)
	return c
}

func (a *app) siteSet() *cobra.Command {
	var f siteFlags
	c := &cobra.Command{
		Use:     "set NAME",
		Short:   "Change a site",
		Example: "  ltspctl site set school1 --add-image exam:stable --kernel-parameters 'quiet splash'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				api := adminv1.NewSiteServiceClient(conn)
				r, err := api.GetSite(ctx, &adminv1.GetSiteRequest{Name: args[0]})
				if err != nil {
					return err
				}
				if err := f.apply(cmd, r.GetSite()); err != nil {
					return err
				}
				u, err := api.UpdateSite(ctx, &adminv1.UpdateSiteRequest{Site: r.GetSite()})
				if err != nil {
					return err
				}
				return a.printSite(u.GetSite())
			})
		},
	}
	f.register(c)
	c.Flags().StringSliceVar(&f.add, "add-image", nil, "IMAGE:CHANNEL to add (repeatable)")
	c.Flags().StringSliceVar(&f.remove, "remove-image", nil, "IMAGE:CHANNEL to take away (repeatable)")
	return c
}

func (a *app) printSite(s *adminv1.Site) error {
	v := viewSite(s)
	return a.print(printer.View{Value: v, Columns: siteColumns, Rows: [][]string{v.row()}})
}

func (a *app) siteShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show a site",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := adminv1.NewSiteServiceClient(conn).GetSite(ctx, &adminv1.GetSiteRequest{Name: args[0]})
				if err != nil {
					return err
				}
				v := viewSite(r.GetSite())
				b := r.GetSite().GetBoot()
				pairs := [][2]string{
					{"name", v.Name}, {"description", v.Description}, {"images", list(v.Images)}, {"boot", v.Boot},
					{"kernel parameters", v.KernelParameters}, {"initrd", v.Initrd}, {"shell after failed boot", fmt.Sprint(v.Shell)},
					{"nbd timeout", seconds(b.GetNbdTimeout())}, {"dead timeout", seconds(b.GetDeadTimeout())},
					{"bandwidth", rateText(v.BytesPerSecond)}, {"window", v.Window}, {"transfer", v.Transfer}, {"complete only", fmt.Sprint(v.CompleteOnly)},
					{"lazy wait", seconds(r.GetSite().GetTransfer().GetLazyWait())},
					{"satellites", fmt.Sprint(v.Satellites)}, {"clients", fmt.Sprint(v.Clients)}, {"created", day(v.Created)},
					{"client run", map[bool]string{true: "allowed", false: "not allowed"}[v.AllowRun]},
				}
				return a.print(fields(v, append(pairs, v.LoginHost.pairs()...)))
			})
		},
	}
}

func (a *app) siteDelete() *cobra.Command {
	return a.endCommand("delete NAME", "Delete a site that has no subnets, satellites and clients any more", "site %s deleted",
		func(ctx context.Context, conn *grpc.ClientConn, name string) error {
			_, err := adminv1.NewSiteServiceClient(conn).DeleteSite(ctx, &adminv1.DeleteSiteRequest{Name: name})
			return err
		})
}

// fields makes a view of one object: a line per field in a table.
func fields(value any, pairs [][2]string) printer.View {
	v := printer.View{Value: value, Columns: []string{"FIELD", "VALUE"}}
	for _, p := range pairs {
		v.Rows = append(v.Rows, []string{p[0], p[1]})
	}
	return v
}
