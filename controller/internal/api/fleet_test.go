package api_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/api"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

func TestSites(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	sites := adminv1.NewSiteServiceClient(admin)
	b.site(admin, "a", "lab:stable")
	_, err := sites.CreateSite(b.ctx, &adminv1.CreateSiteRequest{Site: &adminv1.Site{Name: "a"}})
	want(t, "create twice", err, codes.AlreadyExists)
	_, err = sites.CreateSite(b.ctx, &adminv1.CreateSiteRequest{Site: &adminv1.Site{Name: "Not Good"}})
	want(t, "bad name", err, codes.InvalidArgument)
	_, err = sites.CreateSite(b.ctx, &adminv1.CreateSiteRequest{})
	want(t, "no site", err, codes.InvalidArgument)

	update := &adminv1.Site{Name: "a", Description: "first floor", Images: []string{"lab:stable"}, Revision: 1}
	got, err := sites.UpdateSite(b.ctx, &adminv1.UpdateSiteRequest{Site: update})
	if err != nil || got.GetSite().GetRevision() != 2 || got.GetSite().GetDescription() != "first floor" || got.GetSite().GetCreated() == nil {
		t.Errorf("update: %v, %v", got, err)
	}
	_, err = sites.UpdateSite(b.ctx, &adminv1.UpdateSiteRequest{Site: update})
	want(t, "update from an old revision", err, codes.Aborted)
	update.Revision = 0
	same, err := sites.UpdateSite(b.ctx, &adminv1.UpdateSiteRequest{Site: update})
	if err != nil || same.GetSite().GetRevision() != 2 {
		t.Errorf("update without a change: %v, %v", same, err)
	}
	_, err = sites.UpdateSite(b.ctx, &adminv1.UpdateSiteRequest{Site: &adminv1.Site{Name: "nowhere"}})
	want(t, "update nothing", err, codes.NotFound)

	b.enrol(b.token(admin, "a"), "a1")
	_, err = sites.DeleteSite(b.ctx, &adminv1.DeleteSiteRequest{Name: "a"})
	want(t, "delete with a satellite", err, codes.FailedPrecondition)
	one, err := sites.GetSite(b.ctx, &adminv1.GetSiteRequest{Name: "a"})
	if err != nil || one.GetSite().GetSatellites() != 1 {
		t.Errorf("get: %v, %v", one, err)
	}
	b.site(admin, "b")
	open := b.token(admin, "b")
	if _, err := sites.DeleteSite(b.ctx, &adminv1.DeleteSiteRequest{Name: "b"}); err != nil {
		t.Fatal(err)
	}
	b.site(admin, "b")
	_, err = b.tryEnrol(open, "b1", newKey(t))
	want(t, "token of a deleted site", err, codes.PermissionDenied)
	list, err := sites.ListSites(b.ctx, &adminv1.ListSitesRequest{})
	if err != nil || len(list.GetSites()) != 2 {
		t.Errorf("list: %v, %v", list, err)
	}
}

