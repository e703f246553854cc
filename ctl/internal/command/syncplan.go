package command

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/progress"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

type syncView struct {
	Satellite    string       `json:"satellite"`
	Site         string       `json:"site"`
	Version      string       `json:"version"`
	State        string       `json:"state"`
	DoneBytes    uint64       `json:"done_bytes"`
	TotalBytes   uint64       `json:"total_bytes"`
	FetchedBytes uint64       `json:"fetched_bytes"`
	Method       string       `json:"method,omitempty"`
	Base         string       `json:"base,omitempty"`
	Reason       string       `json:"reason,omitempty"`
	WireBytes    uint64       `json:"wire_bytes"`
	Expected     float64      `json:"expected_seconds"`
	Took         float64      `json:"took_seconds,omitempty"`
	Behind       string       `json:"behind,omitempty"`
	Error        string       `json:"error,omitempty"`
	Options      []optionView `json:"options,omitempty"`
}

type optionView struct {
	Method      string  `json:"method"`
	Base        string  `json:"base_id,omitempty"`
	WireBytes   uint64  `json:"wire_bytes"`
	Expected    float64 `json:"expected_seconds"`
	Unavailable string  `json:"unavailable,omitempty"`
}

// methodText names a way as flags do.
func methodText(m satellitev1.SyncMethod) string {
	if m == satellitev1.SyncMethod_SYNC_METHOD_UNSPECIFIED {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(m.String(), "SYNC_METHOD_"))
}

func viewSync(s *adminv1.SatelliteSync) syncView {
	n, p := s.GetVersion(), s.GetVersion().GetPlan()
	v := syncView{
		Satellite: s.GetSatellite(), Site: s.GetSite(), Version: fmt.Sprintf("%s@%d", n.GetImage(), n.GetNumber()), State: stateText(n.GetState()),
		DoneBytes: n.GetBytesDone(), TotalBytes: n.GetBytesTotal(), FetchedBytes: n.GetBytesFetched(), Method: methodText(p.GetMethod()), Base: s.GetBase(),
		Reason: p.GetReason(), WireBytes: p.GetWireBytes(), Expected: p.GetExpected().AsDuration().Seconds(), Behind: n.GetBehind(), Error: n.GetError(),
	}
	if n.GetStarted() != nil && n.GetFinished() != nil {
		v.Took = n.GetFinished().AsTime().Sub(n.GetStarted().AsTime()).Seconds()
	}
	for _, o := range p.GetOptions() {
		v.Options = append(v.Options, optionView{
			Method: methodText(o.GetMethod()), Base: hex.EncodeToString(o.GetBaseId()), WireBytes: o.GetWireBytes(),
			Expected: o.GetExpected().AsDuration().Seconds(), Unavailable: o.GetUnavailable(),
		})
	}
	return v
}

// stateText names a version's state as "satellite list" does.
func stateText(s satellitev1.VersionState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "VERSION_STATE_"))
}

func (v syncView) row() []string {
	note := v.Reason
	for _, text := range []string{v.Behind, v.Error} {
		if text != "" {
			note = text
		}
	}
	return []string{
		v.Satellite, v.Site, v.Version, v.State, v.Method, v.Base, progress.Bytes(v.WireBytes), progress.Bytes(v.FetchedBytes),
		duration(v.Expected), duration(v.Took), note,
	}
}

func duration(seconds float64) string {
	if seconds == 0 {
		return ""
	}
	return time.Duration(seconds * float64(time.Second)).Round(100 * time.Millisecond).String()
}

func (a *app) imageSyncPlan() *cobra.Command {
	var site string
	c := &cobra.Command{
		Use:   "sync-plan [IMAGE[@VERSION]]",
		Short: "Show for each satellite which way a version comes to it, and why",
		Long: "sync-plan lists the versions that satellites shall hold, by which way each comes (delta from a version that is there, chunks that are missing, whole), what that was expected to " +
			"cost, what it has cost, and why that way was taken. -o json has all the ways that were weighed.",
		Example: "  ltspctl image sync-plan lab@12\n  ltspctl image sync-plan --site school1 -o json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			request := &adminv1.ListSyncPlansRequest{Site: site}
			if len(args) == 1 {
				request.Image = args[0]
				if strings.Contains(args[0], "@") {
					var err error
					if request.Image, request.Number, err = parseVersion(args[0]); err != nil {
						return err
					}
				}
			}
			return a.call(cmd.Context(), func(ctx context.Context, conn *grpc.ClientConn) error {
				r, err := adminv1.NewImageServiceClient(conn).ListSyncPlans(ctx, request)
				if err != nil {
					return err
				}
				views := []syncView{}
				view := printer.View{Columns: []string{"SATELLITE", "SITE", "VERSION", "STATE", "METHOD", "FROM", "PLANNED", "FETCHED", "EXPECTED", "TOOK", "WHY"}}
				for _, s := range r.GetSatellites() {
					v := viewSync(s)
					views, view.Rows = append(views, v), append(view.Rows, v.row())
				}
				view.Value = views
				return a.print(view)
			})
		},
	}
	c.Flags().StringVar(&site, "site", "", "only satellites of this site")
	return c
}
