package ltspeval

import (
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// call is one command that is being run.
type call struct {
	r    *run
	f    frame
	args []string // without the name
	pos  syntax.Pos
	cmd  *syntax.CallExpr
}

// builtinOf returns a command that is followed, or nil. Those that LTSP defines itself are among them: hooks and sections may use them.
func builtinOf(name string) func(*call) {
	switch name {
	case ":", "true", "wait", "times", "hash", "warn", "debug", "exit_command", ownEval:
		return func(*call) {}
	case "cd", "trap", "umask", "ulimit", "alias", "unalias":
		return (*call).ignored
	case "re", "rw", "rs", "rsr", "rwr":
		return (*call).wrapped
	case "break":
		return func(c *call) { c.loop(ctlBreak) }
	case "continue":
		return func(c *call) { c.loop(ctlContinue) }
	case "test":
		return func(c *call) { c.test(c.args) }
	}
	return map[string]func(*call){
		"false": (*call).fail, "echo": (*call).echo, "printf": (*call).printf, "cat": (*call).cat, "[": (*call).bracket,
		"export": (*call).export, "readonly": (*call).readonly, "local": (*call).local, "unset": (*call).unset,
		"set": (*call).set, "shift": (*call).shift, "read": (*call).read, "eval": (*call).eval, "command": (*call).command,
		"return": (*call).returns, "exit": (*call).exit, "die": (*call).die, "is_command": (*call).isCommand,
		"section_call": (*call).sectionCall, ownCall: (*call).sectionInclude, "section_list": (*call).sectionList,
	}[name]
}

// The functions that ltspconf's text defines for the file with index 0, which is how each file is parsed here.
const (
	ownCall = "_ltsp_call_0"
	ownEval = "_ltsp_eval_0"
)

// isOwn tells whether a command is never the function of its name, because it is followed here.
func isOwn(name string) bool {
	return name == ownCall || name == ownEval || name == "section_call" || name == "section_list"
}

// isSpecial tells whether assignments before the command stay (POSIX section 2.14).
func isSpecial(name string) bool {
	return slices.Contains([]string{":", ".", "eval", "exec", "exit", "export", "readonly", "return", "set", "shift", "times", "trap", "unset", "break", "continue"}, name)
}

func (r *run) builtin(args []string, cmd *syntax.CallExpr, f frame) {
	c := &call{r: r, f: f, args: args[1:], pos: cmd.Pos(), cmd: cmd}
	if fn := builtinOf(args[0]); fn != nil {
		r.setStatus(0, false)
		fn(c)
		return
	}
	c.unknown(args[0])
}

// unknown is a command that only the client can run. It is taken to succeed without output.
func (c *call) unknown(name string) {
	c.r.remark(c.f, c.pos, "command %q is not run here", clip(name))
	c.r.unknown = true
	c.r.setStatus(0, true)
}

func (c *call) fail() { c.r.setStatus(1, false) }

func (c *call) die() {
	c.r.remark(c.f, c.pos, "die ends LTSP here")
	c.r.exit()
}

func (c *call) ignored() {
	c.r.remark(c.f, c.pos, "%s is not followed", c.cmd.Args[0].Lit())
}

func (c *call) print(s string) {
	c.r.unknown = c.r.unknown || c.r.dirty
	c.r.print(s)
}

// echo writes its arguments as they are, options and backslashes too: LTSP replaces the shell's.
func (c *call) echo() { c.print(strings.Join(c.args, " ") + "\n") }

func (c *call) cat() {
	if len(c.args) > 0 && !slices.Equal(c.args, []string{"-"}) {
		c.unknown("cat")
		return
	}
	in := c.r.stdin
	if in == nil || in.unknown {
		c.r.unknown = true
		c.r.setStatus(0, true)
	}
	if in != nil {
		c.r.print(in.text)
		in.text = ""
	}
}

func (c *call) export() {
	for _, a := range c.args {
		if name, value, ok := strings.Cut(a, "="); ok && syntax.ValidName(name) {
			c.r.assign(c.f, c.pos, name, value, c.r.dirty)
		}
	}
}

func (c *call) readonly() {
	c.export()
	for _, a := range c.args {
		name, _, _ := strings.Cut(a, "=")
		if !syntax.ValidName(name) {
			continue
		}
		v := c.r.vars[name]
		if v == nil {
			v = &variable{}
			c.r.vars[name] = v
			c.r.use(overhead)
		}
		v.readonly = true
	}
}

// local hides a variable until the function returns. As in dash it begins with the value that it hides.
func (c *call) local() {
	if c.f.locals == nil {
		c.r.remark(c.f, c.pos, "local outside a function; a shell ends here")
		c.r.exit()
		return
	}
	for _, a := range c.args {
		name, value, given := strings.Cut(a, "=")
		if !syntax.ValidName(name) {
			continue
		}
		old := c.r.vars[name]
		if _, done := c.f.locals[name]; !done {
			c.f.locals[name] = old
			hides := &variable{}
			if old != nil {
				hides.value, hides.set, hides.inexact = old.value, old.set, old.inexact
			}
			c.r.vars[name] = hides
		}
		if given {
			c.r.assign(c.f, c.pos, name, value, c.r.dirty)
		}
	}
}

func (c *call) unset() {
	functions := false
	for _, a := range c.args {
		switch {
		case a == "-f":
			functions = true
		case a == "-v":
		case functions:
			c.r.funcs[a] = function{}
		default:
			c.r.unset(a)
		}
	}
}

// set replaces the arguments behind --; options are not followed.
func (c *call) set() {
	i := slices.Index(c.args, "--")
	if i < 0 {
		if len(c.args) > 0 && !strings.HasPrefix(c.args[0], "-") && !strings.HasPrefix(c.args[0], "+") {
			c.setArgs(c.args)
			return
		}
		if len(c.args) == 0 {
			c.r.unknown = true
		}
		if slices.ContainsFunc(c.args, func(a string) bool { return strings.ContainsAny(a, "uan") }) {
			c.ignored()
		}
		return
	}
	c.setArgs(c.args[i+1:])
}

// setArgs gives the frame new arguments. Frames are copied down the tree, so what changes is the slice that all of them share.
func (c *call) setArgs(args []string) {
	*c.f.args = arguments{list: slices.Clone(args), unknown: c.r.dirty}
}

func (c *call) shift() {
	n := 1
	if len(c.args) > 0 {
		n, _ = strconv.Atoi(c.args[0])
	}
	if n < 0 || n > len(c.f.args.list) {
		c.r.remark(c.f, c.pos, "there are not so many arguments to shift; dash ends here")
		c.r.exit()
		return
	}
	c.f.args.list = c.f.args.list[n:]
}

// read takes a line of a here-document or a pipe.
func (c *call) read() {
	raw := false
	args := c.args
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		raw = raw || args[0] == "-r"
		args = args[1:]
	}
	in := c.r.stdin
	if in == nil {
		in = &input{unknown: true}
	}
	line, complete := in.line(raw)
	c.r.setStatus(btoi(!complete), in.unknown)
	ifs, set := c.r.get("IFS")
	if !set {
		ifs = " \t\n"
	}
	for i, name := range args {
		if !syntax.ValidName(name) {
			c.r.setStatus(2, false)
			return
		}
		var value string
		if i == len(args)-1 {
			value = lastField(line, ifs)
		} else {
			value, line = cutIFS(line, ifs)
		}
		status, unsure := c.r.status, c.r.unsure
		c.r.assign(c.f, c.pos, name, value, in.unknown || c.r.dirty)
		c.r.setStatus(status, unsure)
	}
}

