package api

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/policyview"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspeval"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltsplint"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
)

// planTimeout bounds the evaluation of a plan.
const planTimeout = 2 * time.Minute

// confCache keeps the configurations of archives, which are small where archives may be large.
type confCache struct {
	mu    sync.Mutex
	confs map[fleet.Hash][]policyview.Conf
	bytes int
}

// maxConfCache bounds the texts that a confCache holds, in bytes.
const maxConfCache = 64 << 20

func (c *confCache) get(sum fleet.Hash) ([]policyview.Conf, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	confs, ok := c.confs[sum]
	return confs, ok
}

func (c *confCache) put(sum fleet.Hash, confs []policyview.Conf) {
	c.mu.Lock()
	defer c.mu.Unlock()
	size := 256
	for _, conf := range confs {
		size += len(conf.Text)
	}
	if c.confs == nil || c.bytes+size > maxConfCache {
		c.confs, c.bytes = make(map[fleet.Hash][]policyview.Conf), 0
	}
	c.confs[sum] = confs
	c.bytes += size
}

// levels reads what the versions say, which are of different levels.
func (s *Server) levels(versions []fleet.PolicyVersion) (policyview.Levels, error) {
	var levels policyview.Levels
	for _, v := range fleet.SortPolicies(versions) {
		scope, err := fleet.ParseScope(v.Scope)
		if err != nil {
			return nil, err
		}
		confs, ok := s.confs.get(v.SHA256)
		if !ok {
			tree, err := s.tree(v.SHA256)
			if err != nil {
				return nil, err
			}
			confs = policyview.Confs(tree)
			s.confs.put(v.SHA256, confs)
		}
		levels = append(levels, policyview.Level{Scope: scope, Confs: confs})
	}
	return levels, nil
}

// tree reads an archive that a version named a moment ago.
func (s *Server) tree(sum fleet.Hash) (policy.Tree, error) {
	archive, err := s.cfg.Policies.Read(sum)
	if errors.Is(err, fleet.ErrNotFound) {
		return nil, fleet.Errorf(fleet.ErrStale, "the policy was changed meanwhile; try again")
	}
	if err != nil {
		return nil, err
	}
	return policy.Decode(archive)
}

// viewClients makes of clients what evaluation wants to know of them.
func viewClients(tx *store.Tx, list []seenClient) ([]policyview.Client, error) {
	sites := make(map[string]fleet.Site)
	subnets := make(map[string][]fleet.Subnet)
	var out []policyview.Client
	for _, c := range list {
		site, ok := sites[c.site]
		if !ok {
			var err error
			if site, err = tx.Sites().Get(c.site); errors.Is(err, fleet.ErrNotFound) {
				continue // it was deleted a moment ago
			} else if err != nil {
				return nil, err
			}
			sites[c.site] = site
			if subnets[c.site], err = tx.SubnetsOf(c.site); err != nil {
				return nil, err
			}
		}
		out = append(out, viewClient(c, site, subnets[c.site]))
	}
	return out, nil
}

func viewClient(c seenClient, site fleet.Site, subnets []fleet.Subnet) policyview.Client {
	v := policyview.Client{
		MAC: c.mac, Name: c.name(), Site: c.site, Room: c.room(subnets), Address: addrText(c.address()), KernelParameters: site.Boot.KernelParameters,
	}
	if v.ServerIsLocal = site.LoginHost.Address == fleet.LocalLoginHost; !v.ServerIsLocal {
		v.Server = site.LoginHost.Address
	}
	if c.config != nil {
		v.Hostname = c.config.Name
		v.KernelParameters += " " + c.config.KernelParameters
	}
	if c.report != nil {
		v.TakeReported(c.report.Hostname)
	}
	return v
}

// planInput is all that a plan is made of.
type planInput struct {
	versions []fleet.PolicyVersion
	clients  []policyview.Client
	present  fleet.PolicyVersion // of the level; Number is 0 if there is none
}

func (s *Server) planInput(ctx context.Context, scope fleet.Scope) (in planInput, err error) {
	err = s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		if err := siteIfAny(tx, scope.Site); err != nil {
			return err
		}
		if scope.Site == "" {
			in.versions, err = tx.Policies().List("")
		} else {
			in.versions, err = tx.PoliciesOf(scope.Site)
		}
		if err != nil {
			return err
		}
		if in.present, _, err = tx.Policies().Find(scope.String()); err != nil {
			return err
		}
		list, err := s.clients(tx, scope.Site)
		if err != nil {
			return err
		}
		in.clients, err = viewClients(tx, list)
		return err
	})
	return in, err
}

