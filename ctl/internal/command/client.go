package command

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/progress"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

type clientView struct {
	MAC              string            `json:"mac"`
	Name             string            `json:"name,omitempty"`
	Site             string            `json:"site"`
	Boot             string            `json:"boot,omitempty"`
	FixedAddress     string            `json:"fixed_address,omitempty"`
	KernelParameters string            `json:"kernel_parameters,omitempty"`
	Room             string            `json:"room,omitempty"`
	Report           *clientReportView `json:"report,omitempty"`
}

type clientReportView struct {
	Time        *time.Time     `json:"time,omitempty"`
	State       string         `json:"state"`
	Reasons     []string       `json:"reasons,omitempty"`
	Version     string         `json:"version,omitempty"`
	Digest      string         `json:"digest,omitempty"`
	Hostname    string         `json:"hostname,omitempty"`
	Address     string         `json:"address,omitempty"`
	Satellite   string         `json:"satellite,omitempty"`
	UUID        string         `json:"uuid,omitempty"`
	Kernel      string         `json:"kernel,omitempty"`
	Firmware    string         `json:"firmware,omitempty"`
	Agent       string         `json:"agent,omitempty"`
	MemoryTotal uint64         `json:"memory_total_bytes"`
	MemoryFree  uint64         `json:"memory_available_bytes"`
	OverlaySize uint64         `json:"overlay_size_bytes"`
	OverlayUsed uint64         `json:"overlay_used_bytes"`
	Load1       float64        `json:"load1"`
	UptimeS     float64        `json:"uptime_seconds"`
	LinkName    string         `json:"link,omitempty"`
	LinkMbps    uint32         `json:"link_mbps,omitempty"`
	NBD         bool           `json:"nbd_connected"`
	Reconnects  uint64         `json:"nbd_reconnects"`
	FailedUnits []string       `json:"failed_units,omitempty"`
	Timeline    []bootStepView `json:"timeline,omitempty"`
	Policy      *policyView    `json:"policy,omitempty"`
	Sessions    []sessionView  `json:"sessions,omitempty"`
}

// policyView is how far a client is with its policy. States are SHA-256, in hex.
type policyView struct {
	State   string   `json:"state,omitempty"`
	Wanted  string   `json:"wanted,omitempty"`
	Pending []string `json:"pending,omitempty"`
	Errors  []string `json:"errors,omitempty"`
	TookS   float64  `json:"took_seconds,omitempty"`
}

// text says it in a word or two.
func (p *policyView) text() string {
	switch {
	case p == nil:
		return ""
	case len(p.Errors) > 0:
		return fmt.Sprintf("%d errors", len(p.Errors))
	case p.Wanted != "" && p.State != p.Wanted:
		return "behind"
	case len(p.Pending) > 0:
		return "reboot"
	}
	return "ok"
}

func viewPolicy(r *satellitev1.ClientReport) *policyView {
	if len(r.GetPolicyState()) == 0 && len(r.GetPolicyWanted()) == 0 {
		return nil
	}
	return &policyView{
		State: hex.EncodeToString(r.GetPolicyState()), Wanted: hex.EncodeToString(r.GetPolicyWanted()), Pending: r.GetPolicyPending(), Errors: r.GetPolicyErrors(),
		TookS: r.GetPolicyTook().AsDuration().Seconds(),
	}
}

type bootStepView struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Source  string  `json:"source"`
}

func viewClient(c *adminv1.Client) clientView {
	cfg := c.GetConfig()
	return clientView{
		MAC: cfg.GetMac(), Name: cfg.GetName(), Site: c.GetSite(), Boot: cfg.GetBoot(), FixedAddress: cfg.GetAddress(),
		KernelParameters: cfg.GetKernelParameters(), Room: cfg.GetRoom(), Report: viewReport(c.GetReport()),
	}
}

func viewReport(r *satellitev1.ClientReport) *clientReportView {
	if r == nil {
		return nil
	}
	v := &clientReportView{
		Time: stamp(r.GetTime()), State: r.GetState(), Reasons: r.GetReasons(), Digest: hex.EncodeToString(r.GetDigest()), Hostname: r.GetHostname(),
		Address: r.GetAddress(), Satellite: r.GetSatellite(), UUID: r.GetUuid(), Kernel: r.GetKernel(), Firmware: r.GetFirmware(), Agent: r.GetAgentBuild(),
		MemoryTotal: r.GetMemoryTotalBytes(), MemoryFree: r.GetMemoryAvailableBytes(), OverlaySize: r.GetOverlaySizeBytes(), OverlayUsed: r.GetOverlayUsedBytes(),
		Load1: r.GetLoad1(), UptimeS: r.GetUptime().AsDuration().Seconds(), LinkName: r.GetLinkName(), LinkMbps: r.GetLinkSpeedMbps(),
		NBD: r.GetNbdConnected(), Reconnects: r.GetNbdReconnects(), FailedUnits: r.GetFailedUnits(), Policy: viewPolicy(r),
	}
	if r.GetImage() != "" {
		v.Version = fmt.Sprintf("%s@%d", r.GetImage(), r.GetNumber())
	}
	for _, s := range r.GetSessions() {
		v.Sessions = append(v.Sessions, sessionView{Kind: s.GetKind(), User: s.GetUser(), App: s.GetApp(), Host: s.GetHost(), Since: stamp(s.GetSince())})
	}
	for _, s := range r.GetTimeline() {
		v.Timeline = append(v.Timeline, bootStepView{Name: s.GetName(), Seconds: s.GetAt().AsDuration().Seconds(), Source: s.GetSource()})
	}
	return v
}

