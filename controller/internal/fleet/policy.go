package fleet

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
)

// Bounds of policies.
const (
	MaxRooms          = 256 // rooms of a site that have a policy
	MaxPolicyVersions = 100 // versions of a level that are kept
	organisationScope = "organisation"
)

// Scope names a level that may have a policy: the zero Scope is the organisation, one with a Site that site, one with both that room of the site.
type Scope struct{ Site, Room string }

// ParseScope reads "organisation", "site/NAME" or "room/SITE/NAME".
func ParseScope(s string) (Scope, error) {
	kind, rest, _ := strings.Cut(s, "/")
	var scope Scope
	switch kind {
	case organisationScope:
		if s == organisationScope {
			return scope, nil
		}
	case "site":
		scope.Site = rest
		if err := pki.CheckName(rest); err == nil {
			return scope, nil
		}
	case "room":
		scope.Site, scope.Room, _ = strings.Cut(rest, "/")
		if pki.CheckName(scope.Site) == nil && pki.CheckName(scope.Room) == nil {
			return scope, nil
		}
	}
	return Scope{}, invalid("%q is no level of policy: want organisation, site/NAME or room/SITE/NAME", s)
}

func (s Scope) String() string {
	switch {
	case s.Site == "":
		return organisationScope
	case s.Room == "":
		return "site/" + s.Site
	}
	return "room/" + s.Site + "/" + s.Room
}

// Covers tells whether the level's policy applies to a client of a site and a room, which may be empty.
func (s Scope) Covers(site, room string) bool {
	return s.Site == "" || s.Site == site && (s.Room == "" || s.Room == room)
}

// Compare orders levels as they are evaluated: organisation, sites, rooms.
func (s Scope) Compare(o Scope) int {
	rank := func(s Scope) int { return min(len(s.Site), 1) + min(len(s.Room), 1) }
	return cmp.Or(cmp.Compare(rank(s), rank(o)), cmp.Compare(s.Site, o.Site), cmp.Compare(s.Room, o.Room))
}

// PolicyVersion is one version of a level's policy. What it says lies in the archive (internal/policy) that SHA256 names; nothing of that is here,
// because it may hold passwords and this goes into the audit log. Key: Scope and Number.
type PolicyVersion struct {
	Scope     string    `json:"scope"`
	Number    uint64    `json:"number"` // from 1
	SHA256    Hash      `json:"sha256"`
	SizeBytes uint64    `json:"size_bytes"`
	Files     uint32    `json:"files"`
	Created   time.Time `json:"created"`
	Author    string    `json:"author"`            // identity URI
	Note      string    `json:"note,omitempty"`    // for people
	UndoOf    uint64    `json:"undo_of,omitempty"` // version whose archive it is again
}

// Name returns SCOPE@NUMBER.
func (v *PolicyVersion) Name() string { return PolicyName(v.Scope, v.Number) }

// PolicyName is how a version of a level is called.
func PolicyName(scope string, number uint64) string { return fmt.Sprintf("%s@%d", scope, number) }

// Check reports the first rule that the version's texts break.
func (v *PolicyVersion) Check() error { return checkText("note", v.Note) }

// Layer is what a satellite is told of the version.
func (v *PolicyVersion) Layer() PolicyLayer {
	return PolicyLayer{Scope: v.Scope, Number: v.Number, SHA256: v.SHA256, SizeBytes: v.SizeBytes}
}

// PolicyLayer names the archive of one level.
type PolicyLayer struct {
	Scope     string `json:"scope"`
	Number    uint64 `json:"number"`
	SHA256    Hash   `json:"sha256"`
	SizeBytes uint64 `json:"size_bytes"`
}

// SortPolicies returns versions of different levels in the order in which they are evaluated.
func SortPolicies(versions []PolicyVersion) []PolicyVersion {
	scope := func(v PolicyVersion) Scope {
		s, _ := ParseScope(v.Scope) // it was checked on its way in
		return s
	}
	return slices.SortedFunc(slices.Values(versions), func(a, b PolicyVersion) int { return scope(a).Compare(scope(b)) })
}

// layers is what a satellite is told of versions.
func layers(versions []PolicyVersion) []PolicyLayer {
	var list []PolicyLayer
	for _, v := range SortPolicies(versions) {
		list = append(list, v.Layer())
	}
	return list
}

// RoomOf tells in which room a client is: its own, else that of the subnet that holds the address. Empty: in none.
func RoomOf(own string, address netip.Addr, subnets []Subnet) string {
	if own != "" {
		return own
	}
	for _, s := range subnets {
		if address.IsValid() && s.CIDR.IsValid() && s.CIDR.Contains(address) {
			return s.Room
		}
	}
	return ""
}

func checkRoom(what, room string) error {
	if room == "" {
		return nil
	}
	if err := pki.CheckName(room); err != nil {
		return invalid("%s: room: %v", what, err)
	}
	return nil
}
