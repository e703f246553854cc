package ltspeval

import (
	"bytes"
	"errors"
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"

	"mvdan.cc/sh/v3/syntax"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
)

// maxOpeners bounds what can nest in one text. The parser recurses, and a Go program whose stack is exhausted cannot be saved.
const maxOpeners = 20_000

// Program is sources that were parsed. It is immutable and safe for concurrent use.
type Program struct {
	units []unit
}

// unit is one source, or a text that is run by eval in it.
type unit struct {
	source Source
	file   *ltspconf.File
	layer  int
	stmts  []*syntax.Stmt
	// funcs are the functions of the text when it defines functions only, as it does unless a header stands within quotes.
	funcs map[string]*syntax.Stmt
	// starts are the offsets at which the lines of the parsed text begin.
	starts []int
	// fixedLine is the line of everything in a text of eval, and 0 in a file.
	fixedLine int
	// section names the section of everything in a text of eval.
	section string
	// mapped says that the text went through mapBytes.
	mapped bool
}

// Compile parses sources. The error is an *Error.
func Compile(sources []Source) (*Program, error) {
	p := &Program{units: make([]unit, 0, len(sources))}
	layer := 0
	for i, s := range sources {
		if i > 0 && s.Scope != sources[i-1].Scope {
			layer++
		}
		u, err := compile(s, layer)
		if err != nil {
			return nil, err
		}
		p.units = append(p.units, u)
	}
	return p, nil
}

func compile(s Source, layer int) (unit, error) {
	f, err := ltspconf.Parse(s.Text)
	if err != nil {
		e := &Error{Scope: s.Scope, File: s.File, Text: err.Error(), Kind: ErrLimit}
		if c, ok := errors.AsType[*ltspconf.Error](err); ok {
			e.Line, e.Text, e.Kind = c.Line, c.Text, c.Kind
		}
		return unit{}, e
	}
	text, mapped := mapBytes(f.Translate(0))
	stmts, err := parseShell(s, text, ltspconf.LineOffset)
	if err != nil {
		return unit{}, err
	}
	s.Text = nil
	return unit{funcs: functionsOf(stmts), source: s, file: f, layer: layer, stmts: stmts, starts: lineStarts(text), mapped: mapped}, nil
}

// functionsOf returns nil if the statements do anything else than defining functions.
func functionsOf(stmts []*syntax.Stmt) map[string]*syntax.Stmt {
	funcs := make(map[string]*syntax.Stmt, len(stmts))
	for _, s := range stmts {
		d, ok := s.Cmd.(*syntax.FuncDecl)
		if !ok || s.Background || s.Negated || len(s.Redirs) > 0 {
			return nil
		}
		funcs[d.Name.Value] = d.Body
	}
	return funcs
}

func lineStarts(text []byte) []int {
	starts := []int{0}
	for i, c := range text {
		if c == '\n' {
			starts = append(starts, i+1)
		}
	}
	return starts
}

func lineAt(starts []int, offset uint) int {
	return sort.Search(len(starts), func(i int) bool { return starts[i] > int(offset) })
}

// line returns the line of the source that a position means, at least 1.
func (u *unit) line(pos syntax.Pos) int {
	if u.fixedLine > 0 {
		return u.fixedLine
	}
	return u.clamp(lineAt(u.starts, pos.Offset()) - ltspconf.LineOffset)
}

func (u *unit) clamp(n int) int { return max(1, min(n, u.file.Lines())) }

// sectionAt names the section of a line.
func (u *unit) sectionAt(line int) string {
	if u.file == nil {
		return u.section
	}
	if i := u.file.SectionAt(line); i >= 0 {
		return u.file.Sections[i].Name
	}
	return ltspconf.Unnamed
}

// parseShell parses the text as dash would; offset is how many lines of it come before those of the source.
func parseShell(s Source, text []byte, offset int) ([]*syntax.Stmt, error) {
	if n := openers(text); n > maxOpeners {
		return nil, &Error{Scope: s.Scope, File: s.File, Text: fmt.Sprintf("more than %d brackets and compound commands", maxOpeners), Kind: ErrLimit}
	}
	file, err := syntax.NewParser(syntax.Variant(syntax.LangPOSIX)).Parse(bytes.NewReader(text), "")
	if _, dialect := errors.AsType[syntax.LangError](err); dialect {
		if tolerant := parseTolerant(text); tolerant != nil {
			return tolerant, nil
		}
	}
	if err == nil {
		err = nameless(file)
	}
	if err != nil {
		line, words := describe(err, text)
		lines := 1 + bytes.Count(bytes.TrimSuffix(s.Text, []byte("\n")), []byte("\n"))
		return nil, &Error{Scope: s.Scope, File: s.File, Line: max(1, min(line-offset, lines)), Text: words, Kind: ErrSyntax}
	}
	return file.Stmts, nil
}

