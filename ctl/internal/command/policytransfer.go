package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/progress"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

// pieceBytes is the size of the messages in which archives travel.
const pieceBytes = 256 << 10

// fetchPolicy gets a version of a level's policy; 0 is the present one. The archive is checked.
func fetchPolicy(ctx context.Context, conn *grpc.ClientConn, scope string, number uint64) (*adminv1.PolicyVersion, policy.Tree, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the stream if it is not read to its end
	defer cancel()
	stream, err := adminv1.NewPolicyServiceClient(conn).GetPolicy(ctx, &adminv1.GetPolicyRequest{Scope: scope, Number: number})
	if err != nil {
		return nil, nil, err
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, nil, err
	}
	v := first.GetVersion()
	if v == nil {
		return nil, nil, fmt.Errorf("policy of %s: the controller did not say which version comes", scope)
	}
	var archive []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		if uint64(len(archive)+len(m.GetData())) > v.GetSizeBytes() {
			return nil, nil, fmt.Errorf("policy of %s: more bytes came than the controller announced", scope)
		}
		archive = append(archive, m.GetData()...)
	}
	if sum := policy.Sum(archive); !bytes.Equal(sum[:], v.GetSha256()) {
		return nil, nil, fmt.Errorf("policy of %s: the archive did not come as the controller has it", scope)
	}
	tree, err := policy.Decode(archive)
	return v, tree, err
}

// fetchPresent is fetchPolicy of the present version; a level without a policy has an empty tree and the number 0.
func fetchPresent(ctx context.Context, conn *grpc.ClientConn, scope string) (uint64, policy.Tree, error) {
	v, tree, err := fetchPolicy(ctx, conn, scope, 0)
	if s, ok := statusOf(err); ok && exitByStatus[s.Code()] == ExitNotFound {
		return 0, nil, nil
	}
	return v.GetNumber(), tree, err
}

// draft is what shall become a level's new version.
type draft struct {
	scope   string
	note    string
	basedOn uint64
	tree    policy.Tree
	// progress shows how far a large archive has come; nil shows nothing.
	progress *progress.Reporter
	shown    bool // the admin has seen the findings, or the configurations are as they were
}

// send hands the header and the archive's pieces of a draft to a stream. It ends early if the controller has ended it: its answer says why.
func (d *draft) send(header func(*adminv1.PolicyHeader) error, data func([]byte) error) error {
	archive, err := d.tree.Encode()
	if err != nil {
		return invalidError{err}
	}
	var bar *progress.Bar
	if len(archive) > 4*pieceBytes {
		bar = d.progress.Bar("sending", uint64(len(archive)))
	}
	defer bar.Done()
	sum := policy.Sum(archive)
	err = header(&adminv1.PolicyHeader{Scope: d.scope, Note: d.note, BasedOn: d.basedOn, Sha256: sum[:], SizeBytes: uint64(len(archive))})
	for len(archive) > 0 && err == nil {
		n := min(len(archive), pieceBytes)
		err = data(archive[:n])
		bar.Add(uint64(n))
		archive = archive[n:]
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func applyDraft(ctx context.Context, conn *grpc.ClientConn, d *draft) (*adminv1.ApplyPolicyResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := adminv1.NewPolicyServiceClient(conn).ApplyPolicy(ctx)
	if err != nil {
		return nil, err
	}
	err = d.send(func(h *adminv1.PolicyHeader) error {
		return stream.Send(&adminv1.ApplyPolicyRequest{Message: &adminv1.ApplyPolicyRequest_Header{Header: h}})
	}, func(b []byte) error {
		return stream.Send(&adminv1.ApplyPolicyRequest{Message: &adminv1.ApplyPolicyRequest_Data{Data: b}})
	})
	if err != nil {
		return nil, err
	}
	return stream.CloseAndRecv()
}

func planDraft(ctx context.Context, conn *grpc.ClientConn, d *draft) (*adminv1.PlanPolicyResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := adminv1.NewPolicyServiceClient(conn).PlanPolicy(ctx)
	if err != nil {
		return nil, err
	}
	err = d.send(func(h *adminv1.PolicyHeader) error {
		return stream.Send(&adminv1.PlanPolicyRequest{Message: &adminv1.PlanPolicyRequest_Header{Header: h}})
	}, func(b []byte) error {
		return stream.Send(&adminv1.PlanPolicyRequest{Message: &adminv1.PlanPolicyRequest_Data{Data: b}})
	})
	if err != nil {
		return nil, err
	}
	return stream.CloseAndRecv()
}
