package command

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/printer"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

type auditView struct {
	Sequence uint64          `json:"sequence"`
	Time     *time.Time      `json:"time"`
	Actor    string          `json:"actor"`
	Action   string          `json:"action"`
	Object   string          `json:"object"`
	Before   json.RawMessage `json:"before,omitempty"`
	After    json.RawMessage `json:"after,omitempty"`
	Hash     string          `json:"hash"`
}

func raw(s string) json.RawMessage {
	if s == "" || !json.Valid([]byte(s)) {
		return nil
	}
	return json.RawMessage(s)
}

func (a *app) audit() *cobra.Command {
	var object string
	var limit uint32
	var before uint64
	flags := func(c *cobra.Command) {
		c.Flags().StringVar(&object, "object", "", "only entries whose object begins with this")
		c.Flags().Uint32Var(&limit, "limit", 100, "how many entries, 1 to 1000")
		c.Flags().Uint64Var(&before, "before", 0, "only entries below this sequence number")
	}
	return group("audit", "Read the log of changes", a.listCommand("List changes, the newest first", []string{"image", "site", "subnet", "satellite", "client", "policy", "token"}, flags,
		func(ctx context.Context, conn *grpc.ClientConn) (printer.View, error) {
			r, err := adminv1.NewAuditServiceClient(conn).ListAudit(ctx, &adminv1.ListAuditRequest{Before: before, Limit: limit, Object: object})
			views := []auditView{}
			var rows [][]string
			for _, e := range r.GetEntries() {
				v := auditView{Sequence: e.GetSequence(), Time: stamp(e.GetTime()), Actor: e.GetActor(), Action: e.GetAction(), Object: e.GetObject(),
					Before: raw(e.GetBefore()), After: raw(e.GetAfter()), Hash: hex.EncodeToString(e.GetHash())}
				views = append(views, v)
				rows = append(rows, []string{fmt.Sprint(v.Sequence), day(v.Time), v.Actor, v.Action, v.Object, short(v.Hash)})
			}
			return printer.View{Value: views, Columns: []string{"SEQ", "TIME", "ACTOR", "ACTION", "OBJECT", "HASH"}, Rows: rows}, err
		}))
}
