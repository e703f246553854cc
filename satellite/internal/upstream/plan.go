package upstream

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// maxPlanHave is how many versions a question names.
const maxPlanHave = 64

// maxPlanOptions and maxFirstGroups bound what is taken of an answer.
const (
	maxPlanOptions = 64
	maxFirstGroups = 1 << 16
)

// PlanSync asks how a version should come. A controller that knows no plans answers with chunks. ErrOffline, ErrNotAssigned or what gRPC
// said.
func (c *Client) PlanSync(ctx context.Context, q config.PlanQuestion) (config.Plan, error) {
	l := c.current()
	if l == nil {
		return config.Plan{}, ErrOffline
	}
	req := &satellitev1.PlanSyncRequest{Id: q.Version[:], LinkBytesPerSecond: q.LinkRate, RecompressBytesPerSecond: q.RecompressRate, Failure: q.Failure}
	for _, id := range q.Have[:min(len(q.Have), maxPlanHave)] {
		req.Have = append(req.Have, id[:])
	}
	if q.Begun != [32]byte{} {
		req.BegunSha256 = q.Begun[:]
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := satellitev1.NewLinkServiceClient(l.control).PlanSync(ctx, req)
	if status.Code(err) == codes.Unimplemented {
		return config.Plan{Method: config.ByChunks, Reason: "the controller makes no plans", Made: c.cfg.Now()}, nil
	}
	if err != nil {
		return config.Plan{}, fmt.Errorf("ask how to get version %s: %w", q.Version, refusal(err))
	}
	plan, err := planFromProto(resp)
	if err != nil {
		return config.Plan{}, fmt.Errorf("plan for version %s is unusable: %w", q.Version, err)
	}
	return plan, nil
}

var methods = map[satellitev1.SyncMethod]config.Method{
	satellitev1.SyncMethod_SYNC_METHOD_DELTA:  config.ByDelta,
	satellitev1.SyncMethod_SYNC_METHOD_CHUNKS: config.ByChunks,
	satellitev1.SyncMethod_SYNC_METHOD_WHOLE:  config.Whole,
	satellitev1.SyncMethod_SYNC_METHOD_WAIT:   config.Wait,
}

func methodProto(m config.Method) satellitev1.SyncMethod {
	for p, method := range methods {
		if method == m {
			return p
		}
	}
	return satellitev1.SyncMethod_SYNC_METHOD_UNSPECIFIED
}

func planFromProto(resp *satellitev1.PlanSyncResponse) (config.Plan, error) {
	p := resp.GetPlan()
	method, ok := methods[p.GetMethod()]
	if !ok {
		return config.Plan{}, fmt.Errorf("unknown method %s", p.GetMethod())
	}
	out := config.Plan{Method: method, Reason: p.GetReason(), WireBytes: p.GetWireBytes(), Expected: duration(p.GetExpected()),
		Retry: duration(p.GetRetryAfter()), Base: optionalID(p.GetBaseId())}
	if p.GetMade() != nil {
		out.Made = p.GetMade().AsTime()
	}
	for _, o := range p.GetOptions()[:min(len(p.GetOptions()), maxPlanOptions)] {
		out.Options = append(out.Options, config.PlanOption{Method: methods[o.GetMethod()], Base: optionalID(o.GetBaseId()), WireBytes: o.GetWireBytes(),
			Expected: duration(o.GetExpected()), Unavailable: o.GetUnavailable()})
	}
	if method != config.ByDelta {
		return out, nil
	}
	return out, delta(&out, resp.GetDelta())
}

// delta adds the delta file to a plan.
func delta(plan *config.Plan, p *satellitev1.DeltaFile) error {
	if len(p.GetSha256()) != 32 {
		return fmt.Errorf("delta named by %d bytes", len(p.GetSha256()))
	}
	if p.GetSizeBytes() > config.MaxDeltaBytes || p.GetIndexBytes() > config.MaxDeltaBytes {
		return fmt.Errorf("delta of %d bytes with an index of %d", p.GetSizeBytes(), p.GetIndexBytes())
	}
	plan.Delta = config.Delta{Base: plan.Base, SHA256: [32]byte(p.GetSha256()), Size: int64(p.GetSizeBytes()), IndexBytes: int64(p.GetIndexBytes()),
		First: p.GetFirstGroups()[:min(len(p.GetFirstGroups()), maxFirstGroups)]}
	return plan.Delta.Validate()
}

// optionalID is zero for what is no ID.
func optionalID(b []byte) manifest.ID {
	id, err := manifest.IDFromBytes(b)
	if err != nil {
		return manifest.ID{}
	}
	return id
}

// idBytes is nil for the zero ID.
func idBytes(id manifest.ID) []byte {
	if id.IsZero() {
		return nil
	}
	return id[:]
}

// planProto is nil for the zero Plan.
func planProto(p *config.Plan) *satellitev1.SyncPlan {
	if p.Method == "" {
		return nil
	}
	out := &satellitev1.SyncPlan{Method: methodProto(p.Method), Reason: p.Reason, WireBytes: p.WireBytes, Expected: durationpb.New(p.Expected),
		BaseId: idBytes(p.Base)}
	if p.Retry > 0 {
		out.RetryAfter = durationpb.New(p.Retry)
	}
	if !p.Made.IsZero() {
		out.Made = timestamppb.New(p.Made)
	}
	for i := range p.Options {
		o := &p.Options[i]
		out.Options = append(out.Options, &satellitev1.SyncOption{Method: methodProto(o.Method), BaseId: idBytes(o.Base), WireBytes: o.WireBytes,
			Expected: durationpb.New(o.Expected), Unavailable: o.Unavailable})
	}
	return out
}
