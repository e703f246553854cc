package accounts

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Base is what a merge on a running client begins with: the accounts as they are now, without those that a merge has imported before, and with those of the
// image that it took away, which other rules may keep. So what others have changed since, and system users that were made, stay.
func Base(image, now Files, imported []string) Files {
	original, _ := load(image, true)
	current, _ := load(now, true)
	gone := map[string]bool{}
	for _, name := range imported {
		gone[name] = true
	}
	current.keepUsers(func(u *user) bool { return !gone[u.Name] })
	for _, u := range original.users {
		if current.user[u.Name] == nil {
			current.addUser(u)
		}
	}
	for _, g := range original.groups {
		if own := current.group[g.Name]; own == nil {
			current.addGroup(g)
		} else {
			own.add(g.Members...)
		}
	}
	m := merger{to: current}
	m.save()
	return m.merged.Files
}

// SetSystemGroup returns the files with a group of the system that has just these members. A group that is new gets the highest free ID.
func SetSystemGroup(f Files, name string, members []string, r Range) (Files, error) {
	if err := checkName("group", name, false); err != nil {
		return f, err
	}
	groups, shadows := ParseGroup(f.Group).Groups, ParseGroupShadow(f.GroupShadow).Groups
	i := slices.IndexFunc(groups, func(g Group) bool { return g.Name == name })
	if i < 0 {
		gid, err := freeGID(groups, r)
		if err != nil {
			return f, fmt.Errorf("group %s: %w", name, err)
		}
		groups = append(groups, Group{Name: name, Password: "x", GID: gid})
		i = len(groups) - 1
	}
	groups[i].Members = members
	j := slices.IndexFunc(shadows, func(g GroupShadow) bool { return g.Name == name })
	if j < 0 {
		shadows = append(shadows, GroupShadow{Name: name, Password: "!"})
		j = len(shadows) - 1
	}
	shadows[j].Members = members
	f.Group, f.GroupShadow = FormatGroup(groups), FormatGroupShadow(shadows)
	return f, nil
}

func freeGID(groups []Group, r Range) (uint32, error) {
	taken := map[uint32]bool{}
	for _, g := range groups {
		taken[g.GID] = true
	}
	for gid := r.SystemGIDMax; gid >= max(r.SystemGIDMin, 1); gid-- {
		if !taken[gid] {
			return gid, nil
		}
	}
	return 0, errors.New("no ID is free")
}

// Matcher tells whether an expression of PASSWORDS_x matches a user's name.
type Matcher func(expression string) (match func(name string) bool, err error)

// SetPasswords gives users of a shadow file that have Tag a stored password: words are EXPRESSION/BASE64, each of PASSWORDS_x; a later one wins. An empty BASE64 logs
// in without any. Reasons tell words that cannot be used or match nobody; they do not show passwords.
func SetPasswords(shadow []byte, words []string, compile Matcher) (text []byte, reasons []string) {
	shadows := ParseShadow(shadow).Shadows
	for n, word := range words {
		// The first slash: there are others in BASE64.
		expression, password, found := strings.Cut(word, "/")
		if !found || expression == "" {
			reasons = append(reasons, fmt.Sprintf("PASSWORDS_x: word %d is not EXPRESSION/BASE64", n+1))
			continue
		}
		if _, err := base64.StdEncoding.DecodeString(password); err != nil {
			reasons = append(reasons, fmt.Sprintf("PASSWORDS_x: what follows %s/ is not base64", expression))
			continue
		}
		match, err := compile(expression)
		if err != nil {
			reasons = append(reasons, fmt.Sprintf("PASSWORDS_x: %v", err))
			continue
		}
		any := false
		for i := range shadows {
			if strings.HasPrefix(shadows[i].Password, Tag) && match(shadows[i].Name) {
				shadows[i].Password, any = Tag+"="+password, true
			}
		}
		if !any {
			reasons = append(reasons, fmt.Sprintf("PASSWORDS_x: %s matches no user of the login host", expression))
		}
	}
	return FormatShadow(shadows), reasons
}
