package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chunkv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/chunk/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

const (
	maxChunkMessage    = chunk.MaxSize + 64<<10
	maxManifestMessage = manifest.MaxEncodedBytes + 64<<10
)

// ErrNotAssigned says that the controller does not give this version to this site, or has it no more.
var ErrNotAssigned = errors.New("the controller does not give this version to this site")

// Manifest gets the signed manifest of a version. It is not checked here. ErrOffline, ErrNotAssigned or what gRPC said.
func (c *Client) Manifest(ctx context.Context, id manifest.ID) ([]byte, error) {
	l := c.current()
	if l == nil {
		return nil, ErrOffline
	}
	resp, err := satellitev1.NewLinkServiceClient(l.bulk).GetManifest(ctx, &satellitev1.GetManifestRequest{Id: id[:]}, grpc.MaxCallRecvMsgSize(maxManifestMessage))
	if err != nil {
		return nil, fmt.Errorf("get manifest of version %s: %w", id, refusal(err))
	}
	return resp.GetManifest(), nil
}

// refusal marks what the controller refuses for good, and says in words what only an admin can mend.
func refusal(err error) error {
	switch status.Code(err) {
	case codes.NotFound, codes.PermissionDenied:
		return fmt.Errorf("%w: %s", ErrNotAssigned, status.Convert(err).Message())
	case codes.DataLoss:
		return fmt.Errorf("the controller's copy is damaged (publish the image again to mend it): %s", status.Convert(err).Message())
	}
	return err
}

// Fetch gets chunks of a version and calls deliver for each, from this goroutine; data is valid during the call. A connection on which no chunk
// arrives for Config.StallTimeout counts as broken. An error of deliver ends it and is returned. The chunks are not verified here.
func (c *Client) Fetch(ctx context.Context, id manifest.ID, ids []chunk.ID, deliver func(chunk.ID, []byte) error) error {
	l := c.current()
	if l == nil {
		return ErrOffline
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(c.cfg.StallTimeout, func() { cancel(fmt.Errorf("no chunk arrived for %s", c.cfg.StallTimeout)) })
	defer stall.Stop()
	req := &chunkv1.FetchChunksRequest{VersionId: id[:], Ids: make([][]byte, 0, len(ids))}
	for i := range ids {
		req.Ids = append(req.Ids, ids[i][:])
	}
	stream, err := chunkv1.NewChunkServiceClient(l.bulk).FetchChunks(ctx, req, grpc.MaxCallRecvMsgSize(maxChunkMessage))
	if err != nil {
		return fmt.Errorf("fetch chunks of version %s: %w", id, refusal(cause(ctx, err)))
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("fetch chunks of version %s: %w", id, refusal(cause(ctx, err)))
		}
		stall.Stop() // writing may take its time
		if len(m.GetId()) != len(chunk.ID{}) {
			return fmt.Errorf("fetch chunks of version %s: chunk ID of %d bytes", id, len(m.GetId()))
		}
		if err := deliver(chunk.ID(m.GetId()), m.GetData()); err != nil {
			return err
		}
		stall.Reset(c.cfg.StallTimeout)
	}
}
