package ltspeval

import (
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
)

// block runs statements one after the other.
func (r *run) block(stmts []*syntax.Stmt, f frame) {
	for _, s := range stmts {
		if r.halted() {
			return
		}
		r.stmt(s, f)
	}
}

func (r *run) stmt(s *syntax.Stmt, f frame) {
	if !r.step(1) {
		r.failAt(f, s.Pos())
		return
	}
	if s.Background {
		r.remark(f, s.Pos(), "a command in the background is not followed")
		r.setStatus(0, false)
		return
	}
	restore := r.redirect(s.Redirs, f)
	r.command(s, f)
	restore()
	if s.Negated && !r.halted() {
		r.status = btoi(r.status == 0)
	}
	if r.err != nil {
		r.failAt(f, s.Pos())
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (r *run) setStatus(n int, unsure bool) { r.status, r.unsure = n, unsure }

func (r *run) command(s *syntax.Stmt, f frame) {
	switch c := s.Cmd.(type) {
	case nil:
		r.setStatus(0, false)
	case *syntax.CallExpr:
		r.call(c, f)
	case *syntax.Block:
		r.block(c.Stmts, f)
	case *syntax.Subshell:
		r.subshell(f, func(f frame) { r.block(c.Stmts, f) })
	case *syntax.BinaryCmd:
		r.binary(c, f)
	case *syntax.IfClause:
		r.ifClause(c, f)
	case *syntax.WhileClause:
		r.while(c, f)
	case *syntax.ForClause:
		r.forClause(c, f)
	case *syntax.CaseClause:
		r.caseClause(c, f)
	case *syntax.FuncDecl:
		r.funcs[c.Name.Value] = function{body: c.Body, unit: f.unit}
		r.use(overhead)
		r.setStatus(0, false)
	case *syntax.DeclClause:
		r.declare(c, f)
	default:
		r.remark(f, s.Pos(), "this command is not known to sh")
		r.setStatus(2, true)
	}
}

func (r *run) binary(c *syntax.BinaryCmd, f frame) {
	if c.Op == syntax.Pipe {
		r.pipe(c, f)
		return
	}
	r.stmt(c.X, f)
	if r.halted() {
		return
	}
	take := (r.status == 0) == (c.Op == syntax.AndStmt)
	r.branch(f, c.Pos(), r.unsure, take, []*syntax.Stmt{c.Y}, nil)
}

// branch runs yes or no. When it is not sure which, what runs is in doubt, and so is what does not.
func (r *run) branch(f frame, pos syntax.Pos, unsure, take bool, yes, no []*syntax.Stmt) {
	if !take {
		yes, no = no, yes
	}
	if unsure {
		r.maybe(f, pos, no...)
		r.doubt++
		defer func() { r.doubt-- }()
	}
	r.block(yes, f)
}

// pipe runs both sides in subshells, the left one to its end first.
func (r *run) pipe(c *syntax.BinaryCmd, f frame) {
	in := &input{}
	r.subshell(f, func(f frame) { in.text, in.unknown = r.capture(func() { r.stmt(c.X, f) }) })
	stdin := r.stdin
	r.stdin = in
	if r.err == nil {
		r.subshell(f, func(f frame) { r.stmt(c.Y, f) })
	}
	r.stdin = stdin
}

// capture returns what fn writes to standard output, and whether that is only known to the client.
func (r *run) capture(fn func()) (text string, unknown bool) {
	out, outer := r.out, r.unknown
	r.out, r.unknown = &strings.Builder{}, false
	fn()
	text, unknown = r.out.String(), r.unknown
	r.out, r.unknown = out, outer
	return text, unknown
}

func (r *run) print(s string) {
	if r.out == nil || s == "" {
		return
	}
	if r.out.Len()+len(s) > r.limits.Word {
		r.limit("an output of more than %d bytes", r.limits.Word)
		return
	}
	r.step(len(s) / 64)
	r.unknown = r.unknown || r.doubt > 0
	r.out.WriteString(s)
}

func (r *run) ifClause(c *syntax.IfClause, f frame) {
	doubt := r.doubt
	defer func() { r.doubt = doubt }()
	for ; c != nil; c = c.Else {
		if len(c.Cond) == 0 { // else
			r.block(c.Then, f)
			return
		}
		r.block(c.Cond, f)
		if r.halted() {
			return
		}
		take := r.status == 0
		if r.unsure {
			r.doubt = doubt + 1
			r.maybeIf(c, f, take)
		}
		if take {
			r.block(c.Then, f)
			return
		}
		if c.Else == nil {
			r.setStatus(0, false)
		}
	}
}

// maybeIf marks what the branches of an unsure if would set that are not taken.
func (r *run) maybeIf(c *syntax.IfClause, f frame, taken bool) {
	if !taken {
		r.maybe(f, c.Pos(), c.Then...)
		return
	}
	for e := c.Else; e != nil; e = e.Else {
		r.maybe(f, c.Pos(), e.Then...)
	}
}

func (r *run) while(c *syntax.WhileClause, f frame) {
	f.inLoop++
	status := 0
	for r.step(1) {
		r.block(c.Cond, f)
		if r.leaveLoop() {
			return
		}
		if r.unsure {
			r.remark(f, c.Pos(), "how often this loop runs is only known to the client")
			r.maybe(f, c.Pos(), c.Do...)
			break
		}
		if (r.status == 0) == c.Until {
			break
		}
		r.block(c.Do, f)
		status = r.status
		if r.leaveLoop() {
			return
		}
	}
	r.setStatus(status, false)
}

// leaveLoop tells whether a loop ends now, and takes a break or continue that is meant for it.
func (r *run) leaveLoop() bool {
	switch {
	case r.err != nil:
		return true
	case r.ctl == ctlBreak || r.ctl == ctlContinue:
		if r.ctlN--; r.ctlN > 0 {
			return true
		}
		leave := r.ctl == ctlBreak
		r.ctl = ctlNone
		return leave
	}
	return r.ctl != ctlNone
}

func (r *run) forClause(c *syntax.ForClause, f frame) {
	iter, ok := c.Loop.(*syntax.WordIter)
	if !ok {
		r.remark(f, c.Pos(), "this loop is not known to sh")
		return
	}
	items := f.args.list
	r.dirty = f.args.unknown
	if iter.InPos.IsValid() {
		r.dirty = false
		items = r.fields(iter.Items, f)
	}
	inexact := r.dirty
	f.inLoop++
	r.setStatus(0, false)
	for _, item := range items {
		if !r.step(1) {
			return
		}
		r.assign(f, c.Pos(), iter.Name.Value, item, inexact)
		r.block(c.Do, f)
		if r.leaveLoop() {
			return
		}
	}
}

func (r *run) caseClause(c *syntax.CaseClause, f frame) {
	r.dirty = false
	word := r.literal(c.Word, f)
	for i, item := range c.Items {
		for _, p := range item.Patterns {
			if !r.match(r.pattern(p, f), word) {
				continue
			}
			if r.dirty {
				r.maybeCase(c, i, f)
				r.doubt++
				defer func() { r.doubt-- }()
			}
			r.setStatus(0, false)
			r.block(item.Stmts, f)
			return
		}
		if r.err != nil {
			return
		}
	}
	if r.dirty {
		r.maybeCase(c, -1, f)
	}
	r.setStatus(0, false)
}

func (r *run) maybeCase(c *syntax.CaseClause, taken int, f frame) {
	for i, item := range c.Items {
		if i != taken {
			r.maybe(f, c.Pos(), item.Stmts...)
		}
	}
}

// call runs a simple command.
func (r *run) call(c *syntax.CallExpr, f frame) {
	r.dirty = false
	args := r.commandWords(c.Args, f)
	dirty := r.dirty
	if r.err != nil {
		return
	}
	if len(args) == 0 {
		r.substituted = false
		r.assigns(c.Assigns, f)
		if r.substituted {
			r.setStatus(r.subStatus, r.subUnsure)
		} else {
			r.setStatus(0, false)
		}
		return
	}
	if fn, ok := r.function(args[0]); ok && !isSpecial(args[0]) && !isOwn(args[0]) {
		restore := r.temporary(c.Assigns, f)
		r.dirty = dirty
		r.invoke(fn, args[1:], f, c.Pos())
		restore()
		return
	}
	restore := func() {}
	if isSpecial(args[0]) {
		r.assigns(c.Assigns, f)
	} else {
		restore = r.temporary(c.Assigns, f)
	}
	r.dirty = r.dirty || dirty
	r.before, r.beforeUnsure = r.status, r.unsure
	r.builtin(args, c, f)
	restore()
}

// declare runs export and the like, which the parser sets apart in a text that has constructs of bash.
func (r *run) declare(c *syntax.DeclClause, f frame) {
	r.dirty = false
	args := []string{c.Variant.Value}
	for _, a := range c.Args {
		switch {
		case a.Name == nil:
			args = append(args, r.wordFields(a.Value, f)...)
		case a.Naked:
			args = append(args, a.Name.Value)
		default:
			args = append(args, a.Name.Value+"="+r.assignedValue(a, f))
		}
	}
	if !r.halted() {
		name := &syntax.Word{Parts: []syntax.WordPart{c.Variant}}
		r.builtin(args, &syntax.CallExpr{Args: []*syntax.Word{name}}, f)
	}
}

func (r *run) assigns(list []*syntax.Assign, f frame) {
	for _, a := range list {
		r.dirty = false
		value := r.assignedValue(a, f)
		if r.halted() {
			return
		}
		if a.Append {
			r.remark(f, a.Pos(), "+= is not known to sh")
			continue
		}
		r.assign(f, a.Pos(), a.Name.Value, value, r.dirty)
	}
}

func (r *run) assignedValue(a *syntax.Assign, f frame) string {
	if a.Value == nil {
		return ""
	}
	return r.literal(a.Value, f)
}

// temporary sets variables for one command and returns what takes them back.
func (r *run) temporary(list []*syntax.Assign, f frame) func() {
	if len(list) == 0 {
		return func() {}
	}
	saved := make(map[string]*variable, len(list))
	for _, a := range list {
		value := r.assignedValue(a, f)
		name := a.Name.Value
		if _, ok := saved[name]; !ok {
			saved[name] = r.vars[name]
		}
		r.vars[name] = &variable{value: value, set: true, inexact: r.dirty}
	}
	return func() { r.putBack(saved) }
}

func (r *run) putBack(saved map[string]*variable) {
	for name, v := range saved {
		if v == nil {
			delete(r.vars, name)
			continue
		}
		r.vars[name] = v
	}
}

// invoke runs a shell function.
func (r *run) invoke(fn function, args []string, f frame, pos syntax.Pos) {
	if r.depth++; r.depth > r.limits.Depth {
		r.limit("functions call each other more than %d deep", r.limits.Depth)
		r.failAt(f, pos)
		return
	}
	inner := frame{unit: fn.unit, args: &arguments{list: args, unknown: r.dirty}, locals: make(map[string]*variable)}
	r.stmt(fn.body, inner)
	r.putBack(inner.locals)
	if r.ctl != ctlExit {
		r.ctl = ctlNone
	}
	r.depth--
}

// callSections runs, for each name, the first section of the file that matches.
func (r *run) callSections(u *unit, names []string) {
	for _, name := range names {
		if r.halted() {
			return
		}
		r.section(u, name, names)
	}
}

func (r *run) section(u *unit, name string, args []string) {
	function, shown, line := "section_"+ltspconf.Unnamed, ltspconf.Unnamed, 1
	if name != ltspconf.Unnamed {
		i := u.file.Lookup(name)
		r.step(1 + len(u.file.Sections)/16)
		if i < 0 || u.file.Sections[i].Reserved() {
			return
		}
		s := u.file.Sections[i]
		function, shown, line = s.Function, s.Name, s.Line
	}
	fn, ok := r.function(function)
	if !ok {
		r.remarkAt(u, line, "section %q has no body: its header stands within quotes", shown)
		return
	}
	if r.value(function) != "1" {
		r.ran = append(r.ran, shown)
	}
	r.dirty = false
	hidden := r.vars["section"]
	r.preset("section", name)
	r.invoke(fn, args, frame{unit: u, args: &arguments{list: args}}, syntax.Pos{})
	r.putBack(map[string]*variable{"section": hidden})
}

// include runs an INCLUDE line: a section of the same file, or of the nearest earlier layer that has one of the name.
func (r *run) include(f frame, name string, pos syntax.Pos) {
	own := f.unit
	if own.file == nil {
		return
	}
	if name == ltspconf.Unnamed || own.file.Lookup(name) >= 0 {
		r.section(own, name, []string{name})
		return
	}
	for i := len(r.p.units) - 1; i >= 0; i-- {
		if u := &r.p.units[i]; u.layer < own.layer && u.file.Lookup(name) >= 0 {
			r.section(u, name, []string{name})
			return
		}
	}
	r.remark(f, pos, "INCLUDE of %q, which no section matches", name)
}

// parseSteps is what parsing a text costs, besides its length.
const parseSteps = 20

// eval runs a text in place.
func (r *run) eval(text string, f frame, pos syntax.Pos) {
	line := f.unit.line(pos)
	s := f.unit.source
	s.Text = nil
	r.step(parseSteps + len(text)/4)
	if r.err != nil {
		return
	}
	if r.depth++; r.depth > r.limits.Depth {
		r.limit("eval nests more than %d deep", r.limits.Depth)
		return
	}
	defer func() { r.depth-- }()
	mappedText, mapped := mapBytes([]byte(text))
	stmts, err := parseShell(s, mappedText, 0)
	if err != nil {
		r.remarkAt(f.unit, line, "eval of a text that is no shell: %s", strconv.Quote(clip(text)))
		r.setStatus(2, true)
		return
	}
	f.unit = &unit{source: s, file: nil, layer: f.unit.layer, fixedLine: line, section: f.unit.sectionAt(line), mapped: mapped}
	r.setStatus(0, false)
	r.block(stmts, f)
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}

// redirect gives a statement its here-document and leaves files alone. It returns what ends it.
func (r *run) redirect(list []*syntax.Redirect, f frame) func() {
	if len(list) == 0 {
		return func() {}
	}
	out, stdin := r.out, r.stdin
	for _, d := range list {
		r.redirectOne(d, f)
	}
	return func() { r.out, r.stdin = out, stdin }
}

func (r *run) redirectOne(d *syntax.Redirect, f frame) {
	fd := ""
	if d.N != nil {
		fd = d.N.Value
	}
	switch d.Op {
	case syntax.Hdoc, syntax.DashHdoc:
		dirty := r.dirty
		r.dirty = false
		text := r.document(d, f)
		if fd == "" || fd == "0" {
			r.stdin = &input{text: text, unknown: r.dirty}
		}
		r.dirty = dirty
		return
	}
	target := r.literal(d.Word, f)
	switch {
	case d.Op == syntax.RdrIn || d.Op == syntax.RdrInOut || d.Op == syntax.DplIn:
		if fd == "" || fd == "0" {
			r.stdin = &input{unknown: target != "/dev/null"}
		}
	case fd == "" || fd == "1":
		if d.Op == syntax.DplOut && target == "1" {
			return
		}
		r.out = nil
	default:
		return
	}
	if !strings.HasPrefix(target, "/dev/null") && d.Op != syntax.DplOut && d.Op != syntax.DplIn {
		r.remark(f, d.Pos(), "the file %q is not opened", clip(target))
	}
}
