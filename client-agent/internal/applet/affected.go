package applet

import (
	"slices"
	"sort"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

// Affected tells which functions of the applet "init" a change of Result.Values concerns: live ones can be done again on a running client, the others need a
// reboot. Hooks and scripts are told as "PRE", "POST" and "scripts". Both lists are in the order in which the applet runs.
func Affected(before, after map[string]string) (live, reboot []string) {
	changed := changes(before, after)
	for _, s := range steps(Init) {
		for _, f := range s.Functions {
			switch {
			case f.Do == nil || f.Always || !f.NeedsAny(changed):
			case f.Live:
				live = append(live, f.Name)
			default:
				reboot = append(reboot, f.Name)
			}
		}
	}
	for _, w := range watched {
		if slices.ContainsFunc(changed, func(name string) bool { return step.Match(w.need, name) }) && !slices.Contains(reboot, w.name) {
			reboot = append(reboot, w.name)
		}
	}
	return live, reboot
}

// watched are what the applet itself depends on.
var watched = []struct{ need, name string }{
	{"PRE_INIT_*", "PRE"}, {"POST_INIT_*", "POST"},
	{step.InputScripts, "scripts"}, {"OMIT_FUNCTIONS", "scripts"}, {"LTSP_SKIP_SCRIPTS", "scripts"},
}

// changes returns the names whose values differ, sorted. What is empty and what is not there is the same.
func changes(before, after map[string]string) []string {
	var names []string
	for name, value := range after {
		if before[name] != value {
			names = append(names, name)
		}
	}
	for name, value := range before {
		if _, ok := after[name]; !ok && value != "" {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}
