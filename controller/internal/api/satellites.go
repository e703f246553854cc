package api

import (
	"context"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

type satelliteService struct {
	adminv1.UnimplementedSatelliteServiceServer
	*Server
}

func (s *Server) renderSatellite(sat fleet.Satellite) *adminv1.Satellite {
	p := &adminv1.Satellite{
		Name: sat.Name, Site: sat.Site, State: "never", Enrolled: stamp(sat.Enrolled), CertificateExpires: stamp(fleet.Expires(sat.Certificates)),
	}
	if status, ok := s.cfg.Link.Status(sat.Name); ok {
		p.LastSeen = stamp(status.Received)
		p.State = "disconnected"
		if status.Reported {
			p.Status = statusToProto(status)
		}
	}
	if s.cfg.Link.Connected(sat.Name) {
		p.State = "connected"
		p.LastSeen = stamp(s.cfg.Now())
	}
	if sat.Revoked {
		p.State = "revoked"
	}
	return p
}

// ListSatellites implements the service.
func (s *satelliteService) ListSatellites(ctx context.Context, req *adminv1.ListSatellitesRequest) (*adminv1.ListSatellitesResponse, error) {
	resp := &adminv1.ListSatellitesResponse{}
	err := s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		if err := siteIfAny(tx, req.GetSite()); err != nil {
			return err
		}
		satellites, err := tx.SatellitesOf(req.GetSite())
		for _, sat := range satellites {
			resp.Satellites = append(resp.Satellites, s.renderSatellite(sat))
		}
		return err
	})
	return resp, err
}

// GetSatellite implements the service.
func (s *satelliteService) GetSatellite(ctx context.Context, req *adminv1.GetSatelliteRequest) (*adminv1.GetSatelliteResponse, error) {
	resp := &adminv1.GetSatelliteResponse{}
	err := s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		sat, err := tx.Satellites().Get(req.GetName())
		if err != nil {
			return err
		}
		resp.Satellite = s.renderSatellite(sat)
		return nil
	})
	return resp, err
}

// RevokeSatellite implements the service.
func (s *satelliteService) RevokeSatellite(ctx context.Context, req *adminv1.RevokeSatelliteRequest) (*adminv1.RevokeSatelliteResponse, error) {
	var sat fleet.Satellite
	err := s.update(ctx, "satellite.revoke", req.GetName(), func(tx *store.Tx) (err error) {
		if sat, err = tx.Satellites().Get(req.GetName()); err != nil {
			return err
		}
		sat.Revoked = true
		return tx.Satellites().Put(sat.Name, sat)
	})
	if err != nil {
		return nil, err
	}
	s.guard.cut(pki.Identity{Role: pki.Satellite, Site: sat.Site, Name: sat.Name})
	s.cfg.Log.Info("satellite revoked", "site", sat.Site, "satellite", sat.Name)
	return &adminv1.RevokeSatelliteResponse{}, nil
}

// DeleteSatellite implements the service.
func (s *satelliteService) DeleteSatellite(ctx context.Context, req *adminv1.DeleteSatelliteRequest) (*adminv1.DeleteSatelliteResponse, error) {
	err := s.update(ctx, "satellite.delete", req.GetName(), func(tx *store.Tx) error {
		sat, err := tx.Satellites().Get(req.GetName())
		if err != nil {
			return err
		}
		if !sat.Revoked {
			return fleet.Errorf(fleet.ErrState, "satellite %s is in good standing; revoke it first", sat.Name)
		}
		return tx.Satellites().Delete(sat.Name)
	})
	if err != nil {
		return nil, err
	}
	s.cfg.Link.ForgetSatellite(req.GetName())
	return &adminv1.DeleteSatelliteResponse{}, nil
}
