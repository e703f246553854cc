package ltspeval

import (
	"slices"
	"strconv"
	"strings"

	"mvdan.cc/sh/v3/syntax"
)

// piece is a part of a word that is being expanded.
type piece struct {
	text string
	// quoted text is neither split nor a pattern; split text is the result of an expansion outside quotes.
	quoted, split bool
	// next begins a new field, as between the arguments of "$@".
	next bool
}

// expansion collects the pieces of one word or one command line.
type expansion struct {
	r      *run
	f      frame
	size   int
	pieces []piece
	// untab removes tabs at the beginning of lines, as <<- wants; lineStart says that a line begins.
	untab, lineStart bool
}

func (e *expansion) add(p piece) {
	e.r.step(1 + len(p.text)/64)
	if e.size += len(p.text); e.size > e.r.limits.Word {
		e.r.limit("a word of more than %d bytes", e.r.limits.Word)
		return
	}
	e.pieces = append(e.pieces, p)
}

// quoting is where a part of a word stands.
type quoting int

const (
	bare quoting = iota
	double
	hereDoc
)

// escapes are the characters that a backslash quotes there.
var escapes = map[quoting]string{double: "$`\"\\", hereDoc: "$`\\"}

func (e *expansion) parts(parts []syntax.WordPart, q quoting) {
	for i, p := range parts {
		if e.r.err != nil {
			return
		}
		switch p := p.(type) {
		case *syntax.Lit:
			e.lit(e.f.unit.text(p.Value), q, i == 0)
		case *syntax.SglQuoted:
			e.add(piece{text: e.f.unit.text(p.Value), quoted: true})
		case *syntax.DblQuoted:
			if len(p.Parts) == 0 {
				e.add(piece{quoted: true})
			}
			e.parts(p.Parts, double)
		case *syntax.ParamExp:
			e.param(p, q)
		case *syntax.CmdSubst:
			e.result(e.r.substitute(p, e.f), q)
		case *syntax.ArithmExp:
			n, ok := e.r.arithmetic(p.X, e.f)
			if !ok {
				e.r.remark(e.f, p.Pos(), "an arithmetic expression that sh refuses")
				e.r.exit()
				return
			}
			e.result(strconv.FormatInt(n, 10), q)
		default:
			e.r.remark(e.f, p.Pos(), "an expansion that is not known to sh")
			e.r.dirty = true
		}
	}
}

// result adds what an expansion came to.
func (e *expansion) result(s string, q quoting) {
	e.add(piece{text: s, quoted: q != bare, split: q == bare})
}

func (e *expansion) lit(s string, q quoting, first bool) {
	if e.untab && q == hereDoc {
		s = e.withoutTabs(s)
	}
	if q != bare {
		e.add(piece{text: unescape(s, escapes[q]), quoted: true})
		return
	}
	if first && strings.HasPrefix(s, "~") {
		s = e.tilde(s)
	}
	for s != "" && e.r.err == nil {
		i := strings.IndexByte(s, '\\')
		if i < 0 || i+1 == len(s) {
			e.add(piece{text: s})
			return
		}
		if i > 0 {
			e.add(piece{text: s[:i]})
		}
		if s[i+1] != '\n' {
			e.add(piece{text: s[i+1 : i+2], quoted: true})
		}
		s = s[i+2:]
	}
}

func (e *expansion) withoutTabs(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if s[i] == '\t' && e.lineStart {
			continue
		}
		b.WriteByte(s[i])
		e.lineStart = s[i] == '\n'
	}
	return b.String()
}

// tilde expands ~ and ~/ to HOME. The homes of others are not ours to know.
func (e *expansion) tilde(s string) string {
	rest := strings.TrimPrefix(s, "~")
	if rest != "" && rest[0] != '/' {
		e.r.dirty = true
		return s
	}
	home, set := e.r.get("HOME")
	if !set {
		return s
	}
	e.add(piece{text: home, quoted: true})
	return rest
}

