package api_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/api"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

// The whole line: site, token, enrolment, stream, publication, desired state, manifest, chunks, report, lists, promotion, rollback.
func TestFlow(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	images := adminv1.NewImageServiceClient(admin)
	b.site(admin, "a", "lab:stable")
	sat := b.enrol(b.token(admin, "a"), "a1")
	stream := b.connect(sat)
	first := b.next(stream, "no version", func(*satellitev1.DesiredState) bool { return true })
	if len(first.GetVersions()) != 0 || first.GetSite() != "a" || len(first.GetGossipKey()) != 32 || first.GetBoot().GetBoot() != "lab:stable" ||
		len(first.GetPeers()) != 1 || first.GetPeers()[0].GetName() != "a1" {
		t.Errorf("first state is %v", first)
	}

	one := newSample(t, "lab", 300_001)
	published := b.publish(admin, one, "stable", "testing")
	if v := published.GetVersion(); !published.GetCreated() || v.GetNumber() != 1 || v.GetPublisher() != "anna" || v.GetSatellitesWanted() != 1 ||
		v.GetSizeBytes() != 300_001 || !bytes.Equal(v.GetDigest(), one.draft.Digest[:]) {
		t.Errorf("published %v", published)
	}
	d := b.next(stream, "a version", func(d *satellitev1.DesiredState) bool { return len(d.GetVersions()) > 0 })
	if got := fmt.Sprint(d.GetVersions()[0].GetChannels()); got != "[stable testing]" {
		t.Errorf("channels %s", got)
	}
	checkCopy(t, b, sat, d.GetVersions()[0].GetId(), one)

	sendStatus(t, stream, d)
	b.eventually("lists show the satellite", func() string {
		i, err := images.GetImage(b.ctx, &adminv1.GetImageRequest{Name: "lab"})
		if err != nil || i.GetImage().GetVersions()[0].GetSatellitesVerified() != 1 {
			return fmt.Sprint(i, err)
		}
		s, err := adminv1.NewSatelliteServiceClient(admin).GetSatellite(b.ctx, &adminv1.GetSatelliteRequest{Name: "a1"})
		if err != nil || s.GetSatellite().GetState() != "connected" || s.GetSatellite().GetStatus().GetDiskFreeBytes() != 7 {
			return fmt.Sprint(s, err)
		}
		return ""
	})

	two := newSample(t, "lab", 200_000)
	if got := b.publish(admin, two).GetVersion().GetNumber(); got != 2 {
		t.Errorf("second version has number %d", got)
	}
	if _, err := images.SetChannel(b.ctx, &adminv1.SetChannelRequest{Image: "lab", Channel: "stable", Version: 2}); err != nil {
		t.Fatal(err)
	}
	b.next(stream, "version 2", wants(2))
	channel, err := images.RollbackChannel(b.ctx, &adminv1.RollbackChannelRequest{Image: "lab", Channel: "stable"})
	if err != nil || channel.GetChannel().GetVersion() != 1 || channel.GetChannel().GetPrevious() != 0 {
		t.Errorf("rollback: %v, %v", channel, err)
	}
	b.next(stream, "version 1", wants(1))
	_, err = images.RollbackChannel(b.ctx, &adminv1.RollbackChannelRequest{Image: "lab", Channel: "stable"})
	want(t, "rollback to nowhere", err, codes.FailedPrecondition)
	checkAudit(t, b, adminv1.NewAuditServiceClient(admin))
}

func wants(number uint64) func(*satellitev1.DesiredState) bool {
	return func(d *satellitev1.DesiredState) bool {
		return len(d.GetVersions()) == 1 && d.GetVersions()[0].GetNumber() == number
	}
}

// checkCopy does what a satellite does with a version, and compares the files with the original.
func checkCopy(t *testing.T, b *bench, sat *satellite, id []byte, s *sample) {
	t.Helper()
	resp, err := satellitev1.NewLinkServiceClient(sat).GetManifest(b.ctx, &satellitev1.GetManifestRequest{Id: id, Lists: []string{"*"}})
	if err != nil {
		t.Fatalf("get manifest: %v", err)
	}
	m, err := manifest.Open(resp.GetManifest(), sat.signing)
	if err != nil {
		t.Fatalf("open manifest: %v", err)
	}
	if got := m.ID(); !bytes.Equal(got[:], id) {
		t.Errorf("manifest has the ID %s", got)
	}
	for _, a := range m.Artifacts {
		data, err := b.fetch(sat, id, a.Chunks)
		if err != nil || !bytes.Equal(data, s.files[a.Name]) {
			t.Errorf("fetched %s: %d bytes of %d, error %v", a.Name, len(data), len(s.files[a.Name]), err)
		}
	}
}

