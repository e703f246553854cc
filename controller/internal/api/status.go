package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/catalog"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/enroll"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/link"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunkstore"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// code is the one place where an error gets its gRPC code. Internal is for what a caller can do nothing about.
func code(err error) codes.Code {
	var missing *catalog.MissingError
	var corrupt *chunkstore.CorruptError
	switch {
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, fleet.ErrNotFound):
		return codes.NotFound
	case errors.Is(err, fleet.ErrExists):
		return codes.AlreadyExists
	case errors.Is(err, fleet.ErrInvalid), errors.Is(err, manifest.ErrFormat), errors.Is(err, manifest.ErrVersion), errors.Is(err, enroll.ErrKey):
		return codes.InvalidArgument
	case errors.Is(err, fleet.ErrInUse), errors.Is(err, fleet.ErrState), errors.As(err, &missing):
		return codes.FailedPrecondition
	case errors.Is(err, fleet.ErrStale), errors.Is(err, link.ErrSuperseded):
		return codes.Aborted
	case errors.Is(err, fleet.ErrDenied), errors.Is(err, enroll.ErrToken):
		return codes.PermissionDenied
	case errors.Is(err, enroll.ErrLimited), errors.Is(err, chunkstore.ErrNoSpace):
		return codes.ResourceExhausted
	case errors.As(err, &corrupt):
		return codes.DataLoss
	case errors.Is(err, link.ErrClosing):
		return codes.Unavailable
	}
	return codes.Internal
}

// toStatus makes an error ready for the wire. The text of what is Internal stays in our log.
func toStatus(log *slog.Logger, method string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	c := code(err)
	if c == codes.Internal {
		log.Error("call failed", "method", method, "err", err)
		return status.Error(c, "internal error; the controller's log has the details")
	}
	return status.Error(c, err.Error())
}

// unary and stream surround each call: panics end the call and not the controller, errors get their codes, calls are counted.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() { err = s.finish(info.FullMethod, recover(), err) }()
	if _, err := callerOf(ctx); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (s *Server) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() { err = s.finish(info.FullMethod, recover(), err) }()
	if _, err := callerOf(stream.Context()); err != nil {
		return err
	}
	return handler(srv, stream)
}

func (s *Server) finish(method string, panicked any, err error) error {
	if panicked != nil {
		s.cfg.Log.Error("call panicked", "method", method, "err", fmt.Sprint(panicked), "stack", string(debug.Stack()))
		err = status.Error(codes.Internal, "internal error; the controller's log has the details")
	}
	err = toStatus(s.cfg.Log, method, err)
	s.metrics.rpcs.WithLabelValues(method, status.Code(err).String()).Inc()
	return err
}
