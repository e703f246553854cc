package controller

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/datadir"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/enroll"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// InitConfig says what Init makes.
type InitConfig struct {
	DataDir string
	// Address is where satellites and admins reach the controller: HOST or HOST:PORT. Empty means the host's name; the port is 7400 unless it is
	// given.
	Address string
	// AdminContext is the file for the first admin's credential; empty means admin.yaml in the data directory.
	AdminContext string
	// AdminName is the first admin's name; empty means admin.
	AdminName string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// InitResult tells what Init made.
type InitResult struct {
	AdminContext string // path
	Controller   string // HOST:PORT as in the context
	Fingerprint  string // of the CA
}

const defaultPort = "7400"

func (cfg *InitConfig) fill() error {
	if cfg.DataDir == "" {
		return errors.New("init: want a data directory")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.AdminName == "" {
		cfg.AdminName = "admin"
	}
	if err := pki.CheckName(cfg.AdminName); err != nil {
		return fmt.Errorf("admin: %w", err)
	}
	if cfg.AdminContext == "" {
		cfg.AdminContext = datadir.Dir(cfg.DataDir).AdminContext()
	}
	if cfg.Address == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("ask for the host's name: %w", err)
		}
		cfg.Address = host
	}
	return cfg.fillPort()
}

func (cfg *InitConfig) fillPort() error {
	host, port, err := net.SplitHostPort(cfg.Address)
	if err != nil { // no port
		host, port = cfg.Address, defaultPort
		if ip := net.ParseIP(host); ip == nil {
			if _, _, err := net.SplitHostPort(host + ":0"); err != nil {
				return fmt.Errorf("address %q: want HOST or HOST:PORT", cfg.Address)
			}
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return fmt.Errorf("address %q: want HOST or HOST:PORT", cfg.Address)
	}
	cfg.Address = net.JoinHostPort(host, port)
	return nil
}

// Init makes the CA, the signing key, the controller's certificate, the first admin's credential and the database. Interrupted at any point, it
// can be run again. datadir.ErrInitialised if it has run to its end before.
func Init(ctx context.Context, cfg InitConfig) (InitResult, error) {
	if err := cfg.fill(); err != nil {
		return InitResult{}, err
	}
	dir := datadir.Dir(cfg.DataDir)
	unlock, err := dir.Prepare()
	if err != nil {
		return InitResult{}, err
	}
	defer unlock()
	if done, err := dir.Initialised(); err != nil || done {
		if done {
			err = fmt.Errorf("%s: %w", dir, datadir.ErrInitialised)
		}
		return InitResult{}, err
	}
	keys, err := dir.EnsureCredentials(cfg.Now())
	if err != nil {
		return InitResult{}, err
	}
	if _, _, err := dir.ServerCertificate(keys.CA, cfg.Now()); err != nil {
		return InitResult{}, err
	}
	cert, err := writeAdmin(cfg, keys.CA)
	if err != nil {
		return InitResult{}, err
	}
	if err := createDatabase(ctx, cfg, cert); err != nil {
		return InitResult{}, err
	}
	return InitResult{AdminContext: cfg.AdminContext, Controller: cfg.Address, Fingerprint: keys.CA.Fingerprint()}, nil
}

// writeAdmin makes the first admin's credential and returns the entry of its certificate.
func writeAdmin(cfg InitConfig, ca *enroll.CA) (fleet.Certificate, error) {
	caPEM := pki.EncodeCertificate(ca.Certificate().Raw)
	if err := datadir.CheckContext(cfg.AdminContext, caPEM); err != nil {
		return fleet.Certificate{}, err
	}
	key, err := pki.NewKey()
	if err != nil {
		return fleet.Certificate{}, fmt.Errorf("make the admin's key: %w", err)
	}
	der, cert, err := ca.Issue(pki.Identity{Role: pki.Admin, Name: cfg.AdminName}, key.Public(), cfg.Now())
	if err != nil {
		return fleet.Certificate{}, err
	}
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		return fleet.Certificate{}, err
	}
	return cert, datadir.WriteContext(cfg.AdminContext, datadir.Context{
		Name: "default", Controller: cfg.Address, CA: string(caPEM), Certificate: string(pki.EncodeCertificate(der)), Key: string(keyPEM),
	})
}

// createDatabase makes the database aside and moves it to its place: that is the moment at which the directory is initialised.
func createDatabase(ctx context.Context, cfg InitConfig, cert fleet.Certificate) error {
	dir := datadir.Dir(cfg.DataDir)
	aside := dir.Database() + ".new"
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what an interrupted init left: %w", err)
	}
	s, err := store.Open(store.Config{Path: aside, Now: cfg.Now})
	if err != nil {
		return err
	}
	change := &store.Change{Actor: pki.Identity{Role: pki.Controller}.String(), Action: "init", Object: cfg.AdminName}
	err = s.Update(ctx, change, func(tx *store.Tx) error {
		admin := fleet.Admin{Name: cfg.AdminName, Enrolled: cfg.Now().UTC(), Certificates: []fleet.Certificate{cert}}
		return tx.Admins().Insert(admin.Name, admin)
	})
	if err := errors.Join(err, s.Close()); err != nil {
		return err
	}
	if err := os.Rename(aside, dir.Database()); err != nil {
		return fmt.Errorf("put the database in its place: %w", err)
	}
	return atomicfile.SyncDir(filepath.Dir(dir.Database()))
}