func sendStatus(t *testing.T, stream satellitev1.LinkService_ConnectClient, d *satellitev1.DesiredState) {
	t.Helper()
	report := &satellitev1.StatusReport{Revision: d.GetRevision(), DiskFreeBytes: 7, Time: timestamppb.Now(), Addresses: []string{"192.0.2.7/24"}}
	for _, v := range d.GetVersions() {
		report.Versions = append(report.Versions, &satellitev1.VersionStatus{
			Image: v.GetImage(), Number: v.GetNumber(), Id: v.GetId(), State: satellitev1.VersionState_VERSION_STATE_VERIFIED,
		})
	}
	if err := stream.Send(&satellitev1.ConnectRequest{Message: &satellitev1.ConnectRequest_Status{Status: report}}); err != nil {
		t.Fatal(err)
	}
}

func checkAudit(t *testing.T, b *bench, audit adminv1.AuditServiceClient) {
	t.Helper()
	all, err := audit.ListAudit(b.ctx, &adminv1.ListAuditRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range all.GetEntries() {
		got = append([]string{e.GetAction() + " " + e.GetObject()}, got...)
		if len(e.GetHash()) != 32 || e.GetActor() == "" || e.GetTime().AsTime().IsZero() {
			t.Errorf("entry %v", e)
		}
	}
	wanted := "[admin anna site.create a token.create ID satellite.enrol a1 image.publish lab@1 image.publish lab@2 image.promote lab:stable image.rollback lab:stable]"
	got[2] = "token.create ID"
	if fmt.Sprint(got) != wanted {
		t.Errorf("audit log\n got %v\nwant %v", got, wanted)
	}
	first, err := audit.ListAudit(b.ctx, &adminv1.ListAuditRequest{Before: 3, Limit: 1})
	if err != nil || len(first.GetEntries()) != 1 || first.GetEntries()[0].GetSequence() != 2 {
		t.Errorf("page before 3: %v, %v", first, err)
	}
	labs, err := audit.ListAudit(b.ctx, &adminv1.ListAuditRequest{Object: "lab"})
	if err != nil || len(labs.GetEntries()) != 4 {
		t.Errorf("entries of lab: %v, %v", labs, err)
	}
}

// A satellite's peers learn its addresses from its reports.
func TestPeersLearnAddresses(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.site(admin, "a")
	one := b.enrol(b.token(admin, "a"), "a1")
	b.clock.advance(time.Second)
	two := b.enrol(b.token(admin, "a"), "a2")
	streamOne, streamTwo := b.connect(one), b.connect(two)
	d := b.next(streamOne, "both peers", func(d *satellitev1.DesiredState) bool { return len(d.GetPeers()) == 2 })
	sendStatus(t, streamOne, d)
	b.next(streamTwo, "the address of a1", func(d *satellitev1.DesiredState) bool {
		return d.GetPeers()[0].GetName() == "a1" && fmt.Sprint(d.GetPeers()[0].GetAddresses()) == "[192.0.2.7/24]"
	})
}

// Client reports arrive in the list, joined with what is configured, and survive the end of the session.
func TestClientReports(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	clients := adminv1.NewClientServiceClient(admin)
	b.site(admin, "a")
	sat := b.enrol(b.token(admin, "a"), "a1")
	stream := b.connect(sat)
	set := &adminv1.SetClientRequest{Site: "a", Config: &satellitev1.Client{Mac: "52-54-00-00-00-01", Name: "pc01"}}
	if _, err := clients.SetClient(b.ctx, set); err != nil {
		t.Fatal(err)
	}
	reports := &satellitev1.ClientReports{Reports: []*satellitev1.ClientReport{
		{Mac: "52:54:00:00:00:01", State: "healthy", Satellite: "somebody-else", Hostname: "pc01\x1b[2J", Time: timestamppb.Now()},
		{Mac: "52:54:00:00:00:02", State: "booting"},
		{Mac: "ff:ff:ff:ff:ff:ff", State: "nonsense"},
		{Mac: "rubbish"},
	}}
	if err := stream.Send(&satellitev1.ConnectRequest{Message: &satellitev1.ConnectRequest_Clients{Clients: reports}}); err != nil {
		t.Fatal(err)
	}
	b.eventually("both clients in the list", func() string {
		list, err := clients.ListClients(b.ctx, &adminv1.ListClientsRequest{Site: "a"})
		if err != nil || len(list.GetClients()) != 2 || list.GetClients()[0].GetReport().GetState() != "healthy" {
			return fmt.Sprint(list, err)
		}
		return ""
	})
	got, err := clients.GetClient(b.ctx, &adminv1.GetClientRequest{Client: "pc01"})
	if err != nil || got.GetClient().GetReport().GetSatellite() != "a1" || got.GetClient().GetReport().GetHostname() != "pc01 [2J" {
		t.Errorf("client pc01: %v, %v", got, err)
	}
	_, err = clients.GetClient(b.ctx, &adminv1.GetClientRequest{Client: "52:54:00:00:00:09"})
	want(t, "unknown client", err, codes.NotFound)
	if _, err := clients.DeleteClient(b.ctx, &adminv1.DeleteClientRequest{Mac: "52:54:00:00:00:01"}); err != nil {
		t.Fatal(err)
	}
	_, err = clients.GetClient(b.ctx, &adminv1.GetClientRequest{Client: "52:54:00:00:00:01"})
	want(t, "deleted client", err, codes.NotFound)
}
