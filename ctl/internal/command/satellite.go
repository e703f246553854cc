package command

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/progress"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

func notFound(format string, args ...any) error {
	return status.Errorf(codes.NotFound, format, args...)
}

type satelliteView struct {
	Name               string            `json:"name"`
	Site               string            `json:"site"`
	State              string            `json:"state"`
	Enrolled           *time.Time        `json:"enrolled,omitempty"`
	LastSeen           *time.Time        `json:"last_seen,omitempty"`
	CertificateExpires *time.Time        `json:"certificate_expires,omitempty"`
	Build              string            `json:"build,omitempty"`
	Addresses          []string          `json:"addresses,omitempty"`
	DiskFreeBytes      uint64            `json:"disk_free_bytes"`
	DiskSizeBytes      uint64            `json:"disk_size_bytes"`
	MemoryBytes        uint64            `json:"memory_bytes"`
	NBDConnections     uint32            `json:"nbd_connections"`
	Versions           []heldVersionView `json:"versions,omitempty"`
	Subnets            []subnetStateView `json:"subnets,omitempty"`
	Members            []memberView      `json:"members,omitempty"`
	Problems           []string          `json:"problems,omitempty"`
	LoginHost          *loginStateView   `json:"login_host,omitempty"`
}

type heldVersionView struct {
	Image        string `json:"image"`
	Number       uint64 `json:"number"`
	ID           string `json:"id"`
	State        string `json:"state"`
	BytesDone    uint64 `json:"bytes_done"`
	BytesTotal   uint64 `json:"bytes_total"`
	BytesFetched uint64 `json:"bytes_fetched"`
	Error        string `json:"error,omitempty"`
}

type subnetStateView struct {
	Name      string `json:"name"`
	State     string `json:"state"`
	Leases    uint32 `json:"leases"`
	RangeSize uint32 `json:"range_size"`
}

type memberView struct {
	Name     string   `json:"name"`
	Address  string   `json:"address"`
	State    string   `json:"state"`
	Versions []string `json:"versions,omitempty"`
}

// loginStateView tells how a satellite gets the accounts of the site's login host.
type loginStateView struct {
	State     string     `json:"state"`
	Error     string     `json:"error,omitempty"`
	Users     uint32     `json:"users"`
	Updated   *time.Time `json:"updated,omitempty"`
	PublicKey string     `json:"public_key,omitempty"`
}

func viewLoginState(l *satellitev1.LoginHostStatus) *loginStateView {
	if l == nil {
		return nil
	}
	return &loginStateView{State: l.GetState(), Error: l.GetError(), Users: l.GetUsers(), Updated: stamp(l.GetUpdated()), PublicKey: l.GetPublicKey()}
}

func (v *loginStateView) text() string {
	switch {
	case v == nil:
		return ""
	case v.Error != "":
		return fmt.Sprintf("%s: %s (%d accounts known)", v.State, v.Error, v.Users)
	}
	return fmt.Sprintf("%s, %d accounts", v.State, v.Users)
}

var versionStates = map[satellitev1.VersionState]string{
	satellitev1.VersionState_VERSION_STATE_WAITING:  "waiting",
	satellitev1.VersionState_VERSION_STATE_FETCHING: "fetching",
	satellitev1.VersionState_VERSION_STATE_VERIFIED: "verified",
	satellitev1.VersionState_VERSION_STATE_FAILED:   "failed",
}

func viewSatellite(s *adminv1.Satellite) satelliteView {
	st := s.GetStatus()
	v := satelliteView{
		Name: s.GetName(), Site: s.GetSite(), State: s.GetState(), Enrolled: stamp(s.GetEnrolled()), LastSeen: stamp(s.GetLastSeen()),
		CertificateExpires: stamp(s.GetCertificateExpires()), Build: st.GetBuild(), Addresses: st.GetAddresses(), DiskFreeBytes: st.GetDiskFreeBytes(),
		DiskSizeBytes: st.GetDiskSizeBytes(), MemoryBytes: st.GetMemoryBytes(), NBDConnections: st.GetNbdConnections(), Problems: st.GetProblems(),
		LoginHost: viewLoginState(st.GetLoginHost()),
	}
	for _, h := range st.GetVersions() {
		v.Versions = append(v.Versions, heldVersionView{
			Image: h.GetImage(), Number: h.GetNumber(), ID: hex.EncodeToString(h.GetId()), State: versionStates[h.GetState()],
			BytesDone: h.GetBytesDone(), BytesTotal: h.GetBytesTotal(), BytesFetched: h.GetBytesFetched(), Error: h.GetError(),
		})
	}
	for _, n := range st.GetSubnets() {
		v.Subnets = append(v.Subnets, subnetStateView{Name: n.GetName(), State: n.GetState(), Leases: n.GetLeases(), RangeSize: n.GetRangeSize()})
	}
	for _, m := range st.GetMembers() {
		v.Members = append(v.Members, memberView{Name: m.GetName(), Address: m.GetAddress(), State: m.GetState(), Versions: m.GetVersions()})
	}
	return v
}

