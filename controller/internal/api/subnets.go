package api

import (
	"context"
	"reflect"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

type subnetService struct {
	adminv1.UnimplementedSubnetServiceServer
	*Server
}

func renderSubnet(s fleet.Subnet) *adminv1.Subnet {
	return &adminv1.Subnet{Site: s.Site, Subnet: subnetToProto(s), Revision: s.Revision}
}

// checkSubnet checks a subnet against all others of its site, which must exist. It returns how many those are.
func checkSubnet(tx *store.Tx, s *fleet.Subnet) (int, error) {
	if _, err := tx.Sites().Get(s.Site); err != nil {
		return 0, err
	}
	others, err := tx.SubnetsOf(s.Site)
	if err != nil {
		return 0, err
	}
	satellites, err := tx.SatellitesOf(s.Site)
	if err != nil {
		return 0, err
	}
	return len(others), s.Check(others, satellites, tx.Library())
}

// CreateSubnet implements the service.
func (s *subnetService) CreateSubnet(ctx context.Context, req *adminv1.CreateSubnetRequest) (*adminv1.CreateSubnetResponse, error) {
	subnet, err := subnetFromProto(req.GetSubnet())
	if err != nil {
		return nil, err
	}
	subnet.Default()
	subnet.Revision = 1
	err = s.update(ctx, "subnet.create", subnet.Key(), func(tx *store.Tx) error {
		n, err := checkSubnet(tx, &subnet)
		if err != nil {
			return err
		}
		if n >= fleet.MaxSubnets {
			return fleet.Errorf(fleet.ErrState, "site %s has %d subnets, no more are allowed", subnet.Site, n)
		}
		return tx.Subnets().Insert(subnet.Key(), subnet)
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.CreateSubnetResponse{Subnet: renderSubnet(subnet)}, nil
}

// UpdateSubnet implements the service.
func (s *subnetService) UpdateSubnet(ctx context.Context, req *adminv1.UpdateSubnetRequest) (*adminv1.UpdateSubnetResponse, error) {
	subnet, err := subnetFromProto(req.GetSubnet())
	if err != nil {
		return nil, err
	}
	subnet.Default()
	err = s.update(ctx, "subnet.update", subnet.Key(), func(tx *store.Tx) error {
		old, err := tx.Subnets().Get(subnet.Key())
		if err != nil {
			return err
		}
		if err := fleet.CheckRevision("subnet "+subnet.Key(), subnet.Revision, old.Revision); err != nil {
			return err
		}
		subnet.Revision = old.Revision
		if _, err := checkSubnet(tx, &subnet); err != nil {
			return err
		}
		if !reflect.DeepEqual(subnet, old) {
			subnet.Revision++
		}
		return tx.Subnets().Put(subnet.Key(), subnet)
	})
	if err != nil {
		return nil, err
	}
	return &adminv1.UpdateSubnetResponse{Subnet: renderSubnet(subnet)}, nil
}

// ListSubnets implements the service.
func (s *subnetService) ListSubnets(ctx context.Context, req *adminv1.ListSubnetsRequest) (*adminv1.ListSubnetsResponse, error) {
	resp := &adminv1.ListSubnetsResponse{}
	err := s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		if err := siteIfAny(tx, req.GetSite()); err != nil {
			return err
		}
		subnets, err := tx.SubnetsOf(req.GetSite())
		for _, n := range subnets {
			resp.Subnets = append(resp.Subnets, renderSubnet(n))
		}
		return err
	})
	return resp, err
}

// siteIfAny tells by fleet.ErrNotFound that a site which was named does not exist.
func siteIfAny(tx *store.Tx, site string) error {
	if site == "" {
		return nil
	}
	_, err := tx.Sites().Get(site)
	return err
}

// DeleteSubnet implements the service.
func (s *subnetService) DeleteSubnet(ctx context.Context, req *adminv1.DeleteSubnetRequest) (*adminv1.DeleteSubnetResponse, error) {
	key := req.GetSite() + "/" + req.GetName()
	err := s.update(ctx, "subnet.delete", key, func(tx *store.Tx) error {
		if _, err := tx.Subnets().Get(key); err != nil {
			return err
		}
		return tx.Subnets().Delete(key)
	})
	return &adminv1.DeleteSubnetResponse{}, err
}
