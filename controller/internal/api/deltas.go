package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/catalog"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/deltas"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/imagediff"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

// deltaSource reads where a draft's squashfs comes from; nil if its chunks were uploaded.
func (s *Server) deltaSource(p *adminv1.DeltaSource) (*catalog.DeltaSource, error) {
	if p == nil {
		return nil, nil
	}
	base, err := chunkID(p.GetBaseSha256())
	if err != nil {
		return nil, err
	}
	sum, err := chunkID(p.GetSha256())
	if err != nil {
		return nil, err
	}
	out := &catalog.DeltaSource{Base: base, SHA256: sum, Adopt: s.adopt}
	for _, c := range p.GetChunks() {
		id, err := chunkID(c.GetId())
		if err != nil {
			return nil, err
		}
		out.Chunks = append(out.Chunks, chunk.Ref{ID: id, Size: c.GetSize()})
	}
	return out, nil
}

// adopt keeps an uploaded delta for the satellites that have its base.
func (s *Server) adopt(from, to manifest.ID, delta io.Reader) {
	if err := s.cfg.Deltas.Adopt(deltas.Pair{From: from, To: to}, delta); err != nil {
		s.cfg.Log.Warn("an uploaded delta could not be kept; it will be made again when it is needed", "err", err)
	}
}

// pair resolves what an admin names.
func (s *Server) pair(ctx context.Context, image string, from uint64, toImage string, to uint64) (a, b fleet.Version, err error) {
	if toImage == "" {
		toImage = image
	}
	err = s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		if a, err = tx.Version(image, from); err != nil {
			return err
		}
		b, err = tx.Version(toImage, to)
		return err
	})
	if err == nil && (a.Kind != manifest.Image || b.Kind != manifest.Image) {
		err = fleet.Errorf(fleet.ErrInvalid, "%s and %s are not both images of root file systems", a.Name(), b.Name())
	}
	return a, b, err
}

// GetDelta implements the service.
func (s *imageService) GetDelta(req *adminv1.GetDeltaRequest, stream grpc.ServerStreamingServer[adminv1.GetDeltaResponse]) error {
	ctx := stream.Context()
	from, to, err := s.pair(ctx, req.GetImage(), req.GetFrom(), req.GetToImage(), req.GetTo())
	if err != nil {
		return err
	}
	if from.SHA256 == to.SHA256 {
		return fleet.Errorf(fleet.ErrInvalid, "%s and %s hold the same root file system; there is nothing to transfer", from.Name(), to.Name())
	}
	p := deltas.Pair{From: from.ID, To: to.ID}
	missing, _, err := s.cfg.Catalog.MissingBytes(ctx, to.ID, []manifest.ID{from.ID})
	if err != nil {
		return err
	}
	if !req.GetMake() {
		return sendDelta(stream, s.cfg.Deltas.Find(p), missing)
	}
	s.cfg.Deltas.Request(p, true)
	return s.cfg.Deltas.Follow(ctx, p, func(i deltas.Info) error {
		if i.State == deltas.Queued || i.State == deltas.Making {
			stage := i.Stage
			if i.State == deltas.Queued {
				stage = "waiting for other deltas"
			}
			progress := &adminv1.TaskProgress{Stage: stage, Done: uint64(max(i.Done, 0)), Total: uint64(max(i.Total, 0))}
			return stream.Send(&adminv1.GetDeltaResponse{Message: &adminv1.GetDeltaResponse_Progress{Progress: progress}})
		}
		return sendDelta(stream, i, missing)
	})
}

func sendDelta(stream grpc.ServerStreamingServer[adminv1.GetDeltaResponse], i deltas.Info, chunkBytes uint64) error {
	out := &adminv1.DeltaInfo{
		State: string(i.State), SizeBytes: i.Size, IndexBytes: i.IndexBytes, Made: stamp(i.Made), Cpu: span(i.CPU), ChunkBytes: chunkBytes, Error: i.Error,
	}
	if i.State == deltas.Ready {
		out.Sha256 = i.SHA256[:]
	}
	if st := i.Stats; st != nil {
		out.Groups, out.Encoder, out.Sections = uint32(st.Groups), st.Encoder, sections(st)
		out.CopiedBytes, out.ChangedBytes = uint64(st.CopyBytes), uint64(st.ChangedRawBytes)
	}
	return stream.Send(&adminv1.GetDeltaResponse{Message: &adminv1.GetDeltaResponse_Delta{Delta: out}})
}