// unescape removes the backslashes that quote one of chars, or a newline.
func unescape(s, chars string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			if s[i+1] == '\n' {
				i++
				continue
			}
			if strings.IndexByte(chars, s[i+1]) >= 0 {
				i++
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// param expands $x and ${x...}.
func (e *expansion) param(p *syntax.ParamExp, q quoting) {
	if p.Param == nil || p.Excl || p.Width || p.IsSet || p.Index != nil || p.Slice != nil || p.Repl != nil || p.Names != 0 || p.Flags != nil || len(p.Modifiers) > 0 {
		e.r.remark(e.f, p.Pos(), "a parameter expansion that sh does not have; it ends here")
		e.r.exit()
		return
	}
	name := p.Param.Value
	if (name == "@" || name == "*") && p.Exp == nil && !p.Length {
		e.arguments(name, q)
		return
	}
	value, set := e.r.parameter(name, e.f, p)
	switch {
	case p.Length:
		e.result(strconv.Itoa(len(value)), q)
	case p.Exp == nil:
		e.result(value, q)
	default:
		e.operator(p, value, set, q)
	}
}

// arguments expands $@ and $*.
func (e *expansion) arguments(name string, q quoting) {
	e.r.dirty = e.r.dirty || e.f.args.unknown
	if q != bare && name == "*" {
		sep := " "
		if ifs, set := e.r.get("IFS"); set {
			sep = ifs[:min(1, len(ifs))]
		}
		e.add(piece{text: strings.Join(e.f.args.list, sep), quoted: true})
		return
	}
	for i, a := range e.f.args.list {
		if i > 0 {
			e.add(piece{next: true})
		}
		e.result(a, q)
	}
}

// parameter reads a variable, an argument or a special parameter.
func (r *run) parameter(name string, f frame, p *syntax.ParamExp) (value string, set bool) {
	switch name {
	case "@", "*":
		return strings.Join(f.args.list, " "), len(f.args.list) > 0
	case "#":
		r.dirty = r.dirty || f.args.unknown
		return strconv.Itoa(len(f.args.list)), true
	case "?":
		r.dirty = r.dirty || r.unsure
		return strconv.Itoa(r.status), true
	case "0":
		return "ltsp", true
	case "$", "!", "-":
		r.dirty = true
		return "", true
	case "LINENO":
		return strconv.Itoa(f.unit.line(p.Pos())), true
	}
	if n, err := strconv.Atoi(name); err == nil {
		r.dirty = r.dirty || f.args.unknown
		if n > len(f.args.list) {
			return "", false
		}
		return f.args.list[n-1], true
	}
	return r.get(name)
}

func (e *expansion) operator(p *syntax.ParamExp, value string, set bool, q quoting) {
	op := p.Exp.Op
	switch op {
	case syntax.AlternateUnset, syntax.AlternateUnsetOrNull:
		if set && (op == syntax.AlternateUnset || value != "") {
			e.word(p.Exp.Word, q)
		} else {
			e.result("", q)
		}
		return
	case syntax.RemSmallPrefix, syntax.RemLargePrefix, syntax.RemSmallSuffix, syntax.RemLargeSuffix:
		pat := ""
		if p.Exp.Word != nil {
			pat = e.r.pattern(p.Exp.Word, e.f)
		}
		e.result(e.r.remove(value, pat, op), q)
		return
	}
	orNull := op == syntax.DefaultUnsetOrNull || op == syntax.AssignUnsetOrNull || op == syntax.ErrorUnsetOrNull
	if set && (value != "" || !orNull) {
		e.result(value, q)
		return
	}
	switch op {
	case syntax.DefaultUnset, syntax.DefaultUnsetOrNull:
		e.word(p.Exp.Word, q)
	case syntax.AssignUnset, syntax.AssignUnsetOrNull:
		inner := expansion{r: e.r, f: e.f}
		inner.word(p.Exp.Word, q)
		v := join(inner.pieces)
		e.r.assign(e.f, p.Pos(), p.Param.Value, v, e.r.dirty)
		e.result(v, q)
	case syntax.ErrorUnset, syntax.ErrorUnsetOrNull:
		e.r.remark(e.f, p.Pos(), "%s is not set: a shell ends here", p.Param.Value)
		e.r.exit()
	default:
		e.r.remark(e.f, p.Pos(), "a parameter expansion that sh does not have; it ends here")
		e.r.exit()
	}
}

// word expands the word behind an operator. Outside quotes its literal text is split as well.
func (e *expansion) word(w *syntax.Word, q quoting) {
	if w == nil {
		if q != bare {
			e.add(piece{quoted: true})
		}
		return
	}
	from := len(e.pieces)
	e.r.depth++
	if e.r.depth > e.r.limits.Depth {
		e.r.limit("expansions nest more than %d deep", e.r.limits.Depth)
	} else {
		e.operand(w.Parts, q)
	}
	e.r.depth--
	for i := from; i < len(e.pieces); i++ {
		if p := &e.pieces[i]; !p.quoted {
			p.split = true
		} else if q != bare {
			p.text = strings.ReplaceAll(p.text, `\}`, "}")
		}
	}
}

// operand expands the parts of a word behind an operator. Within double quotes single quotes are text there (POSIX section 2.6.2), which the parser does not know.
func (e *expansion) operand(parts []syntax.WordPart, q quoting) {
	for i, p := range parts {
		s, ok := p.(*syntax.SglQuoted)
		if !ok || q == bare {
			e.parts(parts[i:i+1], q)
			continue
		}
		e.add(piece{text: "'", quoted: true})
		e.r.step(parseSteps + len(s.Value)/4)
		if w, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Document(strings.NewReader(s.Value)); err == nil && openers([]byte(s.Value)) <= maxOpeners {
			e.parts(w.Parts, q)
		} else {
			e.add(piece{text: e.f.unit.text(s.Value), quoted: true})
		}
		e.add(piece{text: "'", quoted: true})
	}
}

func (r *run) joined(w *syntax.Word, q quoting, f frame) string {
	if w == nil {
		return ""
	}
	e := expansion{r: r, f: f}
	e.parts(w.Parts, q)
	return join(e.pieces)
}

func join(pieces []piece) string {
	if len(pieces) == 1 {
		return pieces[0].text
	}
	var b strings.Builder
	for _, p := range pieces {
		if p.next {
			b.WriteByte(' ')
		}
		b.WriteString(p.text)
	}
	return b.String()
}

// literal expands a word that is not split, as in an assignment.
func (r *run) literal(w *syntax.Word, f frame) string { return r.joined(w, bare, f) }

// document expands a here-document. A quoted delimiter makes it literal.
func (r *run) document(d *syntax.Redirect, f frame) string {
	if d.Hdoc == nil {
		return ""
	}
	quoted := slices.ContainsFunc(d.Word.Parts, func(p syntax.WordPart) bool {
		l, ok := p.(*syntax.Lit)
		return !ok || strings.Contains(l.Value, `\`)
	})
	e := expansion{r: r, f: f, untab: d.Op == syntax.DashHdoc, lineStart: true}
	if !quoted {
		e.parts(d.Hdoc.Parts, hereDoc)
		return join(e.pieces)
	}
	for _, p := range d.Hdoc.Parts {
		if l, ok := p.(*syntax.Lit); ok {
			text := f.unit.text(l.Value)
			if e.untab {
				text = e.withoutTabs(text)
			}
			e.add(piece{text: text, quoted: true})
		}
	}
	return join(e.pieces)
}

// pattern expands a word to a pattern for match: quoted characters have a backslash.
func (r *run) pattern(w *syntax.Word, f frame) string {
	e := expansion{r: r, f: f}
	e.parts(w.Parts, bare)
	var b strings.Builder
	for _, p := range e.pieces {
		for i := range len(p.text) {
			if p.quoted {
				b.WriteByte('\\')
			}
			b.WriteByte(p.text[i])
		}
	}
	return b.String()
}

// fields expands the words of a command line.
func (r *run) fields(words []*syntax.Word, f frame) []string {
	var out []string
	size := 0
	for _, w := range words {
		for _, s := range r.wordFields(w, f) {
			out = append(out, s)
			size += len(s) + 16
		}
		if size > r.limits.Word {
			r.limit("a command of more than %d bytes", r.limits.Word)
		}
		if r.halted() {
			break
		}
	}
	return out
}

// commandWords is fields, but arguments of export and the like that look as assignments are not split.
func (r *run) commandWords(words []*syntax.Word, f frame) []string {
	if len(words) == 0 {
		return nil
	}
	if !declares(words[0].Lit()) {
		return r.fields(words, f)
	}
	out := []string{words[0].Lit()}
	for _, w := range words[1:] {
		if r.halted() {
			return out
		}
		if _, _, ok := assignmentWord(w); ok {
			out = append(out, r.literal(w, f))
			continue
		}
		out = append(out, r.wordFields(w, f)...)
	}
	return out
}

func declares(name string) bool { return name == "export" || name == "readonly" || name == "local" }

// assignmentWord takes a word apart that begins with NAME=.
func assignmentWord(w *syntax.Word) (name, rest string, ok bool) {
	if len(w.Parts) == 0 {
		return "", "", false
	}
	l, isLit := w.Parts[0].(*syntax.Lit)
	if !isLit {
		return "", "", false
	}
	name, rest, ok = strings.Cut(l.Value, "=")
	return name, rest, ok && syntax.ValidName(name)
}

func (r *run) wordFields(w *syntax.Word, f frame) []string {
	e := expansion{r: r, f: f}
	e.parts(w.Parts, bare)
	ifs, set := r.get("IFS")
	if !set {
		ifs = " \t\n"
	}
	s := splitter{ifs: ifs}
	for _, p := range e.pieces {
		switch {
		case p.next:
			s.end()
		case p.split:
			s.split(p.text)
			r.dirty = r.dirty || strings.ContainsAny(p.text, "*?[")
		default:
			s.text(p.text, p.quoted)
			r.dirty = r.dirty || !p.quoted && strings.ContainsAny(p.text, "*?[") && p.text != "["
		}
	}
	s.end()
	return s.fields
}

// splitter makes fields by the rules of POSIX section 2.6.5.
type splitter struct {
	ifs    string
	fields []string
	cur    strings.Builder
	// open says that there is a field, though perhaps an empty one.
	open bool
	// space says that the last thing was white space of IFS, which a separator that follows belongs to.
	space bool
}

func (s *splitter) text(t string, quoted bool) {
	if t == "" && !quoted {
		return
	}
	s.cur.WriteString(t)
	s.open, s.space = true, false
}

func (s *splitter) end() {
	if s.open {
		s.fields = append(s.fields, s.cur.String())
	}
	s.cur.Reset()
	s.open, s.space = false, false
}

func (s *splitter) split(t string) {
	for i := range len(t) {
		c := t[i]
		switch {
		case strings.IndexByte(s.ifs, c) < 0:
			s.cur.WriteByte(c)
			s.open, s.space = true, false
		case c == ' ' || c == '\t' || c == '\n':
			if s.open {
				s.end()
				s.space = true
			}
		default:
			if !s.space {
				s.open = true
				s.end()
			}
			s.space = false
		}
	}
}

// substitute runs $(...).
func (r *run) substitute(c *syntax.CmdSubst, f frame) string {
	text, unknown := "", false
	dirty, status, unsure := r.dirty, r.status, r.unsure
	if len(c.Stmts) == 0 {
		r.setStatus(0, false)
	}
	r.subshell(f, func(f frame) { text, unknown = r.capture(func() { r.block(c.Stmts, f) }) })
	r.dirty = dirty || unknown
	// $? in the same command still means the command before.
	r.substituted, r.subStatus, r.subUnsure = true, r.status, r.unsure
	r.setStatus(status, unsure)
	return strings.TrimRight(text, "\n")
}

// remove takes a prefix or a suffix away that matches.
func (r *run) remove(value, pat string, op syntax.ParExpOperator) string {
	n := len(value)
	for i := 0; i <= n && r.err == nil; i++ {
		switch op {
		case syntax.RemSmallPrefix:
			if r.match(pat, value[:i]) {
				return value[i:]
			}
		case syntax.RemLargePrefix:
			if r.match(pat, value[:n-i]) {
				return value[n-i:]
			}
		case syntax.RemSmallSuffix:
			if r.match(pat, value[n-i:]) {
				return value[:n-i]
			}
		default:
			if r.match(pat, value[i:]) {
				return value[:i]
			}
		}
	}
	return value
}

// match tells whether a pattern matches a whole text, byte by byte.
func (r *run) match(pat, s string) bool {
	star, retry := -1, 0
	p, i, work := 0, 0, 0
	defer func() { r.step(1 + work/16) }()
	for {
		if work++; work > 16*r.limits.Steps {
			return false
		}
		if i == len(s) {
			return strings.Trim(pat[p:], "*") == ""
		}
		if p < len(pat) && pat[p] == '*' {
			star, retry = p, i
			p++
			continue
		}
		if n, ok := matchOne(pat[p:], s[i]); ok {
			p += n
			i++
			continue
		}
		if star < 0 {
			return false
		}
		retry++
		p, i = star+1, retry
	}
}

// matchOne matches one character and returns how much of the pattern that took.
func matchOne(pat string, c byte) (int, bool) {
	switch {
	case pat == "":
		return 0, false
	case pat[0] == '?':
		return 1, true
	case pat[0] == '\\' && len(pat) > 1:
		return 2, pat[1] == c
	case pat[0] == '[':
		if n, ok := matchBracket(pat, c); n > 0 {
			return n, ok
		}
	}
	return 1, pat[0] == c
}

var classes = map[string]func(byte) bool{
	"alpha": isAlpha, "digit": isDigit, "alnum": func(c byte) bool { return isAlpha(c) || isDigit(c) },
	"lower": func(c byte) bool { return c >= 'a' && c <= 'z' }, "upper": func(c byte) bool { return c >= 'A' && c <= 'Z' },
	"space":  func(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' },
	"blank":  func(c byte) bool { return c == ' ' || c == '\t' },
	"xdigit": func(c byte) bool { return isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' },
	"punct":  func(c byte) bool { return c > ' ' && c < 0x7f && !isAlpha(c) && !isDigit(c) },
}

func isAlpha(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// matchBracket matches [...]; the length is 0 if there is no closing bracket.
func matchBracket(pat string, c byte) (int, bool) {
	i, negate, found := 1, false, false
	if i < len(pat) && (pat[i] == '!' || pat[i] == '^') {
		negate = true
		i++
	}
	for start := i; i < len(pat); {
		if pat[i] == ']' && i > start {
			return i + 1, found != negate
		}
		if name, rest, ok := strings.Cut(pat[i:], ":]"); ok && strings.HasPrefix(name, "[:") {
			if in := classes[name[2:]]; in != nil {
				found = found || in(c)
				i = len(pat) - len(rest)
				continue
			}
		}
		lo, n := bracketByte(pat[i:])
		i += n
		hi := lo
		if i+1 < len(pat) && pat[i] == '-' && pat[i+1] != ']' {
			hi, n = bracketByte(pat[i+1:])
			i += 1 + n
		}
		found = found || c >= lo && c <= hi
	}
	return 0, false
}

func bracketByte(s string) (byte, int) {
	if s[0] == '\\' && len(s) > 1 {
		return s[1], 2
	}
	return s[0], 1
}
