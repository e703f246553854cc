//go:build component

package integration

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	"github.com/ltsp-fleet/ltsp-fleet/internal/rawcodec"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	chunkv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/chunk/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

// witness calls the controller with the certificates of others.
type witness struct {
	*fleet
	ca         *x509.Certificate
	caKey      crypto.Signer
	idA, idB   manifest.ID
	chunkA     []byte // ID of a chunk that only A's version has
	sat1, sat2 *pki.Holder
}

// newWitness takes the identities of both satellites from their disks, and the CA from the controller's.
func newWitness(f *fleet, a, b *school.Published) *witness {
	f.t.Helper()
	w := &witness{fleet: f}
	var err error
	w.idA, err = manifest.ParseID(a.Version.ID)
	f.must(err)
	w.idB, err = manifest.ParseID(b.Version.ID)
	f.must(err)
	w.ca, err = pki.ReadCertificate(filepath.Join(f.DataDir("controller"), "ca.crt"))
	f.must(err)
	text, err := os.ReadFile(filepath.Join(f.DataDir("controller"), "ca.key"))
	f.must(err)
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	f.must(err)
	w.caKey = key.(crypto.Signer)
	var signing ed25519.PublicKey
	w.sat1, signing = w.identity("sat1")
	w.sat2, _ = w.identity("sat2")
	resp, err := satellitev1.NewLinkServiceClient(w.dial(w.sat1)).GetManifest(f.ctx(), &satellitev1.GetManifestRequest{Id: w.idA[:], Lists: []string{manifest.Squashfs}})
	f.must(err)
	m, err := manifest.Open(resp.GetManifest(), signing)
	f.must(err)
	squash, ok := m.Artifact(manifest.Squashfs)
	if !ok {
		f.t.Fatal("the manifest has no squashfs")
	}
	w.chunkA = squash.Chunks[len(squash.Chunks)/2].ID[:]
	return w
}

// in is w for a subtest.
func (w *witness) in(t *testing.T) *witness {
	sub := *w
	sub.fleet = w.fleet.in(t)
	return &sub
}

// identity reads a satellite's certificate and the key that signs manifests.
func (w *witness) identity(name string) (*pki.Holder, ed25519.PublicKey) {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.DataDir(name), "identity.json"))
	w.must(err)
	var record struct {
		SigningKeys [][]byte `json:"signing_keys"`
		Current     struct {
			Certificate string `json:"certificate"`
			Key         string `json:"key"`
		} `json:"current"`
	}
	w.must(json.Unmarshal(text, &record))
	pair, err := pki.KeyPair([]byte(record.Current.Certificate), []byte(record.Current.Key))
	w.must(err)
	return pki.NewHolder(pair), record.SigningKeys[0]
}

// issue makes a certificate for an identity, signed by key in the name of ca.
func (w *witness) issue(ca *x509.Certificate, key crypto.Signer, id string) *pki.Holder {
	w.t.Helper()
	own, err := pki.NewKey()
	w.must(err)
	uri, err := url.Parse(id)
	w.must(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(4711), URIs: []*url.URL{uri}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, own.Public(), key)
	w.must(err)
	leaf, err := x509.ParseCertificate(der)
	w.must(err)
	return pki.NewHolder(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: own, Leaf: leaf})
}

// dial connects to the controller from the desk's side of the WAN; own may be nil.
func (w *witness) dial(own *pki.Holder) *grpc.ClientConn {
	w.t.Helper()
	host := w.Satellite("sat2")
	conn, err := grpc.NewClient("passthrough:///"+school.ControllerAddr+":"+school.ControllerPort,
		grpc.WithTransportCredentials(credentials.NewTLS(pki.ClientTLS(own, w.ca))),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return host.Dial(ctx, "tcp", addr) }))
	w.must(err)
	w.t.Cleanup(func() { conn.Close() })
	return conn
}

// call is one method with a request that an entitled caller might make.
type call struct {
	name string
	do   func(context.Context, *grpc.ClientConn) error
}

func (w *witness) manifest(id manifest.ID) call {
	return call{"GetManifest " + id.String()[:8], func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := satellitev1.NewLinkServiceClient(c).GetManifest(ctx, &satellitev1.GetManifestRequest{Id: id[:]})
		return err
	}}
}

