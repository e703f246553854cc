package api

import (
	"context"
	"crypto/rand"
	"reflect"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

type siteService struct {
	adminv1.UnimplementedSiteServiceServer
	*Server
}

// gossipKeyBytes is the size of an AES-256 key, as memberlist wants it.
const gossipKeyBytes = 32

// update is Store.Update in the name of the caller.
func (s *Server) update(ctx context.Context, action, object string, fn func(*store.Tx) error) error {
	c, err := callerOf(ctx)
	if err != nil {
		return err
	}
	return s.cfg.Store.Update(ctx, &store.Change{Actor: c.actor(), Action: action, Object: object}, fn)
}

// CreateSite implements the service.
func (s *siteService) CreateSite(ctx context.Context, req *adminv1.CreateSiteRequest) (*adminv1.CreateSiteResponse, error) {
	site := siteFromProto(req.GetSite())
	site.Created, site.Revision = s.cfg.Now().UTC(), 1
	key := make([]byte, gossipKeyBytes)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	err := s.update(ctx, "site.create", site.Name, func(tx *store.Tx) error {
		if err := site.Check(tx.Library()); err != nil {
			return err
		}
		if err := tx.Sites().Insert(site.Name, site); err != nil {
			return err
		}
		return tx.PutSecret(store.GossipKey(site.Name), key)
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.CreateSiteResponse{Site: siteToProto(site)}, nil
}

// UpdateSite implements the service.
func (s *siteService) UpdateSite(ctx context.Context, req *adminv1.UpdateSiteRequest) (*adminv1.UpdateSiteResponse, error) {
	site := siteFromProto(req.GetSite())
	var out *adminv1.Site
	err := s.update(ctx, "site.update", site.Name, func(tx *store.Tx) error {
		old, err := tx.Sites().Get(site.Name)
		if err != nil {
			return err
		}
		if err := fleet.CheckRevision("site "+site.Name, site.Revision, old.Revision); err != nil {
			return err
		}
		site.Created, site.Revision = old.Created, old.Revision
		if err := site.Check(tx.Library()); err != nil {
			return err
		}
		if !reflect.DeepEqual(site, old) {
			site.Revision++
		}
		if err := tx.Sites().Put(site.Name, site); err != nil {
			return err
		}
		out, err = s.render(tx, site)
		return err
	})
	return &adminv1.UpdateSiteResponse{Site: out}, err
}

// ListSites implements the service.
func (s *siteService) ListSites(ctx context.Context, _ *adminv1.ListSitesRequest) (*adminv1.ListSitesResponse, error) {
	resp := &adminv1.ListSitesResponse{}
	err := s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		sites, err := tx.Sites().List("")
		if err != nil {
			return err
		}
		for _, site := range sites {
			p, err := s.render(tx, site)
			if err != nil {
				return err
			}
			resp.Sites = append(resp.Sites, p)
		}
		return nil
	})
	return resp, err
}

// GetSite implements the service.
func (s *siteService) GetSite(ctx context.Context, req *adminv1.GetSiteRequest) (*adminv1.GetSiteResponse, error) {
	resp := &adminv1.GetSiteResponse{}
	err := s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		site, err := tx.Sites().Get(req.GetName())
		if err != nil {
			return err
		}
		resp.Site, err = s.render(tx, site)
		return err
	})
	return resp, err
}

// DeleteSite implements the service. Its policies go with it, and its open join tokens are revoked.
func (s *siteService) DeleteSite(ctx context.Context, req *adminv1.DeleteSiteRequest) (*adminv1.DeleteSiteResponse, error) {
	name := req.GetName()
	err := s.update(ctx, "site.delete", name, func(tx *store.Tx) error {
		site, err := tx.Sites().Get(name)
		if err != nil {
			return err
		}
		subnets, err := tx.SubnetsOf(name)
		if err != nil {
			return err
		}
		satellites, err := tx.SatellitesOf(name)
		if err != nil {
			return err
		}
		clients, err := tx.Clients(name)
		if err != nil {
			return err
		}
		if err := site.CheckDelete(len(subnets), len(satellites), len(clients)); err != nil {
			return err
		}
		if err := revokeTokensOf(tx, name); err != nil {
			return err
		}
		if err := tx.PutSecret(store.GossipKey(name), nil); err != nil {
			return err
		}
		if err := tx.DeletePoliciesOf(name); err != nil {
			return err
		}
		return tx.Sites().Delete(name)
	})
	if err != nil {
		return nil, err
	}
	s.cfg.Link.ForgetSite(name)
	if err := s.cfg.Policies.Collect(ctx); err != nil {
		s.cfg.Log.Warn("the policies of a deleted site could not be removed yet", "site", name, "err", err)
	}
	return &adminv1.DeleteSiteResponse{}, nil
}

func revokeTokensOf(tx *store.Tx, site string) error {
	tokens, err := tx.Tokens().List("")
	if err != nil {
		return err
	}
	for _, t := range tokens {
		if t.Site != site || t.UsedBy != "" || t.Revoked {
			continue
		}
		t.Revoked = true
		if err := tx.Tokens().Put(t.ID, t); err != nil {
			return err
		}
	}
	return nil
}

// render adds the counts to a site.
func (s *Server) render(tx *store.Tx, site fleet.Site) (*adminv1.Site, error) {
	p := siteToProto(site)
	satellites, err := tx.SatellitesOf(site.Name)
	if err != nil {
		return nil, err
	}
	for _, sat := range satellites {
		if !sat.Revoked {
			p.Satellites++
		}
	}
	clients, err := s.clients(tx, site.Name)
	p.Clients = uint32(len(clients))
	return p, err
}
