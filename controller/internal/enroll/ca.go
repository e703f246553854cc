// Package enroll holds the decisions about trust: the CA that signs certificates, the join tokens that they are given for, and how often
// a stranger may guess. It is pure code over pki and fleet; transactions and the network are the api room's.
package enroll

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// Lifetimes of certificates. Satellites renew after two thirds; GracePeriod is how long after its end a certificate may still renew.
const (
	CALifetime         = 20 * 365 * 24 * time.Hour
	ControllerLifetime = 90 * 24 * time.Hour
	SatelliteLifetime  = 30 * 24 * time.Hour
	AdminLifetime      = 365 * 24 * time.Hour
	GracePeriod        = 400 * 24 * time.Hour
)

// backdate lets certificates begin in the past, for machines whose clocks are a little slow.
const (
	backdate   = 5 * time.Minute
	backdateCA = 24 * time.Hour
)

// Errors that can be tested for.
var (
	ErrKey = errors.New("the certificate request is not usable")
)

// CA signs certificates. Safe for concurrent use.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes a CA with a key of its own.
func NewCA(now time.Time) (*CA, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, fmt.Errorf("make the CA's key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "ltsp CA", Organization: []string{"LTSP Fleet"}},
		NotBefore:             now.Add(-backdateCA),
		NotAfter:              now.Add(CALifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the CA's certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make the CA's certificate: %w", err)
	}
	return &CA{cert: cert, key: key}, nil
}

// LoadCA joins the CA's certificate and key, both PEM, and checks that they belong together.
func LoadCA(certPEM, keyPEM []byte) (*CA, error) {
	pair, err := pki.KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("load the CA: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, errors.New("load the CA: it is no CA certificate with an ECDSA key")
	}
	return &CA{cert: pair.Leaf, key: key}, nil
}

// Certificate returns the CA's certificate.
func (ca *CA) Certificate() *x509.Certificate { return ca.cert }

// Fingerprint is what join tokens carry.
func (ca *CA) Fingerprint() string { return pki.Fingerprint(ca.cert.Raw) }

// EncodeKey returns the CA's key in PEM.
func (ca *CA) EncodeKey() ([]byte, error) { return pki.EncodeKey(ca.key) }

// Issue signs a certificate for id and returns its DER and its entry for the owner's list. Satellites may also be servers: their
// clients' agents know them by it.
func (ca *CA) Issue(id pki.Identity, public crypto.PublicKey, now time.Time) ([]byte, fleet.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, fleet.Certificate{}, err
	}
	lifetime, usage := profile(id.Role)
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: commonName(id)},
		URIs:                  []*url.URL{id.URI()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(lifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usage,
		BasicConstraintsValid: true,
	}
	if template.NotAfter.After(ca.cert.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, public, ca.key)
	if err != nil {
		return nil, fleet.Certificate{}, fmt.Errorf("sign the certificate of %s: %w", id, err)
	}
	return der, fleet.Certificate{Serial: SerialText(serial), Expires: template.NotAfter.UTC().Truncate(time.Second)}, nil
}

func profile(role pki.Role) (time.Duration, []x509.ExtKeyUsage) {
	switch role {
	case pki.Controller:
		return ControllerLifetime, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case pki.Admin:
		return AdminLifetime, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	default:
		return SatelliteLifetime, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	}
}

func commonName(id pki.Identity) string {
	if id.Name == "" {
		return string(id.Role)
	}
	return id.Name
}

// SerialText writes a serial number as lists of certificates hold it.
func SerialText(serial *big.Int) string { return hex.EncodeToString(serial.Bytes()) }

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil
}

// PublicKey reads the key of a PKCS #10 request and checks that the sender holds its private half. Only ECDSA keys on P-256 are taken. ErrKey
// otherwise.
func PublicKey(csr []byte) (*ecdsa.PublicKey, error) {
	if len(csr) > 8<<10 {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrKey, len(csr))
	}
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrKey, err)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrKey, err)
	}
	key, ok := req.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve.Params().BitSize != 256 {
		return nil, fmt.Errorf("%w: want an ECDSA key on P-256", ErrKey)
	}
	return key, nil
}
