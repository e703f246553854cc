package enroll_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/enroll"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

var now = time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)

func newCA(t *testing.T) *enroll.CA {
	t.Helper()
	ca, err := enroll.NewCA(now)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestIssue(t *testing.T) {
	ca := newCA(t)
	tests := []struct {
		id       pki.Identity
		lifetime time.Duration
		client   bool
		server   bool
	}{
		{pki.Identity{Role: pki.Controller}, enroll.ControllerLifetime, false, true},
		{pki.Identity{Role: pki.Admin, Name: "anna"}, enroll.AdminLifetime, true, false},
		{pki.Identity{Role: pki.Satellite, Site: "a", Name: "a1"}, enroll.SatelliteLifetime, true, true},
	}
	for _, test := range tests {
		t.Run(test.id.String(), func(t *testing.T) {
			key, err := pki.NewKey()
			if err != nil {
				t.Fatal(err)
			}
			der, entry, err := ca.Issue(test.id, key.Public(), now)
			if err != nil {
				t.Fatal(err)
			}
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			if id, err := pki.FromCertificate(cert); err != nil || id != test.id {
				t.Errorf("identity %v, %v", id, err)
			}
			if entry.Serial != enroll.SerialText(cert.SerialNumber) || !entry.Expires.Equal(cert.NotAfter) {
				t.Errorf("entry %v does not fit the certificate", entry)
			}
			if !cert.NotAfter.Equal(now.Add(test.lifetime)) || !cert.NotBefore.Before(now) || cert.IsCA {
				t.Errorf("from %v to %v, CA %v", cert.NotBefore, cert.NotAfter, cert.IsCA)
			}
			roots := x509.NewCertPool()
			roots.AddCert(ca.Certificate())
			for usage, want := range map[x509.ExtKeyUsage]bool{x509.ExtKeyUsageClientAuth: test.client, x509.ExtKeyUsageServerAuth: test.server} {
				_, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
				if (err == nil) != want {
					t.Errorf("usage %v: %v, want it allowed: %v", usage, err, want)
				}
			}
		})
	}
}

func TestCA(t *testing.T) {
	ca := newCA(t)
	if years := ca.Certificate().NotAfter.Sub(now) / (365 * 24 * time.Hour); years < 10 {
		t.Errorf("the CA lives %d years", years)
	}
	key, err := ca.EncodeKey()
	if err != nil {
		t.Fatal(err)
	}
	cert := pki.EncodeCertificate(ca.Certificate().Raw)
	loaded, err := enroll.LoadCA(cert, key)
	if err != nil || loaded.Fingerprint() != ca.Fingerprint() {
		t.Errorf("loaded %v, %v", loaded, err)
	}
	otherKey, err := newCA(t).EncodeKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := enroll.LoadCA(cert, otherKey); err == nil {
		t.Error("another CA's key was taken")
	}
	leafKey, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	der, _, err := ca.Issue(pki.Identity{Role: pki.Admin, Name: "a"}, leafKey.Public(), now)
	if err != nil {
		t.Fatal(err)
	}
	leafPEM, err := pki.EncodeKey(leafKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := enroll.LoadCA(pki.EncodeCertificate(der), leafPEM); err == nil {
		t.Error("a certificate that is no CA was taken")
	}
	// Near the CA's end nothing outlives it.
	der, _, err = ca.Issue(pki.Identity{Role: pki.Admin, Name: "a"}, leafKey.Public(), ca.Certificate().NotAfter.Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if leaf, err := x509.ParseCertificate(der); err != nil || leaf.NotAfter.After(ca.Certificate().NotAfter) {
		t.Errorf("a certificate outlives the CA: %v", err)
	}
}

func TestPublicKey(t *testing.T) {
	request := func(key any) []byte {
		t.Helper()
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		return csr
	}
	good, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := enroll.PublicKey(request(good)); err != nil || !got.Equal(good.Public()) {
		t.Errorf("good request: %v, %v", got, err)
	}
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	large, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, csr := range map[string][]byte{"ed25519": request(edwards), "P-384": request(large), "empty": nil, "large": make([]byte, 9000)} {
		if _, err := enroll.PublicKey(csr); !errors.Is(err, enroll.ErrKey) {
			t.Errorf("%s: %v, want ErrKey", name, err)
		}
	}
}

func TestToken(t *testing.T) {
	token, hash, err := enroll.NewToken(newCA(t).Fingerprint())
	if err != nil {
		t.Fatal(err)
	}
	if parsed, err := pki.ParseToken(token.Text()); err != nil || parsed != token {
		t.Errorf("parsed back: %v", err)
	}
	if err := enroll.CheckSecret(hash, token.Secret); err != nil {
		t.Errorf("right secret: %v", err)
	}
	for name, stored := range map[string]fleet.Hash{"wrong": enroll.HashSecret("x"), "no such token": {}} {
		if err := enroll.CheckSecret(stored, token.Secret); !errors.Is(err, enroll.ErrToken) {
			t.Errorf("%s: %v, want ErrToken", name, err)
		}
	}
}

func TestRedeem(t *testing.T) {
	key, other := fleet.Hash{1}, fleet.Hash{2}
	open := fleet.Token{Expires: now.Add(time.Hour)}
	used := fleet.Token{Expires: now.Add(time.Hour), UsedBy: "a1", UsedKey: key}
	late := used
	late.Expires = now
	tests := []struct {
		name  string
		token fleet.Token
		key   fleet.Hash
		as    string
		again bool
		ok    bool
	}{
		{"open", open, key, "a1", false, true},
		{"used by just these", used, key, "a1", true, true},
		{"used with another key", used, other, "a1", false, false},
		{"used for another name", used, key, "a2", false, false},
		{"used and expired", late, key, "a1", false, false},
		{"expired", fleet.Token{Expires: now}, key, "a1", false, false},
		{"revoked", fleet.Token{Expires: now.Add(time.Hour), Revoked: true}, key, "a1", false, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			again, err := enroll.Redeem(test.token, test.key, test.as, now)
			if again != test.again || (err == nil) != test.ok || err != nil && !errors.Is(err, enroll.ErrToken) {
				t.Errorf("again %v, error %v", again, err)
			}
		})
	}
}

func TestLimiter(t *testing.T) {
	clock := now
	l := enroll.NewLimiter(func() time.Time { return clock })
	bad, good := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for range 10 {
		if err := l.Allow(bad); err != nil {
			t.Fatalf("refused too early: %v", err)
		}
		l.Failed(bad)
	}
	if err := l.Allow(bad); !errors.Is(err, enroll.ErrLimited) {
		t.Errorf("after 10 failures: %v, want ErrLimited", err)
	}
	if err := l.Allow(good); err != nil {
		t.Errorf("another address: %v", err)
	}
	clock = clock.Add(7 * time.Second)
	if err := l.Allow(bad); err != nil {
		t.Errorf("one failure forgiven: %v", err)
	}
	l.Failed(bad)
	if err := l.Allow(bad); !errors.Is(err, enroll.ErrLimited) {
		t.Errorf("and used again: %v, want ErrLimited", err)
	}
	// A botnet: each address fails once; the limit in all holds, and memory does not grow.
	for i := range 20000 {
		l.Failed(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	if err := l.Allow(good); !errors.Is(err, enroll.ErrLimited) {
		t.Errorf("under attack: %v, want ErrLimited", err)
	}
	clock = clock.Add(time.Hour)
	if err := l.Allow(good); err != nil {
		t.Errorf("an hour later: %v", err)
	}
}
