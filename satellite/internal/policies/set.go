package policies

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// set is what is in force as a whole. It never changes. It is stored as JSON: renaming a field is a migration.
type set struct {
	Revision uint64               `json:"revision"`
	Site     string               `json:"site"`
	Layers   []config.PolicyLayer `json:"layers"`
	Rooms    map[string]string    `json:"rooms"` // of clients that have one of their own, by MAC
	Subnets  []subnetRoom         `json:"subnets"`
}

type subnetRoom struct {
	CIDR netip.Prefix `json:"cidr"`
	Room string       `json:"room"`
}

func newSet(d *config.Desired) *set {
	s := &set{Revision: d.Revision, Site: d.Site, Layers: d.Policies, Rooms: make(map[string]string)}
	for _, c := range d.Clients {
		if c.Room != "" {
			s.Rooms[c.MAC] = c.Room
		}
	}
	for _, n := range d.Subnets {
		if n.Room != "" {
			s.Subnets = append(s.Subnets, subnetRoom{n.CIDR, n.Room})
		}
	}
	return s
}

// parseSet reads a stored set. What upstream would not take for a policy is an error: a set without a level is in force, too, and takes all policy from clients.
func parseSet(text []byte) (*set, error) {
	s := new(set)
	if err := json.Unmarshal(text, s); err != nil {
		return nil, err
	}
	if s.Site == "" {
		return nil, errors.New("the set names no site")
	}
	seen := make(map[string]bool)
	for _, l := range s.Layers {
		if err := agentproto.CheckScope(l.Scope); err != nil {
			return nil, err
		}
		if seen[l.Scope] || l.Number == 0 || l.Size <= 0 || l.Size > agentproto.MaxBlob {
			return nil, fmt.Errorf("%s is named twice, or is version %d of %d bytes", l.Scope, l.Number, l.Size)
		}
		seen[l.Scope] = true
	}
	return s, nil
}

// same tells whether both sets mean the same for every client.
func (s *set) same(o *set) bool {
	return s != nil && o != nil && s.Site == o.Site && slices.Equal(s.Layers, o.Layers) && maps.Equal(s.Rooms, o.Rooms) && slices.Equal(s.Subnets, o.Subnets)
}

// room returns the room of a client: its own, else its subnet's, else none.
func (s *set) room(mac string, addr netip.Addr) string {
	if r := s.Rooms[mac]; r != "" {
		return r
	}
	addr = addr.Unmap()
	for _, n := range s.Subnets {
		if addr.IsValid() && n.CIDR.Contains(addr) {
			return n.Room
		}
	}
	return ""
}

// layers returns the levels that apply in a room, the widest first.
func (s *set) layers(room string) []config.PolicyLayer {
	scopes := []string{"organisation", "site/" + s.Site}
	if room != "" {
		scopes = append(scopes, "room/"+s.Site+"/"+room)
	}
	var out []config.PolicyLayer
	for _, scope := range scopes {
		if i := slices.IndexFunc(s.Layers, func(l config.PolicyLayer) bool { return l.Scope == scope }); i >= 0 {
			out = append(out, s.Layers[i])
		}
	}
	return out
}

// digests returns the archives that the set needs.
func (s *set) digests() map[policy.Digest]config.PolicyLayer {
	out := make(map[policy.Digest]config.PolicyLayer)
	if s != nil {
		for _, l := range s.Layers {
			out[l.SHA256] = l
		}
	}
	return out
}

// Accounts are what is known of the login host's users. The zero Accounts means that nothing is.
type Accounts struct {
	// Users is the JSON text of agentproto.Users; nil if they are not known.
	Users []byte
	// HostKeys are the SSH host keys of this machine, as in known_hosts without the names; for a login host that is this machine.
	HostKeys []string
}

// login is what a PolicyState says beside its levels.
type login struct {
	host     config.LoginHost
	accounts Accounts
	users    *agentproto.Blob // of accounts.Users
	commands []string
}

// state makes the PolicyState of a room. local is this satellite's address as the client reaches it: it is the login host's if that is this machine.
func (l *login) state(layers []config.PolicyLayer, local netip.Addr) (*agentproto.PolicyState, error) {
	out := &agentproto.PolicyState{Version: agentproto.Version, Commands: l.commands}
	for _, p := range layers {
		out.Layers = append(out.Layers, agentproto.PolicyLayer{Scope: p.Scope, Number: p.Number, Blob: agentproto.Blob{Size: uint64(p.Size), SHA256: fmt.Sprintf("%x", p.SHA256)}})
	}
	if l.host.Address == "" {
		return out, nil
	}
	out.Server = l.host.Address
	if l.host.Port != config.DefaultLoginPort {
		out.ServerPort = l.host.Port
	}
	keys := l.host.HostKeys
	if l.host.Address == config.LocalLogin {
		if !local.IsValid() {
			return nil, errors.New("the address of this satellite is not known")
		}
		out.Server, keys = local.Unmap().WithZone("").String(), l.accounts.HostKeys
	}
	out.Users = l.users
	for _, k := range keys[:min(len(keys), agentproto.MaxKnownHosts)] {
		out.KnownHosts = append(out.KnownHosts, knownHost(out.Server, l.host.Port)+" "+k)
	}
	return out, nil
}

// knownHost writes the names of a line in known_hosts: sshd(8), SSH_KNOWN_HOSTS FILE FORMAT.
func knownHost(server string, port uint16) string {
	if port == config.DefaultLoginPort {
		return "server," + server
	}
	p := strconv.Itoa(int(port))
	return "[server]:" + p + ",[" + server + "]:" + p
}
