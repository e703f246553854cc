package uplink

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// authority is a CA for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, from, to time.Time) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

func (a authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func (a authority) issue(t *testing.T, from, to time.Time, usage x509.ExtKeyUsage, uris ...string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: from, NotAfter: to, ExtKeyUsage: []x509.ExtKeyUsage{usage}}
	for _, text := range uris {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, u)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

var (
	now    = time.Now()
	past   = now.AddDate(-10, 0, 0)
	older  = now.AddDate(-20, 0, 0)
	future = now.AddDate(10, 0, 0)
	later  = now.AddDate(20, 0, 0)
)

var satelliteURI = pki.Identity{Role: pki.Satellite, Site: "school-a", Name: "a1"}.String()

var hello = agentproto.Hello{Version: 1, MAC: "52:54:00:67:00:10", Token: "00112233445566778899aabbccddeeff"}

// answer plays a satellite on one connection: it answers each line by a function until that returns nil.
func answer(conn net.Conn, cert tls.Certificate, maxVersion uint16, reply func(agentproto.Message) *agentproto.Message) {
	defer conn.Close()
	secure := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: maxVersion})
	r, w := agentproto.NewReader(secure), agentproto.NewWriter(secure)
	for {
		m, err := r.Read()
		if err != nil {
			return
		}
		out := reply(m)
		if out == nil || w.Write(*out) != nil {
			return
		}
	}
}

func acknowledge(agentproto.Message) *agentproto.Message {
	return &agentproto.Message{Ack: &agentproto.Ack{Next: agentproto.Duration(10 * time.Second)}}
}

func start(t *testing.T, cfg *tls.Config, cert tls.Certificate, maxVersion uint16, reply func(agentproto.Message) *agentproto.Message) (*Session, error) {
	t.Helper()
	// Real sockets: in a refused handshake both sides write at once, for which net.Pipe has no room.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := l.Accept(); err == nil {
			answer(conn, cert, maxVersion, reply)
		}
	}()
	addr := l.Addr().(*net.TCPAddr)
	s, err := Dial(t.Context(), agentproto.Satellite{Addr: "127.0.0.1", ReportPort: uint16(addr.Port)}, cfg, hello, unexpected(t))
	t.Cleanup(func() {
		if s != nil {
			s.Close()
		}
		l.Close()
		<-done
	})
	return s, err
}

// unexpected fails the test when the satellite says something by itself.
func unexpected(t *testing.T) func(agentproto.Message) {
	return func(m agentproto.Message) { t.Errorf("the satellite says %+v", m) }
}

func TestTrust(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t, past, future), newAuthority(t, past, future)
	server := x509.ExtKeyUsageServerAuth
	tests := []struct {
		name string
		cert tls.Certificate
		max  uint16
		ok   bool
		text string
	}{
		{"good", ca.issue(t, past, future, server, satelliteURI), 0, true, ""},
		{"expired long ago", ca.issue(t, past, past.AddDate(0, 1, 0), server, satelliteURI), 0, true, ""},
		{"not valid yet, PC without a clock", ca.issue(t, future.AddDate(0, -1, 0), future, server, satelliteURI), 0, true, ""},
		{"outlives its CA", ca.issue(t, now, later, server, satelliteURI), 0, true, ""},
		{"older than its CA", ca.issue(t, older, future, server, satelliteURI), 0, true, ""},
		{"another CA", other.issue(t, past, future, server, satelliteURI), 0, false, "unknown authority"},
		{"another site", ca.issue(t, past, future, server, "ltsp://site/school-b/satellite/a1"), 0, false, "school-b"},
		{"site as prefix", ca.issue(t, past, future, server, "ltsp://site/school-a2/satellite/a1"), 0, false, "school-a2"},
		{"no name", ca.issue(t, past, future, server, "ltsp://site/school-a/satellite/"), 0, false, "certificate is for"},
		{"deeper", ca.issue(t, past, future, server, "ltsp://site/school-a/satellite/a/b"), 0, false, "certificate is for"},
		{"an admin", ca.issue(t, past, future, server, "ltsp://admin/a"), 0, false, "ltsp://admin/a"},
		{"no identity", ca.issue(t, past, future, server), 0, false, "certificate is for []"},
		{"two identities", ca.issue(t, past, future, server, satelliteURI, "ltsp://admin/a"), 0, false, "certificate is for"},
		{"only for clients", ca.issue(t, past, future, x509.ExtKeyUsageClientAuth, satelliteURI), 0, false, "incompatible key usage"},
		{"TLS 1.2", ca.issue(t, past, future, server, satelliteURI), tls.VersionTLS12, false, "protocol version"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg, err := TLSConfig(ca.pem(), "school-a")
			if err != nil {
				t.Fatal(err)
			}
			s, err := start(t, cfg, tt.cert, tt.max, acknowledge)
			if tt.ok {
				if err != nil {
					t.Fatal(err)
				}
				if s.First.Next != agentproto.Duration(10*time.Second) {
					t.Errorf("got %+v", s.First)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, want an error with %q", err, tt.text)
			}
			if tt.max == 0 && !errors.Is(err, ErrUntrusted) {
				t.Errorf("got %v, want ErrUntrusted", err)
			}
		})
	}
}

func TestTLSConfigRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "x", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))} {
		if _, err := TLSConfig(text, "a"); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestSessionHelloRefused(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, past, future)
	cfg, err := TLSConfig(ca.pem(), "school-a")
	if err != nil {
		t.Fatal(err)
	}
	_, err = start(t, cfg, ca.issue(t, past, future, x509.ExtKeyUsageServerAuth, satelliteURI), 0, func(agentproto.Message) *agentproto.Message {
		return &agentproto.Message{Ack: &agentproto.Ack{Error: "unknown token"}}
	})
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "hello") {
		t.Errorf("got %v", err)
	}
}

func TestDialEndsWithContext(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	addr := l.Addr().(*net.TCPAddr)
	cfg, err := TLSConfig(newAuthority(t, past, future).pem(), "a")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Dial(ctx, agentproto.Satellite{Addr: "127.0.0.1", ReportPort: uint16(addr.Port)}, cfg, hello, unexpected(t))
	if err == nil {
		t.Error("no error")
	}
}
