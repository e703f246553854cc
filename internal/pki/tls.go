package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Holder is a certificate that may be replaced while connections use it. The zero Holder has none. Safe for concurrent use.
type Holder struct {
	pair atomic.Pointer[tls.Certificate]
}

// NewHolder returns a holder of pair, which must have its Leaf.
func NewHolder(pair *tls.Certificate) *Holder {
	h := new(Holder)
	h.Set(pair)
	return h
}

// Set replaces the certificate for all handshakes from now on.
func (h *Holder) Set(pair *tls.Certificate) { h.pair.Store(pair) }

// Leaf returns the present certificate, or nil.
func (h *Holder) Leaf() *x509.Certificate {
	if p := h.pair.Load(); p != nil {
		return p.Leaf
	}
	return nil
}

func (h *Holder) get() (*tls.Certificate, error) {
	if p := h.pair.Load(); p != nil {
		return p, nil
	}
	return nil, errors.New("no certificate")
}

// ServerTLS is the configuration of a server that knows its peers by certificates of the CA. A peer without a certificate gets through
// the handshake (enrolment needs that), and so does one whose certificate has expired (renewal may allow it): the caller must judge
// tls.ConnectionState.PeerCertificates by VerifiedPeer for each request. A certificate of another CA is refused in the handshake.
func ServerTLS(own *Holder, ca *x509.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		ClientAuth:     tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own.get() },
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil
			}
			return verifyChain(cs.PeerCertificates, ca, x509.ExtKeyUsageClientAuth)
		},
	}
}

// VerifiedPeer returns the identity of a connection's peer and whether its certificate is outside its dates at now. It must be called on
// states of connections made with ServerTLS or ClientTLS only, which checked the chain. ErrIdentity if there is no certificate.
func VerifiedPeer(cs tls.ConnectionState, now time.Time) (id Identity, leaf *x509.Certificate, expired bool, err error) {
	if len(cs.PeerCertificates) == 0 {
		return Identity{}, nil, false, fmt.Errorf("%w: the peer showed none", ErrIdentity)
	}
	leaf = cs.PeerCertificates[0]
	id, err = FromCertificate(leaf)
	return id, leaf, now.Before(leaf.NotBefore) || now.After(leaf.NotAfter), err
}

// ClientTLS is the configuration of a client that expects the controller behind the CA. own may be nil (enrolment). The
// server's address plays no part: its identity URI does.
func ClientTLS(own *Holder, ca *x509.Certificate) *tls.Config {
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection checks chain and identity instead of a host name
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := verifyChainAt(cs.PeerCertificates, ca, x509.ExtKeyUsageServerAuth, time.Now()); err != nil {
				return err
			}
			return expectController(cs.PeerCertificates[0])
		},
	}
	if own != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own.get() }
	}
	return cfg
}

// EnrolTLS is ClientTLS for a machine that knows only the CA's fingerprint: the server must send the CA certificate in its chain.
func EnrolTLS(fingerprint string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection checks chain and identity instead of a host name
		VerifyConnection: func(cs tls.ConnectionState) error {
			for _, c := range cs.PeerCertificates {
				if Fingerprint(c.Raw) == fingerprint {
					if err := verifyChainAt(cs.PeerCertificates, c, x509.ExtKeyUsageServerAuth, time.Now()); err != nil {
						return err
					}
					return expectController(cs.PeerCertificates[0])
				}
			}
			return ErrFingerprint
		},
	}
}

func expectController(leaf *x509.Certificate) error {
	id, err := FromCertificate(leaf)
	if err != nil {
		return err
	}
	if id.Role != Controller {
		return fmt.Errorf("%w: the server is %s, want the controller", ErrIdentity, id)
	}
	return nil
}

// verifyChain checks signature and usage, not the dates: it asks as of a moment within the leaf's life.
func verifyChain(chain []*x509.Certificate, ca *x509.Certificate, usage x509.ExtKeyUsage) error {
	if len(chain) == 0 {
		return fmt.Errorf("%w: the peer showed none", ErrIdentity)
	}
	return verifyChainAt(chain, ca, usage, chain[0].NotBefore.Add(time.Second))
}

func verifyChainAt(chain []*x509.Certificate, ca *x509.Certificate, usage x509.ExtKeyUsage, at time.Time) error {
	if len(chain) == 0 {
		return fmt.Errorf("%w: the peer showed none", ErrIdentity)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: at})
	if err != nil {
		return fmt.Errorf("peer certificate: %w", err)
	}
	return nil
}
