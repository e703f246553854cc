package imagebuild

import (
	"slices"
	"strconv"
	"strings"
)

// idRange is what login.defs(5) calls ordinary: UID_MIN to UID_MAX, GID_MIN to GID_MAX.
type idRange struct{ uidMin, uidMax, gidMin, gidMax int }

// parseLoginDefs reads the ranges; what the file does not say is shadow's default.
func parseLoginDefs(text string) idRange {
	r := idRange{uidMin: 1000, uidMax: 60000, gidMin: 1000, gidMax: 60000}
	targets := map[string]*int{"UID_MIN": &r.uidMin, "UID_MAX": &r.uidMax, "GID_MIN": &r.gidMin, "GID_MAX": &r.gidMax}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		if to := targets[fields[0]]; to != nil {
			if n, err := strconv.Atoi(fields[1]); err == nil {
				*to = n
			}
		}
	}
	return r
}

// accounts are the texts of the account files, by their name in /etc.
type accounts map[string]string

// ordinary returns the names in a passwd(5) or group(5) text whose number (third field) is in the range.
func ordinary(text string, first, last int) []string {
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) < 3 {
			continue
		}
		if id, err := strconv.Atoi(fields[2]); err == nil && id >= first && id <= last {
			names = append(names, fields[0])
		}
	}
	return names
}

// withoutPeople removes ordinary users and groups, and the users' memberships, passwords and subordinate IDs.
func (a accounts) withoutPeople(r idRange) accounts {
	users := ordinary(a["passwd"], r.uidMin, r.uidMax)
	groups := ordinary(a["group"], r.gidMin, r.gidMax)
	out := accounts{}
	for name, text := range a {
		switch name {
		case "passwd", "shadow", "subuid", "subgid":
			out[name] = dropLines(text, users)
		case "group", "gshadow":
			out[name] = dropMembers(dropLines(text, groups), users)
		default:
			out[name] = text
		}
	}
	return out
}

// dropLines removes the lines whose first field is one of names.
func dropLines(text string, names []string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		name, _, _ := strings.Cut(line, ":")
		if !slices.Contains(names, name) {
			b.WriteString(line)
		}
	}
	return b.String()
}

// dropMembers removes users from the lists of members (the last field) and of administrators (the third of gshadow).
func dropMembers(text string, users []string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		body, end := strings.TrimSuffix(line, "\n"), strings.HasSuffix(line, "\n")
		fields := strings.Split(body, ":")
		if len(fields) == 4 {
			fields[3] = dropNames(fields[3], users)
			if _, err := strconv.Atoi(fields[2]); err != nil {
				fields[2] = dropNames(fields[2], users)
			}
		}
		b.WriteString(strings.Join(fields, ":"))
		if end {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func dropNames(list string, names []string) string {
	if list == "" {
		return ""
	}
	return strings.Join(slices.DeleteFunc(strings.Split(list, ","), func(n string) bool { return slices.Contains(names, n) }), ",")
}
