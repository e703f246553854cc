package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/api"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

// obey answers each command on a satellite's stream, until the bench ends.
func (b *bench) obey(stream satellitev1.LinkService_ConnectClient, says func(*satellitev1.ClientCommand) *satellitev1.ClientResult) {
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		c := m.GetCommand()
		if c == nil {
			continue
		}
		result := says(c)
		result.Id, result.Mac = c.GetId(), c.GetMac()
		if stream.Send(&satellitev1.ConnectRequest{Message: &satellitev1.ConnectRequest_Result{Result: result}}) != nil {
			return
		}
	}
}

func (b *bench) command(admin *grpc.ClientConn, req *adminv1.CommandClientsRequest) (map[string]*adminv1.CommandClientsResponse, error) {
	stream, err := adminv1.NewClientServiceClient(admin).CommandClients(b.ctx, req)
	if err != nil {
		return nil, err
	}
	answers := make(map[string]*adminv1.CommandClientsResponse)
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return answers, nil
		}
		if err != nil {
			return answers, err
		}
		if answers[m.GetMac()] != nil {
			b.t.Errorf("%s has two answers", m.GetMac())
		}
		answers[m.GetMac()] = m
	}
}

// classroom is a site with a subnet that is a room, and clients in it and elsewhere.
func (b *bench) classroom(admin *grpc.ClientConn, site string) {
	b.t.Helper()
	b.site(admin, site)
	_, err := adminv1.NewSubnetServiceClient(admin).CreateSubnet(b.ctx, &adminv1.CreateSubnetRequest{
		Subnet: &adminv1.Subnet{Site: site, Subnet: &satellitev1.Subnet{Name: "lan", Cidr: "10.1.0.0/24", RangeStart: "10.1.0.50", RangeEnd: "10.1.0.99", Room: "lab"}},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range []*satellitev1.Client{
		{Mac: "52:54:00:00:00:01", Name: "pc01", Address: "10.1.0.11"}, {Mac: "52:54:00:00:00:02", Name: "pc02", Address: "10.1.0.12"},
		{Mac: "52:54:00:00:00:03", Name: "pc03", Room: "office"}, {Mac: "52:54:00:00:00:04", Name: "pc04"},
	} {
		if _, err := adminv1.NewClientServiceClient(admin).SetClient(b.ctx, &adminv1.SetClientRequest{Site: site, Config: c}); err != nil {
			b.t.Fatal(err)
		}
	}
}

func TestCommandClients(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.classroom(admin, "a")
	var mu sync.Mutex
	var heard []string
	for _, name := range []string{"a1", "a2"} {
		go b.obey(b.connect(b.enrol(b.token(admin, "a"), name)), func(c *satellitev1.ClientCommand) *satellitev1.ClientResult {
			mu.Lock()
			defer mu.Unlock()
			heard = append(heard, name+" "+c.GetMac()[15:]+" "+c.GetKind()+" "+c.GetText()+c.GetTimeout().AsDuration().String())
			if c.GetMac()[16:] == "4" || name == "a2" {
				return &satellitev1.ClientResult{NotHere: true}
			}
			return &satellitev1.ClientResult{Output: "ok"}
		})
	}
	b.eventually("both satellites", func() string {
		list, err := adminv1.NewSatelliteServiceClient(admin).ListSatellites(b.ctx, &adminv1.ListSatellitesRequest{})
		for _, s := range list.GetSatellites() {
			if s.GetState() != "connected" {
				return s.GetName()
			}
		}
		if err != nil {
			return err.Error()
		}
		return ""
	})
	got, err := b.command(admin, &adminv1.CommandClientsRequest{Site: "a", Kind: "message", Text: "Lunch!"})
	if err != nil || len(got) != 4 || got["52:54:00:00:00:01"].GetOutput() != "ok" || got["52:54:00:00:00:02"].GetName() != "pc02" ||
		got["52:54:00:00:00:04"].GetError() != "no satellite has a connection to the client" {
		t.Errorf("the whole site: %v, %v", got, err)
	}
	mu.Lock()
	if len(heard) != 8 || !slices.Contains(heard, "a2 01 message Lunch!30s") {
		t.Errorf("heard %q", heard)
	}
	mu.Unlock()
	got, err = b.command(admin, &adminv1.CommandClientsRequest{Site: "a", Room: "lab", Kind: "reboot", Timeout: durationpb.New(time.Minute)})
	if err != nil || len(got) != 2 || got["52:54:00:00:00:01"] == nil || got["52:54:00:00:00:02"] == nil {
		t.Errorf("the room: %v, %v", got, err)
	}
	got, err = b.command(admin, &adminv1.CommandClientsRequest{Clients: []string{"pc03", "52:54:00:00:00:03"}, Kind: "logs", Args: []string{"ssh.service"}})
	if err != nil || len(got) != 1 || got["52:54:00:00:00:03"].GetName() != "pc03" {
		t.Errorf("one by two names: %v, %v", got, err)
	}
	checkCommandAudit(t, b, admin)
}

func checkCommandAudit(t *testing.T, b *bench, admin *grpc.ClientConn) {
	t.Helper()
	list, err := adminv1.NewAuditServiceClient(admin).ListAudit(b.ctx, &adminv1.ListAuditRequest{Limit: 3})
	if err != nil {
		t.Fatal(err)
	}
	var after struct {
		Message struct {
			Text    string   `json:"text"`
			Total   int      `json:"clients_total"`
			Clients []string `json:"clients"`
		} `json:"command/message"`
	}
	entries := list.GetEntries()
	if entries[1].GetAction() != "client.reboot" || entries[1].GetObject() != "a/lab" || entries[2].GetAction() != "client.message" || entries[2].GetObject() != "a" {
		t.Fatalf("entries %v", entries)
	}
	if err := json.Unmarshal([]byte(entries[2].GetAfter()), &after); err != nil || after.Message.Text != "Lunch!" || after.Message.Total != 4 || len(after.Message.Clients) != 4 {
		t.Errorf("entry %s, %v", entries[2].GetAfter(), err)
	}
}

func TestCommandClientsRefuses(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.classroom(admin, "a")
	for name, c := range map[string]struct {
		req  *adminv1.CommandClientsRequest
		want codes.Code
	}{
		"nobody":          {&adminv1.CommandClientsRequest{Kind: "reboot"}, codes.InvalidArgument},
		"room of no site": {&adminv1.CommandClientsRequest{Kind: "reboot", Room: "lab"}, codes.InvalidArgument},
		"unknown site":    {&adminv1.CommandClientsRequest{Kind: "reboot", Site: "x"}, codes.NotFound},
		"empty room":      {&adminv1.CommandClientsRequest{Kind: "reboot", Site: "a", Room: "x"}, codes.NotFound},
		"unknown client":  {&adminv1.CommandClientsRequest{Kind: "reboot", Clients: []string{"pc01", "pc99"}}, codes.NotFound},
		"unknown kind":    {&adminv1.CommandClientsRequest{Kind: "explode", Site: "a"}, codes.InvalidArgument},
		"run":             {&adminv1.CommandClientsRequest{Kind: "run", Site: "a", Args: []string{"id"}}, codes.PermissionDenied},
		"no text":         {&adminv1.CommandClientsRequest{Kind: "message", Site: "a"}, codes.InvalidArgument},
		"long timeout":    {&adminv1.CommandClientsRequest{Kind: "reboot", Site: "a", Timeout: durationpb.New(time.Hour)}, codes.InvalidArgument},
	} {
		_, err := b.command(admin, c.req)
		want(t, name, err, c.want)
	}
	list, err := adminv1.NewAuditServiceClient(admin).ListAudit(b.ctx, &adminv1.ListAuditRequest{Limit: 1})
	if err != nil || strings.HasPrefix(list.GetEntries()[0].GetAction(), "client.re") {
		t.Errorf("what was refused is in the audit log: %v, %v", list, err)
	}
	got, err := b.command(admin, &adminv1.CommandClientsRequest{Clients: []string{"pc01"}, Kind: "wake"})
	if err != nil || got["52:54:00:00:00:01"].GetError() != "no satellite of the site is connected" {
		t.Errorf("without a satellite: %v, %v", got, err)
	}
	_, err = adminv1.NewSiteServiceClient(admin).UpdateSite(b.ctx, &adminv1.UpdateSiteRequest{Site: &adminv1.Site{Name: "a", AllowRun: true}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.command(admin, &adminv1.CommandClientsRequest{Kind: "run", Clients: []string{"pc01"}, Args: []string{"id"}}); err != nil {
		t.Errorf("run where it is allowed: %v", err)
	}
}

func TestClientEvents(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	clients := adminv1.NewClientServiceClient(admin)
	b.classroom(admin, "a")
	stream := b.connect(b.enrol(b.token(admin, "a"), "a1"))
	at := timestamppb.New(b.clock.now().Add(-time.Minute))
	events := &satellitev1.ClientEvents{Events: []*satellitev1.ClientEvent{
		{Mac: "52:54:00:00:00:01", Time: at, Kind: "login-host", Text: "srv does not answer"},
		{Mac: "52:54:00:00:00:02", Time: timestamppb.New(b.clock.now()), Kind: "policy", Text: "hook failed"},
		{Mac: "52:54:00:00:00:77", Kind: "policy"},
	}}
	if err := stream.Send(&satellitev1.ConnectRequest{Message: &satellitev1.ConnectRequest_Events{Events: events}}); err != nil {
		t.Fatal(err)
	}
	list := func(req *adminv1.ListClientEventsRequest) []*adminv1.ClientEvent {
		t.Helper()
		r, err := clients.ListClientEvents(b.ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		return r.GetEvents()
	}
	b.eventually("three events", func() string {
		if got := list(&adminv1.ListClientEventsRequest{}); len(got) != 3 || got[2].GetName() != "pc01" || got[2].GetText() != "srv does not answer" || got[2].GetSite() != "a" {
			return fmt.Sprint(got)
		}
		return ""
	})
	if got := list(&adminv1.ListClientEventsRequest{Client: "pc02", Site: "a"}); len(got) != 1 || got[0].GetKind() != "policy" {
		t.Errorf("of one client: %v", got)
	}
	if got := list(&adminv1.ListClientEventsRequest{Client: "52:54:00:00:00:77"}); len(got) != 1 {
		t.Errorf("of a client that nobody knows: %v", got)
	}
	if got := list(&adminv1.ListClientEventsRequest{Limit: 2}); len(got) != 2 {
		t.Errorf("at most two: %v", got)
	}
	_, err := clients.ListClientEvents(b.ctx, &adminv1.ListClientEventsRequest{Limit: 5000})
	want(t, "too many", err, codes.InvalidArgument)
	_, err = clients.ListClientEvents(b.ctx, &adminv1.ListClientEventsRequest{Site: "x"})
	want(t, "unknown site", err, codes.NotFound)
	_, err = clients.ListClientEvents(b.ctx, &adminv1.ListClientEventsRequest{Client: "pc99"})
	want(t, "unknown client", err, codes.NotFound)
}

// What clients and satellites tell of policies, users and the login host arrives in the lists.
func TestPolicyReports(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.classroom(admin, "a")
	stream := b.connect(b.enrol(b.token(admin, "a"), "a1"))
	sum := make([]byte, 32)
	sum[0] = 1
	report := &satellitev1.ClientReport{
		Mac: "52:54:00:00:00:01", State: "healthy", PolicyState: sum, PolicyWanted: sum, PolicyPending: []string{"FSTAB_X"}, PolicyErrors: []string{"hook"},
		PolicyTook: durationpb.New(time.Second), Sessions: []*satellitev1.ClientSession{{Kind: "remoteapp", User: "ada", App: "xeyes", Host: "srv", Since: timestamppb.New(b.clock.now())}},
	}
	status := &satellitev1.StatusReport{LoginHost: &satellitev1.LoginHostStatus{PublicKey: "ssh-ed25519 AAAA", State: "denied", Error: "no", Users: 7}}
	for _, m := range []*satellitev1.ConnectRequest{
		{Message: &satellitev1.ConnectRequest_Clients{Clients: &satellitev1.ClientReports{Reports: []*satellitev1.ClientReport{report}}}},
		{Message: &satellitev1.ConnectRequest_Status{Status: status}},
	} {
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
	}
	b.eventually("the reports", func() string {
		c, err := adminv1.NewClientServiceClient(admin).GetClient(b.ctx, &adminv1.GetClientRequest{Client: "pc01"})
		r := c.GetClient().GetReport()
		if err != nil || len(r.GetPolicyState()) != 32 || len(r.GetPolicyWanted()) != 32 || fmt.Sprint(r.GetPolicyPending(), r.GetPolicyErrors()) != "[FSTAB_X] [hook]" ||
			r.GetPolicyTook().AsDuration() != time.Second || len(r.GetSessions()) != 1 || r.GetSessions()[0].GetApp() != "xeyes" {
			return fmt.Sprint(c, err)
		}
		s, err := adminv1.NewSatelliteServiceClient(admin).GetSatellite(b.ctx, &adminv1.GetSatelliteRequest{Name: "a1"})
		if l := s.GetSatellite().GetStatus().GetLoginHost(); err != nil || l.GetState() != "denied" || l.GetUsers() != 7 || l.GetPublicKey() != "ssh-ed25519 AAAA" {
			return fmt.Sprint(s, err)
		}
		return ""
	})
}
