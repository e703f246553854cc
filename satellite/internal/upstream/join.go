package upstream

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/state/identity"
)

// ErrToken means a text that is no join token.
var ErrToken = errors.New("not a join token: want ltsp-ID-SECRET-FINGERPRINT as ltspctl token create printed it")

// Join describes how a satellite joins a site.
type Join struct {
	Controller string // HOST:PORT
	Token      string
	// Name is the wish for the satellite's name; empty: the host name.
	Name    string
	DataDir string // made if missing
	// Force replaces an identity that is there.
	Force bool
	// Timeout bounds the conversation. Zero: 30 s.
	Timeout time.Duration
}

// Run enrols: it proves that the controller is the one that the token names before it says anything, exchanges the token for a certificate
// and stores the identity. A token is good for one satellite: what could keep the identity from being stored is tried before the
// token is used up. Errors to test for: ErrToken, identity.ErrJoined, pki.ErrFingerprint.
func (j Join) Run(ctx context.Context) (identity.Record, error) {
	if err := j.prepare(); err != nil {
		return identity.Record{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, orDefault(j.Timeout, 30*time.Second))
	defer cancel()
	key, err := pki.NewKey()
	if err != nil {
		return identity.Record{}, fmt.Errorf("make key: %w", err)
	}
	resp, err := j.enrol(ctx, key)
	if err != nil {
		return identity.Record{}, err
	}
	record, err := j.record(key, resp)
	if err != nil {
		return identity.Record{}, fmt.Errorf("answer of the controller %s: %w", j.Controller, err)
	}
	return record, identity.Create(j.DataDir, record, j.Force)
}

// prepare checks the input and that the data directory can be written.
func (j *Join) prepare() error {
	if _, err := fingerprint(j.Token); err != nil {
		return err
	}
	if _, _, err := net.SplitHostPort(j.Controller); err != nil {
		return fmt.Errorf("controller address %q: want HOST:PORT", j.Controller)
	}
	if j.Name == "" {
		j.Name = hostName()
	}
	if err := pki.CheckName(j.Name); err != nil {
		return fmt.Errorf("%w; choose one with --name", err)
	}
	if err := os.MkdirAll(j.DataDir, 0o700); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	if !j.Force {
		if err := identity.CheckFree(j.DataDir); err != nil {
			return err
		}
	}
	probe := filepath.Join(j.DataDir, ".join")
	if err := os.WriteFile(probe, bytes.Repeat([]byte{1}, 64<<10), 0o600); err != nil {
		return fmt.Errorf("write to data directory: %w", err)
	}
	return os.Remove(probe)
}

// hostName turns the machine's name into one that is allowed.
func hostName() string {
	h, err := os.Hostname()
	if err != nil {
		return ""
	}
	h, _, _ = strings.Cut(strings.ToLower(h), ".")
	h = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, h)
	return strings.Trim(h[:min(len(h), 63)], "-")
}

// fingerprint takes the CA's fingerprint out of a token.
func fingerprint(token string) (string, error) {
	i := strings.LastIndexByte(token, '-')
	if !strings.HasPrefix(token, "ltsp-") || strings.Count(token, "-") < 3 {
		return "", ErrToken
	}
	fp := token[i+1:]
	if raw, err := hex.DecodeString(fp); err != nil || len(raw) != 32 {
		return "", ErrToken
	}
	return strings.ToLower(fp), nil
}

func (j *Join) enrol(ctx context.Context, key *ecdsa.PrivateKey) (*satellitev1.EnrolResponse, error) {
	fp, err := fingerprint(j.Token)
	if err != nil {
		return nil, err
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	cfg, refused := watchVerify(pki.EnrolTLS(fp))
	conn, err := grpc.NewClient("passthrough:///"+j.Controller, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		return nil, fmt.Errorf("connect to controller %s: %w", j.Controller, err)
	}
	defer conn.Close()
	resp, err := satellitev1.NewEnrolmentServiceClient(conn).Enrol(ctx, &satellitev1.EnrolRequest{Token: j.Token, Csr: csr, Name: j.Name})
	if err != nil {
		if cause := refused.Load(); cause != nil {
			return nil, fmt.Errorf("connect to controller %s: %w; nothing was sent to it", j.Controller, *cause)
		}
		return nil, fmt.Errorf("join at controller %s: %s", j.Controller, status.Convert(err).Message())
	}
	return resp, nil
}

// watchVerify makes the reason for which a peer's certificate was refused available: gRPC gives only its text.
func watchVerify(cfg *tls.Config) (*tls.Config, *atomic.Pointer[error]) {
	reason := new(atomic.Pointer[error])
	verify := cfg.VerifyConnection
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		err := verify(cs)
		if err != nil {
			reason.Store(&err)
		} else {
			reason.Store(nil)
		}
		return err
	}
	return cfg, reason
}

// record checks the controller's answer and makes the identity of it.
func (j *Join) record(key *ecdsa.PrivateKey, resp *satellitev1.EnrolResponse) (identity.Record, error) {
	fp, err := fingerprint(j.Token)
	if err != nil {
		return identity.Record{}, err
	}
	if got := pki.Fingerprint(resp.GetCaCertificate()); got != fp {
		return identity.Record{}, pki.ErrFingerprint
	}
	creds, id, err := checkCredentials(key, resp.GetCertificate(), resp.GetCaCertificate())
	if err != nil {
		return identity.Record{}, err
	}
	if id.Site != resp.GetSite() || id.Name != resp.GetName() {
		return identity.Record{}, fmt.Errorf("%w: it is for %s, want satellite %s of site %s", pki.ErrIdentity, id, resp.GetName(), resp.GetSite())
	}
	if len(resp.GetSigningKey()) != ed25519.PublicKeySize {
		return identity.Record{}, fmt.Errorf("manifest signing key of %d bytes, want %d", len(resp.GetSigningKey()), ed25519.PublicKeySize)
	}
	return identity.Record{Controller: j.Controller, Site: id.Site, Name: id.Name, SigningKeys: [][]byte{resp.GetSigningKey()}, Current: creds}, nil
}

// checkCredentials sees to it that a certificate is the CA's, for a satellite and for our key.
func checkCredentials(key *ecdsa.PrivateKey, certDER, caDER []byte) (identity.Credentials, pki.Identity, error) {
	fail := func(err error) (identity.Credentials, pki.Identity, error) {
		return identity.Credentials{}, pki.Identity{}, err
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return fail(fmt.Errorf("certificate: %w", err))
	}
	ca, err := x509.ParseCertificate(caDER)
	if err != nil {
		return fail(fmt.Errorf("CA certificate: %w", err))
	}
	if err := cert.CheckSignatureFrom(ca); err != nil {
		return fail(fmt.Errorf("certificate: %w", err))
	}
	id, err := pki.FromCertificate(cert)
	if err != nil {
		return fail(err)
	}
	if id.Role != pki.Satellite {
		return fail(fmt.Errorf("%w: it is for %s", pki.ErrIdentity, id))
	}
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		return fail(err)
	}
	creds := identity.Credentials{Certificate: string(pki.EncodeCertificate(certDER)), Key: string(keyPEM), CA: string(pki.EncodeCertificate(caDER))}
	if _, err := pki.KeyPair([]byte(creds.Certificate), keyPEM); err != nil {
		return fail(err)
	}
	return creds, id, nil
}
