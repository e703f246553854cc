// Package ltspparam is the list of all parameters that ltsp.conf knows, LTSP's with those that its manual leaves out and this project's own: what each is for, who
// reads it, whether this project obeys it and when a change takes effect. The table of docs/ltsp.conf.md is made from it. It decides nothing.
package ltspparam

import (
	"slices"
	"strings"
)

// Support says whether a parameter does here what it does in LTSP.
type Support string

// Kinds of support.
const (
	Yes     Support = "yes"
	Differs Support = "differs"
	No      Support = "no"
)

// Effect says when a change reaches a client that is running.
type Effect string

// Times of effect.
const (
	// Live: within seconds, on the running client.
	Live Effect = "live"
	// Login: when the next user logs in, or the greeter starts again.
	Login Effect = "login"
	// Reboot: when the client starts again.
	Reboot Effect = "reboot"
	// Boot: before the image starts, so when the client boots from the network again.
	Boot Effect = "boot"
	// Never: no client reads it.
	Never Effect = "-"
)

// Side says where LTSP reads a parameter.
type Side string

// Sides.
const (
	Client Side = "client"
	Server Side = "server"
	Both   Side = "both"
)

// Param is one parameter, or a family of them.
type Param struct {
	// Name of a family ends with "_"; what follows is free.
	Name   string
	Family bool
	// Applet is who reads it: an applet of LTSP, "login", "parser" or "all".
	Applet string
	Side   Side
	// Default is what holds without it, as one would write it; "" means that nothing happens.
	Default string
	Summary string
	Support Support
	// Differs says what is different here, or what takes its place. It is "" exactly if Support is Yes.
	Differs string
	Effect  Effect
	// Undocumented parameters are missing in LTSP's manual.
	Undocumented bool
	// Own parameters are this project's; LTSP does not know them.
	Own bool
}

// Shown is the name as manuals write it: a family with x for what is free.
func (p Param) Shown() string {
	switch {
	case p.Name == "PRE_" || p.Name == "POST_":
		return p.Name + "APPLET_x"
	case p.Name == "UDEV_SEAT_":
		return p.Name + "n_x"
	case p.Family:
		return p.Name + "x"
	}
	return p.Name
}

// Markdown is the table of all parameters for docs/ltsp.conf.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| parameter | read by | default | meaning | here | change takes effect |\n|---|---|---|---|---|---|\n")
	for _, p := range All() {
		name := "`" + p.Shown() + "`"
		if p.Undocumented {
			name += " ¹"
		}
		if p.Own {
			name += " ²"
		}
		support := string(p.Support)
		if p.Differs != "" {
			support += ": " + p.Differs
		}
		cells := []string{name, p.Applet, p.Default, p.Summary, support, string(p.Effect)}
		for i, c := range cells {
			cells[i] = strings.ReplaceAll(c, "|", `\|`)
		}
		b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	return b.String()
}

// All returns the parameters, sorted by name. The slice is the caller's.
func All() []Param {
	all := slices.Clone(table)
	slices.SortFunc(all, func(a, b Param) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Lookup finds the parameter of a name, for a member of a family the family.
func Lookup(name string) (Param, bool) {
	var family Param
	for _, p := range table {
		if p.Name == name && !p.Family {
			return p, true
		}
		if p.Family && len(name) > len(p.Name) && strings.HasPrefix(name, p.Name) && len(p.Name) > len(family.Name) {
			family = p
		}
	}
	return family, family.Name != ""
}

// Given are variables that hooks and sections may read and that are set for them: setting them is allowed and seldom wise.
func Given(name string) bool {
	return slices.Contains([]string{"DEVICE", "IP_ADDRESS", "MAC_ADDRESS", "GATEWAY", "_APPLET", "rootmnt"}, name) || strings.HasPrefix(name, "IPCONFIG_")
}
