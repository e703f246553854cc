package accounts

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Files are the texts of the four files of a system. Nil means that there is none.
type Files struct {
	Passwd, Group, Shadow, GroupShadow []byte
}

// Range is which IDs ordinary users and groups have.
type Range struct {
	UIDMin, UIDMax, GIDMin, GIDMax uint32
	// SystemGIDMin and SystemGIDMax are for groups of services.
	SystemGIDMin, SystemGIDMax uint32
}

// DefaultRange is what a system has whose login.defs does not say otherwise.
var DefaultRange = Range{1000, 60000, 1000, 60000, 100, 999}

// ParseLoginDefs reads the ranges of a login.defs(5).
func ParseLoginDefs(text []byte) Range {
	r := DefaultRange
	fields := map[string]*uint32{
		"UID_MIN": &r.UIDMin, "UID_MAX": &r.UIDMax, "GID_MIN": &r.GIDMin, "GID_MAX": &r.GIDMax, "SYS_GID_MIN": &r.SystemGIDMin, "SYS_GID_MAX": &r.SystemGIDMax,
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 || fields[f[0]] == nil {
			continue
		}
		if n, err := strconv.ParseUint(f[1], 10, 32); err == nil {
			*fields[f[0]] = uint32(n)
		}
	}
	return r
}

func (r Range) isUser(id uint32) bool  { return id >= r.UIDMin && id <= r.UIDMax }
func (r Range) isGroup(id uint32) bool { return id >= r.GIDMin && id <= r.GIDMax }

// Rules say which accounts are imported from the login host and which of the image's own stay: LTSP's PWMERGE_SUR, _SGR, _DUR and _DGR. Expressions for groups match a
// system group with a ":" before its name. Without SUR and SGR all ordinary users are imported.
type Rules struct {
	SUR, SGR, DUR, DGR *Pattern
	Range              Range
}

// NewRules compiles the four expressions; the error names the one that cannot be used.
func NewRules(sur, sgr, dur, dgr string, r Range) (Rules, error) {
	rules := Rules{Range: r}
	if sur == "" && sgr == "" {
		sur = ".*"
	}
	for _, e := range []struct {
		name, text string
		to         **Pattern
	}{{"PWMERGE_SUR", sur, &rules.SUR}, {"PWMERGE_SGR", sgr, &rules.SGR}, {"PWMERGE_DUR", dur, &rules.DUR}, {"PWMERGE_DGR", dgr, &rules.DGR}} {
		p, err := CompilePattern(e.text)
		if err != nil {
			return Rules{}, fmt.Errorf("%s: %w", e.name, err)
		}
		*e.to = p
	}
	return rules, nil
}

// KeepsLocal tells whether accounts of the image can stay. Only then LTSP reads its shadow files; else nobody, root neither, has a password there.
func (r Rules) KeepsLocal() bool { return r.DUR != nil || r.DGR != nil }

// Merged is the outcome of a merge.
type Merged struct {
	Files Files
	// Imported are the users that log in with the login host's password, in order.
	Imported []string
	// Reasons say what was left out or changed for whose sake, a line each.
	Reasons []string
}

// Tag is the password field, or its beginning, of a user who logs in with the login host's password.
const Tag = "pamltsp"

// noAging are the other fields of shadow for somebody whose password is elsewhere.
const noAging = "::::::"

type user struct {
	User
	password, aging string // of shadow
	primary         string // name of the group with the user's GID; empty if there is none
	marked          bool
}

type group struct {
	Group
	password, admins string // of gshadow
}

func (g *group) has(name string) bool { return slices.Contains(g.Members, name) }

func (g *group) add(names ...string) {
	for _, n := range names {
		if !g.has(n) {
			g.Members = append(g.Members, n)
		}
	}
}

// side is one system's accounts, in their order.
type side struct {
	users  []*user
	groups []*group
	user   map[string]*user
	group  map[string]*group
}

func (s *side) addUser(u *user) {
	if old := s.user[u.Name]; old != nil {
		s.users[slices.Index(s.users, old)] = u
	} else {
		s.users = append(s.users, u)
	}
	s.user[u.Name] = u
}

