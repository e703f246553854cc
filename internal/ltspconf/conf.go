// Package ltspconf turns the text of an ltsp.conf into the shell text that it stands for: a header becomes the start of a function, INCLUDE a call, and
// `VAR = value` an assignment; all else is shell and is left as it is. It decides by lines alone, as LTSP does, so a line that looks like a header is one even
// within quotes. It runs nothing and imports the standard library only; controller, satellite, agent and ltspctl use it.
package ltspconf

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// Limits of one file.
const (
	MaxBytes    = 1 << 20
	MaxSections = 10_000
	MaxName     = 1024 // bytes of a section's or an INCLUDE's name
)

// Unnamed is the name of the section above the first header. It has no entry in File.Sections.
const Unnamed = "unnamed"

// Causes of errors of Parse.
var (
	// ErrSyntax says that no shell would take the file.
	ErrSyntax = errors.New("syntax error")
	// ErrLimit says that the file breaks one of the limits above.
	ErrLimit = errors.New("limit exceeded")
)

// Error is what Parse returns. It wraps ErrSyntax or ErrLimit.
type Error struct {
	// Line counts from 1; it is 0 when the file as a whole is meant.
	Line int
	Text string
	Kind error
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Text
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Text)
}

func (e *Error) Unwrap() error { return e.Kind }

// Section is one header with the lines below it.
type Section struct {
	// Name is the header in lower case without the characters that LTSP deletes. It is a pattern: *, ? and | have their meaning of the shell's case.
	Name string
	// Function is the name of the shell function. Two sections can have the same; the later body counts for both.
	Function string
	// Line and End are the lines of the header and of the last line that belongs to it, counted from 1.
	Line, End int
	// Header is the line as it was written.
	Header string
}

// Reserved tells whether the section is lost because its function has the name of one that LTSP defines itself.
func (s Section) Reserved() bool { return s.Function == "section_call" || s.Function == "section_list" }

// Include is one INCLUDE line.
type Include struct {
	Name string
	Line int
}

// File is a parsed ltsp.conf or ltsp-APPLET.conf. It is immutable and safe for concurrent use.
type File struct {
	Sections []Section
	Includes []Include

	lines []line
	// literal and globs find sections fast: the first of each name without * ? |, and all others in order.
	literal map[string]int
	globs   []int
}

type lineKind byte

const (
	shellLine lineKind = iota
	headerLine
	includeLine
	assignLine
)

type line struct {
	kind lineKind
	// text is the shell text of the line, except for a header and an INCLUDE, which are made from index.
	text  []byte
	index int
}

// Parse reads a file. The error is an *Error. Bytes that are no ASCII are allowed; NUL is not. The file keeps slices of text.
func Parse(text []byte) (*File, error) {
	if len(text) > MaxBytes {
		return nil, &Error{Text: fmt.Sprintf("%d bytes, at most %d are allowed", len(text), MaxBytes), Kind: ErrLimit}
	}
	if i := bytes.IndexByte(text, 0); i >= 0 {
		return nil, &Error{Line: 1 + bytes.Count(text[:i], []byte("\n")), Text: "a NUL byte", Kind: ErrSyntax}
	}
	f := &File{literal: make(map[string]int)}
	for n := 1; len(text) > 0; n++ {
		var l []byte
		l, text, _ = bytes.Cut(text, []byte("\n"))
		if err := f.add(l, n); err != nil {
			return nil, err
		}
	}
	f.endSection(len(f.lines))
	return f, nil
}

func (f *File) endSection(n int) {
	if last := len(f.Sections) - 1; last >= 0 {
		f.Sections[last].End = n
	}
}

func (f *File) add(l []byte, n int) *Error {
	switch kind, end := classify(l); kind {
	case headerLine:
		f.endSection(n - 1)
		f.lines = append(f.lines, line{kind: kind, index: len(f.Sections)})
		return f.addSection(l, n)
	case includeLine:
		f.lines = append(f.lines, line{kind: kind, index: len(f.Includes)})
		name := patternText(uncomment(l)[min(end, len(uncomment(l))):])
		if len(name) > MaxName {
			return &Error{Line: n, Text: fmt.Sprintf("a name of more than %d bytes", MaxName), Kind: ErrLimit}
		}
		f.Includes = append(f.Includes, Include{Name: name, Line: n})
	case assignLine:
		f.lines = append(f.lines, line{kind: kind, text: joinAssignment(l, end)})
	default:
		f.lines = append(f.lines, line{text: l})
	}
	return nil
}

