// Package ltspeval works out what ltsp.conf files mean for one client without running them: it is a small POSIX shell over the grammar of mvdan.cc/sh that starts
// no process, opens no file and no socket, and is bounded in steps and memory. It records for each variable which line of which file gave it which value. What
// only the client can know (the output of a program, whether a file exists) is marked. controller, satellite and ltspctl use it, and the agent never: it has the
// client's own shell.
package ltspeval

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
)

// Causes of errors.
var (
	// ErrSyntax says that a source is no shell text.
	ErrSyntax = ltspconf.ErrSyntax
	// ErrLimit says that a source is too large, or that its evaluation went on for too long or took too much memory.
	ErrLimit = ltspconf.ErrLimit
)

// Error is what Compile and Evaluate return, unless the context ends them.
type Error struct {
	Scope, File string
	// Line counts from 1; it is 0 when the file as a whole is meant.
	Line int
	Text string
	// Kind is ErrSyntax or ErrLimit.
	Kind error
}

func (e *Error) Error() string {
	name := Source{Scope: e.Scope, File: e.File}.name()
	if e.Line > 0 {
		name += ":" + strconv.Itoa(e.Line)
	}
	return fmt.Sprintf("%s: %v: %s", name, e.Kind, e.Text)
}

func (e *Error) Unwrap() error { return e.Kind }

// Source is one file. The sources that follow each other with the same Scope are a layer, with ltsp.conf before ltsp-APPLET.conf.
type Source struct {
	Scope, File string
	Text        []byte
}

// name is how errors and remarks call the file.
func (s Source) name() string {
	if s.Scope == "" {
		return s.File
	}
	return s.Scope + "/" + s.File
}

// Limits bound one evaluation. Zero fields take the defaults.
type Limits struct {
	// Steps are about the commands and words looked at; 500,000 by default, which take under a second.
	Steps int
	// Memory is the size of all variables with their history, in bytes; 16 MiB by default.
	Memory int
	// Word is the size of one expanded word, command line or output, in bytes; 1 MiB by default.
	Word int
	// Depth is how deep calls, subshells and eval may nest; 200 by default.
	Depth int
}

func (l Limits) filled() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{{&l.Steps, 500_000}, {&l.Memory, 16 << 20}, {&l.Word, 1 << 20}, {&l.Depth, 200}} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	return l
}

// Query is who a Program is evaluated for.
type Query struct {
	Subject ltspconf.Subject
	// Vars are set before the first source: SERVER, DEVICE, GATEWAY and the like. They win over what the Subject sets.
	Vars map[string]string
	// Kernel is the kernel command line. Its ltsp.NAME=value win over the sources if the applet is initrd-bottom, and mean nothing to the others.
	Kernel string
	Limits Limits
}

// Input is a Query with its sources, in order of evaluation.
type Input struct {
	Sources []Source
	Subject ltspconf.Subject
	Vars    map[string]string
	Kernel  string
	Limits  Limits
}

// Assignment is one place that gave a variable a value.
type Assignment struct {
	Scope, File string
	// Line is the line of the file, from 1. For text that is run by eval it is the line of the eval.
	Line int
	// Section is the name of the section that the line lies in, "unnamed" above the first header.
	Section string
	Value   string
}

// Value is a variable at the end of the evaluation.
type Value struct {
	Name, Value string
	// Assignments has the one that counts first, then earlier ones, the latest first; at most 100.
	Assignments []Assignment
	// Inexact is true if the value hangs on something that only the client knows.
	Inexact bool
}

// Result is what the sources mean for a client.
type Result struct {
	// Values are the variables that a source has set, sorted by name.
	Values []Value
	// Sections are the names of those that ran, in order, of all sources.
	Sections []string
	// Remarks are what was seen and not followed, as "scope/file:line: text"; at most 200.
	Remarks []string
}

// Get returns a value by name.
func (r *Result) Get(name string) (Value, bool) {
	i, ok := slices.BinarySearchFunc(r.Values, name, func(v Value, n string) int { return strings.Compare(v.Name, n) })
	if !ok {
		return Value{}, false
	}
	return r.Values[i], true
}

// Family returns the values whose names begin with prefix and go on, without the empty ones, in the order in which LTSP uses them.
func (r *Result) Family(prefix string) []Value {
	var vs []Value
	for _, v := range r.Values {
		if len(v.Name) > len(prefix) && strings.HasPrefix(v.Name, prefix) && v.Value != "" {
			vs = append(vs, v)
		}
	}
	return vs
}

// Evaluate compiles the sources and evaluates them. The error is an *Error or the context's. For many clients
// Compile once.
func Evaluate(ctx context.Context, in Input) (*Result, error) {
	p, err := Compile(in.Sources)
	if err != nil {
		return nil, err
	}
	return p.Evaluate(ctx, Query{Subject: in.Subject, Vars: in.Vars, Kernel: in.Kernel, Limits: in.Limits})
}

// Evaluate works out the values for one client. Errors are as those of the function.
func (p *Program) Evaluate(ctx context.Context, q Query) (*Result, error) {
	r := newRun(ctx, p, q)
	for i := range p.units {
		u := &p.units[i]
		if i > 0 && p.units[i-1].layer != u.layer {
			r.forgetSections()
		}
		r.load(u)
		r.lookups(u, q.Subject)
		if r.err != nil || r.ended {
			break
		}
	}
	if r.err == nil && q.Subject.Applet == "initrd-bottom" {
		r.ctl, r.ended = ctlNone, false
		r.kernel(q.Kernel)
	}
	if r.err != nil {
		return nil, r.err
	}
	return r.result(), nil
}

// lookups runs the sections of a file in LTSP's order. A section may change the variables that the later lookups use.
func (r *run) lookups(u *unit, s ltspconf.Subject) {
	names := []string{ltspconf.Unnamed, "clients", "common"}
	if s.Server {
		names = []string{ltspconf.Unnamed, "common", "server"}
	}
	r.callSections(u, append(names, r.value("MAC_ADDRESS"), r.value("IP_ADDRESS")))
	r.callSections(u, []string{r.value("HOSTNAME")})
	if applet := r.value("_APPLET"); applet != "" && applet != "ltsp" {
		a := applet + "/"
		r.callSections(u, []string{a, a + r.value("MAC_ADDRESS"), a + r.value("IP_ADDRESS"), a + r.value("HOSTNAME")})
	}
}

// Expand does the late expansion that LTSP gives to HOSTNAME, PWMERGE_*, LTSPDM_USERS and the like: each % becomes a $, and the shell looks at the text once
// more, as in a here-document. vars are the variables by then, for example IP, MAC and HOSTNAME. inexact tells whether the client must be asked.
func Expand(ctx context.Context, value string, vars map[string]string) (expanded string, inexact bool, err error) {
	if !strings.ContainsAny(value, "%$`\\") {
		return value, false, nil
	}
	text, mapped := mapBytes([]byte("cat <<EOF\n" + strings.ReplaceAll(value, "%", "$") + "\nEOF\n"))
	stmts, err := parseShell(Source{File: "value"}, text, 0)
	if err != nil {
		return "", false, fmt.Errorf("expand %q: %w", value, err)
	}
	u := &unit{source: Source{File: "value"}, fixedLine: 1, mapped: mapped}
	r := newRun(ctx, &Program{}, Query{Vars: vars})
	out, unknown := r.capture(func() { r.block(stmts, frame{unit: u, args: &arguments{}}) })
	if r.err != nil {
		return "", false, fmt.Errorf("expand %q: %w", value, r.err)
	}
	return strings.TrimRight(out, "\n"), unknown, nil
}