var clientColumns = []string{"MAC", "NAME", "SITE", "STATE", "VERSION", "ADDRESS", "SATELLITE", "BOOT", "MEMORY FREE", "OVERLAY", "POLICY", "USERS", "SEEN"}

func (v clientView) row() []string {
	r := v.Report
	if r == nil {
		return []string{v.MAC, v.Name, v.Site, "never seen"}
	}
	name := v.Name
	if name == "" {
		name = r.Hostname
	}
	boot := ""
	if n := len(r.Timeline); n > 0 && r.Timeline[n-1].Name == "healthy" {
		boot = fmt.Sprintf("%.1f s", r.Timeline[n-1].Seconds)
	}
	overlay := ""
	if r.OverlaySize > 0 {
		overlay = fmt.Sprintf("%d %%", r.OverlayUsed*100/r.OverlaySize)
	}
	return []string{v.MAC, name, v.Site, r.State, r.Version, r.Address, r.Satellite, boot, progress.Bytes(r.MemoryFree), overlay, r.Policy.text(), r.users(), age(r.Time)}
}

// users are those who are logged in.
func (r *clientReportView) users() string {
	var names []string
	for _, s := range r.Sessions {
		if s.Kind == "login" && !slices.Contains(names, s.User) {
			names = append(names, s.User)
		}
	}
	return list(names)
}

func (a *app) client() *cobra.Command {
	var site string
	return group("client", "Show and configure clients: the diskless PCs",
		a.clientShow(), a.clientExplain(), a.clientSet(), a.clientDelete(), a.clientEvents(),
		a.clientPower("reboot", "Reboot clients", true), a.clientPower("poweroff", "Switch clients off", true),
		a.clientPower("wake", "Switch clients on by wake-on-LAN", false), a.clientMessage(), a.clientLogs(), a.clientRun(),
		a.listCommand("List clients", []string{"client"}, func(c *cobra.Command) { c.Flags().StringVar(&site, "site", "", "only this site") },
			func(ctx context.Context, conn *grpc.ClientConn) (printer.View, error) {
				r, err := adminv1.NewClientServiceClient(conn).ListClients(ctx, &adminv1.ListClientsRequest{Site: site})
				views := []clientView{}
				var rows [][]string
				for _, c := range r.GetClients() {
					v := viewClient(c)
					views, rows = append(views, v), append(rows, v.row())
				}
				return printer.View{Value: views, Columns: clientColumns, Rows: rows}, err
			}))
}

func (a *app) clientShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show MAC|NAME",
		Short: "Show a client: configuration, health and the timeline of its last boot",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := adminv1.NewClientServiceClient(conn).GetClient(ctx, &adminv1.GetClientRequest{Client: args[0]})
				if err != nil {
					return err
				}
				return a.print(clientFields(viewClient(r.GetClient())))
			})
		},
	}
}

func clientFields(v clientView) printer.View {
	pairs := [][2]string{
		{"mac", v.MAC}, {"name", v.Name}, {"site", v.Site}, {"boots", v.Boot}, {"fixed address", v.FixedAddress}, {"kernel parameters", v.KernelParameters},
		{"room", v.Room},
	}
	r := v.Report
	if r == nil {
		return fields(v, append(pairs, [2]string{"state", "never seen"}))
	}
	pairs = append(pairs, [][2]string{
		{"state", r.State}, {"reasons", list(r.Reasons)}, {"seen", age(r.Time)}, {"version", r.Version}, {"digest", r.Digest}, {"hostname", r.Hostname},
		{"address", r.Address}, {"satellite", r.Satellite}, {"uuid", r.UUID}, {"kernel", r.Kernel}, {"firmware", r.Firmware}, {"agent", r.Agent},
		{"memory", fmt.Sprintf("%s free of %s", progress.Bytes(r.MemoryFree), progress.Bytes(r.MemoryTotal))},
		{"writable layer", fmt.Sprintf("%s used of %s", progress.Bytes(r.OverlayUsed), progress.Bytes(r.OverlaySize))},
		{"load", fmt.Sprintf("%.2f", r.Load1)}, {"uptime", span(time.Duration(r.UptimeS * float64(time.Second)))},
		{"link", fmt.Sprintf("%s %d Mbit/s", r.LinkName, r.LinkMbps)}, {"nbd", nbdText(r)}, {"failed units", list(r.FailedUnits)},
	}...)
	pairs = append(pairs, policyPairs(r)...)
	last := 0.0
	for _, s := range r.Timeline {
		pairs = append(pairs, [2]string{"boot: " + s.Name, fmt.Sprintf("%7.2f s  (+%.2f, seen by the %s)", s.Seconds, s.Seconds-last, s.Source)})
		last = s.Seconds
	}
	return fields(v, pairs)
}

