package api_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/api"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/enroll"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	chunkv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/chunk/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

func TestRevocation(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	satellites := adminv1.NewSatelliteServiceClient(admin)
	b.site(admin, "a")
	sat := b.enrol(b.token(admin, "a"), "a1")
	stream := b.connect(sat)
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	_, err := satellites.DeleteSatellite(b.ctx, &adminv1.DeleteSatelliteRequest{Name: "a1"})
	want(t, "delete in good standing", err, codes.FailedPrecondition)
	if _, err := satellites.RevokeSatellite(b.ctx, &adminv1.RevokeSatelliteRequest{Name: "a1"}); err != nil {
		t.Fatal(err)
	}
	for err == nil || status.Code(err) == codes.FailedPrecondition {
		_, err = stream.Recv() // a last state may be on its way
	}
	want(t, "open stream of a revoked satellite", err, codes.Unavailable)
	_, err = b.connect(sat).Recv()
	want(t, "new stream of a revoked satellite", err, codes.PermissionDenied)
	_, err = renew(b, sat.ClientConn)
	want(t, "renewal of a revoked satellite", err, codes.PermissionDenied)
	_, err = b.tryEnrol(b.token(admin, "a"), "a1", newKey(t))
	want(t, "name of a revoked satellite", err, codes.AlreadyExists)
	if _, err := satellites.DeleteSatellite(b.ctx, &adminv1.DeleteSatelliteRequest{Name: "a1"}); err != nil {
		t.Fatal(err)
	}
	_, err = b.connect(sat).Recv()
	want(t, "stream of a deleted satellite", err, codes.Unauthenticated)
	fresh := b.enrol(b.token(admin, "a"), "a1")
	if _, err := b.connect(fresh).Recv(); err != nil {
		t.Errorf("new owner of the name: %v", err)
	}
	_, err = b.connect(sat).Recv()
	want(t, "certificate of the name's earlier owner", err, codes.Unauthenticated)
}

func renew(b *bench, conn *grpc.ClientConn) (*satellitev1.RenewResponse, error) {
	csr, err := pki.NewCSR(newKey(b.t))
	if err != nil {
		b.t.Fatal(err)
	}
	return satellitev1.NewEnrolmentServiceClient(conn).Renew(b.ctx, &satellitev1.RenewRequest{Csr: csr})
}

// An expired certificate renews, and does nothing else; one that expired too long ago does not even that.
func TestExpiredCertificate(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.site(admin, "a")
	sat := b.enrol(b.token(admin, "a"), "a1")
	b.clock.advance(31 * 24 * time.Hour)
	_, err := b.connect(sat).Recv()
	want(t, "stream with an expired certificate", err, codes.Unauthenticated)
	_, err = b.fetch(sat, make([]byte, 32), nil)
	want(t, "chunks with an expired certificate", err, codes.Unauthenticated)

	key := newKey(t)
	csr, err := pki.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := satellitev1.NewEnrolmentServiceClient(sat).Renew(b.ctx, &satellitev1.RenewRequest{Csr: csr})
	if err != nil {
		t.Fatalf("renewal with an expired certificate: %v", err)
	}
	renewed := &satellite{ClientConn: b.dialAs(pki.NewHolder(pairOf(t, key, resp.GetCertificate())))}
	if _, err := b.connect(renewed).Recv(); err != nil {
		t.Errorf("stream with the renewed certificate: %v", err)
	}
	// Two phases: the old one still counts until the new one was used to renew.
	if _, err := renew(b, sat.ClientConn); err != nil {
		t.Errorf("second renewal with the old certificate: %v", err)
	}
	if _, err := renew(b, renewed.ClientConn); err != nil {
		t.Errorf("renewal with the new certificate: %v", err)
	}
	_, err = renew(b, sat.ClientConn)
	want(t, "renewal with the old certificate after the new one was used", err, codes.Unauthenticated)

	b.clock.advance(enroll.GracePeriod + enroll.SatelliteLifetime)
	_, err = renew(b, renewed.ClientConn)
	want(t, "renewal after the grace period", err, codes.Unauthenticated)
}

// A stream ends with the certificate that it was opened with.
func TestStreamEndsWithCertificate(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.site(admin, "a")
	sat := b.enrol(b.token(admin, "a"), "a1")
	b.clock.advance(time.Until(sat.holder.Leaf().NotAfter) - time.Second)
	stream := b.connect(sat)
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	_, err := stream.Recv()
	want(t, "stream at the certificate's end", err, codes.Unauthenticated)
}

