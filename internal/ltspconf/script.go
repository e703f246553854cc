package ltspconf

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Subject is who a configuration is evaluated for.
type Subject struct {
	MAC, IP string
	// Hostname is taken as it is: names of sections are lower case, so a name with capitals finds no literal section.
	Hostname string
	// Applet is for example "init" or "initrd-bottom"; "" and "ltsp" mean none.
	Applet string
	// Server is true for the view of LTSP's server: [server] in place of [clients].
	Server bool
}

func (s Subject) sides() []string {
	if s.Server {
		return []string{"common", "server"}
	}
	return []string{"clients", "common"}
}

// Order returns the lookups of one file in their order, as long as no section changes MAC_ADDRESS, IP_ADDRESS or HOSTNAME.
func Order(s Subject) []string {
	order := append([]string{Unnamed}, s.sides()...)
	order = append(order, s.MAC, s.IP, s.Hostname)
	if s.Applet != "" && s.Applet != "ltsp" {
		order = append(order, s.Applet+"/", s.Applet+"/"+s.MAC, s.Applet+"/"+s.IP, s.Applet+"/"+s.Hostname)
	}
	return order
}

// LineOffset is added to a line's number in a file to get its number in what Translate returns.
const LineOffset = 1

// Translate returns POSIX shell text (with local, which dash and busybox have) that defines one function per section, section_call and section_list as in LTSP, and
// _ltsp_eval_INDEX. The caller runs that function as `_ltsp_eval_INDEX clients common` or `_ltsp_eval_INDEX common server`, with MAC_ADDRESS, IP_ADDRESS, HOSTNAME and
// _APPLET set, before it runs the text of the next file. The index is unique among the files of one shell. Each line of the file is one line of the text.
func (f *File) Translate(index int) []byte {
	return f.translate(index, func(string) int { return index })
}

// translate writes the text; home says in which file the section of an INCLUDE lies.
func (f *File) translate(index int, home func(name string) int) []byte {
	var b bytes.Buffer
	open := func(function string) {
		// A section runs once: its variable is set while and after it runs.
		fmt.Fprintf(&b, "%s() { test \"$%[1]s\" != 1 || return 0; %[1]s=1\n", function)
	}
	open("section_" + Unnamed)
	for _, l := range f.lines {
		switch l.kind {
		case headerLine:
			b.WriteString("}; ")
			open(f.Sections[l.index].Function)
		case includeLine:
			name := f.Includes[l.index].Name
			fmt.Fprintf(&b, "_ltsp_call_%d \"%s\"\n", home(name), name)
		default:
			b.Write(l.text)
			b.WriteByte('\n')
		}
	}
	b.WriteString("}\n")
	f.writeHelpers(&b, index)
	return b.Bytes()
}

func (f *File) writeHelpers(b *bytes.Buffer, index int) {
	b.WriteString("section_list() { printf '%s\\n' ''")
	for _, s := range f.Sections {
		b.WriteString(" " + s.Function)
	}
	fmt.Fprintf(b, "; }\n_ltsp_call_%d() {\nlocal section\nfor section in \"$@\"; do case \"$section\" in\n(unnamed) section_unnamed \"$@\" ;;\n", index)
	for _, s := range f.Sections {
		if s.Reserved() {
			fmt.Fprintf(b, "(%s) ;;\n", s.Name)
			continue
		}
		fmt.Fprintf(b, "(%s) %s \"$@\" ;;\n", s.Name, s.Function)
	}
	fmt.Fprintf(b, `esac; done
}
section_call() { _ltsp_call_%[1]d "$@"; }
_ltsp_eval_%[1]d() {
_ltsp_call_%[1]d unnamed "$@" "$MAC_ADDRESS" "$IP_ADDRESS"
_ltsp_call_%[1]d "$HOSTNAME"
case "${_APPLET:-ltsp}" in
(ltsp) ;;
(*) _ltsp_call_%[1]d "$_APPLET/" "$_APPLET/$MAC_ADDRESS" "$_APPLET/$IP_ADDRESS" "$_APPLET/$HOSTNAME" ;;
esac
}
`, index)
}

