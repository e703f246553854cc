package fakecontroller

import (
	"bytes"
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	chunkv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/chunk/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// frameBytes is the length of the frames in which deltas are sent: short, so that tests can stop between them.
const frameBytes = 16 << 10

// PlanSync implements the service.
func (c *Controller) PlanSync(ctx context.Context, r *satellitev1.PlanSyncRequest) (*satellitev1.PlanSyncResponse, error) {
	if err := c.authorise(ctx); err != nil {
		return nil, err
	}
	offer(c.Questions, r)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.NoPlans {
		return nil, status.Error(codes.Unimplemented, "no plans")
	}
	if p := c.Plans[manifest.ID(r.GetId())]; p != nil {
		return p, nil
	}
	return &satellitev1.PlanSyncResponse{Plan: &satellitev1.SyncPlan{Method: satellitev1.SyncMethod_SYNC_METHOD_CHUNKS, Reason: "for a test"}}, nil
}

// fetch implements BlobService/Fetch.
func (c *Controller) fetch(ctx context.Context, request []byte, send func([]byte) error) error {
	if err := c.authorise(ctx); err != nil {
		return err
	}
	r := new(chunkv1.FetchRequest)
	if err := proto.Unmarshal(request, r); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if d := r.GetDelta(); d != nil {
		return c.sendDelta(ctx, d, send)
	}
	for _, id := range r.GetChunks().GetIds() {
		data, err := c.chunk(ctx, manifest.ID(r.GetVersionId()), chunk.ID(id))
		if err != nil || data == nil {
			return err
		}
		for frame := range chunks(data, 256<<10) {
			if err := send(frame); err != nil {
				return err
			}
		}
	}
	return nil
}

// chunks yields p in parts of n bytes.
func chunks(p []byte, n int) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(p) > 0 && yield(p[:min(n, len(p))]) {
			p = p[min(n, len(p)):]
		}
	}
}

// chunk returns a chunk, or nil if the answer is to end here.
func (c *Controller) chunk(ctx context.Context, version manifest.ID, id chunk.ID) ([]byte, error) {
	if err := c.gate(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	v := c.versions[version]
	if v == nil || v.Chunks[id] == nil {
		c.mu.Unlock()
		return nil, status.Error(codes.NotFound, "no such chunk")
	}
	data := v.Chunks[id]
	c.mu.Unlock()
	data, err := c.fault(ctx, data)
	if err == nil && data != nil {
		c.Do(func(c *Controller) {
			c.Fetched++
			c.FetchedIDs[id]++
		})
	}
	return data, err
}

func (c *Controller) sendDelta(ctx context.Context, d *chunkv1.FetchRequest_DeltaRange, send func([]byte) error) error {
	c.mu.Lock()
	data, ok := c.Deltas[[32]byte(d.GetSha256())]
	c.DeltaRanges = append(c.DeltaRanges, [2]uint64{d.GetOffset(), d.GetLength()})
	c.mu.Unlock()
	if !ok {
		return status.Error(codes.NotFound, "no such delta")
	}
	if d.GetLength() == 0 || d.GetOffset()+d.GetLength() > uint64(len(data)) {
		return status.Error(codes.OutOfRange, "range outside the delta")
	}
	for frame := range chunks(data[d.GetOffset():d.GetOffset()+d.GetLength()], frameBytes) {
		if err := c.gate(ctx); err != nil {
			return err
		}
		frame, err := c.fault(ctx, frame)
		if err != nil || frame == nil {
			return err
		}
		if err := send(frame); err != nil {
			return err
		}
		c.Do(func(c *Controller) { c.DeltaBytes += len(frame) })
	}
	return nil
}

// gate waits for the test's leave to send the next part.
func (c *Controller) gate(ctx context.Context) error {
	c.mu.Lock()
	gate, hang := c.Gate, c.Hang
	c.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	if gate == nil {
		return nil
	}
	select {
	case <-gate:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fault applies the faults to a part; nil data ends the answer with success.
func (c *Controller) fault(ctx context.Context, data []byte) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.FailFetch > 0 {
		c.FailFetch--
		return nil, status.Error(codes.Unavailable, "told to fail")
	}
	if c.CutAfter > 0 {
		if c.CutAfter--; c.CutAfter == 0 {
			go c.srv.Stop()
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}
	if c.Withhold > 0 {
		c.Withhold--
		return nil, nil
	}
	if c.Corrupt > 0 {
		c.Corrupt--
		data = bytes.Clone(data)
		data[len(data)/2] ^= 4
	}
	return data, nil
}