// line takes one line. Unless it is raw, backslashes quote the next character and join lines.
func (in *input) line(raw bool) (line string, complete bool) {
	if raw {
		line, in.text, complete = strings.Cut(in.text, "\n")
		return line, complete
	}
	var b strings.Builder
	i := 0
	for ; i < len(in.text) && in.text[i] != '\n'; i++ {
		if in.text[i] == '\\' {
			if i++; i == len(in.text) || in.text[i] == '\n' {
				continue
			}
		}
		b.WriteByte(in.text[i])
	}
	complete = i < len(in.text)
	in.text = in.text[min(i+1, len(in.text)):]
	return b.String(), complete
}

func white(ifs string) string {
	var w strings.Builder
	for _, s := range " \t\n" {
		if strings.ContainsRune(ifs, s) {
			w.WriteRune(s)
		}
	}
	return w.String()
}

// lastField is what the last variable of read gets: the rest of the line, without the separator behind it if there is only one field.
func lastField(s, ifs string) string {
	if field, rest := cutIFS(s, ifs); rest == "" {
		return field
	}
	return strings.Trim(s, white(ifs))
}

// cutIFS takes the first field off a line.
func cutIFS(s, ifs string) (field, rest string) {
	w := white(ifs)
	s = strings.TrimLeft(s, w)
	i := strings.IndexAny(s, ifs)
	if i < 0 || ifs == "" {
		return s, ""
	}
	field, rest = s[:i], strings.TrimLeft(s[i:], w)
	if strings.IndexByte(w, s[i]) < 0 {
		rest = s[i+1:]
	} else if rest != "" && strings.IndexByte(ifs, rest[0]) >= 0 {
		rest = rest[1:]
	}
	return field, strings.TrimLeft(rest, w)
}