func (f *File) addSection(l []byte, n int) *Error {
	name := patternText(uncomment(l))
	switch {
	case len(f.Sections) == MaxSections:
		return &Error{Line: n, Text: fmt.Sprintf("more than %d sections", MaxSections), Kind: ErrLimit}
	case len(name) > MaxName:
		return &Error{Line: n, Text: fmt.Sprintf("a section's name of more than %d bytes", MaxName), Kind: ErrLimit}
	case emptyAlternative(name):
		return &Error{Line: n, Text: fmt.Sprintf("section %q has an empty name, or an empty part beside |", name), Kind: ErrSyntax}
	}
	if strings.ContainsAny(name, "*?|") {
		f.globs = append(f.globs, len(f.Sections))
	} else if _, known := f.literal[name]; !known {
		f.literal[name] = len(f.Sections)
	}
	f.Sections = append(f.Sections, Section{Name: name, Function: functionName(name), Line: n, Header: string(l)})
	return nil
}

func emptyAlternative(name string) bool {
	for part := range strings.SplitSeq(name, "|") {
		if part == "" {
			return true
		}
	}
	return false
}

// classify says what a line is, and for an INCLUDE or an assignment where its "=" and the spaces behind it end.
func classify(l []byte) (lineKind, int) {
	if t := bytes.TrimLeft(l, " "); len(t) > 0 && t[0] == '[' && bytes.IndexByte(t, ']') > 0 {
		return headerLine, 0
	}
	name := 0
	for name < len(l) && isNameByte(l[name]) {
		name++
	}
	end := name
	for end < len(l) && l[end] == ' ' {
		end++
	}
	if end == len(l) || l[end] != '=' {
		return shellLine, 0
	}
	for end++; end < len(l) && l[end] == ' '; end++ {
	}
	if strings.EqualFold(string(l[:name]), "include") {
		return includeLine, end
	}
	return assignLine, end
}

func isNameByte(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func uncomment(l []byte) []byte {
	before, _, _ := bytes.Cut(l, []byte("#"))
	return before
}

// joinAssignment takes the spaces round the "=" away; end is where the value begins.
func joinAssignment(l []byte, end int) []byte {
	name := 0
	for isNameByte(l[name]) {
		name++
	}
	if l[name] == '=' && end == name+1 {
		return l
	}
	return append(append(bytes.Clone(l[:name]), '='), l[end:]...)
}

// patternText lowers and drops what may not stand in a section's name.
func patternText(l []byte) string {
	var b strings.Builder
	for _, c := range l {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("-*./:?@_|", c) >= 0 {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func functionName(section string) string {
	b := []byte("section_" + section)
	for i, c := range b {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			b[i] = '_'
		}
	}
	return string(b)
}

// Lookup returns the index in Sections of the one that a lookup of name runs: the first that matches. It is -1 if none does. Unnamed never gets to a section
// here.
func (f *File) Lookup(name string) int {
	if name == Unnamed {
		return -1
	}
	first, ok := f.literal[name]
	if !ok {
		first = len(f.Sections)
	}
	for _, i := range f.globs {
		if i > first {
			break
		}
		if Match(f.Sections[i].Name, name) {
			return i
		}
	}
	if !ok {
		return -1
	}
	return first
}

// SectionAt returns the index in Sections of the one that a line belongs to, -1 for the lines above the first header.
func (f *File) SectionAt(n int) int {
	at := -1
	lo, hi := 0, len(f.Sections)
	for lo < hi {
		mid := (lo + hi) / 2
		if f.Sections[mid].Line <= n {
			at, lo = mid, mid+1
		} else {
			hi = mid
		}
	}
	return at
}

// Lines is the number of lines.
func (f *File) Lines() int { return len(f.lines) }

// Match tells whether a section's name, taken as a pattern, matches a lookup. Both are compared byte by byte.
func Match(pattern, name string) bool {
	for part := range strings.SplitSeq(pattern, "|") {
		if glob(part, name) {
			return true
		}
	}
	return false
}

func glob(pattern, name string) bool {
	star, retry := -1, 0
	p, n := 0, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, retry = p, n
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == name[n]):
			p++
			n++
		case star >= 0:
			retry++
			p, n = star+1, retry
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
