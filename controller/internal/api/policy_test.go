package api_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/api"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

// conf is a tree with one configuration, as an archive.
func conf(t testing.TB, text string, more ...policy.File) []byte {
	t.Helper()
	tree := policy.Tree{{Path: policy.ConfName, Kind: policy.Regular, Mode: 0o600, Content: []byte(text)}}
	for _, f := range more {
		tree = tree.Put(f)
	}
	archive, err := tree.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

// bigFile makes an archive that takes several messages.
func bigFile(t *testing.T) policy.File {
	t.Helper()
	data := make([]byte, 700_000)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	return policy.File{Path: "big", Kind: policy.Regular, Mode: 0o644, Content: data}
}

func header(scope string, archive []byte) *adminv1.PolicyHeader {
	sum := policy.Sum(archive)
	return &adminv1.PolicyHeader{Scope: scope, Sha256: sum[:], SizeBytes: uint64(len(archive))}
}

func (b *bench) tryApply(admin *grpc.ClientConn, h *adminv1.PolicyHeader, archive []byte) (*adminv1.ApplyPolicyResponse, error) {
	b.t.Helper()
	stream, err := adminv1.NewPolicyServiceClient(admin).ApplyPolicy(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	send := func(m *adminv1.ApplyPolicyRequest) {
		if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) { // EOF: refused already; CloseAndRecv tells why
			b.t.Fatal(err)
		}
	}
	if h != nil {
		send(&adminv1.ApplyPolicyRequest{Message: &adminv1.ApplyPolicyRequest_Header{Header: h}})
	}
	for piece := range bytes.SplitAfterSeq(archive, []byte("\x00\x01")) { // pieces of any length will do
		send(&adminv1.ApplyPolicyRequest{Message: &adminv1.ApplyPolicyRequest_Data{Data: piece}})
	}
	return stream.CloseAndRecv()
}

func (b *bench) apply(admin *grpc.ClientConn, scope string, archive []byte) *adminv1.PolicyVersion {
	b.t.Helper()
	resp, err := b.tryApply(admin, header(scope, archive), archive)
	if err != nil || !resp.GetCreated() {
		b.t.Fatalf("apply policy of %s: %v, %v", scope, resp, err)
	}
	return resp.GetVersion()
}

// satellitePolicy fetches an archive as a satellite does.
func (b *bench) satellitePolicy(s *satellite, sum []byte) ([]byte, error) {
	stream, err := satellitev1.NewLinkServiceClient(s).GetPolicy(b.ctx, &satellitev1.GetPolicyRequest{Sha256: sum})
	if err != nil {
		return nil, err
	}
	var all []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, m.GetData()...)
	}
}

func scopes(d *satellitev1.DesiredState) string {
	s := ""
	for _, l := range d.GetPolicies() {
		s += fmt.Sprintf("%s@%d ", l.GetScope(), l.GetNumber())
	}
	return s
}