func (w *witness) chunk(version manifest.ID) call {
	what := &chunkv1.FetchRequest_Chunks_{Chunks: &chunkv1.FetchRequest_Chunks{Ids: [][]byte{w.chunkA}}}
	return fetch("a chunk of "+version.String()[:8], &chunkv1.FetchRequest{VersionId: version[:], What: what})
}

// delta asks for a delta to a version that is not there: who may not have the version is told so first.
func (w *witness) delta(version manifest.ID) call {
	what := &chunkv1.FetchRequest_Delta{Delta: &chunkv1.FetchRequest_DeltaRange{BaseId: w.idB[:], Sha256: make([]byte, 32), Length: 1}}
	return fetch("a delta to "+version.String()[:8], &chunkv1.FetchRequest{VersionId: version[:], What: what})
}

func fetch(what string, request *chunkv1.FetchRequest) call {
	return call{"Fetch of " + what, func(ctx context.Context, c *grpc.ClientConn) error {
		raw, err := proto.Marshal(request)
		if err != nil {
			return err
		}
		return rawcodec.Fetch(ctx, c, "/ltsp.chunk.v1.BlobService/Fetch", raw, func([]byte) error { return nil })
	}}
}

func (w *witness) plan(id manifest.ID) call {
	return call{"PlanSync " + id.String()[:8], func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := satellitev1.NewLinkServiceClient(c).PlanSync(ctx, &satellitev1.PlanSyncRequest{Id: id[:]})
		return err
	}}
}

func (w *witness) connect() call {
	return call{"Connect", func(ctx context.Context, c *grpc.ClientConn) error {
		stream, err := satellitev1.NewLinkServiceClient(c).Connect(ctx)
		if err != nil {
			return err
		}
		hello := &satellitev1.ConnectRequest{Message: &satellitev1.ConnectRequest_Hello{Hello: &satellitev1.Hello{Build: "test"}}}
		if err := stream.Send(hello); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		_, err = stream.Recv()
		return err
	}}
}

func (w *witness) renew() call {
	return call{"Renew", func(ctx context.Context, c *grpc.ClientConn) error {
		key, err := pki.NewKey()
		if err != nil {
			return err
		}
		csr, err := pki.NewCSR(key)
		if err != nil {
			return err
		}
		_, err = satellitev1.NewEnrolmentServiceClient(c).Renew(ctx, &satellitev1.RenewRequest{Csr: csr})
		return err
	}}
}

// adminCalls are methods that are for admins, and some that nobody may call.
func adminCalls() []call {
	return []call{
		{"ListSatellites", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := adminv1.NewSatelliteServiceClient(c).ListSatellites(ctx, &adminv1.ListSatellitesRequest{})
			return err
		}},
		{"admin GetManifest", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := adminv1.NewImageServiceClient(c).GetManifest(ctx, &adminv1.GetManifestRequest{Image: school.ImageName, Version: 1})
			return err
		}},
		{"CreateToken", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := adminv1.NewTokenServiceClient(c).CreateToken(ctx, &adminv1.CreateTokenRequest{Role: "admin"})
			return err
		}},
		{"FindMissing", func(ctx context.Context, c *grpc.ClientConn) error {
			_, err := chunkv1.NewChunkServiceClient(c).FindMissing(ctx, &chunkv1.FindMissingRequest{Ids: [][]byte{make([]byte, 32)}})
			return err
		}},
		{"a method that is not listed", func(ctx context.Context, c *grpc.ClientConn) error {
			return c.Invoke(ctx, "/ltsp.admin.v1.ImageService/StealEverything", &emptypb.Empty{}, &emptypb.Empty{})
		}},
	}
}

// expect makes each call with each certificate.
func (w *witness) expect(who string, own *pki.Holder, want codes.Code, calls ...call) {
	w.t.Helper()
	conn := w.dial(own)
	for _, c := range calls {
		if err := c.do(w.ctx(), conn); status.Code(err) != want {
			w.t.Errorf("%s with %s: %v, want %s", c.name, who, err, want)
		}
	}
}