var satelliteColumns = []string{"NAME", "SITE", "STATE", "SEEN", "VERSIONS", "CLIENTS", "DISK FREE", "MEMBERS", "PROBLEMS"}

func (v satelliteView) row() []string {
	var held []string
	for _, h := range v.Versions {
		held = append(held, h.short())
	}
	alive := 0
	for _, m := range v.Members {
		if m.State == "alive" {
			alive++
		}
	}
	return []string{
		v.Name, v.Site, v.State, age(v.LastSeen), list(held), fmt.Sprint(v.NBDConnections), progress.Bytes(v.DiskFreeBytes),
		fmt.Sprintf("%d/%d", alive, len(v.Members)), fmt.Sprint(len(v.Problems)),
	}
}

// short names a held version, with its progress while it is incomplete.
func (h heldVersionView) short() string {
	name := fmt.Sprintf("%s@%d", h.Image, h.Number)
	switch {
	case h.State == "verified":
		return name
	case h.State == "fetching" && h.BytesTotal > 0:
		return fmt.Sprintf("%s(%d%%)", name, h.BytesDone*100/h.BytesTotal)
	}
	return name + "(" + h.State + ")"
}

func (a *app) satellite() *cobra.Command {
	var site string
	return group("satellite", "Show satellites and end their trust",
		a.satelliteShow(), a.satelliteRevoke(), a.satelliteDelete(),
		a.listCommand("List satellites", []string{"satellite"}, func(c *cobra.Command) { c.Flags().StringVar(&site, "site", "", "only this site") },
			func(ctx context.Context, conn *grpc.ClientConn) (printer.View, error) {
				r, err := adminv1.NewSatelliteServiceClient(conn).ListSatellites(ctx, &adminv1.ListSatellitesRequest{Site: site})
				views := []satelliteView{}
				var rows [][]string
				for _, s := range r.GetSatellites() {
					v := viewSatellite(s)
					views, rows = append(views, v), append(rows, v.row())
				}
				return printer.View{Value: views, Columns: satelliteColumns, Rows: rows}, err
			}))
}

func (a *app) satelliteShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show a satellite: versions, subnets, members of its site, problems",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := adminv1.NewSatelliteServiceClient(conn).GetSatellite(ctx, &adminv1.GetSatelliteRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return a.print(satelliteFields(viewSatellite(r.GetSatellite())))
			})
		},
	}
}

func satelliteFields(v satelliteView) printer.View {
	pairs := [][2]string{
		{"name", v.Name}, {"site", v.Site}, {"state", v.State}, {"enrolled", day(v.Enrolled)}, {"last seen", age(v.LastSeen)},
		{"certificate expires", day(v.CertificateExpires)}, {"build", v.Build}, {"addresses", list(v.Addresses)},
		{"disk", fmt.Sprintf("%s free of %s", progress.Bytes(v.DiskFreeBytes), progress.Bytes(v.DiskSizeBytes))},
		{"memory", progress.Bytes(v.MemoryBytes)}, {"nbd connections", fmt.Sprint(v.NBDConnections)},
		{"login host", v.LoginHost.text()},
	}
	for _, h := range v.Versions {
		text := fmt.Sprintf("%s, %s of %s, %s over the wire", h.State, progress.Bytes(h.BytesDone), progress.Bytes(h.BytesTotal), progress.Bytes(h.BytesFetched))
		if h.Error != "" {
			text += ": " + h.Error
		}
		pairs = append(pairs, [2]string{fmt.Sprintf("version %s@%d", h.Image, h.Number), text})
	}
	for _, n := range v.Subnets {
		pairs = append(pairs, [2]string{"subnet " + n.Name, fmt.Sprintf("%s, %d of %d addresses lent", n.State, n.Leases, n.RangeSize)})
	}
	for _, m := range v.Members {
		pairs = append(pairs, [2]string{"member " + m.Name, fmt.Sprintf("%s at %s, %d versions", m.State, m.Address, len(m.Versions))})
	}
	for _, p := range v.Problems {
		pairs = append(pairs, [2]string{"problem", p})
	}
	return fields(v, pairs)
}

func (a *app) satelliteRevoke() *cobra.Command {
	return a.endCommand("revoke NAME", "Cut a satellite off at once and for good", "satellite %s revoked",
		func(ctx context.Context, conn *grpc.ClientConn, name string) error {
			_, err := adminv1.NewSatelliteServiceClient(conn).RevokeSatellite(ctx, &adminv1.RevokeSatelliteRequest{Name: name})
			return err
		})
}

func (a *app) satelliteDelete() *cobra.Command {
	return a.endCommand("delete NAME", "Remove a revoked satellite from the lists", "satellite %s deleted",
		func(ctx context.Context, conn *grpc.ClientConn, name string) error {
			_, err := adminv1.NewSatelliteServiceClient(conn).DeleteSatellite(ctx, &adminv1.DeleteSatelliteRequest{Name: name})
			return err
		})
}
