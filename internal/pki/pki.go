// Package pki holds what controller, satellites and admins share about certificates: identity URIs, key and CSR handling, the TLS
// configurations of both sides and certificates that are replaced while in use. Signing is the controller's (controller/internal/enroll).
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strings"
)

// Role is what an identity may be.
type Role string

// Roles.
const (
	Controller Role = "controller"
	Admin      Role = "admin"
	Satellite  Role = "satellite"
)

// Identity is who a certificate speaks for. Site is set for satellites only; Name is empty for the controller.
type Identity struct {
	Role Role
	Site string
	Name string
}

// Errors that can be tested for.
var (
	ErrIdentity    = errors.New("certificate carries no usable identity")
	ErrFingerprint = errors.New("the controller's CA is not the one that the token names")
)

// URI returns ltsp://controller, ltsp://admin/NAME or ltsp://site/SITE/satellite/NAME.
func (id Identity) URI() *url.URL {
	switch id.Role {
	case Satellite:
		return &url.URL{Scheme: "ltsp", Host: "site", Path: "/" + id.Site + "/satellite/" + id.Name}
	case Admin:
		return &url.URL{Scheme: "ltsp", Host: "admin", Path: "/" + id.Name}
	default:
		return &url.URL{Scheme: "ltsp", Host: string(id.Role)}
	}
}

func (id Identity) String() string { return id.URI().String() }

// ParseIdentity reads an identity URI. Errors are ErrIdentity.
func ParseIdentity(u *url.URL) (Identity, error) {
	if u == nil || u.Scheme != "ltsp" {
		return Identity{}, ErrIdentity
	}
	var id Identity
	parts := strings.Split(strings.TrimPrefix(u.Path, "/"), "/")
	switch {
	case u.Host == string(Controller) && u.Path == "":
		id = Identity{Role: Controller}
	case u.Host == string(Admin) && len(parts) == 1 && CheckName(parts[0]) == nil:
		id = Identity{Role: Admin, Name: parts[0]}
	case u.Host == "site" && len(parts) == 3 && parts[1] == string(Satellite) && CheckName(parts[0]) == nil && CheckName(parts[2]) == nil:
		id = Identity{Role: Satellite, Site: parts[0], Name: parts[2]}
	default:
		return Identity{}, fmt.Errorf("%w: %s", ErrIdentity, u)
	}
	if id.String() != u.String() { // a query, a fragment, a user: one identity has one spelling
		return Identity{}, fmt.Errorf("%w: %s", ErrIdentity, u)
	}
	return id, nil
}

// FromCertificate returns the identity of a certificate: its only URI.
func FromCertificate(c *x509.Certificate) (Identity, error) {
	if c == nil || len(c.URIs) != 1 {
		return Identity{}, ErrIdentity
	}
	return ParseIdentity(c.URIs[0])
}

var nameRule = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckName tells whether s can name a site, satellite or admin: 1 to 63 of a-z, 0-9 and "-", with a letter or digit at both ends.
func CheckName(s string) error {
	if !nameRule.MatchString(s) {
		return fmt.Errorf("name %q: want 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends", s)
	}
	return nil
}

// Fingerprint is the SHA-256 of a certificate's DER, 64 hex digits. Join tokens carry the CA's.
func Fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// NewKey makes a P-256 key.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// NewCSR makes a PKCS #10 request in DER. The controller takes only the public key from it.
func NewCSR(key *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "ltsp"}}, key)
}

// EncodeCertificate returns a certificate's DER as PEM.
func EncodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// EncodeKey returns the key as PKCS #8 PEM.
func EncodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParseCertificate reads the first certificate of a PEM text.
func ParseCertificate(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// ReadCertificate reads the first certificate of a PEM file.
func ReadCertificate(path string) (*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	c, err := ParseCertificate(text)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: %w", path, err)
	}
	return c, nil
}

// KeyPair joins a certificate and a key, both PEM, and parses the leaf.
func KeyPair(certPEM, keyPEM []byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate and key: %w", err)
	}
	return &pair, nil
}
