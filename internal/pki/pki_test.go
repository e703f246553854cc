package pki_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

func TestIdentity(t *testing.T) {
	good := map[string]pki.Identity{
		"ltsp://controller":                 {Role: pki.Controller},
		"ltsp://admin/anna":                 {Role: pki.Admin, Name: "anna"},
		"ltsp://site/school-1/satellite/a1": {Role: pki.Satellite, Site: "school-1", Name: "a1"},
	}
	for text, want := range good {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := pki.ParseIdentity(u); err != nil || got != want || got.String() != text {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "ltsp:", "ltsp://", "http://controller", "ltsp://controller/x", "ltsp://controller:7400", "ltsp://admin", "ltsp://admin/", "ltsp://admin/a/b",
		"ltsp://admin/Anna", "ltsp://admin/anna?x=1", "ltsp://admin/anna#x", "ltsp://root@admin/anna", "ltsp://admin//anna", "ltsp://admin/an%6ea", "ltsp://admin/..",
		"ltsp://site/a", "ltsp://site/a/satellite", "ltsp://site/a/satellite/", "ltsp://site//satellite/b", "ltsp://site/a/admin/b", "ltsp://site/a/satellite/b/c",
		"ltsp://site/a%2Fb/satellite/c", "LTSP://ADMIN/anna", "ltsp://ADMIN/anna",
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := pki.ParseIdentity(u); !errors.Is(err, pki.ErrIdentity) {
			t.Errorf("%s: got %v, %v; want ErrIdentity", text, got, err)
		}
	}
	if _, err := pki.ParseIdentity(nil); !errors.Is(err, pki.ErrIdentity) {
		t.Errorf("no URI: %v", err)
	}
	if _, err := pki.FromCertificate(nil); !errors.Is(err, pki.ErrIdentity) {
		t.Errorf("no certificate: %v", err)
	}
	two := &x509.Certificate{URIs: []*url.URL{pki.Identity{Role: pki.Controller}.URI(), pki.Identity{Role: pki.Admin, Name: "a"}.URI()}}
	if _, err := pki.FromCertificate(two); !errors.Is(err, pki.ErrIdentity) {
		t.Errorf("two identities: %v", err)
	}
}

const token = "ltsp-abcdefg2-abcdefghijklmnopqrstuvwxyz234567-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestToken(t *testing.T) {
	got, err := pki.ParseToken(" " + token + "\n")
	if err != nil || got.ID != "abcdefg2" || got.Text() != token {
		t.Errorf("got %v, %v", got, err)
	}
	for name, bad := range map[string]string{
		"empty": "", "cut": token[:len(token)-1], "longer": token + "0", "prefix": "lstp" + token[4:], "five parts": token + "-x", "upper case": strings.ToUpper(token),
		"upper-case fingerprint": strings.Replace(token, "f0", "F0", 1), "short ID": strings.Replace(token, "g2-", "-", 1), "no hex": token[:len(token)-1] + "g",
	} {
		if got, err := pki.ParseToken(bad); !errors.Is(err, pki.ErrToken) || bad != "" && strings.Contains(err.Error(), "qrstuv") {
			t.Errorf("%s: got %v, %v; want ErrToken without the secret", name, got, err)
		}
	}
}

// authority is a little CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-9000 * time.Hour), NotAfter: time.Now().Add(9000 * time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key}
}

// issue makes a certificate for both directions whose life begins age ago and lasts a day. The chain holds the CA too.
func (a *authority) issue(t *testing.T, id pki.Identity, age time.Duration) *pki.Holder {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{id.URI()}, NotBefore: time.Now().Add(-age), NotAfter: time.Now().Add(24*time.Hour - age),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := pki.KeyPair(append(pki.EncodeCertificate(der), pki.EncodeCertificate(a.cert.Raw)...), keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pki.NewHolder(pair)
}

// meet makes a handshake over TCP and returns what the server knows of its peer, and the errors of both sides.
func meet(t *testing.T, server, client *tls.Config) (state tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := l.Accept()
		if err != nil {
			serverErr = err
			return
		}
		conn := tls.Server(raw, server)
		defer conn.Close()
		if serverErr = conn.HandshakeContext(t.Context()); serverErr == nil {
			state = conn.ConnectionState()
			_, serverErr = conn.Write([]byte("hello"))
		}
	}()
	conn, clientErr := tls.Dial("tcp", l.Addr().String(), client)
	if clientErr == nil {
		_, clientErr = io.ReadFull(conn, make([]byte, 5)) // in TLS 1.3, a refusal of our certificate arrives here
		_ = conn.Close()
	}
	<-done
	return state, serverErr, clientErr
}

