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
	"google.golang.org/protobuf/proto"

	chunkv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/chunk/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/rawcodec"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// fetchMethod delivers bytes; proto/ltsp/chunk/v1/chunk.proto describes it.
const fetchMethod = "/ltsp.chunk.v1.BlobService/Fetch"

const maxManifestMessage = manifest.MaxEncodedBytes + 64<<10

// ErrNotAssigned says that the controller does not give this version to this site, or has it (or its delta) no more.
var ErrNotAssigned = errors.New("the controller does not give this version to this site")

// Manifest gets the signed manifest of a version with the chunk lists of the named artifacts, "*" meaning all. It is not checked here.
// ErrOffline, ErrNotAssigned or what gRPC said.
func (c *Client) Manifest(ctx context.Context, id manifest.ID, lists ...string) ([]byte, error) {
	l := c.current()
	if l == nil {
		return nil, ErrOffline
	}
	req := &satellitev1.GetManifestRequest{Id: id[:], Lists: lists}
	resp, err := satellitev1.NewLinkServiceClient(l.bulk).GetManifest(ctx, req, grpc.MaxCallRecvMsgSize(maxManifestMessage))
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

// Fetch gets chunks of a version and calls deliver for each in this order, from this goroutine; data is valid during the call. A
// connection on which nothing arrives for Config.StallTimeout counts as broken. An error of deliver ends it and is returned. The
// chunks are not verified here; they are cut out of the stream by the sizes in refs.
func (c *Client) Fetch(ctx context.Context, id manifest.ID, refs []chunk.Ref, deliver func(chunk.ID, []byte) error) error {
	ids := make([][]byte, 0, len(refs))
	var total int64
	for i := range refs {
		if refs[i].Size == 0 || refs[i].Size > chunk.MaxSize {
			return fmt.Errorf("fetch chunks of version %s: chunk of %d bytes", id, refs[i].Size)
		}
		ids = append(ids, refs[i].ID[:])
		total += int64(refs[i].Size)
	}
	req := &chunkv1.FetchRequest{VersionId: id[:], What: &chunkv1.FetchRequest_Chunks_{Chunks: &chunkv1.FetchRequest_Chunks{Ids: ids}}}
	cut := cutter{refs: refs, deliver: deliver}
	return c.fetch(ctx, req, total, cut.take)
}

// cutter cuts a stream of bytes into chunks.
type cutter struct {
	refs    []chunk.Ref
	deliver func(chunk.ID, []byte) error
	buf     []byte
}

// take may be given no more bytes than the chunks have.
func (k *cutter) take(p []byte) error {
	for len(p) > 0 {
		size := int(k.refs[0].Size)
		data := p
		if n := size - len(k.buf); len(k.buf) > 0 || len(p) < n {
			n = min(n, len(p))
			if k.buf == nil {
				k.buf = make([]byte, 0, chunk.MaxSize)
			}
			k.buf = append(k.buf, p[:n]...)
			p = p[n:]
			if len(k.buf) < size {
				return nil
			}
			data, k.buf = k.buf, k.buf[:0]
		} else {
			data, p = p[:size], p[size:]
		}
		if err := k.deliver(k.refs[0].ID, data[:size]); err != nil {
			return err
		}
		k.refs = k.refs[1:]
	}
	return nil
}

// FetchDelta gets length bytes from off of a delta file of a version and calls deliver for one piece after the other, from this goroutine; p is
// valid during the call. urgent says that a client waits for them. Otherwise it is as Fetch.
func (c *Client) FetchDelta(ctx context.Context, id manifest.ID, d *config.Delta, off, length int64, urgent bool, deliver func(p []byte) error) error {
	if off < 0 || length <= 0 || off > d.Size-length {
		return fmt.Errorf("fetch %d bytes from %d of a delta of %d bytes", length, off, d.Size)
	}
	req := &chunkv1.FetchRequest{VersionId: id[:], Urgent: urgent, What: &chunkv1.FetchRequest_Delta{Delta: &chunkv1.FetchRequest_DeltaRange{
		BaseId: d.Base[:], Sha256: d.SHA256[:], Offset: uint64(off), Length: uint64(length)}}}
	return c.fetch(ctx, req, length, deliver)
}

// fetch streams exactly want bytes.
func (c *Client) fetch(ctx context.Context, req *chunkv1.FetchRequest, want int64, deliver func(p []byte) error) error {
	l := c.current()
	if l == nil {
		return ErrOffline
	}
	request, err := proto.Marshal(req)
	if err != nil {
		return fmt.Errorf("fetch of version %x: %w", req.GetVersionId(), err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(c.cfg.StallTimeout, func() { cancel(fmt.Errorf("nothing arrived for %s", c.cfg.StallTimeout)) })
	defer stall.Stop()
	var ours error
	err = rawcodec.Fetch(ctx, l.bulk, fetchMethod, request, func(p []byte) error {
		stall.Stop() // writing may take its time
		defer stall.Reset(c.cfg.StallTimeout)
		if want -= int64(len(p)); want < 0 {
			ours = fmt.Errorf("fetch of version %x: the controller sent more than was asked for", req.GetVersionId())
			return ours
		}
		ours = deliver(p)
		return ours
	})
	switch {
	case ours != nil:
		return ours
	case err != nil:
		return fmt.Errorf("fetch of version %x: %w", req.GetVersionId(), refusal(cause(ctx, err)))
	case want > 0:
		return fmt.Errorf("fetch of version %x: the answer ends %d bytes early: %w", req.GetVersionId(), want, io.ErrUnexpectedEOF)
	}
	return nil
}