func (s *side) addGroup(g *group) {
	if old := s.group[g.Name]; old != nil {
		s.groups[slices.Index(s.groups, old)] = g
	} else {
		s.groups = append(s.groups, g)
	}
	s.group[g.Name] = g
}

func (s *side) keepUsers(keep func(*user) bool) {
	s.users = slices.DeleteFunc(s.users, func(u *user) bool {
		if keep(u) {
			return false
		}
		delete(s.user, u.Name)
		return true
	})
}

func (s *side) keepGroups(keep func(*group) bool) {
	s.groups = slices.DeleteFunc(s.groups, func(g *group) bool {
		if keep(g) {
			return false
		}
		delete(s.group, g.Name)
		return true
	})
}

// load reads a system's files. Each group has the users as members whose primary group it is.
func load(f Files, shadows bool) (*side, []string) {
	passwd, groups := ParsePasswd(f.Passwd), ParseGroup(f.Group)
	why := slices.Concat(passwd.Reasons, groups.Reasons)
	s := &side{user: make(map[string]*user, len(passwd.Users)), group: make(map[string]*group, len(groups.Groups))}
	byGID := map[uint32]*group{}
	for _, g := range groups.Groups {
		e := &group{Group: g, password: "*"}
		s.groups, s.group[g.Name], byGID[g.GID] = append(s.groups, e), e, e
	}
	primary := map[*group][]string{}
	for _, u := range passwd.Users {
		e := &user{User: u, password: "!", aging: noAging}
		if g := byGID[u.GID]; g != nil {
			e.primary = g.Name
			primary[g] = append(primary[g], u.Name)
		}
		s.users, s.user[u.Name] = append(s.users, e), e
	}
	for g, names := range primary {
		members := map[string]bool{}
		for _, n := range g.Members {
			members[n] = true
		}
		for _, n := range names {
			if !members[n] {
				g.Members = append(g.Members, n)
			}
		}
	}
	if !shadows {
		return s, why
	}
	return s, append(why, s.loadShadows(f)...)
}

func (s *side) loadShadows(f Files) []string {
	shadows, groups := ParseShadow(f.Shadow), ParseGroupShadow(f.GroupShadow)
	for _, e := range shadows.Shadows {
		if u := s.user[e.Name]; u != nil {
			u.password, u.aging = e.Password, e.Rest
		}
	}
	for _, e := range groups.Groups {
		if g := s.group[e.Name]; g != nil {
			g.password, g.admins = e.Password, e.Admins
		}
	}
	return slices.Concat(shadows.Reasons, groups.Reasons)
}

// mark marks the ordinary users that an expression matches, and the members of the groups that the other matches.
func (s *side) mark(users, groups *Pattern, r Range) {
	for _, g := range s.groups {
		name := g.Name
		if !r.isGroup(g.GID) {
			name = ":" + name
		}
		if !groups.Match(name) {
			continue
		}
		for _, m := range g.Members {
			if u := s.user[m]; u != nil {
				u.marked = true
			}
		}
	}
	for _, u := range s.users {
		if r.isUser(u.UID) && users.Match(u.Name) {
			u.marked = true
		}
	}
}

type merger struct {
	from, to *side
	rules    Rules
	merged   Merged
}

// Merge imports the accounts of source, a login host's passwd and group, into those of dest, an image's. Shadows says whether dest's password fields are read: at
// boot Rules.KeepsLocal, on a running client true. Who is imported has Tag in shadow.
//
// Where LTSP's own tool ends with an error, the image's account wins and the other is left out with a reason: a user of one name on both sides, two users of
// one ID, a primary group whose ID differs. The user ID 0 is never imported.
func Merge(source, dest Files, shadows bool, rules Rules) Merged {
	m := &merger{rules: rules}
	var why []string
	m.from, why = load(Files{Passwd: source.Passwd, Group: source.Group}, false)
	m.merged.Reasons = prefixed("login host: ", why)
	m.to, why = load(dest, shadows)
	m.merged.Reasons = append(m.merged.Reasons, prefixed("image: ", why)...)

	m.to.mark(rules.DUR, rules.DGR, rules.Range)
	m.to.keepUsers(func(u *user) bool { return u.marked || !rules.Range.isUser(u.UID) })
	m.to.keepGroups(func(g *group) bool {
		return !rules.Range.isGroup(g.GID) || slices.ContainsFunc(g.Members, func(n string) bool { return m.to.user[n] != nil })
	})
	m.from.mark(rules.SUR, rules.SGR, rules.Range)
	m.importUsers()
	m.importGroups()
	m.cleanGroups()
	m.save()
	return m.merged
}