// Site B's satellite sees nothing of what only site A has.
func TestOtherSite(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.site(admin, "a", "lab:stable")
	b.site(admin, "b", "office:stable")
	lab, office := newSample(t, "lab", 100_000), newSample(t, "office", 100_000)
	labID, officeID := b.publish(admin, lab, "stable").GetVersion().GetId(), b.publish(admin, office, "stable").GetVersion().GetId()
	satA, satB := b.enrol(b.token(admin, "a"), "a1"), b.enrol(b.token(admin, "b"), "b1")
	checkCopy(t, b, satA, labID, lab)
	checkCopy(t, b, satB, officeID, office)

	_, err := satellitev1.NewLinkServiceClient(satB).GetManifest(b.ctx, &satellitev1.GetManifestRequest{Id: labID})
	want(t, "manifest of another site", err, codes.PermissionDenied)
	_, err = satellitev1.NewLinkServiceClient(satB).GetManifest(b.ctx, &satellitev1.GetManifestRequest{Id: make([]byte, 32)})
	want(t, "manifest of no version", err, codes.PermissionDenied)
	_, err = b.fetch(satB, labID, lab.draft.Artifacts[0].Chunks)
	want(t, "chunks of another site's version", err, codes.PermissionDenied)
	_, err = b.fetch(satB, officeID, lab.draft.Artifacts[0].Chunks[:1])
	want(t, "another site's chunk under an own version", err, codes.PermissionDenied)
	if !b.logs.contains("satellite asked for a version") || !b.logs.contains("satellite asked for a chunk") {
		t.Error("the attempts left no warning")
	}
	_, err = b.fetch(satA, labID[:5], nil)
	want(t, "malformed version ID", err, codes.InvalidArgument)
	_, err = b.fetch(satA, labID, make([]chunk.Ref, 1025))
	want(t, "too many chunks", err, codes.InvalidArgument)

	// A certificate for site A's satellite under site B's name, by our own CA but for nobody on the list.
	impostor := &satellite{ClientConn: b.dialAs(holder(t, b.ca, pki.Identity{Role: pki.Satellite, Site: "a", Name: "b1"}, newKey(t)))}
	_, err = b.connect(impostor).Recv()
	want(t, "satellite of another site than its certificate says", err, codes.Unauthenticated)
}

func TestWhoMayCall(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.site(admin, "a")
	sat := b.enrol(b.token(admin, "a"), "a1")
	nobody := b.dial(pki.ClientTLS(nil, b.ca.Certificate()))
	controller := b.dialAs(holder(t, b.ca, pki.Identity{Role: pki.Controller}, newKey(t)))
	list := func(conn *grpc.ClientConn) error {
		_, err := adminv1.NewSiteServiceClient(conn).ListSites(b.ctx, &adminv1.ListSitesRequest{})
		return err
	}
	want(t, "admin lists sites", list(admin), codes.OK)
	want(t, "satellite lists sites", list(sat.ClientConn), codes.PermissionDenied)
	want(t, "nobody lists sites", list(nobody), codes.Unauthenticated)
	want(t, "server certificate as a client's", list(controller), codes.Unavailable) // it is no client certificate: refused by TLS
	_, err := renew(b, nobody)
	want(t, "nobody renews", err, codes.Unauthenticated)
	want(t, "unlisted method", admin.Invoke(b.ctx, "/ltsp.admin.v1.SiteService/Explode", &adminv1.ListSitesRequest{}, &adminv1.ListSitesResponse{}), codes.PermissionDenied)

	stream, err := chunkv1.NewChunkServiceClient(sat).PutChunks(b.ctx)
	if err == nil {
		_, err = stream.CloseAndRecv()
	}
	want(t, "satellite uploads", err, codes.PermissionDenied)

	foreign, err := enroll.NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	outsider := b.dialAs(holder(t, foreign, pki.Identity{Role: pki.Admin, Name: "anna"}, newKey(t)))
	want(t, "certificate of another CA", list(outsider), codes.Unavailable)
	unknown := b.dialAs(holder(t, b.ca, pki.Identity{Role: pki.Admin, Name: "anna"}, newKey(t)))
	want(t, "certificate that is on nobody's list", list(unknown), codes.Unauthenticated)
}

// A satellite that lost its connection and comes again ends the session that the controller still believes in.
func TestSuperseded(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.site(admin, "a")
	sat := b.enrol(b.token(admin, "a"), "a1")
	old := b.connect(sat)
	if _, err := old.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.connect(sat).Recv(); err != nil {
		t.Fatal(err)
	}
	_, err := old.Recv()
	want(t, "old stream", err, codes.Aborted)
}

func TestShutdown(t *testing.T) {
	b := start(t, api.Limits{Drain: 5 * time.Second})
	admin := b.admin("anna")
	b.site(admin, "a")
	stream := b.connect(b.enrol(b.token(admin, "a"), "a1"))
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	watcher, err := adminv1.NewServerServiceClient(admin).Watch(b.ctx, &adminv1.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watcher.Header(); err != nil {
		t.Fatal(err)
	}
	b.stop()
	_, err = stream.Recv()
	want(t, "satellite's stream", err, codes.Unavailable)
	for err = nil; err == nil; { // it may see changes first
		_, err = watcher.Recv()
	}
	want(t, "watcher", err, codes.Unavailable)
}

func TestStreamEndsCleanly(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.site(admin, "a")
	sat := b.enrol(b.token(admin, "a"), "a1")
	stream := b.connect(sat)
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after CloseSend: %v, want EOF", err)
	}
	rude, err := satellitev1.NewLinkServiceClient(sat).Connect(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := rude.Send(&satellitev1.ConnectRequest{}); err != nil {
		t.Fatal(err)
	}
	_, err = rude.Recv()
	want(t, "no hello", err, codes.InvalidArgument)
	ctx, cancel := context.WithCancel(b.ctx)
	gone, err := satellitev1.NewLinkServiceClient(sat).Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err = gone.Recv()
	want(t, "cancelled by the satellite", err, codes.Canceled)
}
