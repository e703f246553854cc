package api

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/enroll"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// caller is who makes a call. The zero identity is somebody without a certificate.
type caller struct {
	id      pki.Identity
	serial  string
	expires time.Time  // of the certificate; zero if there is none
	addr    netip.Addr // IPv6 addresses are masked to their /64
}

func (c caller) actor() string { return c.id.String() }

type callerKey struct{}

// callerOf returns who makes the call; the authority has put it into the context.
func callerOf(ctx context.Context) (caller, error) {
	c, ok := ctx.Value(callerKey{}).(caller)
	if !ok {
		return caller{}, status.Error(codes.Unauthenticated, "the call did not pass the authority")
	}
	return c, nil
}

// untilExpiry returns a context that also ends when the caller's certificate does: a stream must not outlive the right to open it.
func (s *Server) untilExpiry(ctx context.Context, c caller) (context.Context, context.CancelFunc) {
	gone := status.Error(codes.Unauthenticated, "the certificate has expired; renew it and connect again")
	return context.WithTimeoutCause(ctx, c.expires.Sub(s.cfg.Now()), gone)
}

// authority decides whether a call may go on.
type authority struct {
	store   *store.Store
	guard   *guard
	table   map[string]access
	now     func() time.Time
	log     *slog.Logger
	metrics *metrics
}

// tap runs before anything but the headers of a call was read.
func (a *authority) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	next, err := a.admit(ctx, info.FullMethodName)
	if err != nil {
		err = toStatus(a.log, info.FullMethodName, err)
		method := info.FullMethodName
		if _, ok := a.table[method]; !ok {
			method = "unlisted" // no label of a stranger's choice
		}
		a.metrics.rpcs.WithLabelValues(method, status.Code(err).String()).Inc()
		a.log.Debug("call refused", "method", method, "err", err)
		return ctx, err
	}
	return next, nil
}

func (a *authority) admit(ctx context.Context, method string) (context.Context, error) {
	rule, ok := a.table[method]
	if !ok {
		return nil, status.Errorf(codes.PermissionDenied, "%s may not be called", method)
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "the connection has no peer")
	}
	conn, ok := p.AuthInfo.(connInfo)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "the connection is not secured")
	}
	c := caller{addr: address(p)}
	if len(conn.State.PeerCertificates) > 0 {
		if err := a.identify(&c, conn, rule); err != nil {
			return nil, err
		}
	} else if !rule.anonymous {
		return nil, status.Error(codes.Unauthenticated, "the call needs a client certificate")
	}
	leave, err := a.guard.enter(c.id, conn.conn)
	if err != nil {
		a.metrics.limited.WithLabelValues("identity").Inc()
		return nil, err
	}
	// Only now: a revocation finds the call in the guard's list, or the call finds the revocation here.
	if err := a.standing(ctx, c, rule); err != nil {
		leave()
		return nil, err
	}
	context.AfterFunc(ctx, leave)
	return context.WithValue(ctx, callerKey{}, c), nil
}

// identify reads the certificate: who is it, is it within its dates, may the role call the method.
func (a *authority) identify(c *caller, conn connInfo, rule access) error {
	now := a.now()
	id, leaf, expired, err := pki.VerifiedPeer(conn.State, now)
	if err != nil {
		return status.Errorf(codes.Unauthenticated, "%v", err)
	}
	c.id, c.serial, c.expires = id, enroll.SerialText(leaf.SerialNumber), leaf.NotAfter
	switch {
	case !expired:
	case now.Before(leaf.NotBefore):
		return status.Errorf(codes.Unauthenticated, "the certificate is valid from %s on; check the clocks", leaf.NotBefore.Format(time.RFC3339))
	case now.After(leaf.NotAfter.Add(enroll.GracePeriod)):
		return status.Errorf(codes.Unauthenticated, "the certificate expired at %s, too long ago to renew it; enrol again with a join token", leaf.NotAfter.Format(time.RFC3339))
	case !rule.expired:
		return status.Errorf(codes.Unauthenticated, "the certificate expired at %s; renew it", leaf.NotAfter.Format(time.RFC3339))
	}
	if !rule.allows(id.Role) {
		return status.Errorf(codes.PermissionDenied, "%s may not do this", id)
	}
	return nil
}

// standing asks the store whether the identity is still trusted and the certificate is one of its own.
func (a *authority) standing(ctx context.Context, c caller, rule access) error {
	if c.id == (pki.Identity{}) || rule.anonymous {
		return nil
	}
	return a.store.View(ctx, func(tx *store.Tx) error {
		var list []fleet.Certificate
		var revoked, known bool
		switch c.id.Role {
		case pki.Satellite:
			s, ok, err := tx.Satellites().Find(c.id.Name)
			if err != nil {
				return err
			}
			list, revoked, known = s.Certificates, s.Revoked, ok && s.Site == c.id.Site
		case pki.Admin:
			s, ok, err := tx.Admins().Find(c.id.Name)
			if err != nil {
				return err
			}
			list, revoked, known = s.Certificates, s.Revoked, ok
		}
		if known && revoked {
			return status.Errorf(codes.PermissionDenied, "%s is revoked", c.id)
		}
		if !known || !fleet.Accepts(list, c.serial) {
			return status.Errorf(codes.Unauthenticated, "%s is not known here with this certificate; enrol again with a join token", c.id)
		}
		return nil
	})
}

func address(p *peer.Peer) netip.Addr {
	ap, err := netip.ParseAddrPort(p.Addr.String())
	if err != nil {
		return netip.Addr{}
	}
	addr := ap.Addr().Unmap().WithZone("")
	if addr.Is6() {
		addr = netip.PrefixFrom(addr, 64).Masked().Addr()
	}
	return addr
}