// From apply to the satellite: the site's layers, their archives and nothing of other sites.
func TestPolicyReachesTheSite(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	policies := adminv1.NewPolicyServiceClient(admin)
	b.site(admin, "a")
	b.site(admin, "b")
	sat := b.enrol(b.token(admin, "a"), "a1")
	stream := b.connect(sat)
	first := b.next(stream, "no policy", func(*satellitev1.DesiredState) bool { return true })
	if len(first.GetPolicies()) != 0 || strings.Join(first.GetCommands(), " ") != "logs message poweroff reboot wake" {
		t.Errorf("first state: policies %v, commands %v", first.GetPolicies(), first.GetCommands())
	}
	secret := conf(t, "[clients]\nPASSWORDS_X=\"a/c2VjcmV0\"\n", bigFile(t))
	b.apply(admin, "room/a/lab", conf(t, "R=1\n"))
	b.apply(admin, "site/b", conf(t, "B=1\n"))
	b.apply(admin, "site/a", conf(t, "S=1\n"))
	v := b.apply(admin, "organisation", secret)
	if v.GetNumber() != 1 || v.GetFiles() != 2 || v.GetAuthor() == "" || v.GetSizeBytes() != uint64(len(secret)) {
		t.Errorf("version %v", v)
	}
	d := b.next(stream, "three layers", func(d *satellitev1.DesiredState) bool { return len(d.GetPolicies()) == 3 })
	if got := scopes(d); got != "organisation@1 site/a@1 room/a/lab@1 " {
		t.Errorf("layers %s", got)
	}
	got, err := b.satellitePolicy(sat, d.GetPolicies()[0].GetSha256())
	if err != nil || !bytes.Equal(got, secret) {
		t.Errorf("fetched %d bytes of %d, error %v", len(got), len(secret), err)
	}
	for _, sum := range [][]byte{header("", conf(t, "B=1\n")).GetSha256(), nil, make([]byte, 32)} {
		_, err := b.satellitePolicy(sat, sum)
		want(t, "another site's policy", err, codes.PermissionDenied)
	}
	b.apply(admin, "site/a", conf(t, "S=2\n"))
	b.next(stream, "the site's second version", func(d *satellitev1.DesiredState) bool { return scopes(d) == "organisation@1 site/a@2 room/a/lab@1 " })
	if _, err := policies.UndoPolicy(b.ctx, &adminv1.UndoPolicyRequest{Scope: "site/a"}); err != nil {
		t.Fatal(err)
	}
	d = b.next(stream, "the undone version", func(d *satellitev1.DesiredState) bool { return scopes(d) == "organisation@1 site/a@3 room/a/lab@1 " })
	if !bytes.Equal(d.GetPolicies()[1].GetSha256(), header("", conf(t, "S=1\n")).GetSha256()) {
		t.Error("the undone version has another archive")
	}
	checkPolicyLists(t, b, policies)
	audit, err := adminv1.NewAuditServiceClient(admin).ListAudit(b.ctx, &adminv1.ListAuditRequest{})
	if err != nil || strings.Contains(audit.String(), "c2VjcmV0") || strings.Contains(audit.String(), "PASSWORDS") {
		t.Errorf("the audit log holds a password, error %v", err)
	}
	if b.logs.contains("c2VjcmV0") {
		t.Error("the log holds a password")
	}
}

func checkPolicyLists(t *testing.T, b *bench, policies adminv1.PolicyServiceClient) {
	t.Helper()
	list, err := policies.ListPolicies(b.ctx, &adminv1.ListPoliciesRequest{})
	var got []string
	for _, v := range list.GetPolicies() {
		got = append(got, fmt.Sprintf("%s@%d", v.GetScope(), v.GetNumber()))
	}
	if diff := cmp.Diff([]string{"organisation@1", "site/a@3", "site/b@1", "room/a/lab@1"}, got); diff != "" || err != nil {
		t.Errorf("list: error %v (-want +got):\n%s", err, diff)
	}
	versions, err := policies.ListPolicyVersions(b.ctx, &adminv1.ListPolicyVersionsRequest{Scope: "site/a"})
	if err != nil || len(versions.GetVersions()) != 3 || versions.GetVersions()[0].GetUndoOf() != 1 || versions.GetVersions()[2].GetNumber() != 1 {
		t.Errorf("history: %v, %v", versions, err)
	}
	_, err = policies.ListPolicyVersions(b.ctx, &adminv1.ListPolicyVersionsRequest{Scope: "room/a/nobody"})
	want(t, "history of nothing", err, codes.NotFound)
	_, err = policies.UndoPolicy(b.ctx, &adminv1.UndoPolicyRequest{Scope: "room/a/lab"})
	want(t, "undo of the first", err, codes.NotFound)
	old, err := readPolicy(b, policies, &adminv1.GetPolicyRequest{Scope: "site/a", Number: 2})
	if err != nil || !bytes.Equal(old, conf(t, "S=2\n")) {
		t.Errorf("version 2: %q, %v", old, err)
	}
	present, err := readPolicy(b, policies, &adminv1.GetPolicyRequest{Scope: "organisation"})
	if err != nil || len(present) < 700_000 {
		t.Errorf("present version: %d bytes, %v", len(present), err)
	}
	_, err = readPolicy(b, policies, &adminv1.GetPolicyRequest{Scope: "site/a", Number: 9})
	want(t, "a version that was never", err, codes.NotFound)
	_, err = readPolicy(b, policies, &adminv1.GetPolicyRequest{Scope: "nonsense"})
	want(t, "no scope", err, codes.InvalidArgument)
}

