package api_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/api"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/catalog"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/deltas"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/enroll"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/link"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/policies"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/transfer"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/watch"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunkstore"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

// clock is the server's; it runs with the real time plus an offset.
type clock struct {
	mu     sync.Mutex
	offset time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offset += d
}

// logs collects what the server logs.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) contains(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.buf.Bytes(), []byte(s))
}

// bench is a controller without its files' layout: real TLS on loopback, chunks in memory.
type bench struct {
	t      testing.TB
	ctx    context.Context
	clock  *clock
	logs   *logs
	store  *store.Store
	chunks *chunkstore.Memory
	ca     *enroll.CA
	addr   string
	stop   func() // ends the server and waits for it
}

func start(t testing.TB, limits api.Limits) *bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	b := &bench{t: t, ctx: ctx, clock: new(clock), logs: new(logs)}
	var err error
	if b.store, err = store.Open(store.Config{Path: filepath.Join(t.TempDir(), "db"), Now: b.clock.now, NoSync: true}); err != nil {
		t.Fatal(err)
	}
	b.chunks = &chunkstore.Memory{Now: b.clock.now}
	if b.ca, err = enroll.NewCA(time.Now()); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(b.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	_, signing, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cat, err := catalog.New(catalog.Config{Store: b.store, Chunks: b.chunks, SigningKey: signing, Now: b.clock.now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	registry, err := link.New(ctx, link.Config{Store: b.store, Now: b.clock.now, Log: log, FlushInterval: 20 * time.Millisecond, Coalesce: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	maker, err := deltas.New(deltas.Config{Dir: t.TempDir(), Library: cat, Now: b.clock.now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	planner, err := transfer.New(transfer.Config{Store: b.store, Catalog: cat, Deltas: maker, Now: b.clock.now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := policies.New(ctx, policies.Config{Store: b.store, Dir: filepath.Join(t.TempDir(), "policy"), Now: b.clock.now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	server, err := api.New(api.Config{
		Store: b.store, Catalog: cat, Link: registry, Deltas: maker, Transfer: planner, Policies: keeper, Watch: new(watch.Hub), CA: b.ca,
		TLS:   pki.ServerTLS(serverHolder(t, b.ca), b.ca.Certificate()),
		Build: "test", Started: time.Now(), Limits: limits, Now: b.clock.now, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.serve(server, registry, maker)
	return b
}

func (b *bench) serve(server *api.Server, registry *link.Registry, maker *deltas.Maker) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	b.addr = l.Addr().String()
	run, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Serve(run, l); err != nil {
			b.t.Errorf("serve: %v", err)
		}
	})
	wg.Go(func() {
		if err := maker.Run(run); err != nil {
			b.t.Errorf("deltas: %v", err)
		}
	})
	wg.Go(func() {
		if err := registry.Run(run); err != nil {
			b.t.Errorf("link: %v", err)
		}
	})
	b.stop = func() { stop(); wg.Wait() }
	b.t.Cleanup(func() {
		b.stop()
		if err := b.store.VerifyAudit(context.Background()); err != nil {
			b.t.Errorf("audit chain: %v", err)
		}
		if err := b.store.Close(); err != nil {
			b.t.Errorf("close: %v", err)
		}
		if b.t.Failed() {
			b.t.Logf("server's log:\n%s", b.logs.buf.String())
		}
	})
}

func serverHolder(t testing.TB, ca *enroll.CA) *pki.Holder {
	t.Helper()
	return holder(t, ca, pki.Identity{Role: pki.Controller}, newKey(t))
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// holder issues a certificate of ca, past all rules.
func holder(t testing.TB, ca *enroll.CA, id pki.Identity, key *ecdsa.PrivateKey) *pki.Holder {
	t.Helper()
	der, _, err := ca.Issue(id, key.Public(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return pki.NewHolder(pairOf(t, key, der, ca.Certificate().Raw))
}

func pairOf(t testing.TB, key *ecdsa.PrivateKey, chain ...[]byte) *tls.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}
}

func (b *bench) dial(cfg *tls.Config) *grpc.ClientConn {
	b.t.Helper()
	conn, err := grpc.NewClient(b.addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)), grpc.WithInitialWindowSize(4<<20), grpc.WithInitialConnWindowSize(4<<20),
		grpc.WithReadBufferSize(256<<10), grpc.WithWriteBufferSize(256<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(api.MessageBytes), grpc.MaxCallSendMsgSize(2*api.MessageBytes)))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() }) // some tests close it themselves
	return conn
}

func (b *bench) dialAs(own *pki.Holder) *grpc.ClientConn {
	b.t.Helper()
	return b.dial(pki.ClientTLS(own, b.ca.Certificate()))
}

// admin puts an admin into the store and dials as that one.
func (b *bench) admin(name string) *grpc.ClientConn {
	b.t.Helper()
	key := newKey(b.t)
	der, cert, err := b.ca.Issue(pki.Identity{Role: pki.Admin, Name: name}, key.Public(), b.clock.now())
	if err != nil {
		b.t.Fatal(err)
	}
	err = b.store.Update(b.ctx, &store.Change{Actor: "test", Action: "admin", Object: name}, func(tx *store.Tx) error {
		return tx.Admins().Put(name, fleet.Admin{Name: name, Enrolled: b.clock.now(), Certificates: []fleet.Certificate{cert}})
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return b.dialAs(pki.NewHolder(pairOf(b.t, key, der)))
}

func (b *bench) site(admin *grpc.ClientConn, name string, images ...string) {
	b.t.Helper()
	_, err := adminv1.NewSiteServiceClient(admin).CreateSite(b.ctx, &adminv1.CreateSiteRequest{Site: &adminv1.Site{Name: name, Images: images}})
	if err != nil {
		b.t.Fatalf("create site %s: %v", name, err)
	}
}

func (b *bench) token(admin *grpc.ClientConn, site string) string {
	b.t.Helper()
	resp, err := adminv1.NewTokenServiceClient(admin).CreateToken(b.ctx, &adminv1.CreateTokenRequest{Site: site})
	if err != nil {
		b.t.Fatalf("create token: %v", err)
	}
	return resp.GetSecret()
}

// satellite is an enrolled one.
type satellite struct {
	*grpc.ClientConn
	holder  *pki.Holder
	key     *ecdsa.PrivateKey
	signing ed25519.PublicKey
}

func (b *bench) tryEnrol(token, name string, key *ecdsa.PrivateKey) (*satellitev1.EnrolResponse, error) {
	b.t.Helper()
	csr, err := pki.NewCSR(key)
	if err != nil {
		b.t.Fatal(err)
	}
	parsed, err := pki.ParseToken(token)
	if err != nil { // a garbled one: the server must see it all the same
		parsed.Fingerprint = b.ca.Fingerprint()
	}
	conn := b.dial(pki.EnrolTLS(parsed.Fingerprint))
	defer conn.Close()
	return satellitev1.NewEnrolmentServiceClient(conn).Enrol(b.ctx, &satellitev1.EnrolRequest{Token: token, Csr: csr, Name: name})
}

func (b *bench) enrol(token, name string) *satellite {
	b.t.Helper()
	key := newKey(b.t)
	resp, err := b.tryEnrol(token, name, key)
	if err != nil {
		b.t.Fatalf("enrol %s: %v", name, err)
	}
	if !bytes.Equal(resp.GetCaCertificate(), b.ca.Certificate().Raw) {
		b.t.Fatal("enrolment gave another CA certificate")
	}
	own := pki.NewHolder(pairOf(b.t, key, resp.GetCertificate()))
	return &satellite{ClientConn: b.dialAs(own), holder: own, key: key, signing: resp.GetSigningKey()}
}

// connect opens the stream and says hello.
func (b *bench) connect(s *satellite) satellitev1.LinkService_ConnectClient {
	b.t.Helper()
	stream, err := satellitev1.NewLinkServiceClient(s).Connect(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	hello := &satellitev1.ConnectRequest{Message: &satellitev1.ConnectRequest_Hello{Hello: &satellitev1.Hello{Build: "sat"}}}
	if err := stream.Send(hello); err != nil && !errors.Is(err, io.EOF) { // EOF: refused already; Recv tells why
		b.t.Fatal(err)
	}
	return stream
}

// next waits for desired states until one fits.
func (b *bench) next(stream satellitev1.LinkService_ConnectClient, what string, fits func(*satellitev1.DesiredState) bool) *satellitev1.DesiredState {
	b.t.Helper()
	var last uint64
	for {
		resp, err := stream.Recv()
		if err != nil {
			b.t.Fatalf("waiting for a state with %s: %v", what, err)
		}
		d := resp.GetDesired()
		if d.GetRevision() <= last {
			b.t.Fatalf("revision %d after %d", d.GetRevision(), last)
		}
		last = d.GetRevision()
		if fits(d) {
			return d
		}
	}
}

// want checks the code of an error.
func want(t *testing.T, what string, err error, code codes.Code) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("%s: got error %v, want code %s", what, err, code)
	}
}

// eventually repeats check until it returns an empty string, at most until the bench's deadline.
func (b *bench) eventually(what string, check func() string) {
	b.t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		problem := check()
		if problem == "" {
			return
		}
		select {
		case <-b.ctx.Done():
			b.t.Fatalf("%s: %s", what, problem)
		case <-ticker.C:
		}
	}
}

// adminAgain dials as an admin that exists, with one more certificate, over a connection of its own.
func (b *bench) adminAgain(name string) *grpc.ClientConn {
	b.t.Helper()
	key := newKey(b.t)
	der, cert, err := b.ca.Issue(pki.Identity{Role: pki.Admin, Name: name}, key.Public(), b.clock.now())
	if err != nil {
		b.t.Fatal(err)
	}
	err = b.store.Update(b.ctx, &store.Change{Actor: "test", Action: "admin", Object: name}, func(tx *store.Tx) error {
		admin, err := tx.Admins().Get(name)
		if err != nil {
			return err
		}
		admin.Certificates = append(admin.Certificates, cert)
		return tx.Admins().Put(name, admin)
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return b.dialAs(pki.NewHolder(pairOf(b.t, key, der)))
}
