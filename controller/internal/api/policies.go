package api

import (
	"context"
	"errors"
	"io"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/policies"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

type policyService struct {
	adminv1.UnimplementedPolicyServiceServer
	*Server
}

// maxArchive bounds an archive: the largest tree and what the archive adds to it.
const maxArchive = policy.MaxTreeBytes + policy.MaxFiles*32 + 64

// enterPolicy bounds the calls that hold whole archives in memory; leave must be called when the call has ended.
func (s *Server) enterPolicy() (leave func(), err error) {
	if !s.archives.TryAcquire(1) {
		s.metrics.limited.WithLabelValues("policy").Inc()
		return nil, status.Error(codes.ResourceExhausted, "too many policies are being read or written at once; try again later")
	}
	return func() { s.archives.Release(1) }, nil
}

// upload is an archive that came in pieces, with its header.
type upload struct {
	scope   fleet.Scope
	header  *adminv1.PolicyHeader
	archive []byte
	tree    policy.Tree
}

// pieces are the messages of a stream that brings an archive.
type pieces interface {
	GetHeader() *adminv1.PolicyHeader
	GetData() []byte
}

// receive reads a header and the archive that it announces, and checks both.
func receive[T pieces](recv func() (T, error)) (*upload, error) {
	first, err := recv()
	if errors.Is(err, io.EOF) {
		return nil, fleet.Errorf(fleet.ErrInvalid, "the stream is empty")
	}
	if err != nil {
		return nil, err
	}
	u := &upload{header: first.GetHeader()}
	if u.header == nil {
		return nil, fleet.Errorf(fleet.ErrInvalid, "the first message is no header")
	}
	if u.scope, err = fleet.ParseScope(u.header.GetScope()); err != nil {
		return nil, err
	}
	size := u.header.GetSizeBytes()
	if size > maxArchive {
		return nil, fleet.Errorf(fleet.ErrInvalid, "a policy of %d bytes, at most %d are allowed", size, maxArchive)
	}
	for {
		piece, err := recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		// The size is the sender's word: memory grows with what has come.
		if uint64(len(u.archive)+len(piece.GetData())) > size {
			return nil, fleet.Errorf(fleet.ErrInvalid, "more than the announced %d bytes", size)
		}
		u.archive = append(u.archive, piece.GetData()...)
	}
	if sum := policy.Sum(u.archive); uint64(len(u.archive)) != size || !slices.Equal(sum[:], u.header.GetSha256()) {
		return nil, fleet.Errorf(fleet.ErrInvalid, "the archive has not come as it was sent")
	}
	u.tree, err = decode(u.archive)
	return u, err
}

// decode reads an archive that an admin sent.
func decode(archive []byte) (policy.Tree, error) {
	tree, err := policy.Decode(archive)
	if err != nil {
		return nil, fleet.Errorf(fleet.ErrInvalid, "%v", err)
	}
	return tree, nil
}

// ApplyPolicy implements the service.
func (s *policyService) ApplyPolicy(stream grpc.ClientStreamingServer[adminv1.ApplyPolicyRequest, adminv1.ApplyPolicyResponse]) error {
	c, err := callerOf(stream.Context())
	if err != nil {
		return err
	}
	leave, err := s.enterPolicy()
	if err != nil {
		return err
	}
	defer leave()
	u, err := receive(stream.Recv)
	if err != nil {
		return err
	}
	findings, err := s.lint(stream.Context(), u)
	if err != nil {
		return err
	}
	v, created, err := s.cfg.Policies.Apply(stream.Context(), c.actor(), policies.Draft{
		Scope: u.scope, Note: u.header.GetNote(), BasedOn: u.header.GetBasedOn(), Archive: u.archive, Files: uint32(len(u.tree)),
	})
	if err != nil {
		return err
	}
	if created {
		s.cfg.Log.Info("policy applied", "policy", v.Name(), "files", v.Files)
	}
	return stream.SendAndClose(&adminv1.ApplyPolicyResponse{Version: policyVersionToProto(v), Created: created, Findings: findingsToProto(findings)})
}

// GetPolicy implements the service.
func (s *policyService) GetPolicy(req *adminv1.GetPolicyRequest, stream grpc.ServerStreamingServer[adminv1.GetPolicyResponse]) error {
	scope, err := fleet.ParseScope(req.GetScope())
	if err != nil {
		return err
	}
	var v fleet.PolicyVersion
	err = s.cfg.Store.View(stream.Context(), func(tx *store.Tx) (err error) {
		if req.GetNumber() != 0 {
			v, err = tx.PolicyVersion(scope.String(), req.GetNumber())
		} else {
			v, err = tx.Policies().Get(scope.String())
		}
		return err
	})
	if err != nil {
		return err
	}
	first := &adminv1.GetPolicyResponse{Message: &adminv1.GetPolicyResponse_Version{Version: policyVersionToProto(v)}}
	if err := stream.Send(first); err != nil {
		return err
	}
	return s.sendArchive(v.SHA256, func(piece []byte) error {
		return stream.Send(&adminv1.GetPolicyResponse{Message: &adminv1.GetPolicyResponse_Data{Data: piece}})
	})
}

// sendArchive sends an archive in pieces of at most frameBytes. The receiver checks the digest.
func (s *Server) sendArchive(sum fleet.Hash, send func([]byte) error) error {
	f, err := s.cfg.Policies.Open(sum)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, frameBytes)
	for {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			if err := send(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// ListPolicies implements the service.
func (s *policyService) ListPolicies(ctx context.Context, _ *adminv1.ListPoliciesRequest) (*adminv1.ListPoliciesResponse, error) {
	resp := &adminv1.ListPoliciesResponse{}
	err := s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		list, err := tx.Policies().List("")
		for _, v := range fleet.SortPolicies(list) {
			resp.Policies = append(resp.Policies, policyVersionToProto(v))
		}
		return err
	})
	return resp, err
}

// ListPolicyVersions implements the service.
func (s *policyService) ListPolicyVersions(ctx context.Context, req *adminv1.ListPolicyVersionsRequest) (*adminv1.ListPolicyVersionsResponse, error) {
	scope, err := fleet.ParseScope(req.GetScope())
	if err != nil {
		return nil, err
	}
	resp := &adminv1.ListPolicyVersionsResponse{}
	err = s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		if _, err := tx.Policies().Get(scope.String()); err != nil {
			return err
		}
		list, err := tx.PolicyVersions(scope.String())
		for _, v := range slices.Backward(list) {
			resp.Versions = append(resp.Versions, policyVersionToProto(v))
		}
		return err
	})
	return resp, err
}