func (c *call) eval() { c.r.eval(strings.Join(c.args, " "), c.f, c.pos) }

func (c *call) command() {
	if len(c.args) > 0 && (c.args[0] == "-v" || c.args[0] == "-V") {
		c.args = c.args[1:]
		if c.known() && c.args[0] != "cat" {
			c.print(c.args[0] + "\n")
			return
		}
		c.isCommand()
		return
	}
	if len(c.args) > 0 {
		c.r.builtin(c.args, c.cmd, c.f)
	}
}

func (c *call) known() bool {
	if len(c.args) == 0 {
		return false
	}
	_, isFunc := c.r.function(c.args[0])
	return isFunc || builtinOf(c.args[0]) != nil
}

func (c *call) isCommand() {
	if !c.known() {
		c.r.remark(c.f, c.pos, "whether a command is installed is only known to the client")
		c.r.unknown = true
		c.r.setStatus(1, true)
	}
}

// wrapped runs the command behind re, rw and the like.
func (c *call) wrapped() {
	if len(c.args) == 0 {
		return
	}
	if fn, ok := c.r.function(c.args[0]); ok && !isOwn(c.args[0]) {
		c.r.invoke(fn, c.args[1:], c.f, c.pos)
		return
	}
	c.r.builtin(c.args, c.cmd, c.f)
}

func (c *call) returns() {
	c.status()
	c.r.ctl = ctlReturn
}

func (c *call) exit() {
	c.status()
	c.r.remark(c.f, c.pos, "exit ends LTSP here")
	c.r.exit()
}

func (c *call) status() {
	c.r.setStatus(c.r.before, c.r.beforeUnsure)
	if len(c.args) > 0 {
		n, err := strconv.Atoi(c.args[0])
		if err != nil {
			n = 2
		}
		c.r.setStatus(n&255, c.r.dirty)
	}
}

func (c *call) loop(kind control) {
	if c.f.inLoop == 0 {
		return
	}
	n := 1
	if len(c.args) > 0 {
		n, _ = strconv.Atoi(c.args[0])
	}
	c.r.ctl, c.r.ctlN = kind, max(1, min(n, c.f.inLoop))
}

func (c *call) sectionCall() {
	if u := c.r.last; u != nil {
		c.r.callSections(u, c.args)
	}
}

func (c *call) sectionInclude() {
	for _, name := range c.args {
		c.r.include(c.f, name, c.pos)
	}
}

