package reports

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// fakeRegistry believes one token.
type fakeRegistry struct {
	mu     sync.Mutex
	seen   []string
	doubts map[string]bool // MACs whose streams come from elsewhere
}

func (f *fakeRegistry) Proven(h agentproto.Hello, _ netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h.Token != token || f.doubts[h.MAC] {
		return errors.New("the address is not the client's")
	}
	return nil
}

func (f *fakeRegistry) doubt(mac string, is bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.doubts = map[string]bool{mac: is}
}

func (f *fakeRegistry) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, fmt.Sprintf(format, args...))
}

func (f *fakeRegistry) Hello(h agentproto.Hello, addr netip.Addr) error {
	if h.Token != token {
		return errors.New("the token is not one of this client")
	}
	f.note("hello %s from %s", h.MAC, addr)
	return nil
}

func (f *fakeRegistry) Report(mac string, _ netip.Addr, r agentproto.Report) error {
	if r.State == "odd" {
		return errors.New("unusable report")
	}
	f.note("report %s %s", mac, r.State)
	return nil
}

func (f *fakeRegistry) Failure(mac string, _ netip.Addr, fail agentproto.Failure) {
	f.note("failure %s %s", mac, fail.Stage)
}

// certificate makes a satellite's certificate with the URI of its identity, signed by a CA of its own.
func certificate(t testing.TB) (*pki.Holder, *x509.CertPool) {
	t.Helper()
	sign := func(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	newKey := func() *ecdsa.PrivateKey {
		k, err := pki.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	caKey, key := newKey(), newKey()
	caTemplate := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<34, 0), KeyUsage: x509.KeyUsageCertSign,
	}
	ca := sign(caTemplate, caTemplate, caKey, caKey)
	leaf := sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<34, 0),
		URIs:        []*url.URL{pki.Identity{Role: pki.Satellite, Site: "school", Name: "a1"}.URI()},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, key, caKey)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return pki.NewHolder(&tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}), pool
}

type lab struct {
	*Server
	t        *testing.T
	registry *fakeRegistry
	pool     *x509.CertPool
	addr     string
	log      *bytes.Buffer // to be read after stop
	stop     func()
}

func newLab(t *testing.T, change func(*Config)) *lab {
	t.Helper()
	holder, pool := certificate(t)
	l := &lab{t: t, registry: new(fakeRegistry), pool: pool, log: new(bytes.Buffer)}
	cfg := Config{
		Registry: l.registry, Certificate: holder,
		Logger: slog.New(slog.NewTextHandler(l.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if l.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Serve(ctx, ln) }()
	l.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(l.stop)
	return l
}

// agent is the client's end of a stream.
type agent struct {
	*agentproto.Reader
	*agentproto.Writer
	conn *tls.Conn
	t    *testing.T
}

func (l *lab) dial() *agent {
	l.t.Helper()
	raw, err := net.Dial("tcp", l.addr)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { raw.Close() })
	if err := raw.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		l.t.Fatal(err)
	}
	// As the agent does: no host name, chain to the trust anchor (tested elsewhere), identity of the site.
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, VerifyConnection: func(cs tls.ConnectionState) error {
		if _, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: l.pool}); err != nil {
			return err
		}
		id, err := pki.FromCertificate(cs.PeerCertificates[0])
		if err != nil || id.Site != "school" {
			return fmt.Errorf("server is %v, %w", id, err)
		}
		return nil
	}})
	return &agent{agentproto.NewReader(conn), agentproto.NewWriter(conn), conn, l.t}
}

func hello(mac, token string) agentproto.Message {
	return agentproto.Message{Hello: &agentproto.Hello{Version: 1, MAC: mac, Token: token, Agent: "v1", BootID: "b"}}
}

func fetchHello(mac, token string) agentproto.Message {
	m := hello(mac, token)
	m.Hello.Fetch = true
	return m
}

func report(state string) agentproto.Message {
	return agentproto.Message{Report: &agentproto.Report{State: state}}
}

// say sends a line and returns the answer.
func (a *agent) say(m agentproto.Message) agentproto.Ack {
	a.t.Helper()
	if err := a.Write(m); err != nil {
		a.t.Fatal(err)
	}
	return a.ack()
}

func (a *agent) ack() agentproto.Ack {
	a.t.Helper()
	m, err := a.Read()
	if err != nil || m.Ack == nil {
		a.t.Fatalf("answer %+v, %v", m, err)
	}
	return *m.Ack
}

// next returns the next line, whatever it is.
func (a *agent) next() agentproto.Message {
	a.t.Helper()
	m, err := a.Read()
	if err != nil {
		a.t.Fatal(err)
	}
	return m
}

// over expects the end of the stream.
func (a *agent) over() {
	a.t.Helper()
	if m, err := a.Read(); err == nil {
		a.t.Errorf("the stream goes on: %+v", m)
	}
}
