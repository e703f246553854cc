// Package fakecontroller is a controller in memory for tests: real TLS and gRPC on loopback, a CA, join tokens, desired state and versions. It can
// be told to fail. Only tests import it.
package fakecontroller

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	"github.com/ltsp-fleet/ltsp-fleet/internal/rawcodec"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore/versiontest"
)

// Controller is a running fake. Change the exported fields under Do only.
type Controller struct {
	Addr   string
	Key    ed25519.PrivateKey // signs manifests
	ca     *x509.Certificate
	cakey  *ecdsa.PrivateKey
	srv    *grpc.Server
	own    *pki.Holder
	ownKey *ecdsa.PrivateKey

	mu sync.Mutex
	Faults
	desired  *satellitev1.DesiredState
	versions map[manifest.ID]*versiontest.Version
	tokens   map[string]string // secret part -> site
	streams  map[chan *satellitev1.ConnectResponse]bool
	enrolled int

	// Hellos, Reports, Clients, Traces, Questions, Results and Events take what satellites send; they hold a thousand messages and drop further ones.
	Hellos    chan *satellitev1.Hello
	Reports   chan *satellitev1.StatusReport
	Clients   chan *satellitev1.ClientReports
	Traces    chan *satellitev1.BootTrace
	Questions chan *satellitev1.PlanSyncRequest
	Results   chan *satellitev1.ClientResult
	Events    chan *satellitev1.ClientEvents

	satellitev1.UnimplementedEnrolmentServiceServer
	satellitev1.UnimplementedLinkServiceServer
}

// Faults is what goes wrong. Counters count down.
type Faults struct {
	CertLife      time.Duration   // of issued certificates; zero: an hour
	CertBegins    time.Duration   // how long before now they begin; zero: a minute
	RefuseCerts   map[string]bool // serial numbers that Connect refuses
	FailFetch     int             // the next so many chunks or frames of a delta fail
	CutAfter      int             // the connection is cut after so many chunks or frames of a delta, once; 0: never
	Corrupt       int             // the next so many chunks or frames of a delta have a flipped bit
	Withhold      int             // so many times an answer ends early, with success
	Hang          bool            // nothing is sent and no answer ends
	NoKnown       bool            // Connect is refused as unauthenticated
	Fetched       int             // chunks that were delivered
	FetchedIDs    map[chunk.ID]int
	Manifests     int                                           // manifests that were delivered
	Signed        map[manifest.ID][]byte                        // other bytes for GetManifest
	Gate          chan struct{}                                 // if not nil, each chunk and each frame of a delta takes a value first
	Plans         map[manifest.ID]*satellitev1.PlanSyncResponse // answers of PlanSync; without one it is chunks
	NoPlans       bool                                          // PlanSync is not implemented
	Deltas        map[[32]byte][]byte                           // delta files by SHA-256
	DeltaBytes    int                                           // bytes of deltas that were delivered
	DeltaRanges   [][2]uint64                                   // offset and length of what was asked of deltas
	Policies      map[[32]byte][]byte                           // archives by SHA-256
	PolicyFetches int                                           // calls of GetPolicy
}

// Start starts a fake that ends with the test.
func Start(tb testing.TB) *Controller {
	tb.Helper()
	c := &Controller{Key: versiontest.Key(1), versions: make(map[manifest.ID]*versiontest.Version), tokens: make(map[string]string),
		streams: make(map[chan *satellitev1.ConnectResponse]bool), desired: &satellitev1.DesiredState{Revision: 1, Site: "hill"},
		Hellos: make(chan *satellitev1.Hello, 1000), Reports: make(chan *satellitev1.StatusReport, 1000), Clients: make(chan *satellitev1.ClientReports, 1000),
		Traces: make(chan *satellitev1.BootTrace, 1000), Questions: make(chan *satellitev1.PlanSyncRequest, 1000),
		Results: make(chan *satellitev1.ClientResult, 1000), Events: make(chan *satellitev1.ClientEvents, 1000)}
	c.FetchedIDs = make(map[chunk.ID]int)
	c.Policies = make(map[[32]byte][]byte)
	c.Plans, c.Deltas = make(map[manifest.ID]*satellitev1.PlanSyncResponse), make(map[[32]byte][]byte)
	if err := c.makeCA(); err != nil {
		tb.Fatal(err)
	}
	c.Addr = "127.0.0.1:0"
	c.Restart(tb)
	tb.Cleanup(c.Stop)
	return c
}

