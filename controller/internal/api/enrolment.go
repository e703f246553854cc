package api

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/enroll"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

type enrolmentService struct {
	satellitev1.UnimplementedEnrolmentServiceServer
	*Server
}

// Enrol implements the service, for satellites and for admins: the token says which.
func (s *enrolmentService) Enrol(ctx context.Context, req *satellitev1.EnrolRequest) (*satellitev1.EnrolResponse, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.limiter.Allow(c.addr); err != nil {
		s.metrics.enrolments.WithLabelValues("limited").Inc()
		return nil, err
	}
	resp, err := s.enrol(ctx, req)
	switch {
	case err == nil:
		s.metrics.enrolments.WithLabelValues("ok").Inc()
		s.cfg.Log.Info("enrolled", "site", resp.GetSite(), "name", resp.GetName(), "addr", c.addr)
	case errors.Is(err, enroll.ErrToken):
		s.limiter.Failed(c.addr)
		s.metrics.enrolments.WithLabelValues("refused").Inc()
		s.cfg.Log.Warn("enrolment refused", "addr", c.addr, "err", err)
	default:
		s.metrics.enrolments.WithLabelValues("failed").Inc()
	}
	return resp, err
}

func (s *enrolmentService) enrol(ctx context.Context, req *satellitev1.EnrolRequest) (*satellitev1.EnrolResponse, error) {
	secret, err := pki.ParseToken(req.GetToken())
	if err != nil {
		return nil, fmt.Errorf("%w: %v", enroll.ErrToken, err)
	}
	if secret.Fingerprint != s.cfg.CA.Fingerprint() {
		return nil, fmt.Errorf("%w: it belongs to another controller", enroll.ErrToken)
	}
	key, err := enroll.PublicKey(req.GetCsr())
	if err != nil {
		return nil, err
	}
	if err := pki.CheckName(req.GetName()); err != nil {
		return nil, fleet.Errorf(fleet.ErrInvalid, "%v", err)
	}
	e := enrolment{ca: s.cfg.CA, secret: secret, key: key, name: req.GetName(), now: s.cfg.Now().UTC()}
	change := &store.Change{Actor: "ltsp://token/" + secret.ID, Action: "enrol", Object: e.name}
	if err := s.cfg.Store.Update(ctx, change, func(tx *store.Tx) error { return e.redeem(tx, change) }); err != nil {
		return nil, err
	}
	return &satellitev1.EnrolResponse{
		Certificate: e.der, CaCertificate: s.cfg.CA.Certificate().Raw, SigningKey: s.cfg.Catalog.SigningKey(), Site: e.site, Name: e.name,
	}, nil
}

// enrolment is one exchange of a token for a certificate.
type enrolment struct {
	ca     *enroll.CA
	secret pki.JoinToken
	key    *ecdsa.PublicKey
	name   string
	now    time.Time

	der  []byte
	site string
}

// redeem uses the token up and makes the identity, in one transaction.
func (e *enrolment) redeem(tx *store.Tx, change *store.Change) error {
	var stored fleet.Hash
	copy(stored[:], tx.Secret(store.TokenSecret(e.secret.ID)))
	if err := enroll.CheckSecret(stored, e.secret.Secret); err != nil {
		return err
	}
	token, err := tx.Tokens().Get(e.secret.ID)
	if err != nil {
		return err
	}
	hash, err := enroll.KeyHash(e.key)
	if err != nil {
		return err
	}
	again, err := enroll.Redeem(token, hash, e.name, e.now)
	if err != nil {
		return err
	}
	e.site = token.Site
	change.Action = string(token.Role) + ".enrol"
	if token.Role == fleet.RoleAdmin {
		err = e.admin(tx, again)
	} else {
		err = e.satellite(tx, again)
	}
	if err != nil {
		return err
	}
	token.UsedBy, token.UsedKey = e.name, hash
	if !again {
		token.Used = e.now
	}
	return tx.Tokens().Put(token.ID, token)
}

