// Package datadir knows the files in the controller's data directory: keys and certificates, the database, the chunks. It makes them once
// (Init), such that an interruption at any point is mended by another Init, and reads them (Load). Only the controller package imports it.
//
//	ca.crt ca.key     the CA, PEM
//	signing.key       ed25519 key of manifests, PKCS #8 PEM
//	controller.pem    the controller's certificate, the CA's certificate and the key
//	controller.db     metadata; the last to be made: with it the directory is initialised
//	chunks/           chunk store
//	policy/           archives of policies
//	deltas/           deltas between versions; all of it can be made again
//	work/             images that are being put together; emptied at the start
//	admin.yaml        first admin credential, unless it was asked for elsewhere
package datadir

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/enroll"
	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// Errors that can be tested for.
var (
	ErrInitialised    = errors.New("the data directory is initialised already")
	ErrNotInitialised = errors.New("the data directory is not initialised; run ltsp-controller init first")
	ErrBusy           = errors.New("another process works on the data directory")
)

// Dir is a data directory.
type Dir string

func (d Dir) path(name string) string { return filepath.Join(string(d), name) }

// Database is the path of the metadata store.
func (d Dir) Database() string { return d.path("controller.db") }

// Chunks is the directory of the chunk store.
func (d Dir) Chunks() string { return d.path("chunks") }

// Deltas is the directory of the deltas between versions.
func (d Dir) Deltas() string { return d.path("deltas") }

// Policies is the directory of the archives of policies.
func (d Dir) Policies() string { return d.path("policy") }

// Work is where images are put together; see ClearWork.
func (d Dir) Work() string { return d.path("work") }

// ClearWork makes an empty Work: what an interrupted run left there is of no use.
func (d Dir) ClearWork() error {
	if err := os.RemoveAll(d.Work()); err != nil {
		return fmt.Errorf("empty the working directory: %w", err)
	}
	if err := os.Mkdir(d.Work(), 0o700); err != nil {
		return fmt.Errorf("make the working directory: %w", err)
	}
	return nil
}

// AdminContext is where Init puts the first admin credential if nothing else was asked for.
func (d Dir) AdminContext() string { return d.path("admin.yaml") }

// Initialised tells whether Init has run to its end.
func (d Dir) Initialised() (bool, error) {
	_, err := os.Stat(d.Database())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Credentials are the controller's keys.
type Credentials struct {
	CA      *enroll.CA
	Signing ed25519.PrivateKey
}

// Prepare makes the directory, private to its owner, and locks it against other Prepares. unlock gives it free.
func (d Dir) Prepare() (unlock func(), err error) {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	if err := os.Chmod(string(d), 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory private: %w", err)
	}
	f, err := os.Open(string(d))
	if err != nil {
		return nil, fmt.Errorf("open the data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", d, ErrBusy)
		}
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	return func() { _ = f.Close() }, nil
}

// EnsureCredentials returns the keys that an earlier, interrupted Init left, and makes those that are not there. A broken file is an error, not
// a reason to make a new CA.
func (d Dir) EnsureCredentials(now time.Time) (Credentials, error) {
	var c Credentials
	var err error
	if c.CA, err = d.ensureCA(now); err != nil {
		return c, err
	}
	c.Signing, err = d.ensureSigningKey()
	return c, err
}

func (d Dir) ensureCA(now time.Time) (*enroll.CA, error) {
	// The certificate is written behind the key: where it is, the key is too.
	if _, err := os.Stat(d.path("ca.crt")); err == nil {
		return d.loadCA()
	}
	ca, err := enroll.NewCA(now)
	if err != nil {
		return nil, err
	}
	key, err := ca.EncodeKey()
	if err != nil {
		return nil, err
	}
	if err := atomicfile.Write(d.path("ca.key"), key, 0o600); err != nil {
		return nil, err
	}
	return ca, atomicfile.Write(d.path("ca.crt"), pki.EncodeCertificate(ca.Certificate().Raw), 0o600)
}

func (d Dir) loadCA() (*enroll.CA, error) {
	cert, err := os.ReadFile(d.path("ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("read the CA: %w", err)
	}
	key, err := os.ReadFile(d.path("ca.key"))
	if err != nil {
		return nil, fmt.Errorf("read the CA: %w", err)
	}
	return enroll.LoadCA(cert, key)
}

func (d Dir) ensureSigningKey() (ed25519.PrivateKey, error) {
	if _, err := os.Stat(d.path("signing.key")); err == nil {
		return d.loadSigningKey()
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the signing key: %w", err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return key, atomicfile.Write(d.path("signing.key"), text, 0o600)
}

func (d Dir) loadSigningKey() (ed25519.PrivateKey, error) {
	text, err := os.ReadFile(d.path("signing.key"))
	if err != nil {
		return nil, fmt.Errorf("read the signing key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("read the signing key: %s holds no PEM", d.path("signing.key"))
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the signing key: %w", err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read the signing key: %s holds no ed25519 key", d.path("signing.key"))
	}
	return key, nil
}

// Load reads the keys of an initialised directory. ErrNotInitialised if it is not.
func (d Dir) Load() (Credentials, error) {
	var c Credentials
	ok, err := d.Initialised()
	if err != nil {
		return c, fmt.Errorf("look into the data directory: %w", err)
	}
	if !ok {
		return c, fmt.Errorf("%s: %w", d, ErrNotInitialised)
	}
	if c.CA, err = d.loadCA(); err != nil {
		return c, err
	}
	c.Signing, err = d.loadSigningKey()
	return c, err
}

// ServerCertificate reads the controller's own certificate. If it is not there, cannot be used or has lived two thirds of its life, it is
// made anew, with a new key; renewed tells so. The chain holds the CA's certificate too: who enrols knows only its fingerprint.
func (d Dir) ServerCertificate(ca *enroll.CA, now time.Time) (pair *tls.Certificate, renewed bool, err error) {
	if text, err := os.ReadFile(d.path("controller.pem")); err == nil {
		if pair, err := pki.KeyPair(text, text); err == nil && fresh(pair, ca, now) {
			return pair, false, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, false, fmt.Errorf("read the controller's certificate: %w", err)
	}
	key, err := pki.NewKey()
	if err != nil {
		return nil, false, fmt.Errorf("make the controller's key: %w", err)
	}
	der, _, err := ca.Issue(pki.Identity{Role: pki.Controller}, key.Public(), now)
	if err != nil {
		return nil, false, err
	}
	encoded, err := pki.EncodeKey(key)
	if err != nil {
		return nil, false, err
	}
	text := bytes.Join([][]byte{pki.EncodeCertificate(der), pki.EncodeCertificate(ca.Certificate().Raw), encoded}, nil)
	if err := atomicfile.Write(d.path("controller.pem"), text, 0o600); err != nil {
		return nil, false, err
	}
	pair, err = pki.KeyPair(text, text)
	return pair, true, err
}

// fresh tells whether a certificate is of the CA, valid, and has more than a third of its life before it.
func fresh(pair *tls.Certificate, ca *enroll.CA, now time.Time) bool {
	leaf := pair.Leaf
	third := leaf.NotAfter.Sub(leaf.NotBefore) / 3
	return len(pair.Certificate) == 2 && leaf.CheckSignatureFrom(ca.Certificate()) == nil &&
		now.After(leaf.NotBefore) && now.Before(leaf.NotAfter.Add(-third))
}
