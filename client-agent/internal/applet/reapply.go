package applet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

func reapply(ctx context.Context, cfg Config, previous Result) (Result, error) {
	r, err := newRunner(ctx, cfg)
	if err != nil {
		return previous, err
	}
	defer r.shell.Close()
	notes := map[string][]string{}
	for name, list := range previous.Notes {
		notes[name] = slices.Clone(list)
	}
	if err := r.prepare(ctx, notes); err != nil {
		return previous, err
	}
	r.result.Boot, r.result.Set, r.result.Replaced = previous.Boot, previous.Set, previous.Replaced
	r.step.Live = true
	r.inherit(previous)

	live, _ := Affected(previous.Values, r.result.Values)
	for _, f := range previous.Failures {
		live = append(live, f.Name) // another try
	}
	if len(live) > 0 {
		r.again(live)
	}
	r.result.Pending = pending(previous.Boot, r.result.Values, previous.Replaced)
	return r.finish()
}

// inherit takes over what hooks and functions have set at boot, where the configuration has not changed since. The name of the PC stays as it is.
func (r *runner) inherit(previous Result) {
	for name, value := range previous.Set {
		if r.result.Values[name] == previous.Boot[name] {
			r.step.Values[name] = value
		}
	}
	if name := previous.Final["HOSTNAME"]; name != "" {
		r.step.Values["HOSTNAME"] = name
	}
}

// again runs the named functions that are live, in order. What works out values for them runs too.
func (r *runner) again(names []string) {
	for _, s := range steps(r.cfg.Name) {
		for _, f := range s.Functions {
			if slices.Contains(r.result.Replaced, f.Name) {
				continue // a script's function has done it; it is not run on a running client
			}
			if f.Always || f.Live && slices.Contains(names, f.Name) {
				r.do(s.Name, f)
			}
		}
	}
}

// pending says what differs from the boot and cannot be changed on a running client.
func pending(boot, now map[string]string, replaced []string) []string {
	changed := changes(boot, now)
	_, names := Affected(boot, now)
	live, _ := Affected(boot, now)
	for _, name := range live {
		if slices.Contains(replaced, name) {
			names = append(names, name)
		}
	}
	var lines []string
	for _, name := range names {
		lines = append(lines, fmt.Sprintf("%s: needs a reboot because of %s", name, strings.Join(causes(name, changed), ", ")))
	}
	return lines
}

// inputNames is how people call the inputs.
var inputNames = map[string]string{
	step.InputUsers: "the login host's accounts", step.InputScripts: "scripts in /etc/ltsp/client", step.InputFiles: "files in /etc/ltsp",
}

// causes are the changed variables that a function depends on.
func causes(function string, changed []string) []string {
	var needs []string
	for _, s := range steps(Init) {
		for _, f := range s.Functions {
			if f.Name == function {
				needs = append(needs, f.Needs...)
			}
		}
	}
	for _, w := range watched {
		if w.name == function {
			needs = append(needs, w.need)
		}
	}
	found := map[string]bool{}
	for _, name := range changed {
		if slices.ContainsFunc(needs, func(need string) bool { return step.Match(need, name) }) {
			if text, ok := inputNames[name]; ok {
				name = text
			}
			found[name] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}