func sections(st *delta.Stats) map[string]uint64 {
	out := make(map[string]uint64)
	for name, n := range st.Sections() {
		out[name] = uint64(n)
	}
	return out
}

// ListSyncPlans implements the service.
func (s *imageService) ListSyncPlans(ctx context.Context, req *adminv1.ListSyncPlansRequest) (*adminv1.ListSyncPlansResponse, error) {
	var satellites []fleet.Satellite
	names := map[manifest.ID]string{}
	err := s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		if req.GetImage() != "" {
			if _, err := tx.Images().Get(req.GetImage()); err != nil {
				return err
			}
		}
		var err error
		if satellites, err = tx.SatellitesOf(req.GetSite()); err != nil {
			return err
		}
		versions, err := tx.Versions().List("")
		for _, v := range versions {
			names[v.ID] = v.Name()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	resp := &adminv1.ListSyncPlansResponse{}
	slices.SortFunc(satellites, func(a, b fleet.Satellite) int {
		return cmp.Or(cmp.Compare(a.Site, b.Site), cmp.Compare(a.Name, b.Name))
	})
	for _, sat := range satellites {
		status, _ := s.cfg.Link.Status(sat.Name)
		for _, v := range status.Versions {
			if req.GetImage() != "" && v.Image != req.GetImage() || req.GetNumber() != 0 && v.Number != req.GetNumber() {
				continue
			}
			row := &adminv1.SatelliteSync{Satellite: sat.Name, Site: sat.Site, Version: versionToProto(v)}
			if v.Plan != nil {
				row.Base = names[v.Plan.Base]
			}
			resp.Satellites = append(resp.Satellites, row)
		}
	}
	return resp, nil
}

// maxDiffFiles keeps the answer within a message.
const maxDiffFiles = 20_000

// DiffVersions implements the service.
func (s *imageService) DiffVersions(req *adminv1.DiffVersionsRequest, stream grpc.ServerStreamingServer[adminv1.DiffVersionsResponse]) error {
	ctx := stream.Context()
	from, to, err := s.pair(ctx, req.GetImage(), req.GetFrom(), req.GetToImage(), req.GetTo())
	if err != nil {
		return err
	}
	if !s.diffs.TryAcquire(1) {
		s.metrics.limited.WithLabelValues("diff").Inc()
		return status.Error(codes.ResourceExhausted, "too many comparisons at once; try again later")
	}
	defer s.diffs.Release(1)
	old, _, err := s.cfg.Catalog.Open(ctx, from.ID)
	if err != nil {
		return err
	}
	next, _, err := s.cfg.Catalog.Open(ctx, to.ID)
	if err != nil {
		return err
	}
	var sent int64
	result, err := imagediff.Compare(ctx, old, next, imagediff.Options{MaxFiles: maxDiffFiles, Progress: func(done, total int64) {
		if done-sent < total/100 {
			return
		}
		sent = done
		progress := &adminv1.TaskProgress{Stage: "comparing", Done: uint64(done), Total: uint64(total)}
		// A send that fails ends ctx, which ends the comparison.
		_ = stream.Send(&adminv1.DiffVersionsResponse{Message: &adminv1.DiffVersionsResponse_Progress{Progress: progress}})
	}})
	if err != nil {
		return fmt.Errorf("compare %s with %s: %w", from.Name(), to.Name(), err)
	}
	raw, err := json.Marshal(result)
	if err != nil {
		return err
	}
	return stream.Send(&adminv1.DiffVersionsResponse{Message: &adminv1.DiffVersionsResponse_Result{Result: raw}})
}