func readPolicy(b *bench, policies adminv1.PolicyServiceClient, req *adminv1.GetPolicyRequest) ([]byte, error) {
	stream, err := policies.GetPolicy(b.ctx, req)
	if err != nil {
		return nil, err
	}
	var all []byte
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, m.GetData()...)
	}
}

func TestApplyPolicyRefuses(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.site(admin, "a")
	good := conf(t, "A=1\n")
	b.apply(admin, "organisation", good)
	with := func(change func(*adminv1.PolicyHeader)) *adminv1.PolicyHeader {
		h := proto.Clone(header("organisation", good)).(*adminv1.PolicyHeader)
		change(h)
		return h
	}
	evil := []byte("LTSPpol\x01\x01f\x00\x09../passwd\x01x")
	for name, c := range map[string]struct {
		header  *adminv1.PolicyHeader
		archive []byte
		want    codes.Code
	}{
		"no header":        {nil, good, codes.InvalidArgument},
		"nothing":          {nil, nil, codes.InvalidArgument},
		"bad scope":        {with(func(h *adminv1.PolicyHeader) { h.Scope = "room/a" }), good, codes.InvalidArgument},
		"unknown site":     {with(func(h *adminv1.PolicyHeader) { h.Scope = "site/x" }), good, codes.NotFound},
		"too large":        {with(func(h *adminv1.PolicyHeader) { h.SizeBytes = 1 << 40 }), good, codes.InvalidArgument},
		"larger than said": {with(func(h *adminv1.PolicyHeader) { h.SizeBytes-- }), good, codes.InvalidArgument},
		"cut off":          {header("organisation", good), good[:len(good)-1], codes.InvalidArgument},
		"another digest":   {with(func(h *adminv1.PolicyHeader) { h.Sha256[0]++ }), good, codes.InvalidArgument},
		"path that leaves": {header("organisation", evil), evil, codes.InvalidArgument},
		"old version":      {with(func(h *adminv1.PolicyHeader) { h.Scope, h.BasedOn = "site/a", 4 }), good, codes.Aborted},
	} {
		_, err := b.tryApply(admin, c.header, c.archive)
		want(t, name, err, c.want)
	}
	same, err := b.tryApply(admin, header("organisation", good), good)
	if err != nil || same.GetCreated() || same.GetVersion().GetNumber() != 1 {
		t.Errorf("the same once more: %v, %v", same, err)
	}
}