func (e *enrolment) satellite(tx *store.Tx, again bool) error {
	if _, err := tx.Sites().Get(e.site); err != nil {
		return err
	}
	old, ok, err := tx.Satellites().Find(e.name)
	if err != nil {
		return err
	}
	if err := e.free("satellite", ok, old.Revoked, again && old.Site == e.site); err != nil {
		return err
	}
	der, cert, err := e.ca.Issue(pki.Identity{Role: pki.Satellite, Site: e.site, Name: e.name}, e.key, e.now)
	if err != nil {
		return err
	}
	e.der = der
	sat := fleet.Satellite{Name: e.name, Site: e.site, Enrolled: e.now}
	if ok {
		sat = old
	}
	sat.Certificates = fleet.Renewed(sat.Certificates, "", cert)
	return tx.Satellites().Put(e.name, sat)
}

func (e *enrolment) admin(tx *store.Tx, again bool) error {
	old, ok, err := tx.Admins().Find(e.name)
	if err != nil {
		return err
	}
	if err := e.free("admin", ok, old.Revoked, again); err != nil {
		return err
	}
	der, cert, err := e.ca.Issue(pki.Identity{Role: pki.Admin, Name: e.name}, e.key, e.now)
	if err != nil {
		return err
	}
	e.der = der
	admin := fleet.Admin{Name: e.name, Enrolled: e.now}
	if ok {
		admin = old
	}
	admin.Certificates = fleet.Renewed(admin.Certificates, "", cert)
	return tx.Admins().Put(e.name, admin)
}

// free refuses a name that somebody has or had, unless the same enrolment is repeated.
func (e *enrolment) free(what string, taken, revoked, again bool) error {
	switch {
	case taken && revoked:
		return fleet.Errorf(fleet.ErrExists, "the name %s belonged to a %s that was revoked; delete that one first, or take another name", e.name, what)
	case taken && !again:
		return fleet.Errorf(fleet.ErrExists, "there is a %s named %s already; take another name, or revoke and delete that one first", what, e.name)
	case !taken && again:
		return fmt.Errorf("%w: it was used by a %s that is gone; ask for a new one", enroll.ErrToken, what)
	}
	return nil
}

// Renew implements the service.
func (s *enrolmentService) Renew(ctx context.Context, req *satellitev1.RenewRequest) (*satellitev1.RenewResponse, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	key, err := enroll.PublicKey(req.GetCsr())
	if err != nil {
		return nil, err
	}
	der, cert, err := s.cfg.CA.Issue(c.id, key, s.cfg.Now().UTC())
	if err != nil {
		return nil, err
	}
	err = s.update(ctx, string(c.id.Role)+".renew", c.id.Name, func(tx *store.Tx) error {
		if c.id.Role == pki.Admin {
			admin, err := tx.Admins().Get(c.id.Name)
			if err != nil {
				return err
			}
			if err := stillGood(c, admin.Revoked, admin.Certificates); err != nil {
				return err
			}
			admin.Certificates = fleet.Renewed(admin.Certificates, c.serial, cert)
			return tx.Admins().Put(admin.Name, admin)
		}
		sat, err := tx.Satellites().Get(c.id.Name)
		if err != nil {
			return err
		}
		if err := stillGood(c, sat.Revoked || sat.Site != c.id.Site, sat.Certificates); err != nil {
			return err
		}
		sat.Certificates = fleet.Renewed(sat.Certificates, c.serial, cert)
		return tx.Satellites().Put(sat.Name, sat)
	})
	if err != nil {
		return nil, err
	}
	return &satellitev1.RenewResponse{Certificate: der, CaCertificate: s.cfg.CA.Certificate().Raw, SigningKey: s.cfg.Catalog.SigningKey()}, nil
}

// stillGood repeats the authority's question within the transaction: the answer may have changed since.
func stillGood(c caller, revoked bool, list []fleet.Certificate) error {
	if revoked || !fleet.Accepts(list, c.serial) {
		return fleet.Errorf(fleet.ErrDenied, "%s is not in good standing", c.id)
	}
	return nil
}
