// Package uplink is the agent's end of the report stream: TLS to a satellite of its own site, hello, then one acknowledgement for each line
// (agentproto/FORMAT.md).
package uplink

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrUntrusted is wrapped by the error of a connection to somebody who is no satellite of the site.
var ErrUntrusted = errors.New("not a satellite of this site")

// TLSConfig returns a configuration that accepts TLS 1.3 with a satellite of the site and nobody else. The certificate's dates are not judged:
// a PC's clock may be wrong, and a site must work while no certificate can be renewed. Its address and name play no part.
func TLSConfig(anchorPEM, site string) (*tls.Config, error) {
	block, _ := pem.Decode([]byte(anchorPEM))
	if block == nil {
		return nil, errors.New("read trust anchor: no PEM")
	}
	anchor, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read trust anchor: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(anchor)
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		InsecureSkipVerify:     true, // VerifyConnection does it, without host name and dates
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := verify(cs.PeerCertificates, anchor, roots, site); err != nil {
				return fmt.Errorf("%w: %w", ErrUntrusted, err)
			}
			return nil
		},
	}, nil
}

func verify(chain []*x509.Certificate, anchor *x509.Certificate, roots *x509.CertPool, site string) error {
	if len(chain) == 0 {
		return errors.New("it showed no certificate")
	}
	leaf := chain[0]
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, CurrentTime: commonTime(leaf, anchor), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return err
	}
	if len(leaf.URIs) != 1 || !isSatellite(leaf.URIs[0].String(), site) {
		return fmt.Errorf("its certificate is for %v", leaf.URIs)
	}
	return nil
}

// commonTime returns a moment at which both certificates are valid, or if there is none, one within the leaf's life.
func commonTime(leaf, anchor *x509.Certificate) time.Time {
	from, to := leaf.NotBefore, leaf.NotAfter
	if anchor.NotBefore.After(from) && !anchor.NotBefore.After(to) {
		from = anchor.NotBefore
	}
	if anchor.NotAfter.Before(to) && !anchor.NotAfter.Before(from) {
		to = anchor.NotAfter
	}
	return from.Add(to.Sub(from) / 2)
}

// isSatellite tells whether uri is ltsp://site/SITE/satellite/NAME.
func isSatellite(uri, site string) bool {
	name, ok := strings.CutPrefix(uri, "ltsp://site/"+site+"/satellite/")
	return ok && site != "" && name != "" && !strings.ContainsAny(name, "/?#%")
}
