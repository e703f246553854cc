package rawcodec_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	mrand "math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/rawcodec"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// identity is one certificate that is CA, server and client at once.
type identity struct {
	der  []byte
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newIdentity(tb testing.TB) identity {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return identity{der, key, pool}
}

func (id identity) config() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{id.der}, PrivateKey: id.key}},
		RootCAs:      id.pool, ClientCAs: id.pool, ClientAuth: tls.RequireAndVerifyClientCert,
		ServerName: "localhost", MinVersion: tls.VersionTLS13,
	}
}

// dial gives a connection of the kind that clients have.
func dial(tb testing.TB, id identity, addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	opts = append(opts, grpc.WithTransportCredentials(credentials.NewTLS(id.config())))
	cc, err := grpc.NewClient("passthrough:///"+addr, opts...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { cc.Close() })
	return cc
}

// serve runs a server with mutual TLS on loopback until the test ends, and gives a connection to it. register gets the server before it
// serves.
func serve(t *testing.T, register func(*grpc.Server), opts ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	id := newIdentity(t)
	opts = append(append(rawcodec.ServerOptions(), grpc.Creds(rawcodec.ServerCredentials(id.config()))), opts...)
	srv := grpc.NewServer(opts...)
	register(srv)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := srv.Serve(l); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() {
		srv.Stop()
		running.Wait()
	})
	return dial(t, id, l.Addr().String(), rawcodec.DialOptions()...)
}

const fetchMethod = "/ltsp.test.v1.BlobService/Fetch"

// fetch gives the whole answer.
func fetch(ctx context.Context, cc grpc.ClientConnInterface, request string) ([]byte, error) {
	var all []byte
	err := rawcodec.Fetch(ctx, cc, fetchMethod, []byte(request), func(frame []byte) error {
		all = append(all, frame...)
		return nil
	})
	return all, err
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	mrand.NewChaCha8([32]byte{1}).Read(b)
	return b
}
