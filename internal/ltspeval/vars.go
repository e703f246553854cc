package ltspeval

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"mvdan.cc/sh/v3/syntax"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
)

const (
	maxAssignments = 100
	maxRemarks     = 200
	// overhead is what a variable or an assignment takes besides its texts.
	overhead = 128
)

type variable struct {
	value    string
	set      bool
	readonly bool
	inexact  bool
	history  []Assignment // by sources, the latest last
}

type function struct {
	body *syntax.Stmt
	unit *unit
}

type control int

const (
	ctlNone control = iota
	ctlBreak
	ctlContinue
	ctlReturn
	ctlExit
)

// arguments are $1 and so on, which all frames of a function share.
type arguments struct {
	list []string
	// unknown says that they hang on something that only the client knows.
	unknown bool
}

// frame is where a command stands.
type frame struct {
	unit *unit
	args *arguments
	// locals holds what local has hidden; nil outside functions.
	locals map[string]*variable
	inLoop int
}

// run is one evaluation. Not safe for concurrent use.
type run struct {
	ctx    context.Context
	p      *Program
	last   *unit // whose section_call a hook gets
	limits Limits

	vars map[string]*variable
	// funcs are what ran so far defined, over the functions of the units that are loaded, the last one first. One without a body is unset.
	funcs  map[string]function
	loaded int
	steps  int
	memory int
	depth  int
	err    error
	ctl    control
	ctlN   int
	ended  bool // by exit
	status int
	unsure bool // the status is not known
	// before and beforeUnsure are the status of the command before the one that runs.
	before       int
	beforeUnsure bool
	isClient     bool
	// substituted says that a $(...) ran in a command, with subStatus.
	substituted bool
	subStatus   int
	subUnsure   bool
	dirty       bool             // the expansion going on used something inexact
	doubt       int              // depth of branches that hang on something inexact
	out         *strings.Builder // nil where output goes nowhere
	unknown     bool             // what went to out is not all
	stdin       *input
	remarks     []string
	ran         []string
}

// input is what read and cat get.
type input struct {
	text    string
	unknown bool
}

// environment are variables of every process, which are not ours to know.
var environment = []string{"PATH", "HOME", "PWD", "OLDPWD", "USER", "LOGNAME", "SHELL", "TERM", "PPID", "PS1", "PS2", "PS4"}

func newRun(ctx context.Context, p *Program, q Query) *run {
	r := &run{ctx: ctx, p: p, limits: q.Limits.filled(), vars: make(map[string]*variable), funcs: make(map[string]function), isClient: !q.Subject.Server}
	r.preset("IFS", " \t\n")
	// What LTSP sets before it reads ltsp.conf.
	r.preset("BASE_DIR", "/srv/ltsp")
	r.preset("TFTP_DIR", "/srv/tftp")
	r.preset("HOME_DIR", "/home")
	r.preset("_LTSP_DIR", "/usr/share/ltsp")
	r.preset("_NL", "\n")
	s := q.Subject
	r.preset("MAC_ADDRESS", s.MAC)
	r.preset("IP_ADDRESS", s.IP)
	r.preset("HOSTNAME", s.Hostname)
	r.preset("_APPLET", s.Applet)
	for name, v := range q.Vars {
		r.preset(name, v)
	}
	return r
}

func (r *run) preset(name, value string) { r.vars[name] = &variable{value: value, set: true} }

// step counts work and stops the evaluation when it is enough.
func (r *run) step(n int) bool {
	before := r.steps
	r.steps += n
	if r.steps > r.limits.Steps && r.err == nil {
		r.limit("the evaluation does not come to an end")
	}
	if before>>12 != r.steps>>12 && r.ctx.Err() != nil && r.err == nil {
		r.fail(r.ctx.Err())
	}
	return r.err == nil
}

