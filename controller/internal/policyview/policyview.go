// Package policyview works out what policies mean for clients: which values a change gives to whom, and which line gives a client each of its values. It is
// a decision room: levels and clients in, plans and explanations out. The evaluation is internal/ltspeval's.
package policyview

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspeval"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

// Applets whose views matter on clients.
const (
	Init         = "init"
	InitrdBottom = "initrd-bottom"
)

// Level is what one level has said for evaluation: its configurations. The slice and the texts are not changed.
type Level struct {
	Scope fleet.Scope
	Confs []Conf
}

// Conf is ltsp.conf or an ltsp-APPLET.conf.
type Conf struct {
	File string
	Text []byte
}

// Confs takes the configurations out of a tree, ltsp.conf first. The texts are copies, so that the tree's archive can go.
func Confs(tree policy.Tree) []Conf {
	var confs []Conf
	for _, f := range tree {
		if f.Kind == policy.Regular && policy.IsConf(f.Path) {
			confs = append(confs, Conf{File: f.Path, Text: bytes.Clone(f.Content)})
		}
	}
	slices.SortStableFunc(confs, func(a, b Conf) int {
		first := func(c Conf) int { return map[bool]int{true: 0, false: 1}[c.File == policy.ConfName] }
		return cmp.Compare(first(a), first(b))
	})
	return confs
}

// Levels are in the order of evaluation: organisation, sites, rooms.
type Levels []Level

// With returns the levels with one added or replaced.
func (l Levels) With(level Level) Levels {
	out := slices.DeleteFunc(slices.Clone(l), func(o Level) bool { return o.Scope == level.Scope })
	i, _ := slices.BinarySearchFunc(out, level, func(a, b Level) int { return a.Scope.Compare(b.Scope) })
	return slices.Insert(out, i, level)
}

// sources are what a client of a site and a room evaluates for an applet.
func (l Levels) sources(site, room, applet string) []ltspeval.Source {
	var sources []ltspeval.Source
	for _, level := range l {
		if !level.Scope.Covers(site, room) {
			continue
		}
		for _, c := range level.Confs {
			if c.File == policy.ConfName || c.File == "ltsp-"+applet+".conf" {
				sources = append(sources, ltspeval.Source{Scope: level.Scope.String(), File: c.File, Text: c.Text})
			}
		}
	}
	return sources
}

// Client is what must be known of a client to evaluate for it.
type Client struct {
	MAC                fleet.MAC
	Name               string // for people
	Site, Room         string
	Address, Hostname  string // empty if not known
	Server             string // the site's login host; empty if there is none, or if only the satellite can tell
	KernelParameters   string
	ServerIsLocal      bool // the login host is the satellite itself, whose address only it knows
	HostnameIsReported bool // Hostname is what the client called itself, which a policy may have given it
}

// defaultName matches host names that clients give themselves when nobody does: no section was looked up by them.
var defaultName = regexp.MustCompile(`^ltsp[0-9]+$`)

// TakeReported makes a reported host name the client's, if none is configured.
func (c *Client) TakeReported(hostname string) {
	if c.Hostname == "" && hostname != "" && !defaultName.MatchString(hostname) {
		c.Hostname, c.HostnameIsReported = hostname, true
	}
}

func (c *Client) query(applet string) ltspeval.Query {
	q := ltspeval.Query{
		Subject: ltspconf.Subject{MAC: string(c.MAC), IP: c.Address, Hostname: c.Hostname, Applet: applet},
		Kernel:  c.KernelParameters, Vars: map[string]string{},
	}
	if c.Server != "" {
		q.Vars["SERVER"] = c.Server
	}
	return q
}

// Explanation is what a client's levels mean for it.
type Explanation struct {
	Values  []ltspeval.Value
	Remarks []string
}

// Explain evaluates the levels for one client. Only the named variables are returned, all without names; an error that wraps fleet.ErrInvalid says what
// cannot be evaluated.
func Explain(ctx context.Context, levels Levels, c Client, applet string, names []string) (*Explanation, error) {
	program, err := ltspeval.Compile(levels.sources(c.Site, c.Room, applet))
	if err != nil {
		return nil, evaluation(err)
	}
	result, err := program.Evaluate(ctx, c.query(applet))
	if err != nil {
		return nil, evaluation(err)
	}
	e := &Explanation{Values: result.Values, Remarks: result.Remarks}
	if _, ok := result.Get("SERVER"); !ok && c.Server != "" {
		e.Values = append(e.Values, ltspeval.Value{Name: "SERVER", Value: c.Server})
		slices.SortFunc(e.Values, func(a, b ltspeval.Value) int { return strings.Compare(a.Name, b.Name) })
	}
	if c.ServerIsLocal {
		e.Remarks = append(e.Remarks, "the login host is the satellite itself: SERVER is its address, which is not known here")
	}
	if c.Address == "" {
		e.Remarks = append(e.Remarks, "the client's address is not known: sections by address were not looked up")
	}
	if c.HostnameIsReported {
		e.Remarks = append(e.Remarks, "the client has no configured name: sections were looked up by "+c.Hostname+", as it calls itself")
	}
	if len(names) > 0 {
		e.pick(names)
	}
	return e, nil
}

// pick keeps the named values; what is not set is remarked.
func (e *Explanation) pick(names []string) {
	var kept []ltspeval.Value
	for _, name := range names {
		i := slices.IndexFunc(e.Values, func(v ltspeval.Value) bool { return v.Name == name })
		if i < 0 {
			e.Remarks = append(e.Remarks, name+" is not set")
			continue
		}
		kept = append(kept, e.Values[i])
	}
	e.Values = kept
}

// evaluation makes an error of ltspeval one for users.
func evaluation(err error) error {
	if errors.Is(err, ltspeval.ErrSyntax) || errors.Is(err, ltspeval.ErrLimit) {
		return fleet.Errorf(fleet.ErrInvalid, "%v", err)
	}
	return err
}