func TestSubnets(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	subnets := adminv1.NewSubnetServiceClient(admin)
	b.site(admin, "a")
	lan := &satellitev1.Subnet{Name: "lan", Cidr: "10.1.0.0/24", RangeStart: "10.1.0.100", RangeEnd: "10.1.0.200", Gateway: "10.1.0.1", Dns: []string{"10.1.0.1"}}
	made, err := subnets.CreateSubnet(b.ctx, &adminv1.CreateSubnetRequest{Subnet: &adminv1.Subnet{Site: "a", Subnet: lan}})
	if err != nil || made.GetSubnet().GetSubnet().GetMode() != satellitev1.DhcpMode_DHCP_MODE_AUTHORITATIVE || made.GetSubnet().GetRevision() != 1 {
		t.Fatalf("create: %v, %v", made, err)
	}
	for name, n := range map[string]*satellitev1.Subnet{
		"no network": {Name: "x"}, "overlap": {Name: "x", Cidr: "10.1.0.0/25"}, "bad address": {Name: "x", Cidr: "10.2.0.0/24", Gateway: "router"},
		"unknown satellite": {Name: "x", Cidr: "10.2.0.0/24", DhcpSatellite: "a9"}, "unknown mode": {Name: "x", Cidr: "10.2.0.0/24", Mode: 77},
	} {
		_, err := subnets.CreateSubnet(b.ctx, &adminv1.CreateSubnetRequest{Subnet: &adminv1.Subnet{Site: "a", Subnet: n}})
		want(t, name, err, codes.InvalidArgument)
	}
	_, err = subnets.CreateSubnet(b.ctx, &adminv1.CreateSubnetRequest{Subnet: &adminv1.Subnet{Site: "nowhere", Subnet: lan}})
	want(t, "no site", err, codes.NotFound)

	// The owner of DHCP: the first enrolled, the configured one, and again the first when that one is revoked.
	sat := b.enrol(b.token(admin, "a"), "a1")
	b.clock.advance(2 * time.Second)
	b.enrol(b.token(admin, "a"), "a2")
	stream := b.connect(sat)
	owner := func(name string) func(*satellitev1.DesiredState) bool {
		return func(d *satellitev1.DesiredState) bool {
			return len(d.GetSubnets()) == 1 && d.GetSubnets()[0].GetDhcpSatellite() == name
		}
	}
	b.next(stream, "a1 as the owner", owner("a1"))
	lan.DhcpSatellite = "a2"
	updated, err := subnets.UpdateSubnet(b.ctx, &adminv1.UpdateSubnetRequest{Subnet: &adminv1.Subnet{Site: "a", Subnet: lan, Revision: 1}})
	if err != nil || updated.GetSubnet().GetRevision() != 2 {
		t.Fatalf("update: %v, %v", updated, err)
	}
	b.next(stream, "a2 as the owner", owner("a2"))
	if _, err := adminv1.NewSatelliteServiceClient(admin).RevokeSatellite(b.ctx, &adminv1.RevokeSatelliteRequest{Name: "a2"}); err != nil {
		t.Fatal(err)
	}
	b.next(stream, "a1 as the owner again", owner("a1"))
	if _, err := subnets.DeleteSubnet(b.ctx, &adminv1.DeleteSubnetRequest{Site: "a", Name: "lan"}); err != nil {
		t.Fatal(err)
	}
	b.next(stream, "no subnet", func(d *satellitev1.DesiredState) bool { return len(d.GetSubnets()) == 0 })
	_, err = subnets.DeleteSubnet(b.ctx, &adminv1.DeleteSubnetRequest{Site: "a", Name: "lan"})
	want(t, "delete twice", err, codes.NotFound)
}

func TestClients(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	clients := adminv1.NewClientServiceClient(admin)
	b.site(admin, "a")
	b.site(admin, "b")
	b.publish(admin, newSample(t, "lab", 10_000))
	sat := b.enrol(b.token(admin, "a"), "a1")
	stream := b.connect(sat)
	set := func(site, mac, name, boot string, revision uint64) error {
		_, err := clients.SetClient(b.ctx, &adminv1.SetClientRequest{Site: site, Config: &satellitev1.Client{Mac: mac, Name: name, Boot: boot}, Revision: revision})
		return err
	}
	const mac = "52:54:00:00:00:01"
	want(t, "no site", set("", mac, "pc1", "", 0), codes.InvalidArgument)
	want(t, "unknown site", set("x", mac, "pc1", "", 0), codes.NotFound)
	want(t, "bad MAC", set("a", "pc1", "pc1", "", 0), codes.InvalidArgument)
	want(t, "unknown version", set("a", mac, "pc1", "lab@9", 0), codes.InvalidArgument)
	want(t, "pin", set("a", mac, "pc1", "lab@1", 0), codes.OK)
	b.next(stream, "the pinned version", wants(1))
	_, err := adminv1.NewImageServiceClient(admin).DeleteVersion(b.ctx, &adminv1.DeleteVersionRequest{Image: "lab", Version: 1})
	want(t, "delete a pinned version", err, codes.FailedPrecondition)
	want(t, "taken name", set("a", "52:54:00:00:00:02", "pc1", "", 0), codes.AlreadyExists)
	want(t, "old revision", set("", mac, "pc1", "", 7), codes.Aborted)
	want(t, "site from before", set("", mac, "pc1", "", 1), codes.OK)
	want(t, "move to another site", set("b", mac, "pc1", "", 0), codes.OK)
	list, err := clients.ListClients(b.ctx, &adminv1.ListClientsRequest{})
	if err != nil || len(list.GetClients()) != 1 || list.GetClients()[0].GetSite() != "b" || list.GetClients()[0].GetRevision() != 3 {
		t.Errorf("list: %v, %v", list, err)
	}
	_, err = clients.ListClients(b.ctx, &adminv1.ListClientsRequest{Site: "nowhere"})
	want(t, "list of no site", err, codes.NotFound)
	_, err = clients.DeleteClient(b.ctx, &adminv1.DeleteClientRequest{Mac: "52:54:00:00:00:0f"})
	want(t, "delete nothing", err, codes.NotFound)
	if _, err := clients.DeleteClient(b.ctx, &adminv1.DeleteClientRequest{Mac: mac}); err != nil {
		t.Errorf("delete: %v", err)
	}
	b.next(stream, "no client", func(d *satellitev1.DesiredState) bool { return len(d.GetClients()) == 0 })
	if fmt.Sprint(list.GetClients()[0].GetConfig().GetName()) != "pc1" {
		t.Errorf("name %v", list)
	}
}
