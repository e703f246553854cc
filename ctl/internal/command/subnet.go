package command

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

type subnetView struct {
	Site          string   `json:"site"`
	Name          string   `json:"name"`
	CIDR          string   `json:"cidr"`
	Mode          string   `json:"mode"`
	RangeStart    string   `json:"range_start,omitempty"`
	RangeEnd      string   `json:"range_end,omitempty"`
	Gateway       string   `json:"gateway,omitempty"`
	DNS           []string `json:"dns,omitempty"`
	Domain        string   `json:"domain,omitempty"`
	Lease         string   `json:"lease,omitempty"`
	Boot          string   `json:"boot,omitempty"`
	DHCPSatellite string   `json:"dhcp_satellite,omitempty"`
	Room          string   `json:"room,omitempty"`
	Revision      uint64   `json:"revision"`
}

var modeNames = map[satellitev1.DhcpMode]string{
	satellitev1.DhcpMode_DHCP_MODE_AUTHORITATIVE: "authoritative",
	satellitev1.DhcpMode_DHCP_MODE_PROXY:         "proxy",
	satellitev1.DhcpMode_DHCP_MODE_OFF:           "off",
}

func parseMode(s string) (satellitev1.DhcpMode, error) {
	for mode, name := range modeNames {
		if name == s {
			return mode, nil
		}
	}
	return 0, usagef("DHCP mode %q: want authoritative, proxy or off", s)
}

func viewSubnet(s *adminv1.Subnet) subnetView {
	n := s.GetSubnet()
	v := subnetView{
		Site: s.GetSite(), Name: n.GetName(), CIDR: n.GetCidr(), Mode: modeNames[n.GetMode()], RangeStart: n.GetRangeStart(), RangeEnd: n.GetRangeEnd(),
		Gateway: n.GetGateway(), DNS: slices.Clone(n.GetDns()), Domain: n.GetDomain(), Boot: n.GetBoot(), DHCPSatellite: n.GetDhcpSatellite(), Room: n.GetRoom(), Revision: s.GetRevision(),
	}
	if n.GetLeaseTime() != nil {
		v.Lease = n.GetLeaseTime().AsDuration().String()
	}
	return v
}

var subnetColumns = []string{"SITE", "NAME", "CIDR", "DHCP", "RANGE", "GATEWAY", "BOOT", "ANSWERED BY", "ROOM"}

func (v subnetView) row() []string {
	rng := ""
	if v.RangeStart != "" {
		rng = v.RangeStart + "-" + v.RangeEnd
	}
	return []string{v.Site, v.Name, v.CIDR, v.Mode, rng, v.Gateway, v.Boot, v.DHCPSatellite, v.Room}
}

func (a *app) subnet() *cobra.Command {
	var site string
	return group("subnet", "Manage subnets: broadcast domains in which satellites answer DHCP",
		a.subnetCreate(), a.subnetSet(), a.subnetDelete(),
		a.listCommand("List subnets", []string{"subnet", "site"}, func(c *cobra.Command) { c.Flags().StringVar(&site, "site", "", "only this site") },
			func(ctx context.Context, conn *grpc.ClientConn) (printer.View, error) {
				r, err := adminv1.NewSubnetServiceClient(conn).ListSubnets(ctx, &adminv1.ListSubnetsRequest{Site: site})
				return viewSubnets(r.GetSubnets()), err
			}))
}

func viewSubnets(subnets []*adminv1.Subnet) printer.View {
	views := []subnetView{}
	var rows [][]string
	for _, s := range subnets {
		v := viewSubnet(s)
		views, rows = append(views, v), append(rows, v.row())
	}
	return printer.View{Value: views, Columns: subnetColumns, Rows: rows}
}

type subnetFlags struct {
	site, cidr, mode, rng, gateway, domain, boot, satellite, room string
	dns                                                           []string
	lease                                                         time.Duration
}

func (f *subnetFlags) register(c *cobra.Command) {
	fs := c.Flags()
	fs.StringVar(&f.site, "site", "", "site that the subnet belongs to")
	fs.StringVar(&f.cidr, "cidr", "", "network, such as 192.168.67.0/24")
	fs.StringVar(&f.mode, "mode", "authoritative", "authoritative (gives addresses), proxy (beside another DHCP server) or off")
	fs.StringVar(&f.rng, "range", "", "addresses to give, such as 192.168.67.20-192.168.67.250")
	fs.StringVar(&f.gateway, "gateway", "", "router of the clients (default: none)")
	fs.StringSliceVar(&f.dns, "dns", nil, "name servers of the clients (repeatable)")
	fs.StringVar(&f.domain, "domain", "", "DNS domain of the clients")
	fs.DurationVar(&f.lease, "lease", 0, "lease time (default 12h)")
	fs.StringVar(&f.boot, "boot", "", "IMAGE:CHANNEL or IMAGE@NUMBER that clients here boot (default: the site's)")
	fs.StringVar(&f.satellite, "satellite", "", "the satellite that answers DHCP here (default: the first that enrolled at the site)")
	fs.StringVar(&f.room, "room", "", "room of clients here that have none of their own")
	_ = c.MarkFlagRequired("site")
	_ = c.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{"authoritative", "proxy", "off"}, cobra.ShellCompDirectiveNoFileComp))
}