// functions are the names of the variables that say which sections ran.
func (f *File) functions() []string {
	names := []string{"section_" + Unnamed}
	for _, s := range f.Sections {
		names = append(names, s.Function)
	}
	return names
}

// Program is a whole evaluation as one text for a shell.
type Program struct {
	Text []byte

	spans []span
}

// span are the lines of a program that come from one file.
type span struct{ first, layer, file, count int }

// NewProgram writes the evaluation of layers, each with its ltsp.conf and then perhaps its ltsp-APPLET.conf, for a subject. Within a layer LTSP's rules hold: which
// section runs is decided file by file, and a section name that ran in ltsp.conf does not run again in ltsp-APPLET.conf. Each layer starts anew; variables and
// functions stay. An INCLUDE that finds no section in its own file takes it from the nearest earlier layer that has one.
func NewProgram(layers [][]*File, s Subject) *Program {
	var b bytes.Buffer
	p := &Program{}
	for _, v := range [][2]string{{"MAC_ADDRESS", s.MAC}, {"IP_ADDRESS", s.IP}, {"HOSTNAME", s.Hostname}, {"_APPLET", s.Applet}} {
		fmt.Fprintf(&b, "%s=%s\n", v[0], quote(v[1]))
	}
	lines := 4
	add := func(text []byte) {
		b.Write(text)
		lines += bytes.Count(text, []byte("\n"))
	}
	var before []indexed
	for layer, files := range layers {
		if ran := guards(before); len(ran) > 0 {
			add([]byte("unset " + strings.Join(ran, " ") + "\n"))
		}
		earlier := before
		for i, f := range files {
			index := len(before)
			p.spans = append(p.spans, span{first: lines + LineOffset, layer: layer, file: i, count: f.Lines()})
			add(f.translate(index, func(name string) int { return f.home(index, name, earlier) }))
			add([]byte("_ltsp_eval_" + strconv.Itoa(index) + " " + strings.Join(s.sides(), " ") + "\n"))
			before = append(before, indexed{index, f})
		}
	}
	p.Text = b.Bytes()
	return p
}

type indexed struct {
	index int
	file  *File
}

func guards(files []indexed) []string {
	var names []string
	for _, f := range files {
		names = append(names, f.file.functions()...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// home returns the index of the file whose section an INCLUDE means.
func (f *File) home(own int, name string, earlier []indexed) int {
	if name == Unnamed || f.Lookup(name) >= 0 {
		return own
	}
	for _, e := range slices.Backward(earlier) {
		if e.file.Lookup(name) >= 0 {
			return e.index
		}
	}
	return own
}

// Locate says from which layer, file of that layer and line (from 1) a line of the text (from 1) comes; ok is false for lines that this package wrote.
func (p *Program) Locate(textLine int) (layer, file, line int, ok bool) {
	for _, s := range p.spans {
		if n := textLine - s.first; n >= 1 && n <= s.count {
			return s.layer, s.file, n, true
		}
	}
	return 0, 0, 0, false
}

// quote returns a word for the shell that means s.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// KernelScript returns assignments, one per line, of the parameters ltsp.NAME=value of a kernel command line: NAME in upper case, - as _. Quotes stay for the shell. LTSP
// lets them win over ltsp.conf in the applet initrd-bottom only.
func KernelScript(cmdline string) []byte {
	var b bytes.Buffer
	for _, word := range kernelWords(cmdline) {
		if len(word) < 6 || !strings.EqualFold(word[:5], "ltsp.") {
			continue
		}
		name, value, ok := strings.Cut(word[5:], "=")
		if name = strings.ToUpper(strings.ReplaceAll(name, "-", "_")); ok && isVariable(name) {
			fmt.Fprintf(&b, "%s=%s\n", name, value)
		}
	}
	return b.Bytes()
}

func isVariable(name string) bool {
	return name != "" && name[0] >= 'A' && name[0] <= 'Z' && !strings.ContainsFunc(name, func(r rune) bool { return r > 0x7f || !isNameByte(byte(r)) })
}

// kernelWords splits at spaces outside double quotes.
func kernelWords(cmdline string) []string {
	quoted := false
	return strings.FieldsFunc(cmdline, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ' ' || r == '\n' || r == '\t')
	})
}