// Login host, room and permission to run programs go the whole way.
func TestSiteSettingsReachTheSatellite(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.site(admin, "a")
	sites := adminv1.NewSiteServiceClient(admin)
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFvM4Dj5LKlrXJfDwVkTXJWlv9pDvnS9ZbfjBTq9YxzR"
	site := &adminv1.Site{Name: "a", AllowRun: true, LoginHost: &satellitev1.LoginHost{Address: "srv.example.org", Port: 2222, User: "reader", HostKeys: []string{key}}}
	got, err := sites.UpdateSite(b.ctx, &adminv1.UpdateSiteRequest{Site: site})
	if err != nil || !got.GetSite().GetAllowRun() || !proto.Equal(got.GetSite().GetLoginHost(), site.GetLoginHost()) {
		t.Fatalf("update: %v, %v", got, err)
	}
	_, err = adminv1.NewSubnetServiceClient(admin).CreateSubnet(b.ctx, &adminv1.CreateSubnetRequest{
		Subnet: &adminv1.Subnet{Site: "a", Subnet: &satellitev1.Subnet{Name: "lan", Cidr: "10.1.0.0/24", Room: "lab"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = adminv1.NewClientServiceClient(admin).SetClient(b.ctx, &adminv1.SetClientRequest{Site: "a", Config: &satellitev1.Client{Mac: "52:54:00:00:00:01", Room: "office"}})
	if err != nil {
		t.Fatal(err)
	}
	d := b.next(b.connect(b.enrol(b.token(admin, "a"), "a1")), "all of it", func(*satellitev1.DesiredState) bool { return true })
	if !proto.Equal(d.GetLoginHost(), site.GetLoginHost()) || d.GetSubnets()[0].GetRoom() != "lab" || d.GetClients()[0].GetRoom() != "office" {
		t.Errorf("state %v", d)
	}
	if commands := strings.Join(d.GetCommands(), " "); commands != "logs message poweroff reboot run wake" {
		t.Errorf("commands %s", commands)
	}
	site.LoginHost.HostKeys = []string{"ssh-ed25519 AAAA"}
	_, err = sites.UpdateSite(b.ctx, &adminv1.UpdateSiteRequest{Site: site})
	want(t, "a broken host key", err, codes.InvalidArgument)
}

// The policies of a deleted site go with it, those of its rooms too.
func TestDeleteSiteWithPolicies(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.site(admin, "a")
	b.site(admin, "ab")
	for _, scope := range []string{"site/a", "room/a/lab", "site/ab", "room/ab/lab"} {
		b.apply(admin, scope, conf(t, "A=1\n"))
	}
	if _, err := adminv1.NewSiteServiceClient(admin).DeleteSite(b.ctx, &adminv1.DeleteSiteRequest{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	list, err := adminv1.NewPolicyServiceClient(admin).ListPolicies(b.ctx, &adminv1.ListPoliciesRequest{})
	if err != nil || len(list.GetPolicies()) != 2 || list.GetPolicies()[0].GetScope() != "site/ab" {
		t.Errorf("list: %v, %v", list, err)
	}
	b.site(admin, "a")
	if v := b.apply(admin, "site/a", conf(t, "A=2\n")); v.GetNumber() != 1 {
		t.Errorf("a new site's first policy has number %d", v.GetNumber())
	}
}

func (b *bench) planPolicy(admin *grpc.ClientConn, scope string, archive []byte, basedOn uint64) (*adminv1.PlanPolicyResponse, error) {
	b.t.Helper()
	stream, err := adminv1.NewPolicyServiceClient(admin).PlanPolicy(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	h := header(scope, archive)
	h.BasedOn = basedOn
	for _, m := range []*adminv1.PlanPolicyRequest{
		{Message: &adminv1.PlanPolicyRequest_Header{Header: h}}, {Message: &adminv1.PlanPolicyRequest_Data{Data: archive}},
	} {
		if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
			b.t.Fatal(err)
		}
	}
	return stream.CloseAndRecv()
}

// A plan tells what applying would change for whom, and changes nothing; afterwards the client's values are explained by the same lines.
func TestPlanAndExplain(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	policies := adminv1.NewPolicyServiceClient(admin)
	b.classroom(admin, "a")
	b.apply(admin, "organisation", conf(t, "[clients]\nAUTOLOGIN=guest\n"))
	b.apply(admin, "site/a", conf(t, "[pc02]\nAUTOLOGIN=two\n", policy.File{Path: "old", Kind: policy.Regular, Mode: 0o644}))
	next := conf(t, "[pc02]\nAUTOLOGIN=zwei\n[10.1.0.*]\nRELOGIN=0\n", policy.File{Path: "new", Kind: policy.Regular, Mode: 0o644})
	plan, err := b.planPolicy(admin, "site/a", next, 1)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range plan.GetClients() {
		for _, change := range c.GetChanges() {
			before := "-"
			if change.Before != nil {
				before = change.GetBefore()
			}
			got = append(got, fmt.Sprintf("%s/%s/%s %s=%s>%s", c.GetSite(), c.GetRoom(), c.GetName(), change.GetVariable(), before, change.GetAfter()))
		}
	}
	wanted := []string{"a/lab/pc01 RELOGIN=->0", "a/lab/pc02 AUTOLOGIN=two>zwei", "a/lab/pc02 RELOGIN=->0"}
	if diff := cmp.Diff(wanted, got); diff != "" || plan.GetClientsTotal() != 4 || plan.GetClientsChanged() != 2 {
		t.Errorf("plan %v (-want +got):\n%s", plan, diff)
	}
	if diff := cmp.Diff([]string{"~ltsp.conf", "+new", "-old"}, plan.GetFiles()); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	_, err = b.planPolicy(admin, "site/a", next, 7)
	want(t, "from another version", err, codes.Aborted)
	_, err = b.planPolicy(admin, "site/x", next, 0)
	want(t, "unknown site", err, codes.NotFound)
	explained, err := policies.ExplainClient(b.ctx, &adminv1.ExplainClientRequest{Client: "pc02", Variables: []string{"AUTOLOGIN"}})
	if err != nil || len(explained.GetValues()) != 1 {
		t.Fatalf("explain: %v, %v", explained, err)
	}
	value := explained.GetValues()[0]
	if explained.GetRoom() != "lab" || explained.GetAddress() != "10.1.0.12" || value.GetValue() != "two" || len(value.GetAssignments()) != 2 ||
		value.GetAssignments()[0].GetScope() != "site/a" || value.GetAssignments()[0].GetLine() != 2 || value.GetAssignments()[0].GetSection() != "pc02" ||
		value.GetAssignments()[1].GetScope() != "organisation" {
		t.Errorf("explained %v", explained)
	}
	_, err = policies.ExplainClient(b.ctx, &adminv1.ExplainClientRequest{Client: "pc77"})
	want(t, "unknown client", err, codes.NotFound)
	_, err = policies.ExplainClient(b.ctx, &adminv1.ExplainClientRequest{Client: "pc02", Applet: "ipxe"})
	want(t, "unknown applet", err, codes.InvalidArgument)
}

// A configuration that does not parse is refused and says where; a plan of it says so too.
func TestSyntaxErrorsAreRefused(t *testing.T) {
	b := start(t, api.Limits{})
	admin := b.admin("anna")
	b.classroom(admin, "a")
	broken := conf(t, "[clients]\nif true\n")
	_, err := b.tryApply(admin, header("room/a/lab", broken), broken)
	want(t, "apply", err, codes.InvalidArgument)
	if err == nil || !strings.Contains(err.Error(), "room/a/lab/ltsp.conf") {
		t.Errorf("error %v", err)
	}
	plan, err := b.planPolicy(admin, "room/a/lab", broken, 0)
	if err != nil || len(plan.GetFindings()) == 0 || plan.GetFindings()[0].GetSeverity() != "error" || len(plan.GetClients()) != 2 || plan.GetClients()[0].GetError() == "" {
		t.Errorf("plan %v, %v", plan, err)
	}
	list, err := adminv1.NewPolicyServiceClient(admin).ListPolicies(b.ctx, &adminv1.ListPoliciesRequest{})
	if err != nil || len(list.GetPolicies()) != 0 {
		t.Errorf("policies %v, %v", list, err)
	}
}

// BenchmarkPlanPolicy plans a change for 1,000 clients over TLS: what an admin waits for.
func BenchmarkPlanPolicy(b *testing.B) {
	bench := start(b, api.Limits{})
	admin := bench.admin("anna")
	bench.site(admin, "a")
	err := bench.store.Update(bench.ctx, &store.Change{Actor: "test", Action: "client.set", Object: "all"}, func(tx *store.Tx) error {
		for n := range 1000 {
			c := fleet.Client{Site: "a", MAC: fleet.MAC(fmt.Sprintf("52:54:00:00:%02x:%02x", n>>8, n&255)), Name: fmt.Sprintf("pc%04d", n)}
			if err := tx.PutClient(c); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	var text strings.Builder
	for n := range 1000 {
		fmt.Fprintf(&text, "[pc%04d]\nAUTOLOGIN=user%d\n", n, n)
	}
	archive := conf(b, text.String())
	for b.Loop() {
		plan, err := bench.planPolicy(admin, "site/a", archive, 0)
		if err != nil || plan.GetClientsChanged() != 1000 || len(plan.GetClients()) != 1000 {
			b.Fatal(plan.GetClientsChanged(), err)
		}
	}
}
