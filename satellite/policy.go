package satellite

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspeval"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/accounts"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/bootconf"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/commands"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/events"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/policies"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/reports"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/wake"
)

// Where policies, and key and accounts of the login host, lie in the data directory.
const (
	policyDir = "policy"
	loginDir  = "login"
)

func (s *Satellite) newPolicies() (err error) {
	s.policies, err = policies.Open(policies.Config{Dir: filepath.Join(s.cfg.Local.DataDir, policyDir), Source: s.up, Changed: s.policyChanged, Problem: s.board.Set,
		Logger: s.room("policies"), Metrics: s.metrics()})
	if err != nil {
		return err
	}
	s.bootconf = bootconf.New(confSource{s.policies}, s.board.Set)
	s.accounts, err = accounts.New(accounts.Config{Dir: filepath.Join(s.cfg.Local.DataDir, loginDir), Comment: "ltsp-satellite@" + s.id.Site() + "/" + s.id.Name(), Changed: s.accountsChanged,
		Problem: s.board.Set, Logger: s.room("accounts"), Metrics: s.metrics()})
	if err != nil {
		return err
	}
	s.dispatcher, err = commands.New(commands.Config{Send: s.send, Wake: s.wake, Allowed: s.allowed, Results: s.results, Logger: s.room("commands"), Metrics: s.metrics()})
	return err
}

// policyChanged tells the running clients, and has the boot menu made anew.
func (s *Satellite) policyChanged() {
	s.reports.PolicyChanged()
	s.director.poke()
}

func (s *Satellite) accountsChanged(address string, a accounts.Accounts) {
	s.policies.SetAccounts(address, policies.Accounts(a))
	s.up.StatusChanged()
}

// clientPolicy shows the policies to the report server.
func (s *Satellite) clientPolicy(mac string, addr, local netip.Addr) (reports.Policy, error) {
	st, err := s.policies.State(mac, addr, local)
	if err != nil {
		return reports.Policy{}, err
	}
	return reports.Policy{Text: st.Text, SHA256: st.SHA256, Open: st.Open}, nil
}

// wantedPolicy is the digest of the policy that a client should have, for reports to the controller; nil if none is known.
func (s *Satellite) wantedPolicy(mac string, addr netip.Addr) []byte {
	var local netip.Addr
	if l, ok := s.director.linkOf(addr); ok {
		local = l.Address.Addr()
	}
	st, err := s.policies.State(mac, addr, local)
	if err != nil {
		return nil
	}
	digest, err := hex.DecodeString(st.SHA256)
	if err != nil {
		return nil
	}
	return digest
}

// confSource gives the configurations of the policy in force to bootconf.
type confSource struct{ *policies.Keeper }

// Confs implements bootconf.Source.
func (c confSource) Confs(room, applet string) []ltspeval.Source {
	var out []ltspeval.Source
	for _, f := range c.Keeper.Confs(room, applet) {
		out = append(out, ltspeval.Source(f))
	}
	return out
}

// send implements commands.Config.Send.
func (s *Satellite) send(ctx context.Context, mac string, c agentproto.Command) (agentproto.Result, error) {
	r, err := s.reports.Command(ctx, mac, c)
	if errors.Is(err, reports.ErrNotConnected) {
		err = fmt.Errorf("%w: %w", commands.ErrAbsent, err)
	}
	return r, err
}

// allowed implements commands.Config.Allowed. To wake a PC does nothing to what runs on it.
func (s *Satellite) allowed(kind string) bool {
	d := s.director.current()
	return d != nil && (kind == config.CommandWake || slices.Contains(d.Commands, kind))
}

// wake implements commands.Config.Wake: on the network of the client's address if that is known and here, else on all.
func (s *Satellite) wake(ctx context.Context, mac string) error {
	addr := s.addressOf(mac)
	var links []wake.Link
	for _, l := range s.director.currentLinks() {
		if !l.Address.Addr().Is4() {
			continue
		}
		w := wake.Link{Interface: l.Interface.Name, Address: l.Address}
		if addr.IsValid() && l.Subnet.CIDR.Contains(addr) {
			links = []wake.Link{w}
			break
		}
		links = append(links, w)
	}
	return wake.Send(ctx, mac, links)
}

// addressOf is a client's fixed address, else the one at which it was seen last, else the zero Addr.
func (s *Satellite) addressOf(mac string) netip.Addr {
	if d := s.director.current(); d != nil {
		for _, c := range d.Clients {
			if c.MAC == mac && c.Address.IsValid() {
				return c.Address
			}
		}
	}
	c, _ := s.registry.Get(mac)
	return c.Addr
}

// eventFeed gives what happened on clients to the controller's client.
type eventFeed struct{ *events.Queue }

// Pending implements upstream.EventSource.
func (f eventFeed) Pending() []upstream.ClientEvent {
	pending := f.Queue.Pending()
	out := make([]upstream.ClientEvent, 0, len(pending))
	for _, e := range pending {
		out = append(out, upstream.ClientEvent(e))
	}
	return out
}
