// Package identity keeps what a satellite got when it was enrolled: its certificates and keys, the CA, the keys that sign manifests and the
// controller's address. All lie in one file of mode 0600 that is replaced atomically, so that a crash leaves either the old or the new
// identity. It decides nothing about renewal (upstream does) and knows no network.
package identity

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// FileName is the identity's file in the data directory.
const FileName = "identity.json"

const (
	fileVersion    = 1
	maxSigningKeys = 4       // the present one and some before it: old manifests stay readable after a change
	maxFileBytes   = 1 << 20 // far more than certificates need
)

// Errors that can be tested for.
var (
	ErrNotJoined = errors.New("this satellite has not joined a site yet: run ltsp-satellite join")
	ErrJoined    = errors.New("this satellite belongs to a site already")
)

// Credentials are one certificate with its key and the CA that it goes with, all PEM.
type Credentials struct {
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
	CA          string `json:"ca"`
}

// Record is the content of the file.
type Record struct {
	Version    int    `json:"version"`
	Controller string `json:"controller"` // HOST:PORT
	Site       string `json:"site"`
	Name       string `json:"name"`
	// SigningKeys are ed25519 public keys, the newest first.
	SigningKeys [][]byte    `json:"signing_keys"`
	Current     Credentials `json:"current"`
	// Next is a renewed certificate that the controller has not yet been seen to accept.
	Next *Credentials `json:"next,omitempty"`
}

// Identity is an opened identity. Its methods are safe for concurrent use.
type Identity struct {
	path   string
	holder *pki.Holder

	mu     sync.Mutex
	record Record
	ca     *x509.Certificate // that goes with the certificate in holder
}

// Create writes a new identity into dir. If there is one already it returns ErrJoined, unless replace is set.
func Create(dir string, r Record, replace bool) error {
	r.Version = fileVersion
	if _, _, err := r.Current.parse(); err != nil {
		return err
	}
	path := filepath.Join(dir, FileName)
	if !replace {
		if err := CheckFree(dir); err != nil {
			return err
		}
	}
	return write(path, r)
}

// CheckFree returns ErrJoined if dir holds an identity.
func CheckFree(dir string) error {
	path := filepath.Join(dir, FileName)
	if _, err := os.Stat(path); err == nil {
		return fmt.Errorf("%w: %s exists", ErrJoined, path)
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look for an identity: %w", err)
	}
	return nil
}

func write(path string, r Record) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	return atomicfile.Write(path, append(text, '\n'), 0o600)
}

// Load opens the identity in dir. ErrNotJoined if there is none. A renewed certificate that was not yet seen to work is tried first.
func Load(dir string) (*Identity, error) {
	path := filepath.Join(dir, FileName)
	text, err := readBounded(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotJoined
	}
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	var r Record
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("read identity %s: %w", path, err)
	}
	if r.Version != fileVersion {
		return nil, fmt.Errorf("read identity %s: format version %d, this program reads %d", path, r.Version, fileVersion)
	}
	id := &Identity{path: path, record: r, holder: new(pki.Holder)}
	creds := r.Current
	if r.Next != nil {
		creds = *r.Next
	}
	if err := id.useLocked(creds); err != nil {
		return nil, fmt.Errorf("read identity %s: %w", path, err)
	}
	return id, nil
}

func readBounded(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("%s has %d bytes, at most %d allowed", path, info.Size(), maxFileBytes)
	}
	return os.ReadFile(path)
}

func (c Credentials) parse() (*tls.Certificate, *x509.Certificate, error) {
	pair, err := pki.KeyPair([]byte(c.Certificate), []byte(c.Key))
	if err != nil {
		return nil, nil, err
	}
	ca, err := pki.ParseCertificate([]byte(c.CA))
	if err != nil {
		return nil, nil, fmt.Errorf("CA certificate: %w", err)
	}
	return pair, ca, nil
}

// useLocked presents the credentials from now on.
func (id *Identity) useLocked(c Credentials) error {
	pair, ca, err := c.parse()
	if err != nil {
		return err
	}
	id.holder.Set(pair)
	id.ca = ca
	return nil
}

// Holder returns the certificate that is presented at present; it follows renewals.
func (id *Identity) Holder() *pki.Holder { return id.holder }

// CA returns the CA certificate that goes with the presented certificate.
func (id *Identity) CA() *x509.Certificate {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.ca
}

// Site is the site; it, Name and Controller never change while the identity is open.
func (id *Identity) Site() string { return id.record.Site }

// Name is the satellite's name within its site.
func (id *Identity) Name() string { return id.record.Name }

// Controller is the controller's HOST:PORT.
func (id *Identity) Controller() string { return id.record.Controller }

// SigningKeys returns the keys that may have signed manifests, the newest first.
func (id *Identity) SigningKeys() []ed25519.PublicKey {
	id.mu.Lock()
	defer id.mu.Unlock()
	keys := make([]ed25519.PublicKey, 0, len(id.record.SigningKeys))
	for _, k := range id.record.SigningKeys {
		keys = append(keys, ed25519.PublicKey(k))
	}
	return keys
}

// SetNext stores a renewed certificate and presents it from now on. signingKey is added to the signing keys if it is new. The old
// certificate stays on the disk until Promote.
func (id *Identity) SetNext(next Credentials, signingKey []byte) error {
	if _, _, err := next.parse(); err != nil {
		return err
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	r := id.record
	r.Next = &next
	r.SigningKeys = addKey(r.SigningKeys, signingKey)
	if err := write(id.path, r); err != nil {
		return err
	}
	id.record = r
	return id.useLocked(next)
}

func addKey(keys [][]byte, key []byte) [][]byte {
	if len(key) != ed25519.PublicKeySize {
		return keys
	}
	out := [][]byte{key}
	for _, k := range keys {
		if string(k) != string(key) && len(out) < maxSigningKeys {
			out = append(out, k)
		}
	}
	return out
}

// Pending tells whether a renewed certificate waits for its first use.
func (id *Identity) Pending() bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.record.Next != nil
}

// Promote drops the old certificate: the controller has accepted the renewed one. Without a renewed one it does nothing.
func (id *Identity) Promote() error {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.record.Next == nil {
		return nil
	}
	r := id.record
	r.Current, r.Next = *r.Next, nil
	if err := write(id.path, r); err != nil {
		return err
	}
	id.record = r
	return nil
}

// Reject drops the renewed certificate, which the controller refused, and presents the old one again.
func (id *Identity) Reject() error {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.record.Next == nil {
		return nil
	}
	r := id.record
	r.Next = nil
	if err := write(id.path, r); err != nil {
		return err
	}
	id.record = r
	return id.useLocked(r.Current)
}
