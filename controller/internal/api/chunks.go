package api

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunkstore"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	chunkv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/chunk/v1"
)

type chunkService struct {
	chunkv1.UnimplementedChunkServiceServer
	*Server
}

// Limits of the service, as chunk.proto documents them.
const (
	maxFindIDs  = 8192
	maxFetchIDs = 1024
	// The one service that does not speak protobuf, see chunk.proto.
	blobService = "ltsp.chunk.v1.BlobService"
	methodFetch = "/" + blobService + "/Fetch"
)

func chunkID(raw []byte) (chunk.ID, error) {
	if len(raw) != len(chunk.ID{}) {
		return chunk.ID{}, fleet.Errorf(fleet.ErrInvalid, "chunk ID of %d bytes: want %d", len(raw), len(chunk.ID{}))
	}
	return chunk.ID(raw), nil
}

func chunkIDs(raw [][]byte, most int) ([]chunk.ID, error) {
	if len(raw) > most {
		return nil, fleet.Errorf(fleet.ErrInvalid, "%d chunk IDs, at most %d are allowed", len(raw), most)
	}
	ids := make([]chunk.ID, len(raw))
	for i := range raw {
		id, err := chunkID(raw[i])
		if err != nil {
			return nil, err
		}
		ids[i] = id
	}
	return ids, nil
}

// FindMissing implements the service.
func (s *chunkService) FindMissing(ctx context.Context, req *chunkv1.FindMissingRequest) (*chunkv1.FindMissingResponse, error) {
	ids, err := chunkIDs(req.GetIds(), maxFindIDs)
	if err != nil {
		return nil, err
	}
	missing, err := s.cfg.Catalog.FindMissing(ctx, ids)
	if err != nil {
		return nil, err
	}
	resp := &chunkv1.FindMissingResponse{}
	for i := range missing {
		resp.Missing = append(resp.Missing, missing[i][:])
	}
	return resp, nil
}

// PutChunks implements the service.
func (s *chunkService) PutChunks(stream grpc.ClientStreamingServer[chunkv1.PutChunksRequest, chunkv1.PutChunksResponse]) error {
	if !s.puts.TryAcquire(1) {
		s.metrics.limited.WithLabelValues("put").Inc()
		return status.Error(codes.ResourceExhausted, "too many uploads at once; try again later")
	}
	defer s.puts.Release(1)
	resp := &chunkv1.PutChunksResponse{}
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(resp)
		}
		if err != nil {
			return err
		}
		id, err := chunkID(req.GetId())
		if err != nil {
			return err
		}
		if err := s.put(stream.Context(), id, req.GetData()); err != nil {
			return err
		}
		resp.Stored++
		resp.StoredBytes += uint64(len(req.GetData()))
	}
}

// put tells an upload that was garbled on its way (the uploader's fault) from damage on our disk.
func (s *chunkService) put(ctx context.Context, id chunk.ID, data []byte) error {
	err := s.cfg.Catalog.PutChunk(ctx, id, data)
	if _, ok := errors.AsType[*chunkstore.CorruptError](err); ok {
		return fleet.Errorf(fleet.ErrInvalid, "upload: %v", err)
	}
	return err
}

// assigned checks that a version is assigned to the caller's site. That it does not exist looks the same from outside.
func (s *Server) assigned(ctx context.Context, raw []byte) (manifest.ID, error) {
	id, err := manifest.IDFromBytes(raw)
	if err != nil {
		return id, fleet.Errorf(fleet.ErrInvalid, "%v", err)
	}
	c, err := callerOf(ctx)
	if err != nil {
		return id, err
	}
	desired, err := s.cfg.Link.Desired(ctx, c.id.Site)
	if err != nil {
		return id, err
	}
	for _, v := range desired.Versions {
		if v.ID == id {
			return id, nil
		}
	}
	s.cfg.Log.Warn("satellite asked for a version that its site is not assigned", "site", c.id.Site, "satellite", c.id.Name, "version", id)
	return id, fleet.Errorf(fleet.ErrDenied, "version %s is not assigned to site %s", id, c.id.Site)
}

// belong checks that the chunks are part of the version.
func (s *Server) belong(ctx context.Context, version manifest.ID, ids []chunk.ID) error {
	index, err := s.cfg.Catalog.Index(ctx, version)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, ok := index[id]; ok {
			continue
		}
		c, err := callerOf(ctx)
		if err != nil {
			return err
		}
		s.cfg.Log.Warn("satellite asked for a chunk that the version does not hold", "site", c.id.Site, "satellite", c.id.Name, "version", version, "chunk", id)
		return fleet.Errorf(fleet.ErrDenied, "chunk %s is no part of version %s", id, version)
	}
	return nil
}