func TestHandshakes(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	controller := ca.issue(t, pki.Identity{Role: pki.Controller}, time.Hour)
	satellite := pki.Identity{Role: pki.Satellite, Site: "a", Name: "a1"}
	server := pki.ServerTLS(controller, ca.cert)
	fingerprint := pki.Fingerprint(ca.cert.Raw)
	tests := []struct {
		name    string
		server  *tls.Config
		client  *tls.Config
		ok      bool
		peer    string // identity that the server sees; empty if none
		expired bool
	}{
		{"satellite", server, pki.ClientTLS(ca.issue(t, satellite, time.Hour), ca.cert), true, satellite.String(), false},
		{"expired satellite", server, pki.ClientTLS(ca.issue(t, satellite, 300*time.Hour), ca.cert), true, satellite.String(), true},
		{"satellite from the future", server, pki.ClientTLS(ca.issue(t, satellite, -time.Hour), ca.cert), true, satellite.String(), true},
		{"nobody", server, pki.ClientTLS(nil, ca.cert), true, "", false},
		{"newcomer", server, pki.EnrolTLS(fingerprint), true, "", false},
		{"newcomer who expects another CA", server, pki.EnrolTLS(pki.Fingerprint(other.cert.Raw)), false, "", false},
		{"satellite of another CA", server, pki.ClientTLS(other.issue(t, satellite, time.Hour), ca.cert), false, "", false},
		{"controller of another CA", pki.ServerTLS(other.issue(t, pki.Identity{Role: pki.Controller}, time.Hour), other.cert), pki.ClientTLS(nil, ca.cert), false, "", false},
		{"satellite that plays the controller", pki.ServerTLS(ca.issue(t, satellite, time.Hour), ca.cert), pki.ClientTLS(nil, ca.cert), false, "", false},
		{"satellite that plays it to a newcomer", pki.ServerTLS(ca.issue(t, satellite, time.Hour), ca.cert), pki.EnrolTLS(fingerprint), false, "", false},
		{"expired controller", pki.ServerTLS(ca.issue(t, pki.Identity{Role: pki.Controller}, 300*time.Hour), ca.cert), pki.ClientTLS(nil, ca.cert), false, "", false},
		{"server without a certificate", pki.ServerTLS(new(pki.Holder), ca.cert), pki.ClientTLS(nil, ca.cert), false, "", false},
		{"client that shows an empty holder", server, pki.ClientTLS(new(pki.Holder), ca.cert), false, "", false},
		{"TLS 1.2", server, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}, false, "", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			state, serverErr, clientErr := meet(t, test.server, test.client)
			if ok := serverErr == nil && clientErr == nil; ok != test.ok {
				t.Fatalf("server %v, client %v; want it to work: %v", serverErr, clientErr, test.ok)
			}
			if !test.ok {
				return
			}
			id, leaf, expired, err := pki.VerifiedPeer(state, time.Now())
			if test.peer == "" {
				if !errors.Is(err, pki.ErrIdentity) {
					t.Errorf("got %v, %v; want nobody", id, err)
				}
				return
			}
			if err != nil || id.String() != test.peer || expired != test.expired || leaf == nil {
				t.Errorf("got %v, expired %v, error %v", id, expired, err)
			}
		})
	}
}

func TestHolder(t *testing.T) {
	ca := newAuthority(t)
	first, second := ca.issue(t, pki.Identity{Role: pki.Controller}, time.Hour), ca.issue(t, pki.Identity{Role: pki.Controller}, 2*time.Hour)
	h := new(pki.Holder)
	if h.Leaf() != nil {
		t.Error("an empty holder has a certificate")
	}
	cfg := pki.ServerTLS(h, ca.cert)
	for _, next := range []*pki.Holder{first, second} {
		pair, err := pki.ServerTLS(next, ca.cert).GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		h.Set(pair)
		if got, err := cfg.GetCertificate(nil); err != nil || !got.Leaf.Equal(next.Leaf()) || !h.Leaf().Equal(next.Leaf()) {
			t.Errorf("after Set: %v", err)
		}
	}
}

func TestFiles(t *testing.T) {
	ca := newAuthority(t)
	path := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(path, pki.EncodeCertificate(ca.cert.Raw), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := pki.ReadCertificate(path); err != nil || !got.Equal(ca.cert) {
		t.Errorf("read %v, %v", got, err)
	}
	if _, err := pki.ReadCertificate(path + "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	keyPEM, err := pki.EncodeKey(ca.key)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"nothing": nil, "a key": keyPEM, "rubbish": []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")} {
		if _, err := pki.ParseCertificate(text); err == nil {
			t.Errorf("%s was taken for a certificate", name)
		}
	}
	if _, err := pki.KeyPair(pki.EncodeCertificate(newAuthority(t).cert.Raw), keyPEM); err == nil {
		t.Error("a key was paired with another's certificate")
	}
	csr, err := pki.NewCSR(ca.key)
	if err != nil {
		t.Fatal(err)
	}
	if req, err := x509.ParseCertificateRequest(csr); err != nil || req.CheckSignature() != nil {
		t.Errorf("CSR: %v", err)
	}
}

func FuzzParseIdentity(f *testing.F) {
	for _, s := range []string{"ltsp://controller", "ltsp://admin/anna", "ltsp://site/a/satellite/b", "ltsp://admin/%61", "ltsp://site/a/satellite/b?x#y", "ltsp:admin/a", "//admin/a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		id, err := pki.ParseIdentity(u)
		if err != nil {
			return
		}
		again, err := pki.ParseIdentity(id.URI())
		if err != nil || again != id {
			t.Errorf("%q became %v, and that %v, %v", s, id, again, err)
		}
		if id.Role != pki.Controller && pki.CheckName(id.Name) != nil || id.Role == pki.Satellite && pki.CheckName(id.Site) != nil {
			t.Errorf("%q became %v, with a bad name", s, id)
		}
	})
}

func FuzzParseToken(f *testing.F) {
	f.Add(token)
	f.Add("ltsp-a-b-c")
	f.Add("ltsp----")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := pki.ParseToken(s)
		if err == nil && got.Text() != strings.TrimSpace(s) {
			t.Errorf("%q was read as another token", s)
		}
	})
}
