package policyview

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspeval"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspparam"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

// Bounds of a plan.
const (
	MaxPlanned   = 1000 // clients that a plan names
	maxPlanBytes = 8 << 20
	maxValue     = 4 << 10 // bytes of a value that are shown
	maxFailures  = 8       // clients for which a policy runs too long, before the others are not looked at
)

// Plan is what a change means.
type Plan struct {
	Total, Changed int          // clients that the level covers, and those for which a value changes
	Clients        []ClientPlan // for which a value changes or cannot be told, at most MaxPlanned
}

// ClientPlan is what a change means for one client.
type ClientPlan struct {
	Client  Client
	Changes []Change // by variable
	Error   string   // why its values can't be told; empty if they can
}

// Change is a value that changes; nil means that the variable is not set. Values are cut at 4 KiB.
type Change struct {
	Variable      string
	Before, After *string
	// Effect says when the client has it; empty if no client reads the variable.
	Effect string
}

// MakePlan compares the levels before and after a change of one of them for all clients that it covers. Clients are taken in their order. It uses all
// processors.
func MakePlan(ctx context.Context, scope fleet.Scope, before, after Levels, clients []Client) (*Plan, error) {
	m := &planner{before: before, after: after, programs: map[programKey]*pair{}}
	var covered []Client
	for _, c := range clients {
		if scope.Covers(c.Site, c.Room) {
			covered = append(covered, c)
			m.compile(c.Site, c.Room)
		}
	}
	plans := make([]ClientPlan, len(covered))
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, c := range covered {
		if working.Err() != nil {
			break
		}
		group.Go(func() (err error) {
			plans[i], err = m.plan(working, c)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return collect(plans), nil
}

// collect keeps what is worth telling.
func collect(all []ClientPlan) *Plan {
	p := &Plan{Total: len(all)}
	size := 0
	for _, c := range all {
		if len(c.Changes) == 0 && c.Error == "" {
			continue
		}
		if len(c.Changes) > 0 {
			p.Changed++
		}
		for _, change := range c.Changes {
			size += len(change.Variable) + length(change.Before) + length(change.After) + 32
		}
		if len(p.Clients) < MaxPlanned && size <= maxPlanBytes {
			p.Clients = append(p.Clients, c)
		}
	}
	return p
}

func length(s *string) int {
	if s == nil {
		return 0
	}
	return len(*s)
}

// programKey says what clients have in common that evaluate the same sources.
type programKey struct{ site, room, applet string }

// pair is the sources of some clients before and after the change, parsed.
type pair struct {
	before, after *ltspeval.Program
	problem       error // why one of them could not be parsed
	same          bool  // both say the same
	failures      atomic.Int32
}

type planner struct {
	before, after Levels
	programs      map[programKey]*pair
}

// compile parses what clients of a room evaluate, once.
func (m *planner) compile(site, room string) {
	for _, applet := range []string{Init, InitrdBottom} {
		key := programKey{site, room, applet}
		if m.programs[key] != nil {
			continue
		}
		before, after := m.before.sources(site, room, applet), m.after.sources(site, room, applet)
		p := &pair{same: slices.EqualFunc(before, after, sameSource)}
		m.programs[key] = p
		if p.same || applet == InitrdBottom && !mentions(before, applet) && !mentions(after, applet) {
			p.same = true
			continue
		}
		var errs [2]error
		p.before, errs[0] = ltspeval.Compile(before)
		p.after, errs[1] = ltspeval.Compile(after)
		p.problem = cmp.Or(errs[1], errs[0])
	}
}

func sameSource(a, b ltspeval.Source) bool {
	return a.Scope == b.Scope && a.File == b.File && bytes.Equal(a.Text, b.Text)
}

// mentions tells whether sources say something for an applet of its own: else its view is that of the others.
func mentions(sources []ltspeval.Source, applet string) bool {
	return slices.ContainsFunc(sources, func(s ltspeval.Source) bool {
		return s.File != policy.ConfName || bytes.Contains(bytes.ToLower(s.Text), []byte(applet))
	})
}

// plan compares the values of one client. What changes for both applets is told once.
func (m *planner) plan(ctx context.Context, c Client) (ClientPlan, error) {
	p := ClientPlan{Client: c}
	for _, applet := range []string{Init, InitrdBottom} {
		pair := m.programs[programKey{c.Site, c.Room, applet}]
		if pair.same {
			continue
		}
		changes, err := pair.compare(ctx, c.query(applet))
		if err != nil {
			if ctx.Err() != nil {
				return p, ctx.Err()
			}
			p.Error = err.Error()
			return p, nil
		}
		for _, change := range changes {
			if !slices.ContainsFunc(p.Changes, func(o Change) bool { return o.Variable == change.Variable }) {
				p.Changes = append(p.Changes, change)
			}
		}
	}
	slices.SortFunc(p.Changes, func(a, b Change) int { return strings.Compare(a.Variable, b.Variable) })
	return p, nil
}

var errGivenUp = errors.New("the policy takes too long for other clients already; this one was not looked at")

func (p *pair) compare(ctx context.Context, q ltspeval.Query) ([]Change, error) {
	if p.problem != nil {
		return nil, p.problem
	}
	if p.failures.Load() >= maxFailures {
		return nil, errGivenUp
	}
	var results [2]*ltspeval.Result
	for i, program := range []*ltspeval.Program{p.before, p.after} {
		var err error
		if results[i], err = program.Evaluate(ctx, q); err != nil {
			p.failures.Add(1)
			return nil, err
		}
	}
	return changes(results[0].Values, results[1].Values), nil
}

// changes compares two lists of values, both sorted by name.
func changes(before, after []ltspeval.Value) []Change {
	var list []Change
	for len(before) > 0 || len(after) > 0 {
		switch {
		case len(after) == 0 || len(before) > 0 && before[0].Name < after[0].Name:
			list = append(list, newChange(before[0].Name, &before[0].Value, nil))
			before = before[1:]
		case len(before) == 0 || after[0].Name < before[0].Name:
			list = append(list, newChange(after[0].Name, nil, &after[0].Value))
			after = after[1:]
		default:
			if before[0].Value != after[0].Value {
				list = append(list, newChange(after[0].Name, &before[0].Value, &after[0].Value))
			}
			before, after = before[1:], after[1:]
		}
	}
	return list
}

func newChange(name string, before, after *string) Change {
	return Change{Variable: name, Before: cut(before), After: cut(after), Effect: effect(name)}
}

func cut(s *string) *string {
	if s == nil {
		return nil
	}
	short := strings.ToValidUTF8((*s)[:min(len(*s), maxValue)], "\uFFFD")
	return &short
}

// effect is when a client has a new value of a variable. What LTSP does not know is for hooks, which run when the client starts.
func effect(name string) string {
	p, ok := ltspparam.Lookup(name)
	switch {
	case !ok:
		return string(ltspparam.Reboot)
	case p.Effect == ltspparam.Never:
		return ""
	}
	return string(p.Effect)
}

// Files tells which paths come (+), go (-) or change (~) between two trees, in order.
func Files(before, after policy.Tree) []string {
	var list []string
	for len(before) > 0 || len(after) > 0 {
		switch {
		case len(after) == 0 || len(before) > 0 && before[0].Path < after[0].Path:
			list = append(list, "-"+before[0].Path)
			before = before[1:]
		case len(before) == 0 || after[0].Path < before[0].Path:
			list = append(list, "+"+after[0].Path)
			after = after[1:]
		default:
			if a, b := before[0], after[0]; a.Kind != b.Kind || a.Mode != b.Mode || !bytes.Equal(a.Content, b.Content) {
				list = append(list, "~"+b.Path)
			}
			before, after = before[1:], after[1:]
		}
	}
	return list
}
