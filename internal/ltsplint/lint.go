// Package ltsplint finds the places of ltsp.conf files that do silently something else than they seem to: LTSP's traps and what is different in this project. It
// looks at texts only and runs nothing; controller and ltspctl use it.
package ltsplint

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspeval"
)

// Severities of findings.
const (
	// Error: it cannot be meant so, or nothing works at all.
	Error = "error"
	// Warning: it is most likely not meant so.
	Warning = "warning"
	// Note: it is right, but does here or in LTSP something else than one might think.
	Note = "note"
)

// maxFindings bounds the findings of one file.
const maxFindings = 1000

// Finding is one place.
type Finding struct {
	Scope, File string
	// Line counts from 1; it is 0 when the file as a whole is meant.
	Line     int
	Severity string
	// Rule is one of Rules.
	Rule   string
	Text   string
	Remedy string
}

// Lint looks at sources in their order of evaluation. Findings come in the order of sources and lines. A file that is no shell gets the finding "syntax" and
// those that need no grammar.
func Lint(sources []ltspeval.Source) []Finding {
	var all []Finding
	var earlier []*file
	layer := 0
	for i, s := range sources {
		if i > 0 && s.Scope != sources[i-1].Scope {
			layer++
		}
		f, fatal := open(s, layer)
		if f == nil {
			all = append(all, fatal...)
			continue
		}
		f.earlier = earlier
		f.findings = append(f.findings, fatal...)
		f.lint()
		all = append(all, f.sorted()...)
		earlier = append(earlier, f)
	}
	return all
}

// file is one source that is being looked at.
type file struct {
	source  ltspeval.Source
	layer   int
	conf    *ltspconf.File
	lines   [][]byte
	earlier []*file
	// tree is nil when the text is no shell.
	tree *tree
	// looked are the names that nearest has looked at.
	looked   map[string]bool
	findings []Finding
}

// open reads a source; the file is nil if not even its lines can be told apart.
func open(s ltspeval.Source, layer int) (*file, []Finding) {
	var fatal []Finding
	_, err := ltspeval.Compile([]ltspeval.Source{s})
	if e, ok := errors.AsType[*ltspeval.Error](err); ok {
		fatal = append(fatal, Finding{Scope: s.Scope, File: s.File, Line: e.Line, Severity: Error, Rule: "syntax", Text: e.Text,
			Remedy: "mend it: with such a file no client gets any value"})
	}
	conf, confErr := ltspconf.Parse(s.Text)
	if confErr != nil {
		return nil, fatal
	}
	f := &file{source: s, layer: layer, conf: conf, lines: bytes.Split(s.Text, []byte("\n")), looked: make(map[string]bool)}
	if err == nil {
		f.tree = read(conf)
	}
	return f, fatal
}

func (f *file) add(line int, severity, rule, remedy, format string, args ...any) {
	if len(f.findings) < maxFindings {
		f.findings = append(f.findings, Finding{Scope: f.source.Scope, File: f.source.File, Line: line, Severity: severity, Rule: rule,
			Text: fmt.Sprintf(format, args...), Remedy: remedy})
	}
}

func (f *file) lint() {
	if len(f.conf.Sections) == 0 {
		f.add(1, Note, "no-section", "for LTSP, add a header such as [clients]", "a file without any section works here; LTSP takes it for a syntax error")
	}
	f.carriageReturns()
	f.sections()
	f.includes()
	f.appletFile()
	if f.tree != nil {
		f.commands()
		f.assignments()
		f.twice()
		f.endings()
	}
}

func (f *file) sorted() []Finding {
	slices.SortStableFunc(f.findings, func(a, b Finding) int { return cmp.Compare(a.Line, b.Line) })
	return slices.Compact(f.findings)
}

// section returns the name of the section that a line lies in.
func (f *file) section(line int) string {
	if i := f.conf.SectionAt(line); i >= 0 {
		return f.conf.Sections[i].Name
	}
	return ltspconf.Unnamed
}

func (f *file) carriageReturns() {
	for i, l := range f.lines {
		if bytes.HasSuffix(l, []byte("\r")) {
			f.add(i+1, Warning, "carriage-return", "save the file with Unix line ends, or run dos2unix", "lines end with a carriage return, which becomes part of the values")
			return
		}
	}
}