// Restart listens (again) on the same address.
func (c *Controller) Restart(tb testing.TB) {
	tb.Helper()
	l, err := net.Listen("tcp", c.Addr)
	if err != nil {
		tb.Fatal(err)
	}
	c.Addr = l.Addr().String()
	cfg := pki.ServerTLS(c.own, c.ca)
	cfg.NextProtos = []string{"h2"}
	opts := append(rawcodec.ServerOptions(), grpc.Creds(credentials.NewTLS(cfg)),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	c.srv = grpc.NewServer(opts...)
	satellitev1.RegisterEnrolmentServiceServer(c.srv, c)
	satellitev1.RegisterLinkServiceServer(c.srv, c)
	rawcodec.RegisterFetch(c.srv, "/ltsp.chunk.v1.BlobService/Fetch", c.fetch)
	go func() { _ = c.srv.Serve(l) }() // ends with Stop
}

// Stop ends all connections and the listener at once.
func (c *Controller) Stop() { c.srv.Stop() }

// Do runs fn while nothing else looks at the fields.
func (c *Controller) Do(fn func(*Controller)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn(c)
}

// Token makes a join token for a site.
func (c *Controller) Token(site string) string {
	secret := strings.ToLower(rand.Text())
	c.Do(func(c *Controller) { c.tokens[secret] = site })
	return "ltsp-t1-" + secret + "-" + pki.Fingerprint(c.ca.Raw)
}

// CA returns the CA certificate.
func (c *Controller) CA() *x509.Certificate { return c.ca }

// Add makes versions available.
func (c *Controller) Add(versions ...*versiontest.Version) {
	c.Do(func(c *Controller) {
		for _, v := range versions {
			c.versions[v.ID] = v
		}
	})
}

// Want adds versions, changes the desired state by fn (which may be nil), raises its revision and sends it to all streams. The versions become the
// wanted ones, each in channel stable.
func (c *Controller) Want(fn func(*satellitev1.DesiredState), versions ...*versiontest.Version) {
	c.Add(versions...)
	c.Do(func(c *Controller) {
		d := &satellitev1.DesiredState{Revision: c.desired.GetRevision() + 1, Site: c.desired.GetSite(), Subnets: c.desired.GetSubnets(),
			Clients: c.desired.GetClients(), GossipKey: c.desired.GetGossipKey(), Peers: c.desired.GetPeers(), Boot: c.desired.GetBoot(),
			Policies: c.desired.GetPolicies(), LoginHost: c.desired.GetLoginHost(), Commands: c.desired.GetCommands()}
		for _, v := range versions {
			d.Versions = append(d.Versions, &satellitev1.DesiredVersion{Image: v.Manifest.Name, Number: v.Manifest.Number, Id: v.ID[:],
				Kind: string(v.Manifest.Kind), Channels: []string{"stable"}})
		}
		if fn != nil {
			fn(d)
		}
		c.desired = d
		for ch := range c.streams {
			ch <- desiredMessage(d)
		}
	})
}

func desiredMessage(d *satellitev1.DesiredState) *satellitev1.ConnectResponse {
	return &satellitev1.ConnectResponse{Message: &satellitev1.ConnectResponse_Desired{Desired: d}}
}

// Command sends a command to all streams.
func (c *Controller) Command(cmd *satellitev1.ClientCommand) {
	c.Do(func(c *Controller) {
		for ch := range c.streams {
			ch <- &satellitev1.ConnectResponse{Message: &satellitev1.ConnectResponse_Command{Command: cmd}}
		}
	})
}

// Policy makes an archive available and returns the layer that names it.
func (c *Controller) Policy(scope string, number uint64, archive []byte) *satellitev1.PolicyLayer {
	sum := sha256.Sum256(archive)
	c.Do(func(c *Controller) { c.Policies[sum] = archive })
	return &satellitev1.PolicyLayer{Scope: scope, Number: number, Sha256: sum[:], SizeBytes: uint64(len(archive))}
}

// policyPiece is the length of the pieces in which policies are sent: short, so that tests can stop between them.
const policyPiece = 1 << 10

// GetPolicy implements the service.
func (c *Controller) GetPolicy(r *satellitev1.GetPolicyRequest, stream grpc.ServerStreamingServer[satellitev1.GetPolicyResponse]) error {
	ctx := stream.Context()
	if err := c.authorise(ctx); err != nil {
		return err
	}
	var data []byte
	var ok bool
	c.Do(func(c *Controller) {
		if len(r.GetSha256()) == sha256.Size {
			data, ok = c.Policies[[sha256.Size]byte(r.GetSha256())]
		}
		c.PolicyFetches++
	})
	if !ok {
		return status.Error(codes.NotFound, "no such policy")
	}
	for piece := range chunks(data, policyPiece) {
		if err := c.gate(ctx); err != nil {
			return err
		}
		piece, err := c.fault(ctx, piece)
		if err != nil || piece == nil {
			return err
		}
		if err := stream.Send(&satellitev1.GetPolicyResponse{Data: piece}); err != nil {
			return err
		}
	}
	return nil
}

// Enrol implements the service.
func (c *Controller) Enrol(_ context.Context, r *satellitev1.EnrolRequest) (*satellitev1.EnrolResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	parts := strings.Split(r.GetToken(), "-")
	site, ok := "", false
	if len(parts) == 4 {
		site, ok = c.tokens[parts[2]]
		delete(c.tokens, parts[2])
	}
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "the join token is unknown, expired or used up")
	}
	cert, err := c.answer(pki.Identity{Role: pki.Satellite, Site: site, Name: r.GetName()}, r.GetCsr())
	if err != nil {
		return nil, err
	}
	c.enrolled++
	return &satellitev1.EnrolResponse{Certificate: cert, CaCertificate: c.ca.Raw, SigningKey: c.Key.Public().(ed25519.PublicKey), Site: site, Name: r.GetName()}, nil
}

