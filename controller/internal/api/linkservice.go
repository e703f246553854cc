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
	s.receivers.Go(func() { cancel(receive(stream, session)) })
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
func receive(stream connectStream, session *link.Session) error {
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
		case *satellitev1.ConnectRequest_Hello:
			return status.Error(codes.InvalidArgument, "a second hello")
		}
	}
}

// send tells the satellite what its site needs, now and after each change, until the session ends.
func send(ctx context.Context, stream connectStream, session *link.Session) error {
	for {
		desired, err := session.Next(ctx)
		if err != nil {
			return err
		}
		resp := &satellitev1.ConnectResponse{Message: &satellitev1.ConnectResponse_Desired{Desired: desiredToProto(desired)}}
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
	return &satellitev1.GetManifestResponse{Manifest: signed}, err
}
