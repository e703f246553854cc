// Package policy brings the policy of a client's levels to the client and keeps it: it fetches states from satellites, unpacks each beside the one before
// (a state is whole or not there), and writes /etc/ltsp of a root. It evaluates nothing.
package policy

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	tree "github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

// State is a policy state with all that it names, verified.
type State struct {
	// Sum is the SHA-256 of its JSON text, in hex.
	Sum string
	agentproto.PolicyState
	// Trees are those of PolicyState.Layers, in the same order.
	Trees []tree.Tree
	// Accounts are those of the login host; nil if they are not known.
	Accounts *agentproto.Users
}

// Modes of what the client gets beside the layers' own files. Configurations hold passwords.
const (
	confMode   = 0o600
	publicMode = 0o644
)

// Etc returns the files of /etc/ltsp: those of all layers over each other, the configurations one after the other (for people; evaluation takes the layers
// one by one), and the login host's accounts and keys where the layers have none of these names.
func (s *State) Etc() tree.Tree {
	out := tree.Merge(s.Trees...)
	for _, name := range s.confs() {
		out = out.Remove(name).Put(tree.File{Path: name, Kind: tree.Regular, Mode: confMode, Content: s.conf(name)})
	}
	own := map[string]string{"ssh_known_hosts": lines(s.KnownHosts)}
	if s.Accounts != nil {
		own["passwd"], own["group"] = s.Accounts.Passwd, s.Accounts.Group
	}
	for name, text := range own {
		if text != "" && len(out.Remove(name)) == len(out) {
			out = out.Put(tree.File{Path: name, Kind: tree.Regular, Mode: publicMode, Content: []byte(text)})
		}
	}
	return out
}

// Users are the accounts that may log in: files passwd and group of the layers, where a level has its own, else the login host's. Nil if there are
// neither. A level with an empty file wants none: its people are in a directory.
func (s *State) Users() *agentproto.Users {
	merged := tree.Merge(s.Trees...)
	var users agentproto.Users
	known := s.Accounts != nil
	if known {
		users = *s.Accounts
	}
	for name, text := range map[string]*string{"passwd": &users.Passwd, "group": &users.Group} {
		if f, ok := merged.Find(name); ok && f.Kind == tree.Regular {
			*text, known = string(f.Content), true
		}
	}
	if !known {
		return nil
	}
	return &users
}

// confs are the paths of all configurations, in order.
func (s *State) confs() []string {
	var names []string
	for _, t := range s.Trees {
		for _, f := range t {
			if tree.IsConf(f.Path) && f.Kind == tree.Regular {
				names = append(names, f.Path)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// conf is the text of one configuration in all layers. It may be longer than a layer's own may be.
func (s *State) conf(name string) []byte {
	var b bytes.Buffer
	for i, t := range s.Trees {
		f, ok := t.Find(name)
		if !ok || f.Kind != tree.Regular {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "# %s, version %d\n%s", s.Layers[i].Scope, s.Layers[i].Number, f.Content)
		if !bytes.HasSuffix(f.Content, []byte("\n")) {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func lines(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return strings.Join(list, "\n") + "\n"
}
