package upstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/x509"
	"fmt"
	"time"

	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"

	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// renewalDue tells whether two thirds of a certificate's life are over, which includes that it has expired.
func renewalDue(leaf *x509.Certificate, now time.Time) bool {
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	return now.After(leaf.NotBefore.Add(life / 3 * 2))
}

// renewIfDue renews the certificate when it is time. It returns errRenewed after success, an error if the certificate has expired and
// can't be renewed, and nil in all other cases: a failed renewal of a valid certificate is tried again later.
func (c *Client) renewIfDue(ctx context.Context, l *link) error {
	leaf := c.cfg.Identity.Holder().Leaf()
	now := c.cfg.Now()
	if leaf == nil || !renewalDue(leaf, now) || now.Before(c.renewAfter) && now.Before(leaf.NotAfter) {
		return nil
	}
	err := c.renew(ctx, l)
	if err == nil {
		c.metrics.renewed("ok")
		c.problem("certificate", "", nil)
		return errRenewed
	}
	c.metrics.renewed("error")
	c.renewAfter = now.Add(renewRetry)
	err = fmt.Errorf("renew the certificate that expires on %s: %w", leaf.NotAfter.UTC().Format(time.RFC3339), err)
	if now.After(leaf.NotAfter) {
		return err
	}
	c.log.Warn("the certificate can't be renewed now", "err", err)
	if leaf.NotAfter.Sub(now) < leaf.NotAfter.Sub(leaf.NotBefore)/6 {
		c.cfg.Problem("certificate", err.Error())
	}
	return nil
}

func (c *Client) renew(ctx context.Context, l *link) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key, err := pki.NewKey()
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	csr, err := pki.NewCSR(key)
	if err != nil {
		return fmt.Errorf("make certificate request: %w", err)
	}
	resp, err := satellitev1.NewEnrolmentServiceClient(l.control).Renew(ctx, &satellitev1.RenewRequest{Csr: csr})
	if err != nil {
		return err
	}
	return c.storeRenewed(key, resp)
}

func (c *Client) storeRenewed(key *ecdsa.PrivateKey, resp *satellitev1.RenewResponse) error {
	creds, id, err := checkCredentials(key, resp.GetCertificate(), resp.GetCaCertificate())
	if err != nil {
		return fmt.Errorf("renewed certificate: %w", err)
	}
	if id.Site != c.cfg.Identity.Site() || id.Name != c.cfg.Identity.Name() {
		return fmt.Errorf("renewed certificate: %w: it is for %s", pki.ErrIdentity, id)
	}
	if n := len(resp.GetSigningKey()); n != 0 && n != ed25519.PublicKeySize {
		return fmt.Errorf("manifest signing key of %d bytes, want %d", n, ed25519.PublicKeySize)
	}
	if err := c.cfg.Identity.SetNext(creds, resp.GetSigningKey()); err != nil {
		return err
	}
	c.log.Info("certificate renewed", "expires", c.cfg.Identity.Holder().Leaf().NotAfter)
	return nil
}
