package api

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

type clientService struct {
	adminv1.UnimplementedClientServiceServer
	*Server
}

// seenClient is what is configured for a client at a site and what it reported from there; at least one of both is there.
type seenClient struct {
	site   string
	mac    fleet.MAC
	config *fleet.Client
	report *fleet.ClientReport
}

// address is the fixed one, else the one that the client had last; not valid if neither is known.
func (c seenClient) address() netip.Addr {
	if c.config != nil && c.config.Address.IsValid() {
		return c.config.Address
	}
	if c.report == nil {
		return netip.Addr{}
	}
	a, _ := netip.ParseAddr(c.report.Address) // what a client told may be anything
	return a.Unmap()
}

func (c seenClient) render() *adminv1.Client {
	p := &adminv1.Client{Site: c.site, Config: &satellitev1.Client{Mac: string(c.mac)}}
	if c.config != nil {
		p.Config, p.Revision = clientToProto(*c.config), c.config.Revision
	}
	if c.report != nil {
		p.Report = reportToProto(*c.report)
	}
	return p
}

// clients joins configurations and reports of a site, or of all if it is empty, in the order of site and MAC.
func (s *Server) clients(tx *store.Tx, site string) ([]seenClient, error) {
	configs, err := tx.Clients(site)
	if err != nil {
		return nil, err
	}
	by := make(map[string]*seenClient)
	for _, c := range configs {
		by[c.Site+"/"+string(c.MAC)] = &seenClient{site: c.Site, mac: c.MAC, config: &c}
	}
	for _, r := range s.cfg.Link.Reports(site) {
		if c, ok := by[r.Key()]; ok {
			c.report = &r
			continue
		}
		by[r.Key()] = &seenClient{site: r.Site, mac: r.MAC, report: &r}
	}
	list := make([]seenClient, 0, len(by))
	for _, c := range by {
		list = append(list, *c)
	}
	slices.SortFunc(list, func(a, b seenClient) int { return cmp.Or(cmp.Compare(a.site, b.site), cmp.Compare(a.mac, b.mac)) })
	return list, nil
}

// ListClients implements the service.
func (s *clientService) ListClients(ctx context.Context, req *adminv1.ListClientsRequest) (*adminv1.ListClientsResponse, error) {
	resp := &adminv1.ListClientsResponse{}
	err := s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		if err := siteIfAny(tx, req.GetSite()); err != nil {
			return err
		}
		list, err := s.clients(tx, req.GetSite())
		for _, c := range list {
			resp.Clients = append(resp.Clients, c.render())
		}
		return err
	})
	return resp, err
}

// GetClient implements the service.
func (s *clientService) GetClient(ctx context.Context, req *adminv1.GetClientRequest) (*adminv1.GetClientResponse, error) {
	resp := &adminv1.GetClientResponse{}
	err := s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		list, err := s.clients(tx, "")
		if err != nil {
			return err
		}
		c, err := pick(list, req.GetClient())
		if err != nil {
			return err
		}
		resp.Client = c.render()
		return nil
	})
	return resp, err
}

// pick finds a client by MAC or by a name that only one has: the configured one, or the one that it reported.
func pick(list []seenClient, wanted string) (seenClient, error) {
	var found []seenClient
	mac, err := fleet.ParseMAC(wanted)
	for _, c := range list {
		named := c.config != nil && c.config.Name == wanted || c.report != nil && c.report.Hostname == wanted
		if err == nil && c.mac == mac || err != nil && wanted != "" && named {
			found = append(found, c)
		}
	}
	if len(found) == 0 {
		return seenClient{}, fleet.Errorf(fleet.ErrNotFound, "there is no client %s", wanted)
	}
	if slices.ContainsFunc(found, func(c seenClient) bool { return c.mac != found[0].mac }) {
		return seenClient{}, fleet.Errorf(fleet.ErrState, "%d clients are called %s; name one by its MAC address", len(found), wanted)
	}
	// One machine at several sites: the one where it is configured, else where it was last.
	slices.SortStableFunc(found, func(a, b seenClient) int {
		if (a.config != nil) != (b.config != nil) {
			return map[bool]int{true: -1, false: 1}[a.config != nil]
		}
		if a.report != nil && b.report != nil {
			return b.report.Received.Compare(a.report.Received)
		}
		return 0
	})
	return found[0], nil
}

// SetClient implements the service. An empty site means the one where the client is configured.
func (s *clientService) SetClient(ctx context.Context, req *adminv1.SetClientRequest) (*adminv1.SetClientResponse, error) {
	client, err := clientFromProto(req.GetSite(), req.GetRevision(), req.GetConfig())
	if err != nil {
		return nil, err
	}
	err = s.update(ctx, "client.set", string(client.MAC), func(tx *store.Tx) error { return setClient(tx, &client) })
	if err != nil {
		return nil, err
	}
	seen := seenClient{site: client.Site, mac: client.MAC, config: &client}
	for _, r := range s.cfg.Link.Reports(client.Site) {
		if r.MAC == client.MAC {
			seen.report = &r
		}
	}
	return &adminv1.SetClientResponse{Client: seen.render()}, nil
}

func setClient(tx *store.Tx, client *fleet.Client) error {
	old, err := tx.Client(client.MAC)
	if err != nil && !errors.Is(err, fleet.ErrNotFound) {
		return err
	}
	if client.Site == "" {
		client.Site = old.Site
	}
	if client.Site == "" {
		return fleet.Errorf(fleet.ErrInvalid, "client %s is not configured yet: name its site", client.MAC)
	}
	if err := fleet.CheckRevision("client "+string(client.MAC), client.Revision, old.Revision); err != nil {
		return err
	}
	if _, err := tx.Sites().Get(client.Site); err != nil {
		return err
	}
	others, err := tx.Clients(client.Site)
	if err != nil {
		return err
	}
	if len(others) >= fleet.MaxClients && old.Site != client.Site {
		return fleet.Errorf(fleet.ErrState, "site %s has %d clients, no more are allowed", client.Site, len(others))
	}
	subnets, err := tx.SubnetsOf(client.Site)
	if err != nil {
		return err
	}
	if err := client.Check(others, subnets, tx.Library()); err != nil {
		return err
	}
	client.Revision = old.Revision
	if !reflect.DeepEqual(*client, old) {
		client.Revision++
	}
	return tx.PutClient(*client)
}

// DeleteClient implements the service: the configuration goes and what the client reported; if it reports again, it is seen again.
func (s *clientService) DeleteClient(ctx context.Context, req *adminv1.DeleteClientRequest) (*adminv1.DeleteClientResponse, error) {
	mac, err := fleet.ParseMAC(req.GetMac())
	if err != nil {
		return nil, err
	}
	err = s.update(ctx, "client.delete", string(mac), func(tx *store.Tx) error {
		list, err := s.clients(tx, "")
		if err != nil {
			return err
		}
		if _, err := pick(list, string(mac)); err != nil {
			return err
		}
		return tx.DeleteClient(mac, "")
	})
	if err != nil {
		return nil, err
	}
	s.cfg.Link.ForgetClient(mac)
	return &adminv1.DeleteClientResponse{}, nil
}