// PlanPolicy implements the service.
func (s *policyService) PlanPolicy(stream grpc.ClientStreamingServer[adminv1.PlanPolicyRequest, adminv1.PlanPolicyResponse]) error {
	leave, err := s.enterPolicy()
	if err != nil {
		return err
	}
	defer leave()
	u, err := receive(stream.Recv)
	if err != nil {
		return err
	}
	ctx, cancel := s.onClosing(stream.Context())
	defer cancel()
	ctx, done := context.WithTimeout(ctx, planTimeout)
	defer done()
	in, err := s.planInput(ctx, u.scope)
	if err != nil {
		return err
	}
	if based := u.header.GetBasedOn(); based != 0 && based != in.present.Number {
		return fleet.Errorf(fleet.ErrStale, "the policy of %s has version %d by now, not %d; read it again", u.scope, in.present.Number, based)
	}
	before, err := s.levels(in.versions)
	if err != nil {
		return err
	}
	var old policy.Tree
	if in.present.Number != 0 {
		if old, err = s.tree(in.present.SHA256); err != nil {
			return err
		}
	}
	after := before.With(policyview.Level{Scope: u.scope, Confs: policyview.Confs(u.tree)})
	resp := &adminv1.PlanPolicyResponse{Files: policyview.Files(old, u.tree), Findings: findingsToProto(policyview.Lint(after, u.scope))}
	start := time.Now()
	plan, err := policyview.MakePlan(ctx, u.scope, before, after, in.clients)
	if err != nil {
		return err
	}
	resp.Evaluation = durationpb.New(time.Since(start))
	planToMessage(plan, resp)
	return stream.SendAndClose(resp)
}

// lint looks for errors in a level's next version, and for traps.
func (s *Server) lint(ctx context.Context, u *upload) ([]ltsplint.Finding, error) {
	var versions []fleet.PolicyVersion
	err := s.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		versions, err = tx.PoliciesOf(u.scope.Site)
		return err
	})
	if err != nil {
		return nil, err
	}
	levels, err := s.levels(versions)
	if err != nil {
		return nil, err
	}
	findings := policyview.Lint(levels.With(policyview.Level{Scope: u.scope, Confs: policyview.Confs(u.tree)}), u.scope)
	return findings, policyview.Refusal(findings)
}

// ExplainClient implements the service.
func (s *policyService) ExplainClient(ctx context.Context, req *adminv1.ExplainClientRequest) (*adminv1.ExplainClientResponse, error) {
	applet := req.GetApplet()
	switch applet {
	case "":
		applet = policyview.Init
	case policyview.Init, policyview.InitrdBottom:
	default:
		return nil, fleet.Errorf(fleet.ErrInvalid, "applet %q: want init or initrd-bottom", applet)
	}
	leave, err := s.enterPolicy()
	if err != nil {
		return nil, err
	}
	defer leave()
	var client policyview.Client
	var versions []fleet.PolicyVersion
	err = s.cfg.Store.View(ctx, func(tx *store.Tx) error {
		list, err := s.clients(tx, "")
		if err != nil {
			return err
		}
		c, err := pick(list, req.GetClient())
		if err != nil {
			return err
		}
		views, err := viewClients(tx, []seenClient{c})
		if err != nil {
			return err
		}
		if len(views) == 0 {
			return fleet.Errorf(fleet.ErrNotFound, "site %s of client %s does not exist any more", c.site, c.mac)
		}
		client = views[0]
		versions, err = tx.PoliciesOf(client.Site)
		return err
	})
	if err != nil {
		return nil, err
	}
	levels, err := s.levels(versions)
	if err != nil {
		return nil, err
	}
	e, err := policyview.Explain(ctx, levels, client, applet, req.GetVariables())
	if err != nil {
		return nil, err
	}
	return explanationToProto(client, e), nil
}

func findingsToProto(findings []ltsplint.Finding) []*adminv1.LintFinding {
	var list []*adminv1.LintFinding
	for _, f := range findings {
		list = append(list, &adminv1.LintFinding{
			Scope: f.Scope, File: f.File, Line: uint32(max(f.Line, 0)), Severity: f.Severity, Rule: f.Rule, Text: valid(f.Text), Remedy: valid(f.Remedy),
		})
	}
	return list
}

func planToMessage(plan *policyview.Plan, resp *adminv1.PlanPolicyResponse) {
	resp.ClientsTotal, resp.ClientsChanged = uint32(plan.Total), uint32(plan.Changed)
	for i, f := range resp.Files {
		resp.Files[i] = valid(f)
	}
	for _, c := range plan.Clients {
		p := &adminv1.ClientPlan{Mac: string(c.Client.MAC), Name: c.Client.Name, Site: c.Client.Site, Room: c.Client.Room, Error: valid(c.Error)}
		for _, change := range c.Changes {
			p.Changes = append(p.Changes, &adminv1.ValueChange{Variable: change.Variable, Before: change.Before, After: change.After, Effect: change.Effect})
		}
		resp.Clients = append(resp.Clients, p)
	}
}

func explanationToProto(c policyview.Client, e *policyview.Explanation) *adminv1.ExplainClientResponse {
	resp := &adminv1.ExplainClientResponse{Mac: string(c.MAC), Name: c.Name, Site: c.Site, Room: c.Room, Address: c.Address, Hostname: c.Hostname}
	for _, r := range e.Remarks {
		resp.Remarks = append(resp.Remarks, valid(r))
	}
	for _, v := range e.Values {
		p := &adminv1.ExplainedValue{Variable: v.Name, Value: valid(v.Value), Inexact: v.Inexact}
		for _, a := range v.Assignments {
			p.Assignments = append(p.Assignments, assignmentToProto(a))
		}
		resp.Values = append(resp.Values, p)
	}
	return resp
}

func assignmentToProto(a ltspeval.Assignment) *adminv1.Assignment {
	section := a.Section
	if section == ltspconf.Unnamed {
		section = ""
	}
	return &adminv1.Assignment{Scope: a.Scope, File: a.File, Line: uint32(max(a.Line, 0)), Section: section, Value: valid(a.Value)}
}

// valid makes a text one that a message can hold: configurations are bytes.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