// nameless finds a function without a name, which the parser lets through.
func nameless(file *syntax.File) error {
	var err error
	syntax.Walk(file, func(n syntax.Node) bool {
		if d, ok := n.(*syntax.FuncDecl); ok && d.Name == nil {
			err = syntax.ParseError{Pos: d.Pos(), Text: "a function without a name"}
		}
		return err == nil
	})
	return err
}

func describe(err error, text []byte) (line int, words string) {
	var parse syntax.ParseError
	var lang syntax.LangError
	var pos syntax.Pos
	switch {
	case errors.As(err, &parse):
		pos, words = parse.Pos, parse.Text
	case errors.As(err, &lang):
		pos, words = lang.Pos, lang.Feature+" is no part of sh"
	default:
		return 1, err.Error()
	}
	return lineAt(lineStarts(text), pos.Offset()), words
}

// parseTolerant takes what dash reads and only refuses when it gets there, such as ${x/a/b}; nil if the text has anything that dash does not read.
func parseTolerant(text []byte) []*syntax.Stmt {
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(bytes.NewReader(text), "")
	if err != nil {
		return nil
	}
	posix := true
	syntax.Walk(file, func(n syntax.Node) bool {
		switch n := n.(type) {
		case *syntax.ArrayExpr, *syntax.TestClause, *syntax.ArithmCmd, *syntax.ProcSubst, *syntax.LetClause, *syntax.CoprocClause, *syntax.CStyleLoop,
			*syntax.ExtGlob, *syntax.TimeClause:
			posix = false
		case *syntax.FuncDecl:
			posix = posix && !n.RsrvWord && n.Name != nil
		case *syntax.Redirect:
			posix = posix && n.Op != syntax.WordHdoc && n.Op != syntax.RdrAll && n.Op != syntax.AppAll
		case *syntax.SglQuoted:
			posix = posix && !n.Dollar
		case *syntax.Assign:
			posix = posix && n.Index == nil && !n.Append
		case *syntax.ForClause:
			posix = posix && !n.Select && !n.Braces
		}
		return posix
	})
	if !posix {
		return nil
	}
	return file.Stmts
}

// A shell works on bytes, and the parser on UTF-8, and it drops carriage returns. While a text is parsed each byte that the parser would not leave alone stands as
// one of these characters.
const byteRunes = 0xf700

func isByteRune(c rune) bool { return c >= byteRunes && c <= byteRunes+0xff }

func mapBytes(text []byte) (out []byte, mapped bool) {
	if utf8.Valid(text) && bytes.IndexByte(text, '\r') < 0 {
		return text, false
	}
	for len(text) > 0 {
		c, n := utf8.DecodeRune(text)
		if c == utf8.RuneError && n == 1 || c == '\r' || isByteRune(c) {
			c, n = byteRunes+rune(text[0]), 1
		}
		out = utf8.AppendRune(out, c)
		text = text[n:]
	}
	return out, true
}

// text undoes mapBytes in a literal.
func (u *unit) text(s string) string {
	if !u.mapped {
		return s
	}
	var b strings.Builder
	for _, c := range s {
		if isByteRune(c) {
			b.WriteByte(byte(c - byteRunes))
			continue
		}
		b.WriteRune(c)
	}
	return b.String()
}

// openers counts what can open a level of the grammar: an upper bound of its depth.
func openers(text []byte) int {
	n := 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '(' || c == '{' || c == '`' || c == '|':
			n++
		case c >= 'a' && c <= 'z':
			start := i
			for i+1 < len(text) && text[i+1] >= 'a' && text[i+1] <= 'z' {
				i++
			}
			switch string(text[start : i+1]) {
			case "if", "elif", "then", "else", "while", "until", "for", "do", "case":
				n++
			}
		}
	}
	return n
}
