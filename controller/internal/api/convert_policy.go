package api

import (
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	adminv1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/admin/v1"
	satellitev1 "github.com/ltsp-fleet/ltsp-fleet/proto/ltsp/satellite/v1"
)

func loginHostToProto(l fleet.LoginHost) *satellitev1.LoginHost {
	if l.Address == "" {
		return nil
	}
	return &satellitev1.LoginHost{Address: l.Address, Port: l.Port, User: l.User, HostKeys: l.HostKeys}
}

func loginHostFromProto(p *satellitev1.LoginHost) fleet.LoginHost {
	return fleet.LoginHost{Address: p.GetAddress(), Port: p.GetPort(), User: p.GetUser(), HostKeys: p.GetHostKeys()}
}

func layersToProto(layers []fleet.PolicyLayer) []*satellitev1.PolicyLayer {
	var list []*satellitev1.PolicyLayer
	for _, l := range layers {
		list = append(list, &satellitev1.PolicyLayer{Scope: l.Scope, Number: l.Number, Sha256: l.SHA256[:], SizeBytes: l.SizeBytes})
	}
	return list
}

func policyVersionToProto(v fleet.PolicyVersion) *adminv1.PolicyVersion {
	return &adminv1.PolicyVersion{
		Scope: v.Scope, Number: v.Number, Sha256: v.SHA256[:], SizeBytes: v.SizeBytes, Files: v.Files, Created: stamp(v.Created),
		Author: v.Author, Note: v.Note, UndoOf: v.UndoOf,
	}
}

func commandsToProto(kinds []fleet.CommandKind) []string {
	var list []string
	for _, k := range kinds {
		list = append(list, string(k))
	}
	return list
}

func commandToProto(c fleet.Command) *satellitev1.ClientCommand {
	return &satellitev1.ClientCommand{Id: c.ID, Mac: string(c.MAC), Kind: string(c.Kind), Args: c.Args, Text: c.Text, Timeout: span(c.Timeout)}
}

func resultFromProto(p *satellitev1.ClientResult) fleet.CommandResult {
	return fleet.CommandResult{
		ID: p.GetId(), MAC: fleet.MAC(p.GetMac()), Error: p.GetError(), Output: p.GetOutput(), Exit: p.GetExit(), NotHere: p.GetNotHere(),
	}
}

func eventsFromProto(p *satellitev1.ClientEvents) []fleet.ClientEvent {
	var list []fleet.ClientEvent
	for _, e := range p.GetEvents() {
		list = append(list, fleet.ClientEvent{MAC: fleet.MAC(e.GetMac()), Time: moment(e.GetTime()), Kind: e.GetKind(), Text: e.GetText()})
	}
	return list
}

// hashOf reads a hash; what is none counts as not set.
func hashOf(raw []byte) fleet.Hash {
	var h fleet.Hash
	if len(raw) == len(h) {
		h = fleet.Hash(raw)
	}
	return h
}

// policyReportFromProto reads what a client told of its policy and its users.
func policyReportFromProto(p *satellitev1.ClientReport, c *fleet.ClientReport) {
	c.PolicyState, c.PolicyWanted = hashOf(p.GetPolicyState()), hashOf(p.GetPolicyWanted())
	c.PolicyPending, c.PolicyErrors, c.PolicyTook = p.GetPolicyPending(), p.GetPolicyErrors(), duration(p.GetPolicyTook())
	for _, s := range p.GetSessions() {
		c.Sessions = append(c.Sessions, fleet.ClientSession{
			Kind: s.GetKind(), User: s.GetUser(), App: s.GetApp(), Host: s.GetHost(), Since: moment(s.GetSince()),
		})
	}
}

func policyReportToProto(c *fleet.ClientReport, p *satellitev1.ClientReport) {
	p.PolicyState, p.PolicyWanted = hashBytes(c.PolicyState), hashBytes(c.PolicyWanted)
	p.PolicyPending, p.PolicyErrors, p.PolicyTook = c.PolicyPending, c.PolicyErrors, span(c.PolicyTook)
	for _, s := range c.Sessions {
		p.Sessions = append(p.Sessions, &satellitev1.ClientSession{Kind: s.Kind, User: s.User, App: s.App, Host: s.Host, Since: stamp(s.Since)})
	}
}

func loginStatusFromProto(p *satellitev1.LoginHostStatus) *fleet.LoginHostStatus {
	if p == nil {
		return nil
	}
	return &fleet.LoginHostStatus{
		PublicKey: p.GetPublicKey(), State: p.GetState(), Error: p.GetError(), Updated: moment(p.GetUpdated()), Users: p.GetUsers(),
	}
}

func loginStatusToProto(l *fleet.LoginHostStatus) *satellitev1.LoginHostStatus {
	if l == nil {
		return nil
	}
	return &satellitev1.LoginHostStatus{PublicKey: l.PublicKey, State: l.State, Error: l.Error, Updated: stamp(l.Updated), Users: l.Users}
}

func eventToProto(e fleet.ClientEvent, name string) *adminv1.ClientEvent {
	return &adminv1.ClientEvent{Site: e.Site, Mac: string(e.MAC), Name: name, Time: stamp(e.Time), Kind: e.Kind, Text: e.Text}
}