// Renew implements the service; expired certificates may renew.
func (c *Controller) Renew(ctx context.Context, r *satellitev1.RenewRequest) (*satellitev1.RenewResponse, error) {
	id, _, _, err := caller(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	cert, err := c.answer(id, r.GetCsr())
	if err != nil {
		return nil, err
	}
	return &satellitev1.RenewResponse{Certificate: cert, CaCertificate: c.ca.Raw, SigningKey: c.Key.Public().(ed25519.PublicKey)}, nil
}

func (c *Controller) authorise(ctx context.Context) error {
	id, leaf, expired, err := caller(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if expired || c.NoKnown || c.RefuseCerts[leaf.SerialNumber.String()] || id.Role != pki.Satellite {
		return status.Error(codes.Unauthenticated, "the certificate is not accepted")
	}
	return nil
}

// Connect implements the service.
func (c *Controller) Connect(stream grpc.BidiStreamingServer[satellitev1.ConnectRequest, satellitev1.ConnectResponse]) error {
	if err := c.authorise(stream.Context()); err != nil {
		return err
	}
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	if m.GetHello() == nil {
		return status.Error(codes.InvalidArgument, "hello first")
	}
	offer(c.Hellos, m.GetHello())
	updates := make(chan *satellitev1.ConnectResponse, 64)
	c.Do(func(c *Controller) {
		updates <- desiredMessage(c.desired)
		c.streams[updates] = true
	})
	defer c.Do(func(c *Controller) { delete(c.streams, updates) })
	ended := make(chan error, 1)
	go func() { ended <- c.listen(stream) }()
	for {
		select {
		case m := <-updates:
			if err := stream.Send(m); err != nil {
				return err
			}
		case err := <-ended:
			return err
		}
	}
}

func (c *Controller) listen(stream grpc.BidiStreamingServer[satellitev1.ConnectRequest, satellitev1.ConnectResponse]) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if s := m.GetStatus(); s != nil {
			offer(c.Reports, s)
		}
		if r := m.GetClients(); r != nil {
			offer(c.Clients, r)
		}
		if t := m.GetTrace(); t != nil {
			offer(c.Traces, t)
		}
		if r := m.GetResult(); r != nil {
			offer(c.Results, r)
		}
		if e := m.GetEvents(); e != nil {
			offer(c.Events, e)
		}
	}
}

func offer[T any](ch chan T, v T) {
	select {
	case ch <- v:
	default:
	}
}

// GetManifest implements the service.
func (c *Controller) GetManifest(ctx context.Context, r *satellitev1.GetManifestRequest) (*satellitev1.GetManifestResponse, error) {
	if err := c.authorise(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id, err := manifest.IDFromBytes(r.GetId())
	v := c.versions[id]
	if err != nil || v == nil {
		return nil, status.Error(codes.NotFound, "no such version")
	}
	c.Manifests++
	if other := c.Signed[id]; other != nil {
		return &satellitev1.GetManifestResponse{Manifest: other}, nil
	}
	signed, err := manifest.WithLists(v.Signed, v.Manifest, func(name string) bool {
		return slices.Contains(r.GetLists(), "*") || slices.Contains(r.GetLists(), name)
	})
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &satellitev1.GetManifestResponse{Manifest: signed}, nil
}
