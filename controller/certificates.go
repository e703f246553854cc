package controller

import (
	"context"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
)

const (
	certificateCheck = time.Hour
	adminWarning     = 30 * 24 * time.Hour // how long before its end an admin's certificate is warned about
)

// watchCertificates renews the controller's own certificate in time and warns about admins' certificates that end soon.
func (c *Controller) watchCertificates(ctx context.Context) error {
	ticker := time.NewTicker(certificateCheck)
	defer ticker.Stop()
	warned := make(map[string]time.Time)
	for {
		c.renewOwn()
		c.warnAdmins(ctx, warned)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (c *Controller) renewOwn() {
	pair, renewed, err := c.dir.ServerCertificate(c.keys.CA, c.cfg.Now())
	if err != nil {
		c.cfg.Log.Error("the controller's certificate could not be renewed", "err", err, "expires", c.own.Leaf().NotAfter)
		return
	}
	if renewed {
		c.own.Set(pair)
		c.logCertificate(true)
	}
}

func (c *Controller) logCertificate(renewed bool) {
	if renewed {
		c.cfg.Log.Info("the controller's certificate was renewed", "expires", c.own.Leaf().NotAfter)
	}
}

// warnAdmins warns at most once a day and admin; warned holds when it did.
func (c *Controller) warnAdmins(ctx context.Context, warned map[string]time.Time) {
	now := c.cfg.Now()
	err := c.store.View(ctx, func(tx *store.Tx) error {
		admins, err := tx.Admins().List("")
		for _, admin := range admins {
			expires := fleet.Expires(admin.Certificates)
			if admin.Revoked || expires.Sub(now) > adminWarning || now.Sub(warned[admin.Name]) < 24*time.Hour {
				continue
			}
			warned[admin.Name] = now
			c.cfg.Log.Warn("an admin's certificate ends soon; it must be renewed", "admin", admin.Name, "expires", expires)
		}
		return err
	})
	if err != nil && ctx.Err() == nil {
		c.cfg.Log.Error("admins' certificates could not be checked", "err", err)
	}
}