// Rule is what a rule is called and what it finds.
type Rule struct{ Name, Summary string }

// Markdown is the table of all rules for docs/ltsp.conf.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString("| rule | finds |\n|---|---|\n")
	for _, r := range Rules() {
		b.WriteString("| `" + r.Name + "` | " + strings.ReplaceAll(r.Summary, "|", `\|`) + " |\n")
	}
	return b.String()
}

// Rules lists all rules, sorted by name.
func Rules() []Rule {
	return []Rule{
		{"assigned-twice", "a parameter has a value twice in one section; the first is lost"},
		{"autologin-form", "AUTOLOGIN is a user's name, not a switch"},
		{"carriage-return", "Windows line ends: each value gets a carriage return at its end"},
		{"character-class", "[pc0[1-3]]: LTSP deletes brackets in a section's name, so there are no classes"},
		{"cidr", "[10.0.0.0/24]: a section's name is a pattern for the address, not a network"},
		{"client-value-on-server", "a parameter for clients in [server], which no client evaluates"},
		{"default-host-name", "a section named after a name like ltsp20, which a client only gets after ltsp.conf is evaluated"},
		{"deleted-characters", "a section's name has characters that LTSP deletes"},
		{"differs", "the parameter works here in another way than in LTSP"},
		{"duplicate-section", "a section is there twice; the lines of the first are lost"},
		{"exit", "exit or exec ends LTSP, and with it the client's start"},
		{"family-suffix", "FSTAB, HOSTS and the like need a suffix: FSTAB_HOME"},
		{"function-collision", "two names become one function, such as [a.b] and [a_b]; the lines of the first are lost"},
		{"glob-catches-special", "a pattern that also matches clients, common or server"},
		{"header-in-quotes", "a line of a value begins with [...] and is taken for a header"},
		{"host-name-collision", "two sections give the same host name"},
		{"host-name-upper-case", "a host name with capitals, which no section's name can match"},
		{"include-caught", "INCLUDE is caught by a pattern higher up, not by the section of its name"},
		{"include-indented", "INCLUDE behind spaces is a variable and includes nothing"},
		{"include-unknown", "INCLUDE of a section that is not there"},
		{"initrd-hook", "a hook of initrd-bottom in [server] or [common], which LTSP also runs on its server"},
		{"last-command", "the last command of a section can fail, which LTSP takes for an error at start"},
		{"ltsp5", "a parameter of LTSP 5, which later versions do not know"},
		{"mac-form", "a section looks like a MAC address that no client can have"},
		{"mac-only", "LTSP reads the parameter only from [server], [common] and sections of a whole MAC address"},
		{"no-section", "a file without any section, which LTSP does not take"},
		{"not-here", "the parameter means nothing here"},
		{"open-header", "a header without its closing bracket"},
		{"pamltsp-conf", "LTSP reads the parameter from pamltsp.conf only"},
		{"password-form", "a PASSWORDS_x that is no list of USERS/BASE64"},
		{"password-slash", "a slash in a password's base64, where LTSP cuts it"},
		{"plus-equals", "sh has no +="},
		{"reserved-section", "[call], [list] and [unnamed] are names of LTSP's own"},
		{"runs-once", "a line of ltsp-APPLET.conf that does not run because ltsp.conf ran a section of this name"},
		{"server-set", "SERVER is set, which wins over the site's login host"},
		{"server-value-on-clients", "a parameter for LTSP's server in a section that only clients evaluate"},
		{"shadowed-section", "a section that never runs, because one higher up matches first"},
		{"spaced-assignment", "VAR = value behind spaces is a command, not an assignment"},
		{"syntax", "no shell takes the file"},
		{"tabbed-header", "a header behind a tab is none"},
		{"test-at-line-start", "[ ... ] at the beginning of a line is a header; write test"},
		{"text-behind-header", "text behind a header becomes part of the section's name"},
		{"typo", "a parameter that nobody knows, near one that is known"},
		{"unquoted-spaces", "a value with spaces needs quotes"},
		{"upper-case", "a section's name is made lower case, so it does not match a host name with capitals"},
	}
}
