package fakecontroller

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

func (c *Controller) makeCA() error {
	key, err := pki.NewKey()
	if err != nil {
		return err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-24 * time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return err
	}
	if c.ca, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	c.cakey = key
	own, err := pki.NewKey()
	if err != nil {
		return err
	}
	c.ownKey, c.own = own, new(pki.Holder)
	return c.SetOwn(time.Minute, time.Hour)
}

// SetOwn gives the controller a certificate that began so long ago and lives for life.
func (c *Controller) SetOwn(begins, life time.Duration) error {
	cert, err := c.issue(pki.Identity{Role: pki.Controller}, c.ownKey.Public().(*ecdsa.PublicKey), begins, life)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(cert)
	if err != nil {
		return err
	}
	c.own.Set(&tls.Certificate{Certificate: [][]byte{cert, c.ca.Raw}, PrivateKey: c.ownKey, Leaf: leaf})
	return nil
}

func (c *Controller) issue(id pki.Identity, pub *ecdsa.PublicKey, begins, life time.Duration) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "test"}, URIs: []*url.URL{id.URI()},
		NotBefore: time.Now().Add(-begins), NotAfter: time.Now().Add(-begins + life), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	return x509.CreateCertificate(rand.Reader, t, c.ca, pub, c.cakey)
}

// caller authenticates as the controller's table would.
func caller(ctx context.Context) (id pki.Identity, leaf *x509.Certificate, expired bool, err error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return id, nil, false, status.Error(codes.Unauthenticated, "no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return id, nil, false, status.Error(codes.Unauthenticated, "no TLS")
	}
	id, leaf, expired, err = pki.VerifiedPeer(info.State, time.Now())
	if err != nil {
		return id, nil, false, status.Error(codes.Unauthenticated, err.Error())
	}
	return id, leaf, expired, nil
}

func (c *Controller) answer(id pki.Identity, csrDER []byte) ([]byte, error) {
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	life, begins := c.CertLife, c.CertBegins
	if life == 0 {
		life = time.Hour
	}
	if begins == 0 {
		begins = time.Minute
	}
	return c.issue(id, csr.PublicKey.(*ecdsa.PublicKey), begins, life)
}
