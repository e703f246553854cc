package api

import (
	"io"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

// FuzzReceive takes what an admin's stream may bring: any header, the archive in pieces of any size.
func FuzzReceive(f *testing.F) {
	archive, err := policy.Tree{{Path: "ltsp.conf", Kind: policy.Regular, Mode: 0o600, Content: []byte("A=1\n")}}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	sum := policy.Sum(archive)
	f.Add("site/a", uint64(len(archive)), sum[:], archive, 7)
	f.Add("organisation", uint64(1)<<62, []byte{}, archive, 1)
	f.Fuzz(func(t *testing.T, scope string, size uint64, sum, archive []byte, piece int) {
		piece = max(piece, 1)
		messages := []*adminv1.ApplyPolicyRequest{{Message: &adminv1.ApplyPolicyRequest_Header{
			Header: &adminv1.PolicyHeader{Scope: scope, SizeBytes: size, Sha256: sum},
		}}}
		for rest := archive; len(rest) > 0; {
			n := min(piece, len(rest))
			messages = append(messages, &adminv1.ApplyPolicyRequest{Message: &adminv1.ApplyPolicyRequest_Data{Data: rest[:n]}})
			rest = rest[n:]
		}
		u, err := receive(func() (*adminv1.ApplyPolicyRequest, error) {
			if len(messages) == 0 {
				return nil, io.EOF
			}
			m := messages[0]
			messages = messages[1:]
			return m, nil
		})
		if err != nil {
			if code(err).String() != "InvalidArgument" {
				t.Errorf("%v is %s", err, code(err))
			}
			return
		}
		if err := u.tree.Check(); err != nil || string(u.archive) != string(archive) || u.scope.String() != scope {
			t.Errorf("received %s, %v", u.scope, err)
		}
	})
}