func (r *run) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// failAt adds the place to a limit that was hit without one.
func (r *run) failAt(f frame, pos syntax.Pos) {
	if e, ok := r.err.(*Error); ok && e.Line == 0 { //nolint:errorlint // only the very error of fail
		e.Scope, e.File, e.Line = f.unit.source.Scope, f.unit.source.File, f.unit.line(pos)
	}
}

// limit stops the evaluation.
func (r *run) limit(format string, args ...any) {
	r.fail(&Error{Text: fmt.Sprintf(format, args...), Kind: ErrLimit})
}

func (r *run) halted() bool { return r.err != nil || r.ctl != ctlNone }

// use counts memory of variables; n may be negative.
func (r *run) use(n int) {
	if r.memory += n; r.memory > r.limits.Memory {
		r.limit("the variables take more than %d bytes", r.limits.Memory)
	}
}

func (r *run) remark(f frame, pos syntax.Pos, format string, args ...any) {
	r.remarkAt(f.unit, f.unit.line(pos), format, args...)
}

func (r *run) remarkAt(u *unit, line int, format string, args ...any) {
	if len(r.remarks) >= maxRemarks {
		return
	}
	text := fmt.Sprintf("%s:%d: %s", u.source.name(), line, fmt.Sprintf(format, args...))
	if !slices.Contains(r.remarks, text) {
		r.remarks = append(r.remarks, text)
	}
}

// value reads a variable without looking at whether it is exact.
func (r *run) value(name string) string {
	if v := r.vars[name]; v != nil && v.set {
		return v.value
	}
	return ""
}

// get reads a variable for an expansion.
func (r *run) get(name string) (value string, set bool) {
	v := r.vars[name]
	if v == nil {
		if slices.Contains(environment, name) {
			r.dirty = true
		}
		return "", false
	}
	r.dirty = r.dirty || v.inexact
	return v.value, v.set
}

// assign gives a variable a value in a source's line.
func (r *run) assign(f frame, pos syntax.Pos, name, value string, inexact bool) {
	v := r.vars[name]
	if v == nil {
		v = &variable{}
		r.vars[name] = v
		r.use(overhead + len(name))
	}
	if v.readonly {
		r.remark(f, pos, "%s is read-only; a shell ends here", name)
		r.exit()
		return
	}
	r.use(len(value) - len(v.value))
	v.value, v.set, v.inexact = value, true, inexact || r.doubt > 0
	r.note(f, pos, name, v)
}

// note adds an assignment to the history of a variable.
func (r *run) note(f frame, pos syntax.Pos, name string, v *variable) {
	if r.isGuard(name) {
		return
	}
	line := f.unit.line(pos)
	a := Assignment{Scope: f.unit.source.Scope, File: f.unit.source.File, Line: line, Section: f.unit.sectionAt(line), Value: v.value}
	if len(v.history) >= 2*maxAssignments {
		for _, old := range v.history[:maxAssignments] {
			r.use(-len(old.Value) - overhead)
		}
		v.history = slices.Clone(v.history[maxAssignments:])
	}
	v.history = append(v.history, a)
	r.use(len(v.value) + overhead)
}

func (r *run) unset(name string) {
	v := r.vars[name]
	if v == nil {
		return
	}
	if v.readonly {
		return
	}
	r.use(-len(v.value))
	v.value, v.set, v.inexact = "", false, r.doubt > 0
}

// forgetSections lets the next layer run sections of names that ran in earlier ones.
func (r *run) forgetSections() {
	for name := range r.vars {
		if r.isGuard(name) {
			delete(r.vars, name)
		}
	}
}

// isGuard tells whether a variable says that a section ran.
func (r *run) isGuard(name string) bool {
	if !strings.HasPrefix(name, "section_") {
		return false
	}
	fn, ok := r.function(name)
	return ok && fn.unit.file != nil
}

// load defines the functions of a file.
func (r *run) load(u *unit) {
	r.last = u
	if u.funcs == nil {
		r.block(u.stmts, frame{unit: u, args: &arguments{}})
		r.loaded++
		return
	}
	for name := range r.funcs {
		if u.funcs[name] != nil {
			delete(r.funcs, name)
		}
	}
	r.loaded++
	r.step(1 + len(u.funcs)/64)
}

