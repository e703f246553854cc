package api

import (
	"context"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/enroll"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

type tokenService struct {
	adminv1.UnimplementedTokenServiceServer
	*Server
}

const (
	maxTokens    = 10000
	tokenHistory = 30 * 24 * time.Hour // how long a token that can no longer be used stays in the list
)

// CreateToken implements the service. The role is satellite unless it is said otherwise.
func (s *tokenService) CreateToken(ctx context.Context, req *adminv1.CreateTokenRequest) (*adminv1.CreateTokenResponse, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now().UTC().Truncate(time.Second)
	lifetime, err := fleet.TokenLifetime(req.GetLifetime().AsDuration())
	if err != nil {
		return nil, err
	}
	secret, hash, err := enroll.NewToken(s.cfg.CA.Fingerprint())
	if err != nil {
		return nil, err
	}
	token := fleet.Token{
		ID: secret.ID, Role: fleet.Role(req.GetRole()), Site: req.GetSite(), Created: now, Expires: now.Add(lifetime), CreatedBy: c.actor(),
	}
	if token.Role == "" {
		token.Role = fleet.RoleSatellite
	}
	err = s.update(ctx, "token.create", token.ID, func(tx *store.Tx) error {
		if err := checkToken(tx, token); err != nil {
			return err
		}
		if err := pruneTokens(tx, now); err != nil {
			return err
		}
		if err := tx.Tokens().Insert(token.ID, token); err != nil {
			return err
		}
		return tx.PutSecret(store.TokenSecret(token.ID), hash[:])
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.CreateTokenResponse{Secret: secret.Text(), Token: tokenToProto(token, now)}, nil
}

func checkToken(tx *store.Tx, t fleet.Token) error {
	switch t.Role {
	case fleet.RoleSatellite:
		if t.Site == "" {
			return fleet.Errorf(fleet.ErrInvalid, "a join token for a satellite wants a site")
		}
		_, err := tx.Sites().Get(t.Site)
		return err
	case fleet.RoleAdmin:
		if t.Site != "" {
			return fleet.Errorf(fleet.ErrInvalid, "a join token for an admin has no site")
		}
		return nil
	}
	return fleet.Errorf(fleet.ErrInvalid, "role %q: want satellite or admin", t.Role)
}

// pruneTokens removes tokens that are of no use any more, and refuses more than there is room for.
func pruneTokens(tx *store.Tx, now time.Time) error {
	tokens, err := tx.Tokens().List("")
	if err != nil {
		return err
	}
	left := len(tokens)
	for _, t := range tokens {
		if now.Sub(t.Expires) < tokenHistory {
			continue
		}
		if err := tx.Tokens().Delete(t.ID); err != nil {
			return err
		}
		if err := tx.PutSecret(store.TokenSecret(t.ID), nil); err != nil {
			return err
		}
		left--
	}
	if left >= maxTokens {
		return fleet.Errorf(fleet.ErrState, "there are %d join tokens, no more are allowed", left)
	}
	return nil
}

// ListTokens implements the service.
func (s *tokenService) ListTokens(ctx context.Context, _ *adminv1.ListTokensRequest) (*adminv1.ListTokensResponse, error) {
	resp := &adminv1.ListTokensResponse{}
	err := s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		tokens, err := tx.Tokens().List("")
		for _, t := range tokens {
			resp.Tokens = append(resp.Tokens, tokenToProto(t, s.cfg.Now()))
		}
		return err
	})
	return resp, err
}

// RevokeToken implements the service. A used token cannot be revoked: its user can.
func (s *tokenService) RevokeToken(ctx context.Context, req *adminv1.RevokeTokenRequest) (*adminv1.RevokeTokenResponse, error) {
	err := s.update(ctx, "token.revoke", req.GetId(), func(tx *store.Tx) error {
		t, err := tx.Tokens().Get(req.GetId())
		if err != nil {
			return err
		}
		if t.UsedBy != "" {
			return fleet.Errorf(fleet.ErrState, "token %s was used by %s already; revoke that instead", t.ID, t.UsedBy)
		}
		t.Revoked = true
		return tx.Tokens().Put(t.ID, t)
	})
	return &adminv1.RevokeTokenResponse{}, err
}