func prefixed(prefix string, list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = prefix + s
	}
	return out
}

func (m *merger) reason(format string, args ...any) {
	m.merged.Reasons = append(m.merged.Reasons, fmt.Sprintf(format, args...))
}

// importUsers takes the marked users with their primary groups.
func (m *merger) importUsers() {
	local := map[uint32]string{} // who has an ID in the image
	for _, u := range m.to.users {
		local[u.UID] = u.Name
	}
	for _, u := range m.from.users {
		if !u.marked {
			continue
		}
		own := m.to.user[u.Name]
		owner, taken := local[u.UID]
		switch {
		case u.UID == 0:
			m.reason("user %s of the login host has the ID 0 and is not imported", u.Name)
		case own != nil:
			m.reason("user %s is the image's own (ID %d) and stays; the login host's (ID %d) is not imported", u.Name, own.UID, u.UID)
		case taken:
			m.reason("user %s of the login host is not imported: its ID %d is that of the image's user %s", u.Name, u.UID, owner)
		default:
			m.importUser(u)
			continue
		}
		u.marked = false
	}
}

func (m *merger) importUser(u *user) {
	u.Password = "x" // whatever the login host shows is no password here
	u.password = Tag
	m.to.addUser(u)
	m.merged.Imported = append(m.merged.Imported, u.Name)
	if u.primary == "" {
		return
	}
	if g := m.to.group[u.primary]; g != nil && g.GID != u.GID {
		m.reason("group %s has the ID %d in the image and %d on the login host: user %s has the latter, which has no name here", g.Name, g.GID, u.GID, u.Name)
		return
	}
	m.to.addGroup(m.from.group[u.primary])
}

// importGroups takes the groups that have marked members, system groups too.
func (m *merger) importGroups() {
	for _, g := range m.from.groups {
		if !slices.ContainsFunc(g.Members, func(n string) bool { u := m.from.user[n]; return u != nil && u.marked }) {
			continue
		}
		own := m.to.group[g.Name]
		if own == nil {
			m.to.addGroup(g)
			continue
		}
		if own != g {
			own.add(g.Members...)
		}
		if own.GID != g.GID && m.rules.Range.isGroup(own.GID) {
			m.reason("group %s has the ID %d in the image and gets the login host's, %d", g.Name, own.GID, g.GID)
			own.GID = g.GID
		}
		own.Password = g.Password
	}
}

// cleanGroups takes out members that are not there or whose primary group it is, and then ordinary groups of nobody.
func (m *merger) cleanGroups() {
	primary := map[string]bool{}
	for _, u := range m.to.users {
		primary[u.primary] = true
	}
	m.to.keepGroups(func(g *group) bool {
		g.Members = slices.DeleteFunc(slices.Clone(g.Members), func(n string) bool {
			u := m.to.user[n]
			return u == nil || u.GID == g.GID
		})
		return len(g.Members) > 0 || primary[g.Name] || !m.rules.Range.isGroup(g.GID)
	})
}

func (m *merger) save() {
	var users []User
	var shadows []Shadow
	for _, u := range m.to.users {
		users = append(users, u.User)
		shadows = append(shadows, Shadow{u.Name, u.password, u.aging})
	}
	var groups []Group
	var groupShadows []GroupShadow
	for _, g := range m.to.groups {
		g.Password = groupPassword(g.Password)
		groups = append(groups, g.Group)
		groupShadows = append(groupShadows, GroupShadow{g.Name, g.password, g.admins, g.Members})
	}
	m.merged.Files = Files{FormatPasswd(users), FormatGroup(groups), FormatShadow(shadows), FormatGroupShadow(groupShadows)}
}

// groupPassword lets nobody join a group by a password that came from elsewhere.
func groupPassword(field string) string {
	if field == "x" || field == "*" || field == "!" {
		return field
	}
	return "x"
}