// function finds a function by its name.
func (r *run) function(name string) (function, bool) {
	if fn, ok := r.funcs[name]; ok {
		return fn, fn.body != nil
	}
	for i := r.loaded - 1; i >= 0; i-- {
		if body := r.p.units[i].funcs[name]; body != nil {
			return function{body: body, unit: &r.p.units[i]}, true
		}
	}
	return function{}, false
}

// maybe marks variables that a branch would set that was not taken, and that only the client knows about.
func (r *run) maybe(f frame, pos syntax.Pos, branch ...*syntax.Stmt) {
	for _, s := range branch {
		syntax.Walk(s, func(n syntax.Node) bool {
			if !r.step(1) {
				return false
			}
			if c, ok := n.(*syntax.CallExpr); ok {
				for _, name := range setBy(c) {
					r.maybeName(f, pos, name)
				}
			}
			return true
		})
	}
}

// setBy returns the names of variables that a command would leave set.
func setBy(c *syntax.CallExpr) []string {
	var names []string
	if len(c.Args) == 0 {
		for _, a := range c.Assigns {
			names = append(names, a.Name.Value)
		}
		return names
	}
	if v := c.Args[0].Lit(); v != "export" && v != "readonly" {
		return nil
	}
	for _, w := range c.Args[1:] {
		if name, _, ok := assignmentWord(w); ok {
			names = append(names, name)
		}
	}
	return names
}

func (r *run) maybeName(f frame, pos syntax.Pos, name string) {
	if v := r.vars[name]; v != nil && v.set {
		v.inexact = true
		return
	}
	r.remark(f, pos, "whether %s is set hangs on what only the client knows", name)
}

// subshell runs fn with a copy of all that it can change.
func (r *run) subshell(f frame, fn func(f frame)) {
	vars, funcs, memory := r.vars, r.funcs, r.memory
	r.vars = make(map[string]*variable, len(vars))
	for name, v := range vars {
		c := *v
		c.history = slices.Clip(v.history)
		r.vars[name] = &c
	}
	r.funcs = maps.Clone(funcs)
	r.step(1 + (len(vars)+len(funcs))/2)
	r.depth++
	if r.depth > r.limits.Depth {
		r.limit("commands nest more than %d deep", r.limits.Depth)
	} else {
		args := *f.args
		f.args, f.locals = &args, maps.Clone(f.locals)
		fn(f)
	}
	r.depth--
	r.vars, r.funcs, r.memory = vars, funcs, memory
	r.ctl, r.ended = ctlNone, false
}

func (r *run) exit() { r.ctl, r.ended = ctlExit, true }

func (r *run) result() *Result {
	res := &Result{Sections: r.ran, Remarks: r.remarks}
	for name, v := range r.vars {
		if len(v.history) == 0 || !v.set || r.isGuard(name) {
			continue
		}
		as := slices.Clone(v.history[max(0, len(v.history)-maxAssignments):])
		slices.Reverse(as)
		res.Values = append(res.Values, Value{Name: name, Value: v.value, Assignments: as, Inexact: v.inexact})
	}
	slices.SortFunc(res.Values, func(a, b Value) int { return cmp.Compare(a.Name, b.Name) })
	return res
}

// kernel lets the kernel command line win.
func (r *run) kernel(cmdline string) {
	s := Source{Scope: "kernel", File: "cmdline"}
	text := ltspconf.KernelScript(cmdline)
	text, mapped := mapBytes(text)
	stmts, err := parseShell(s, text, 0)
	if err != nil {
		r.fail(err)
		return
	}
	r.block(stmts, frame{args: &arguments{}, unit: &unit{source: s, fixedLine: 1, section: ltspconf.Unnamed, mapped: mapped}})
}
