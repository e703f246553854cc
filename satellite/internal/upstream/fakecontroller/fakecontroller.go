// Package fakecontroller is a controller in memory for tests: real TLS and gRPC on loopback, a CA, join tokens, desired state and versions. It can
// be told to fail. Only tests import it.
package fakecontroller

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	chunkv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/chunk/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
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
	streams  map[chan *satellitev1.DesiredState]bool
	enrolled int

	// Hellos, Reports and Clients take what satellites send; they hold a thousand messages and drop further ones.
	Hellos  chan *satellitev1.Hello
	Reports chan *satellitev1.StatusReport
	Clients chan *satellitev1.ClientReports

	satellitev1.UnimplementedEnrolmentServiceServer
	satellitev1.UnimplementedLinkServiceServer
	chunkv1.UnimplementedChunkServiceServer
}

// Faults is what goes wrong. Counters count down.
type Faults struct {
	CertLife    time.Duration   // of issued certificates; zero: an hour
	CertBegins  time.Duration   // how long before now they begin; zero: a minute
	RefuseCerts map[string]bool // serial numbers that Connect refuses
	FailFetch   int             // the next so many FetchChunks fail at once
	CutAfter    int             // FetchChunks cuts the stream after so many chunks, once; 0: never
	Corrupt     int             // the next so many chunks have a flipped bit
	Withhold    int             // FetchChunks skips so many chunks and ends with success
	Hang        bool            // FetchChunks sends nothing and does not end
	NoKnown     bool            // Connect is refused as unauthenticated
	Fetched     int             // chunks that were delivered
	FetchedIDs  map[chunk.ID]int
	Manifests   int                    // manifests that were delivered
	Signed      map[manifest.ID][]byte // other bytes for GetManifest
	Gate        chan struct{}          // if not nil, each chunk takes a value first
}

// Start starts a fake that ends with the test.
func Start(tb testing.TB) *Controller {
	tb.Helper()
	c := &Controller{Key: versiontest.Key(1), versions: make(map[manifest.ID]*versiontest.Version), tokens: make(map[string]string),
		streams: make(map[chan *satellitev1.DesiredState]bool), desired: &satellitev1.DesiredState{Revision: 1, Site: "hill"},
		Hellos: make(chan *satellitev1.Hello, 1000), Reports: make(chan *satellitev1.StatusReport, 1000), Clients: make(chan *satellitev1.ClientReports, 1000)}
	c.FetchedIDs = make(map[chunk.ID]int)
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
	c.srv = grpc.NewServer(grpc.Creds(credentials.NewTLS(cfg)),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	satellitev1.RegisterEnrolmentServiceServer(c.srv, c)
	satellitev1.RegisterLinkServiceServer(c.srv, c)
	chunkv1.RegisterChunkServiceServer(c.srv, c)
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
			Clients: c.desired.GetClients(), GossipKey: c.desired.GetGossipKey(), Peers: c.desired.GetPeers(), Boot: c.desired.GetBoot()}
		for _, v := range versions {
			d.Versions = append(d.Versions, &satellitev1.DesiredVersion{Image: v.Manifest.Name, Number: v.Manifest.Number, Id: v.ID[:],
				Kind: string(v.Manifest.Kind), Channels: []string{"stable"}})
		}
		if fn != nil {
			fn(d)
		}
		c.desired = d
		for ch := range c.streams {
			ch <- d
		}
	})
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
	updates := make(chan *satellitev1.DesiredState, 64)
	c.Do(func(c *Controller) {
		updates <- c.desired
		c.streams[updates] = true
	})
	defer c.Do(func(c *Controller) { delete(c.streams, updates) })
	ended := make(chan error, 1)
	go func() { ended <- c.listen(stream) }()
	for {
		select {
		case d := <-updates:
			if err := stream.Send(&satellitev1.ConnectResponse{Message: &satellitev1.ConnectResponse_Desired{Desired: d}}); err != nil {
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
	signed := v.Signed
	if other := c.Signed[id]; other != nil {
		signed = other
	}
	return &satellitev1.GetManifestResponse{Manifest: signed}, nil
}

// FetchChunks implements the service.
func (c *Controller) FetchChunks(r *chunkv1.FetchChunksRequest, stream grpc.ServerStreamingServer[chunkv1.FetchChunksResponse]) error {
	if err := c.authorise(stream.Context()); err != nil {
		return err
	}
	for _, raw := range r.GetIds() {
		data, err := c.next(stream.Context(), manifest.ID(r.GetVersionId()), chunk.ID(raw))
		if err != nil {
			return err
		}
		if data == nil {
			continue
		}
		if err := stream.Send(&chunkv1.FetchChunksResponse{Id: raw, Data: data}); err != nil {
			return err
		}
	}
	return nil
}

// next applies the faults to one chunk; nil data skips it.
func (c *Controller) next(ctx context.Context, version manifest.ID, id chunk.ID) ([]byte, error) {
	c.mu.Lock()
	gate, hang := c.Gate, c.Hang
	c.mu.Unlock()
	if hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.versions[version]
	if v == nil || v.Chunks[id] == nil {
		return nil, status.Error(codes.NotFound, "no such chunk")
	}
	if c.FailFetch > 0 {
		c.FailFetch--
		return nil, status.Error(codes.Unavailable, "told to fail")
	}
	if c.CutAfter > 0 {
		if c.CutAfter--; c.CutAfter == 0 {
			go c.srv.Stop()
			<-ctx.Done()
			return nil, ctx.Err()
		}
	}
	if c.Withhold > 0 {
		c.Withhold--
		return nil, nil
	}
	c.Fetched++
	c.FetchedIDs[id]++
	data := v.Chunks[id]
	if c.Corrupt > 0 {
		c.Corrupt--
		data = append([]byte(nil), data...)
		data[len(data)/2] ^= 4
	}
	return data, nil
}
