package policyview

import (
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspeval"
)

// Finding is a trap or an error in a configuration.
type Finding struct {
	Scope, File string
	Line        int
	Severity    string // error, warning or note
	Rule        string
	Text        string
	Remedy      string
}

// Severity of findings that keep a policy from being applied.
const severityError = "error"

// maxFindings bounds what is told.
const maxFindings = 500

// Refusal is the error of a policy that has errors; nil if it has none.
func Refusal(findings []Finding) error {
	for _, f := range findings {
		if f.Severity == severityError {
			where := f.Scope + "/" + f.File
			if f.Line > 0 {
				where = fmt.Sprintf("%s:%d", where, f.Line)
			}
			return fleet.Errorf(fleet.ErrInvalid, "%s: %s", where, f.Text)
		}
	}
	return nil
}

// Lint looks for traps and errors in one of the levels, as it stands above those below it.
func Lint(levels Levels, scope fleet.Scope) []Finding {
	var sources []ltspeval.Source
	for _, level := range levels {
		if !level.Scope.Covers(scope.Site, scope.Room) {
			continue
		}
		for _, c := range level.Confs {
			sources = append(sources, ltspeval.Source{Scope: level.Scope.String(), File: c.File, Text: c.Text})
		}
	}
	var findings []Finding
	for _, f := range lint(sources) {
		if f.Scope == scope.String() && len(findings) < maxFindings {
			findings = append(findings, f)
		}
	}
	return findings
}

func lint(sources []ltspeval.Source) []Finding {
	var findings []Finding
	for _, s := range sources {
		if _, err := ltspeval.Compile([]ltspeval.Source{s}); err != nil {
			findings = append(findings, Finding{Scope: s.Scope, File: s.File, Severity: severityError, Rule: "syntax", Text: err.Error()})
		}
	}
	return findings
}