func (f *subnetFlags) apply(c *cobra.Command, n *satellitev1.Subnet) error {
	changed := c.Flags().Changed
	set := func(flag string, to *string, value string) {
		if changed(flag) {
			*to = value
		}
	}
	set("cidr", &n.Cidr, f.cidr)
	set("gateway", &n.Gateway, f.gateway)
	set("domain", &n.Domain, f.domain)
	set("boot", &n.Boot, f.boot)
	set("satellite", &n.DhcpSatellite, f.satellite)
	set("room", &n.Room, f.room)
	if changed("dns") {
		n.Dns = f.dns
	}
	if changed("lease") {
		n.LeaseTime = durationOrNil(f.lease)
	}
	if changed("range") {
		first, last, ok := strings.Cut(f.rng, "-")
		if !ok && f.rng != "" {
			return usagef("range %q: want FIRST-LAST", f.rng)
		}
		n.RangeStart, n.RangeEnd = strings.TrimSpace(first), strings.TrimSpace(last)
	}
	if changed("mode") || n.GetMode() == 0 {
		mode, err := parseMode(f.mode)
		if err != nil {
			return err
		}
		n.Mode = mode
	}
	return nil
}

func (a *app) subnetCreate() *cobra.Command {
	var f subnetFlags
	c := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a subnet",
		Example: "  ltspctl subnet create lab1 --site school1 --cidr 192.168.67.0/24 --range 192.168.67.20-192.168.67.250 --gateway 192.168.67.1\n" +
			"  ltspctl subnet create office --site school1 --cidr 10.0.5.0/24 --mode proxy",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n := &satellitev1.Subnet{Name: args[0]}
			if err := f.apply(cmd, n); err != nil {
				return err
			}
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := adminv1.NewSubnetServiceClient(conn).CreateSubnet(ctx, &adminv1.CreateSubnetRequest{Subnet: &adminv1.Subnet{Site: f.site, Subnet: n}})
				if err != nil {
					return err
				}
				return a.printSubnet(r.GetSubnet())
			})
		},
	}
	f.register(c)
	_ = c.MarkFlagRequired("cidr")
	return c
}

func (a *app) printSubnet(s *adminv1.Subnet) error {
	v := viewSubnet(s)
	return a.print(printer.View{Value: v, Columns: subnetColumns, Rows: [][]string{v.row()}})
}

func (a *app) subnetSet() *cobra.Command {
	var f subnetFlags
	c := &cobra.Command{
		Use:     "set NAME",
		Short:   "Change a subnet",
		Example: "  ltspctl subnet set lab1 --site school1 --mode proxy --range ''",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				api := adminv1.NewSubnetServiceClient(conn)
				r, err := api.ListSubnets(ctx, &adminv1.ListSubnetsRequest{Site: f.site})
				if err != nil {
					return err
				}
				i := slices.IndexFunc(r.GetSubnets(), func(s *adminv1.Subnet) bool { return s.GetSubnet().GetName() == args[0] })
				if i < 0 {
					return notFound("site %s has no subnet %s", f.site, args[0])
				}
				s := r.GetSubnets()[i]
				if err := f.apply(cmd, s.GetSubnet()); err != nil {
					return err
				}
				u, err := api.UpdateSubnet(ctx, &adminv1.UpdateSubnetRequest{Subnet: s})
				if err != nil {
					return err
				}
				return a.printSubnet(u.GetSubnet())
			})
		},
	}
	f.register(c)
	return c
}

func (a *app) subnetDelete() *cobra.Command {
	var site string
	c := a.endCommand("delete NAME", "Delete a subnet", "subnet %s deleted", func(ctx context.Context, conn *grpc.ClientConn, name string) error {
		_, err := adminv1.NewSubnetServiceClient(conn).DeleteSubnet(ctx, &adminv1.DeleteSubnetRequest{Site: site, Name: name})
		return err
	})
	c.Flags().StringVar(&site, "site", "", "site that the subnet belongs to")
	_ = c.MarkFlagRequired("site")
	return c
}

func durationOrNil(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
