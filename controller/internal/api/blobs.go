package api

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/deltas"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/transfer"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/rawcodec"
	chunkv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/chunk/v1"
)

// frameBytes is the size of the frames that bytes go out in.
const frameBytes = 256 << 10

// fetch is BlobService/Fetch: bytes of a version that is assigned to the caller's site, at the pace of the site's cap.
func (s *Server) fetch(ctx context.Context, request []byte, out *rawcodec.Sender) error {
	req := &chunkv1.FetchRequest{}
	if err := proto.Unmarshal(request, req); err != nil {
		return fleet.Errorf(fleet.ErrInvalid, "malformed request: %v", err)
	}
	if !s.fetches.TryAcquire(1) {
		s.metrics.limited.WithLabelValues("fetch").Inc()
		return status.Error(codes.ResourceExhausted, "too many downloads at once; try again later")
	}
	defer s.fetches.Release(1)
	version, err := s.assigned(ctx, req.GetVersionId())
	if err != nil {
		return err
	}
	c, err := callerOf(ctx)
	if err != nil {
		return err
	}
	pace, err := s.cfg.Transfer.Pace(ctx, c.id.Site)
	if err != nil {
		return err
	}
	w := &pacedSender{ctx: ctx, pace: pace, out: out, metrics: s.metrics}
	switch what := req.GetWhat().(type) {
	case *chunkv1.FetchRequest_Chunks_:
		return s.fetchChunks(ctx, version, what.Chunks.GetIds(), w)
	case *chunkv1.FetchRequest_Delta:
		return s.fetchDelta(version, what.Delta, w)
	}
	return fleet.Errorf(fleet.ErrInvalid, "the request does not say what is wanted")
}

// pacedSender sends in frames, waits before each for the site's turn, and counts.
type pacedSender struct {
	ctx     context.Context // of the call
	pace    transfer.Pace
	out     *rawcodec.Sender
	metrics *metrics
}

// frames calls send for each part of at most frameBytes of n bytes.
func (p *pacedSender) frames(n int64, send func(off int64, n int) error) error {
	for off := int64(0); off < n; off += frameBytes {
		size := int(min(n-off, frameBytes))
		if err := p.pace(p.ctx, size); err != nil {
			return err
		}
		if err := send(off, size); err != nil {
			return err
		}
		p.metrics.chunkBytes.Add(float64(size))
	}
	return nil
}

func (s *Server) fetchChunks(ctx context.Context, version manifest.ID, raw [][]byte, w *pacedSender) error {
	ids, err := chunkIDs(raw, maxFetchIDs)
	if err != nil {
		return err
	}
	if err := s.belong(ctx, version, ids); err != nil {
		return err
	}
	buf := make([]byte, 0, chunk.MaxSize)
	for _, id := range ids {
		data, err := s.cfg.Catalog.Chunk(ctx, id, buf)
		if err != nil {
			return err
		}
		err = w.frames(int64(len(data)), func(off int64, n int) error { return w.out.Send(data[off : off+int64(n)]) })
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) fetchDelta(version manifest.ID, what *chunkv1.FetchRequest_DeltaRange, w *pacedSender) error {
	base, err := manifest.IDFromBytes(what.GetBaseId())
	if err != nil {
		return fleet.Errorf(fleet.ErrInvalid, "base: %v", err)
	}
	sum, err := chunkID(what.GetSha256())
	if err != nil {
		return err
	}
	r, err := s.cfg.Deltas.Open(deltas.Pair{From: base, To: version}, sum)
	if errors.Is(err, deltas.ErrGone) {
		return fleet.Errorf(fleet.ErrNotFound, "%v; ask for a plan again", err)
	}
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // it was only read
	offset, length := what.GetOffset(), what.GetLength()
	if offset > r.Info.Size || length > r.Info.Size-offset {
		return fleet.Errorf(fleet.ErrInvalid, "bytes %d to %d of a delta of %d bytes", offset, offset+length, r.Info.Size)
	}
	return w.frames(int64(length), func(off int64, n int) error { return w.out.SendFrom(r, int64(offset)+off, int64(n)) })
}