// UndoPolicy implements the service.
func (s *policyService) UndoPolicy(ctx context.Context, req *adminv1.UndoPolicyRequest) (*adminv1.UndoPolicyResponse, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	scope, err := fleet.ParseScope(req.GetScope())
	if err != nil {
		return nil, err
	}
	v, err := s.cfg.Policies.Undo(ctx, c.actor(), scope, req.GetNumber())
	if err != nil {
		return nil, err
	}
	s.cfg.Log.Info("policy undone", "policy", v.Name(), "to", v.UndoOf)
	return &adminv1.UndoPolicyResponse{Version: policyVersionToProto(v)}, nil
}

// GetPolicy implements the service: archives that the caller's site needs, at the pace of the site's cap.
func (s *linkService) GetPolicy(req *satellitev1.GetPolicyRequest, stream grpc.ServerStreamingServer[satellitev1.GetPolicyResponse]) error {
	ctx := stream.Context()
	c, err := callerOf(ctx)
	if err != nil {
		return err
	}
	if !s.fetches.TryAcquire(1) {
		s.metrics.limited.WithLabelValues("fetch").Inc()
		return status.Error(codes.ResourceExhausted, "too many downloads at once; try again later")
	}
	defer s.fetches.Release(1)
	desired, err := s.cfg.Link.Desired(ctx, c.id.Site)
	if err != nil {
		return err
	}
	sum := hashOf(req.GetSha256())
	if !slices.ContainsFunc(desired.Policies, func(l fleet.PolicyLayer) bool { return l.SHA256 == sum }) {
		s.cfg.Log.Warn("satellite asked for a policy that its site does not have", "site", c.id.Site, "satellite", c.id.Name, "policy", sum)
		return fleet.Errorf(fleet.ErrDenied, "policy %s does not apply to site %s", sum, c.id.Site)
	}
	pace, err := s.cfg.Transfer.Pace(ctx, c.id.Site)
	if err != nil {
		return err
	}
	return s.sendArchive(sum, func(piece []byte) error {
		if err := pace(ctx, len(piece)); err != nil {
			return err
		}
		return stream.Send(&satellitev1.GetPolicyResponse{Data: piece})
	})
}
