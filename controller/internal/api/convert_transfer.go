package api

import (
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

func methodToProto(m fleet.SyncMethod) satellitev1.SyncMethod {
	switch m {
	case fleet.SyncAuto:
		return satellitev1.SyncMethod_SYNC_METHOD_AUTO
	case fleet.SyncDelta:
		return satellitev1.SyncMethod_SYNC_METHOD_DELTA
	case fleet.SyncChunks:
		return satellitev1.SyncMethod_SYNC_METHOD_CHUNKS
	case fleet.SyncWhole:
		return satellitev1.SyncMethod_SYNC_METHOD_WHOLE
	case fleet.SyncWait:
		return satellitev1.SyncMethod_SYNC_METHOD_WAIT
	}
	return satellitev1.SyncMethod_SYNC_METHOD_UNSPECIFIED
}

func methodFromProto(m satellitev1.SyncMethod) fleet.SyncMethod {
	switch m {
	case satellitev1.SyncMethod_SYNC_METHOD_UNSPECIFIED:
		return ""
	case satellitev1.SyncMethod_SYNC_METHOD_AUTO:
		return fleet.SyncAuto
	case satellitev1.SyncMethod_SYNC_METHOD_DELTA:
		return fleet.SyncDelta
	case satellitev1.SyncMethod_SYNC_METHOD_CHUNKS:
		return fleet.SyncChunks
	case satellitev1.SyncMethod_SYNC_METHOD_WHOLE:
		return fleet.SyncWhole
	case satellitev1.SyncMethod_SYNC_METHOD_WAIT:
		return fleet.SyncWait
	}
	return fleet.SyncMethod(m.String()) // refused by the check, with the number in the message
}

func transferToProto(t fleet.Transfer) *satellitev1.TransferPolicy {
	return &satellitev1.TransferPolicy{
		BytesPerSecond: t.BytesPerSecond, Window: t.Window, Method: methodToProto(t.Method), LazyWait: span(t.LazyWait), CompleteOnly: t.CompleteOnly,
	}
}

func transferFromProto(p *satellitev1.TransferPolicy) fleet.Transfer {
	return fleet.Transfer{
		BytesPerSecond: p.GetBytesPerSecond(), Window: p.GetWindow(), Method: methodFromProto(p.GetMethod()), LazyWait: duration(p.GetLazyWait()),
		CompleteOnly: p.GetCompleteOnly(),
	}
}

func idBytes(id manifest.ID) []byte {
	if id.IsZero() {
		return nil
	}
	return id[:]
}

// idOf reads a version ID; what is none counts as not set.
func idOf(raw []byte) manifest.ID {
	id, err := manifest.IDFromBytes(raw)
	if err != nil {
		return manifest.ID{}
	}
	return id
}

func planToProto(p *fleet.SyncPlan) *satellitev1.SyncPlan {
	if p == nil {
		return nil
	}
	out := &satellitev1.SyncPlan{
		Method: methodToProto(p.Method), Reason: p.Reason, WireBytes: p.WireBytes, Expected: span(p.Expected), BaseId: idBytes(p.Base),
		RetryAfter: span(p.RetryAfter), Made: stamp(p.Made),
	}
	for _, o := range p.Options {
		out.Options = append(out.Options, &satellitev1.SyncOption{
			Method: methodToProto(o.Method), BaseId: idBytes(o.Base), WireBytes: o.WireBytes, Expected: span(o.Expected), Unavailable: o.Unavailable,
		})
	}
	return out
}

func planFromProto(p *satellitev1.SyncPlan) *fleet.SyncPlan {
	if p == nil {
		return nil
	}
	out := &fleet.SyncPlan{
		Method: methodFromProto(p.GetMethod()), Reason: p.GetReason(), WireBytes: p.GetWireBytes(), Expected: duration(p.GetExpected()), Base: idOf(p.GetBaseId()),
		RetryAfter: duration(p.GetRetryAfter()), Made: moment(p.GetMade()),
	}
	for _, o := range p.GetOptions() {
		out.Options = append(out.Options, fleet.SyncOption{
			Method: methodFromProto(o.GetMethod()), Base: idOf(o.GetBaseId()), WireBytes: o.GetWireBytes(), Expected: duration(o.GetExpected()),
			Unavailable: o.GetUnavailable(),
		})
	}
	return out
}

func traceFromProto(ranges []*satellitev1.TraceRange) []fleet.TraceRange {
	out := make([]fleet.TraceRange, 0, min(len(ranges), fleet.MaxTraceRanges))
	for _, r := range ranges[:min(len(ranges), fleet.MaxTraceRanges)] {
		out = append(out, fleet.TraceRange{Offset: r.GetOffset(), Length: r.GetLength()})
	}
	return out
}
