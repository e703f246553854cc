package ltsplint

import (
	"bytes"
	"regexp"
	"strings"

	"mvdan.cc/sh/v3/syntax"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
)

// tree is what the grammar tells about a file. Lines are the file's.
type tree struct {
	// headers are the lines of headers that begin a function.
	headers map[int]bool
	// values are the lines that begin within quotes or a here-document.
	values map[int]bool
	sets   []set
	calls  []command
	// lasts are the last commands of sections.
	lasts map[int]*syntax.Stmt
	// used are the names of variables that are read.
	used map[string]bool
}

// set is an assignment.
type set struct {
	name string
	line int
	// value is the text where it is known without evaluating; exact tells whether it is.
	value string
	exact bool
	// before is the first word of a command that it stands before, "" if it stands alone.
	before string
	// always tells whether it is a section's own command, on no condition.
	always bool
}

// command is a simple command.
type command struct {
	line int
	args []string // what the words begin with as text
}

func (t *tree) inValue(line int) bool { return t.values[line] }

var sectionFunction = regexp.MustCompile(`^section_[a-z0-9_]*$`)

// read takes the text apart; nil if only a laxer grammar than sh's takes it.
func read(conf *ltspconf.File) *tree {
	file, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(bytes.NewReader(conf.Translate(0)), "")
	if err != nil {
		return nil
	}
	t := &tree{headers: make(map[int]bool), values: make(map[int]bool), lasts: make(map[int]*syntax.Stmt), used: make(map[string]bool)}
	for _, s := range file.Stmts {
		d, ok := s.Cmd.(*syntax.FuncDecl)
		if !ok || !sectionFunction.MatchString(d.Name.Value) {
			continue
		}
		line := lineOf(d.Pos())
		if line > conf.Lines() {
			continue // a helper
		}
		t.headers[line] = true
		if b, ok := d.Body.Cmd.(*syntax.Block); ok && len(b.Stmts) > 2 {
			t.lasts[line] = b.Stmts[len(b.Stmts)-1]
		}
		t.walk(d.Body, conf.Lines())
		t.always(d.Body)
	}
	return t
}

// always marks the assignments that are a section's own commands.
func (t *tree) always(body *syntax.Stmt) {
	b, ok := body.Cmd.(*syntax.Block)
	if !ok {
		return
	}
	own := make(map[int]bool)
	for _, s := range b.Stmts {
		if c, ok := s.Cmd.(*syntax.CallExpr); ok && len(c.Args) == 0 {
			own[lineOf(c.Pos())] = true
		}
	}
	for i := range t.sets {
		if own[t.sets[i].line] && t.sets[i].before == "" {
			t.sets[i].always = true
		}
	}
}

func lineOf(pos syntax.Pos) int { return int(pos.Line()) - ltspconf.LineOffset }

func (t *tree) walk(n syntax.Node, last int) {
	syntax.Walk(n, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.SglQuoted:
			t.within(n.Pos(), n.End())
		case *syntax.DblQuoted:
			t.within(n.Pos(), n.End())
		case *syntax.Redirect:
			if n.Hdoc != nil {
				t.within(n.Hdoc.Pos(), n.Hdoc.End())
				t.values[lineOf(n.Hdoc.Pos())] = true
			}
		case *syntax.ParamExp:
			if n.Param != nil {
				t.used[n.Param.Value] = true
			}
		case *syntax.CallExpr:
			if lineOf(n.Pos()) <= last {
				t.call(n)
			}
		}
		return true
	})
}

// within notes the lines that begin inside a range.
func (t *tree) within(from, to syntax.Pos) {
	for l := lineOf(from) + 1; l <= lineOf(to); l++ {
		t.values[l] = true
	}
}

func (t *tree) call(c *syntax.CallExpr) {
	before := ""
	if len(c.Args) > 0 {
		cmd := command{line: lineOf(c.Pos())}
		for _, w := range c.Args {
			cmd.args = append(cmd.args, prefix(w))
		}
		t.calls = append(t.calls, cmd)
		if before = cmd.args[0]; before == "" {
			before = "$"
		}
		t.declared(c)
	}
	for _, a := range c.Assigns {
		value, exact := static(a.Value)
		t.sets = append(t.sets, set{name: a.Name.Value, line: lineOf(a.Pos()), value: value, exact: exact, before: before})
	}
}

func prefix(w *syntax.Word) string {
	if len(w.Parts) > 0 {
		if l, ok := w.Parts[0].(*syntax.Lit); ok {
			return l.Value
		}
	}
	return ""
}

// declared notes what export and the like set.
func (t *tree) declared(c *syntax.CallExpr) {
	if v := c.Args[0].Lit(); v != "export" && v != "readonly" && v != "local" {
		return
	}
	for _, w := range c.Args[1:] {
		if len(w.Parts) == 0 {
			continue
		}
		l, ok := w.Parts[0].(*syntax.Lit)
		if !ok {
			continue
		}
		name, rest, ok := strings.Cut(l.Value, "=")
		if !ok || !syntax.ValidName(name) {
			continue
		}
		value, exact := static(&syntax.Word{Parts: w.Parts[1:]})
		t.sets = append(t.sets, set{name: name, line: lineOf(w.Pos()), value: rest + value, exact: exact})
	}
}

// static returns what a word means, if that is known without evaluating it.
func static(w *syntax.Word) (string, bool) {
	if w == nil {
		return "", true
	}
	var b strings.Builder
	for _, p := range w.Parts {
		switch p := p.(type) {
		case *syntax.Lit:
			b.WriteString(strings.ReplaceAll(p.Value, `\`, ""))
		case *syntax.SglQuoted:
			b.WriteString(p.Value)
		case *syntax.DblQuoted:
			s, exact := static(&syntax.Word{Parts: p.Parts})
			if !exact {
				return "", false
			}
			b.WriteString(s)
		default:
			return "", false
		}
	}
	return b.String(), true
}
