package api

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/link"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/watch"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

type serverService struct {
	adminv1.UnimplementedServerServiceServer
	*Server
}

// GetVersion implements the service.
func (s *serverService) GetVersion(context.Context, *adminv1.GetVersionRequest) (*adminv1.GetVersionResponse, error) {
	return &adminv1.GetVersionResponse{Build: s.cfg.Build, Started: stamp(s.cfg.Started)}, nil
}

// Watch implements the service. No kinds means all.
func (s *serverService) Watch(req *adminv1.WatchRequest, stream grpc.ServerStreamingServer[adminv1.WatchResponse]) error {
	kinds := req.GetKinds()
	for _, kind := range kinds {
		if !slices.Contains(watch.Kinds(), kind) {
			return fleet.Errorf(fleet.ErrInvalid, "kind %q: want %s", kind, strings.Join(watch.Kinds(), ", "))
		}
	}
	if len(kinds) == 0 {
		kinds = watch.Kinds()
	}
	c, err := callerOf(stream.Context())
	if err != nil {
		return err
	}
	valid, release := s.untilExpiry(stream.Context(), c)
	defer release()
	ctx, cancel := s.onClosing(valid)
	defer cancel()
	w := s.cfg.Watch.Watch(kinds)
	defer w.Close()
	if err := stream.SendHeader(nil); err != nil { // tells the caller that nothing is missed from now on
		return err
	}
	for {
		changed, err := w.Next(ctx)
		if err != nil {
			if s.closing.Err() != nil {
				return link.ErrClosing
			}
			return context.Cause(ctx)
		}
		if err := stream.Send(&adminv1.WatchResponse{Kinds: changed}); err != nil {
			return err
		}
	}
}

type auditService struct {
	adminv1.UnimplementedAuditServiceServer
	*Server
}

// Limits of ListAudit, as fleet.proto documents them.
const (
	defaultAudit = 100
	maxAudit     = 1000
)

// ListAudit implements the service.
func (s *auditService) ListAudit(ctx context.Context, req *adminv1.ListAuditRequest) (*adminv1.ListAuditResponse, error) {
	limit := int(req.GetLimit())
	if limit == 0 {
		limit = defaultAudit
	}
	if limit > maxAudit {
		return nil, fleet.Errorf(fleet.ErrInvalid, "limit %d: want at most %d", limit, maxAudit)
	}
	resp := &adminv1.ListAuditResponse{}
	err := s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		entries, err := tx.ListAudit(req.GetBefore(), limit, req.GetObject())
		for _, e := range entries {
			resp.Entries = append(resp.Entries, auditToProto(e))
		}
		return err
	})
	return resp, err
}