func policyPairs(r *clientReportView) [][2]string {
	var pairs [][2]string
	if p := r.Policy; p != nil {
		pairs = append(pairs, [2]string{"policy", fmt.Sprintf("%s (%s in force, %s wanted, took %.2f s)", p.text(), short(p.State), short(p.Wanted), p.TookS)})
		for _, s := range p.Pending {
			pairs = append(pairs, [2]string{"policy: after a reboot", s})
		}
		for _, s := range p.Errors {
			pairs = append(pairs, [2]string{"policy: error", s})
		}
	}
	for _, s := range r.Sessions {
		text := s.User
		if s.App != "" {
			text = fmt.Sprintf("%s: %s on %s", s.User, s.App, s.Host)
		}
		pairs = append(pairs, [2]string{s.Kind, text + " since " + day(s.Since)})
	}
	return pairs
}

func nbdText(r *clientReportView) string {
	state := "connected"
	if !r.NBD {
		state = "not connected"
	}
	return fmt.Sprintf("%s, %d reconnects", state, r.Reconnects)
}

func (a *app) clientSet() *cobra.Command {
	var site string
	cfg := &satellitev1.Client{}
	c := &cobra.Command{
		Use:   "set MAC",
		Short: "Create or change a client's configuration",
		Example: "  ltspctl client set 52:54:00:67:00:10 --site school1 --name pc01\n" +
			"  ltspctl client set pc01 --boot lab:testing",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				api := adminv1.NewClientServiceClient(conn)
				request := &adminv1.SetClientRequest{Site: site, Config: &satellitev1.Client{Mac: args[0]}}
				if have, err := api.GetClient(ctx, &adminv1.GetClientRequest{Client: args[0]}); err == nil {
					request.Config, request.Revision = have.GetClient().GetConfig(), have.GetClient().GetRevision()
					if site == "" {
						request.Site = have.GetClient().GetSite()
					}
				} else if s, ok := statusOf(err); !ok || exitByStatus[s.Code()] != ExitNotFound {
					return err
				}
				applyClient(cmd, cfg, request.Config)
				r, err := api.SetClient(ctx, request)
				if err != nil {
					return err
				}
				v := viewClient(r.GetClient())
				return a.print(printer.View{Value: v, Columns: clientColumns, Rows: [][]string{v.row()}})
			})
		},
	}
	fs := c.Flags()
	fs.StringVar(&site, "site", "", "site of the client (needed for a new one)")
	fs.StringVar(&cfg.Name, "name", "", "host name")
	fs.StringVar(&cfg.Address, "address", "", "fixed IP address")
	fs.StringVar(&cfg.Boot, "boot", "", "IMAGE:CHANNEL or IMAGE@NUMBER to boot; empty for the subnet's")
	fs.StringVar(&cfg.Room, "room", "", "room whose policy applies; empty for the subnet's")
	fs.StringVar(&cfg.KernelParameters, "kernel-parameters", "", "kernel parameters for this client, instead of the site's")
	return c
}

// applyClient copies the settings whose flags were given.
func applyClient(cmd *cobra.Command, from, to *satellitev1.Client) {
	changed := cmd.Flags().Changed
	if changed("name") {
		to.Name = from.GetName()
	}
	if changed("address") {
		to.Address = from.GetAddress()
	}
	if changed("boot") {
		to.Boot = from.GetBoot()
	}
	if changed("room") {
		to.Room = from.GetRoom()
	}
	if changed("kernel-parameters") {
		to.KernelParameters = from.GetKernelParameters()
	}
}

func (a *app) clientDelete() *cobra.Command {
	return a.endCommand("delete MAC", "Forget a client and its configuration", "client %s deleted",
		func(ctx context.Context, conn *grpc.ClientConn, mac string) error {
			_, err := adminv1.NewClientServiceClient(conn).DeleteClient(ctx, &adminv1.DeleteClientRequest{Mac: mac})
			return err
		})
}
