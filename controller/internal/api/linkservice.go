package api

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/link"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/transfer"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

type linkService struct {
	satellitev1.UnimplementedLinkServiceServer
	*Server
}

type connectStream = grpc.BidiStreamingServer[satellitev1.ConnectRequest, satellitev1.ConnectResponse]

// Connect implements the service.
func (s *linkService) Connect(stream connectStream) error {
	c, err := callerOf(stream.Context())
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return status.Error(codes.InvalidArgument, "the first message of the stream is no hello")
	}
	build := hello.GetBuild()
	session, err := s.cfg.Link.Open(c.id.Name, c.id.Site, build[:min(len(build), 128)])
	if err != nil {
		return err
	}
	defer session.Close()
	valid, release := s.untilExpiry(stream.Context(), c)
	defer release()
	ctx, cancel := context.WithCancelCause(valid)
	defer cancel(nil)
	// The reader ends when this method has returned, which ends the stream under its hands; Serve waits for it.
	s.receivers.Go(func() { cancel(s.receive(stream, session)) })
	err = send(ctx, stream, session)
	if ctx.Err() != nil && stream.Context().Err() == nil {
		err = context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) { // the satellite has said all it wanted
		return nil
	}
	return err
}

// receive keeps reports until the stream ends; io.EOF if the satellite ended it.
func (s *linkService) receive(stream connectStream, session *link.Session) error {
	for {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		switch m := req.GetMessage().(type) {
		case *satellitev1.ConnectRequest_Status:
			session.Status(statusFromProto(m.Status))
		case *satellitev1.ConnectRequest_Clients:
			var reports []fleet.ClientReport
			for _, r := range m.Clients.GetReports() {
				reports = append(reports, reportFromProto(r))
			}
			session.Clients(reports)
		case *satellitev1.ConnectRequest_Trace:
			id, err := manifest.IDFromBytes(m.Trace.GetId())
			if err != nil {
				continue
			}
			if err := session.Trace(stream.Context(), id, m.Trace.GetBoots(), traceFromProto(m.Trace.GetRanges())); err != nil {
				s.cfg.Log.Warn("boot trace could not be kept", "version", id, "err", err)
			}
		case *satellitev1.ConnectRequest_Result:
			session.Result(resultFromProto(m.Result))
		case *satellitev1.ConnectRequest_Events:
			session.Events(eventsFromProto(m.Events))
		case *satellitev1.ConnectRequest_Hello:
			return status.Error(codes.InvalidArgument, "a second hello")
		}
	}
}

// send tells the satellite what its site needs, now and after each change, and passes commands on, until the session ends.
func send(ctx context.Context, stream connectStream, session *link.Session) error {
	for {
		m, err := session.Next(ctx)
		if err != nil {
			return err
		}
		resp := &satellitev1.ConnectResponse{}
		if m.Command != nil {
			resp.Message = &satellitev1.ConnectResponse_Command{Command: commandToProto(*m.Command)}
		} else {
			resp.Message = &satellitev1.ConnectResponse_Desired{Desired: desiredToProto(*m.Desired)}
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}

// GetManifest implements the service.
func (s *linkService) GetManifest(ctx context.Context, req *satellitev1.GetManifestRequest) (*satellitev1.GetManifestResponse, error) {
	id, err := s.assigned(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	signed, err := s.cfg.Catalog.ManifestByID(ctx, id)
	if err != nil {
		return nil, err
	}
	signed, err = s.cfg.Catalog.Listed(signed, req.GetLists())
	return &satellitev1.GetManifestResponse{Manifest: signed}, err
}

// PlanSync implements the service.
func (s *linkService) PlanSync(ctx context.Context, req *satellitev1.PlanSyncRequest) (*satellitev1.PlanSyncResponse, error) {
	id, err := s.assigned(ctx, req.GetId())
	if err != nil {
		return nil, err
	}
	c, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	ask := transfer.Request{
		Site: c.id.Site, Version: id, Link: req.GetLinkBytesPerSecond(), Recompress: req.GetRecompressBytesPerSecond(), Failure: req.GetFailure(),
	}
	if n := len(req.GetHave()); n > maxHave {
		return nil, fleet.Errorf(fleet.ErrInvalid, "%d versions at hand, at most %d are looked at", n, maxHave)
	}
	for _, raw := range req.GetHave() {
		have, err := manifest.IDFromBytes(raw)
		if err != nil {
			return nil, fleet.Errorf(fleet.ErrInvalid, "%v", err)
		}
		ask.Have = append(ask.Have, have)
	}
	if len(req.GetBegunSha256()) > 0 {
		if ask.Begun, err = chunkID(req.GetBegunSha256()); err != nil {
			return nil, err
		}
	}
	answer, err := s.cfg.Transfer.Plan(ctx, ask)
	if err != nil {
		return nil, err
	}
	resp := &satellitev1.PlanSyncResponse{Plan: planToProto(&answer.Plan)}
	if answer.Plan.Method == fleet.SyncDelta {
		resp.Delta = &satellitev1.DeltaFile{
			Sha256: answer.Delta.SHA256[:], SizeBytes: answer.Delta.Size, IndexBytes: answer.Delta.IndexBytes, FirstGroups: answer.First,
		}
	}
	return resp, nil
}

// maxHave is how many versions at hand a satellite may name.
const maxHave = 64
