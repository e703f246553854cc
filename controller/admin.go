package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/datadir"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/enroll"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// AdminConfig names an admin whose credential is made or revoked while the controller is stopped: the way back in when the last credential is lost.
type AdminConfig struct {
	DataDir string
	Name    string
	// Address and Context are InitConfig's Address and AdminContext; they are for AddAdmin only, and Context must be given there.
	Address string
	Context string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// AddAdmin makes a credential for an admin, who may exist: then the older credentials go on to work. store.ErrLocked while the controller runs.
func AddAdmin(ctx context.Context, cfg AdminConfig) (InitResult, error) {
	whole := InitConfig{DataDir: cfg.DataDir, Address: cfg.Address, AdminContext: cfg.Context, AdminName: cfg.Name, Now: cfg.Now}
	if cfg.Name == "" || cfg.Context == "" {
		return InitResult{}, errors.New("add admin: want a name and a file for the context")
	}
	if err := whole.fill(); err != nil {
		return InitResult{}, err
	}
	made := InitResult{AdminContext: whole.AdminContext, Controller: whole.Address}
	err := offline(cfg, func(keys datadir.Credentials, s *store.Store) error {
		made.Fingerprint = keys.CA.Fingerprint()
		change := &store.Change{Actor: pki.Identity{Role: pki.Controller}.String(), Action: "admin.add", Object: cfg.Name}
		return s.Update(ctx, change, func(tx *store.Tx) error { return addAdmin(tx, whole, keys.CA) })
	})
	return made, err
}

func addAdmin(tx *store.Tx, cfg InitConfig, ca *enroll.CA) error {
	admin, ok, err := tx.Admins().Find(cfg.AdminName)
	if err != nil {
		return err
	}
	if ok && admin.Revoked {
		return fleet.Errorf(fleet.ErrState, "admin %s is revoked; take another name", cfg.AdminName)
	}
	if !ok {
		admin = fleet.Admin{Name: cfg.AdminName, Enrolled: cfg.Now().UTC()}
	}
	cert, err := writeAdmin(cfg, ca)
	if err != nil {
		return err
	}
	admin.Certificates = fleet.Renewed(admin.Certificates, "", cert)
	return tx.Admins().Put(admin.Name, admin)
}

// RevokeAdmin ends all credentials of an admin for good. store.ErrLocked while the controller runs, fleet.ErrNotFound if there is no such admin.
func RevokeAdmin(ctx context.Context, cfg AdminConfig) error {
	return offline(cfg, func(_ datadir.Credentials, s *store.Store) error {
		change := &store.Change{Actor: pki.Identity{Role: pki.Controller}.String(), Action: "admin.revoke", Object: cfg.Name}
		return s.Update(ctx, change, func(tx *store.Tx) error {
			admin, err := tx.Admins().Get(cfg.Name)
			if err != nil {
				return err
			}
			admin.Revoked = true
			return tx.Admins().Put(admin.Name, admin)
		})
	})
}

// offline opens the data directory of a stopped controller.
func offline(cfg AdminConfig, fn func(datadir.Credentials, *store.Store) error) error {
	dir := datadir.Dir(cfg.DataDir)
	keys, err := dir.Load()
	if err != nil {
		return err
	}
	s, err := store.Open(store.Config{Path: dir.Database(), Now: cfg.Now})
	if errors.Is(err, store.ErrLocked) {
		return fmt.Errorf("%w; stop the controller first", err)
	}
	if err != nil {
		return err
	}
	return errors.Join(fn(keys, s), s.Close())
}