func (c *call) sectionList() {
	if u := c.r.last; u != nil {
		c.print("\n")
		for _, s := range u.file.Sections {
			c.print(s.Function + "\n")
		}
	}
}

func (c *call) bracket() {
	if n := len(c.args); n > 0 && c.args[n-1] == "]" {
		c.test(c.args[:n-1])
		return
	}
	c.r.remark(c.f, c.pos, "[ without ]")
	c.r.setStatus(2, false)
}

// test evaluates an expression of test(1).
func (c *call) test(args []string) {
	t := tester{call: c, args: args, unsure: c.r.dirty}
	truth := len(args) > 0 && t.or()
	if len(t.args) > 0 || t.bad {
		c.r.remark(c.f, c.pos, "a test that sh does not know")
		c.r.setStatus(2, t.unsure)
		return
	}
	c.r.setStatus(btoi(!truth), t.unsure)
}

type tester struct {
	*call
	args   []string
	bad    bool
	unsure bool
	depth  int
}

func (t *tester) next() string {
	if len(t.args) == 0 {
		t.bad = true
		return ""
	}
	a := t.args[0]
	t.args = t.args[1:]
	return a
}

func (t *tester) take(word string) bool {
	if len(t.args) > 0 && t.args[0] == word {
		t.args = t.args[1:]
		return true
	}
	return false
}

func (t *tester) or() bool {
	v := t.and()
	for t.take("-o") {
		w := t.and()
		v = v || w
	}
	return v
}

func (t *tester) and() bool {
	v := t.not()
	for t.take("-a") {
		w := t.not()
		v = v && w
	}
	return v
}

func (t *tester) not() bool {
	negate := false
	for len(t.args) > 1 && !t.isBinary() && t.take("!") {
		negate = !negate
	}
	return t.primary() != negate
}

var binaryTests = []string{"=", "!=", "-eq", "-ne", "-gt", "-ge", "-lt", "-le", "<", ">", "-nt", "-ot", "-ef"}

func (t *tester) isBinary() bool {
	return len(t.args) >= 3 && slices.Contains(binaryTests, t.args[1])
}

func (t *tester) primary() bool {
	if t.isBinary() {
		a, op, b := t.next(), t.next(), t.next()
		return t.binary(a, op, b)
	}
	if len(t.args) > 2 && t.args[0] == "(" && t.depth < 100 {
		t.next()
		t.depth++
		v := t.or()
		t.depth--
		t.bad = t.bad || !t.take(")")
		return v
	}
	a := t.next()
	if len(t.args) > 0 && len(a) == 2 && a[0] == '-' {
		return t.unary(a[1], t.next())
	}
	return a != ""
}

func (t *tester) unary(op byte, a string) bool {
	switch op {
	case 'n':
		return a != ""
	case 'z':
		return a == ""
	case 't':
		return false
	}
	if strings.IndexByte("bcdefghkLOGprsSuwx", op) < 0 {
		t.bad = true
		return false
	}
	if a == "/run/ltsp/client" && (op == 'd' || op == 'e') {
		return t.r.isClient
	}
	t.r.remark(t.f, t.pos, "test -%c %s is only known to the client", op, clip(a))
	t.unsure = true
	return false
}

func (t *tester) binary(a, op, b string) bool {
	switch op {
	case "=":
		return a == b
	case "!=":
		return a != b
	case "<":
		return a < b
	case ">":
		return a > b
	case "-nt", "-ot", "-ef":
		t.unsure = true
		return false
	}
	x, errX := strconv.ParseInt(strings.TrimSpace(a), 10, 64)
	y, errY := strconv.ParseInt(strings.TrimSpace(b), 10, 64)
	if errX != nil || errY != nil {
		t.bad = true
		return false
	}
	switch op {
	case "-eq":
		return x == y
	case "-ne":
		return x != y
	case "-gt":
		return x > y
	case "-ge":
		return x >= y
	case "-lt":
		return x < y
	}
	return x <= y
}
