package policyview

import (
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspeval"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltsplint"
)

// RuleSyntax is the rule of findings that keep a policy from being applied: a shell could not read it. All others are for the admin to judge: a school's
// ltsp.conf works as it did, with its mistakes.
const RuleSyntax = "syntax"

// maxFindings bounds what is told.
const maxFindings = 500

// Lint looks for traps and errors in one of the levels, as it stands above those below it.
func Lint(levels Levels, scope fleet.Scope) []ltsplint.Finding {
	var sources []ltspeval.Source
	for _, level := range levels {
		if !level.Scope.Covers(scope.Site, scope.Room) {
			continue
		}
		for _, c := range level.Confs {
			sources = append(sources, ltspeval.Source{Scope: level.Scope.String(), File: c.File, Text: c.Text})
		}
	}
	var findings []ltsplint.Finding
	for _, f := range ltsplint.Lint(sources) {
		// What keeps the policy from being applied is told whatever comes before it.
		if f.Scope == scope.String() && (len(findings) < maxFindings || f.Rule == RuleSyntax) {
			findings = append(findings, f)
		}
	}
	return findings
}

// Refusal is the error of a policy that cannot be applied; nil if it can.
func Refusal(findings []ltsplint.Finding) error {
	for _, f := range findings {
		if f.Rule != RuleSyntax {
			continue
		}
		where := f.Scope + "/" + f.File
		if f.Line > 0 {
			where = fmt.Sprintf("%s:%d", where, f.Line)
		}
		return fleet.Errorf(fleet.ErrInvalid, "%s: %s", where, f.Text)
	}
	return nil
}
