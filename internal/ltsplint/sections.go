package ltsplint

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
)

var (
	special    = []string{"clients", "common", "server"}
	testLike   = regexp.MustCompile(`^\s*(!\s+)?-[a-zA-Z]\s|[^=!]=|!=|\s-(eq|ne|lt|gt|le|ge|a|o)\s|^\s*"?\$`)
	macPart    = regexp.MustCompile(`^[0-9a-f*?]{1,2}$`)
	dashedMAC  = regexp.MustCompile(`^[0-9a-f]{2}(-[0-9a-f]{2}){5}$`)
	wholeMAC   = regexp.MustCompile(`^[0-9a-f]{2}(:[0-9a-f]{2}){5}$`)
	cidr       = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+/[0-9]+$`)
	defaultPC  = regexp.MustCompile(`^ltsp[0-9]+$`)
	tabbed     = regexp.MustCompile(`^ *\t[ \t]*\[[^\]]*\]\s*(#.*)?$`)
	openHeader = regexp.MustCompile(`^ *\[[A-Za-z0-9:.*?_|/-]+\s*(#.*)?$`)
)

func isGlob(s string) bool { return strings.ContainsAny(s, "*?") }

func (f *file) sections() {
	for i, s := range f.conf.Sections {
		if f.tree != nil && !f.tree.headers[s.Line] {
			f.add(s.Line, Error, "header-in-quotes", "put a space and something else before the bracket, or keep the text in a file",
				"this line stands within a value, and LTSP takes it for the header of section %q", s.Name)
			continue
		}
		if f.looksLikeTest(s) {
			continue
		}
		f.nameAsWritten(s)
		f.nameAsRead(s)
		f.shadowed(i, s)
		f.collisions(i, s)
	}
	for i, l := range f.lines {
		if f.tree != nil && f.tree.inValue(i+1) {
			continue
		}
		switch {
		case tabbed.Match(l):
			f.add(i+1, Error, "tabbed-header", "begin the line with the bracket", "this is no header, because a tab is before it")
		case openHeader.Match(l):
			f.add(i+1, Error, "open-header", "add the closing bracket", "this is no header, because it has no closing bracket")
		}
	}
}

func (f *file) looksLikeTest(s ltspconf.Section) bool {
	_, rest, _ := strings.Cut(s.Header, "[")
	inner, behind, _ := strings.Cut(rest, "]")
	behind, _, _ = strings.Cut(behind, "#")
	behind = strings.TrimSpace(behind)
	follows := strings.HasPrefix(behind, "&&") || strings.HasPrefix(behind, "||") || strings.HasPrefix(behind, ";")
	if !follows && !(strings.HasPrefix(inner, " ") && testLike.MatchString(inner)) {
		return false
	}
	f.add(s.Line, Error, "test-at-line-start", "write: test"+strings.TrimRight(inner, " ")+" "+behind, "this command is taken for the header of section %q", s.Name)
	return true
}

// nameAsWritten looks at what LTSP does to a header.
func (f *file) nameAsWritten(s ltspconf.Section) {
	_, rest, _ := strings.Cut(s.Header, "[")
	inner, behind, _ := strings.Cut(rest, "]")
	if before, _, cut := strings.Cut(inner, "#"); cut {
		inner, behind = before, ""
	}
	behind, _, _ = strings.Cut(behind, "#")
	inner, behind = strings.TrimSpace(inner), strings.TrimSpace(behind)
	switch {
	case strings.Contains(inner, "["):
		f.add(s.Line, Warning, "character-class", "list the names: [pc01|pc02|pc03]", "there are no character classes: the section is called %q", s.Name)
	case behind != "":
		f.add(s.Line, Warning, "text-behind-header", "put the text behind a #", "%q behind the bracket is part of the name: the section is called %q", behind, s.Name)
	case strings.ContainsFunc(inner, func(c rune) bool { return !allowed(c) }):
		f.add(s.Line, Warning, "deleted-characters", "use a-z 0-9 and -*./:?@_| only", "characters are deleted: the section is called %q", s.Name)
	}
	if inner == strings.ToLower(inner) || f.included(s) {
		return
	}
	for part := range strings.SplitSeq(inner, "|") {
		low := strings.ToLower(part)
		if part == low || slices.Contains(special, low) || !hasHostLetters(low) {
			continue
		}
		f.add(s.Line, Warning, "upper-case", "give the hosts names in lower case",
			"names of sections are made lower case and host names are not: %q matches a host %q, but never %q", s.Name, low, part)
		return
	}
}

func allowed(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c < 0x80 && strings.ContainsRune("-*./:?@_|", c)
}

// hasHostLetters tells whether a name is anything else than a MAC address or its pattern.
func hasHostLetters(name string) bool {
	if !strings.Contains(name, ":") {
		return true
	}
	_, name, _ = cutLast(name, "/")
	for p := range strings.SplitSeq(name, ":") {
		if !macPart.MatchString(p) {
			return true
		}
	}
	return false
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+1:], true
	}
	return "", s, false
}

func (f *file) included(s ltspconf.Section) bool {
	return slices.ContainsFunc(f.conf.Includes, func(i ltspconf.Include) bool { return ltspconf.Match(s.Name, i.Name) })
}

// nameAsRead looks at names that cannot match what they mean.
func (f *file) nameAsRead(s ltspconf.Section) {
	if s.Reserved() || s.Name == ltspconf.Unnamed {
		f.add(s.Line, Error, "reserved-section", "give it another name", "LTSP has a function of this name, so section %q never runs as it should", s.Name)
	}
	for part := range strings.SplitSeq(s.Name, "|") {
		switch {
		case cidr.MatchString(part):
			f.add(s.Line, Error, "cidr", "write a pattern: [10.0.0.*]", "%q matches no address", part)
		case dashedMAC.MatchString(part):
			f.add(s.Line, Error, "mac-form", "write it with colons: "+strings.ReplaceAll(part, "-", ":"), "%q matches no MAC address", part)
		case f.badMAC(part):
			f.add(s.Line, Error, "mac-form", "write six pairs, or end with *", "%q matches no MAC address", part)
		case defaultPC.MatchString(part):
			f.add(s.Line, Warning, "default-host-name", "use a section of its MAC or IP address", "a client gets a name such as %q only after ltsp.conf is evaluated, so this section does not match then", part)
		}
		if isGlob(part) {
			for _, name := range special {
				if ltspconf.Match(part, name) && f.conf.Lookup(name) >= 0 && f.conf.Sections[f.conf.Lookup(name)].Line == s.Line {
					f.add(s.Line, Warning, "glob-catches-special", fmt.Sprintf("put [%s] above it, or write a longer pattern", name), "pattern %q also matches the lookup %q", part, name)
				}
			}
		}
	}
}

// badMAC tells whether a name looks like a MAC address, but can match none.
func (f *file) badMAC(name string) bool {
	_, name, _ = cutLast(name, "/")
	if !strings.Contains(name, ":") || hasHostLetters(name) {
		return false
	}
	pairs := strings.Split(name, ":")
	if strings.Contains(name, "*") {
		return len(pairs) > 6
	}
	return len(pairs) != 6 || slices.ContainsFunc(pairs, func(p string) bool { return len(p) != 2 })
}

// shadowed looks for sections that one higher up takes the lookups of.
func (f *file) shadowed(i int, s ltspconf.Section) {
	for part := range strings.SplitSeq(s.Name, "|") {
		first := f.covers(part)
		if first < 0 || first >= i {
			continue
		}
		by := f.conf.Sections[first]
		if by.Name == s.Name { // collisions says it
			continue
		}
		severity := Warning
		if slices.Contains(special, part) {
			severity = Error
		}
		f.add(s.Line, severity, "shadowed-section", fmt.Sprintf("move it above line %d", by.Line),
			"only the first section that matches runs: %q is caught by %q in line %d", part, by.Name, by.Line)
	}
}

// covers returns the first section that matches all that a part of a pattern matches, -1 if there is none.
func (f *file) covers(part string) int {
	if !isGlob(part) {
		return f.conf.Lookup(part)
	}
	// A pattern matches all that this one matches if it matches this one's text, where no ? stands for a *.
	text := strings.ReplaceAll(part, "*", "\x01")
	for i, s := range f.conf.Sections {
		for p := range strings.SplitSeq(s.Name, "|") {
			if p == part || strings.Contains(p, "*") && !strings.Contains(p, "?") && ltspconf.Match(p, text) {
				return i
			}
		}
	}
	return -1
}

func (f *file) collisions(i int, s ltspconf.Section) {
	for _, o := range f.conf.Sections[i+1:] {
		if o.Function != s.Function || f.tree != nil && !f.tree.headers[o.Line] {
			continue
		}
		if o.Name == s.Name {
			f.add(s.Line, Error, "duplicate-section", fmt.Sprintf("join it with line %d", o.Line), "section %q is there again in line %d: only the lines there count", s.Name, o.Line)
			return
		}
		f.add(s.Line, Error, "function-collision", "rename one of them", "sections %q and %q (line %d) are one function: only the lines of the second count, for both", s.Name, o.Name, o.Line)
		return
	}
}

func (f *file) includes() {
	for _, inc := range f.conf.Includes {
		if f.tree != nil && f.tree.inValue(inc.Line) {
			continue
		}
		i := f.conf.Lookup(inc.Name)
		if i < 0 {
			f.unknownInclude(inc)
			continue
		}
		s := f.conf.Sections[i]
		if slices.Contains(strings.Split(s.Name, "|"), inc.Name) {
			continue
		}
		if own := slices.IndexFunc(f.conf.Sections, func(s ltspconf.Section) bool { return s.Name == inc.Name }); own >= 0 {
			f.add(inc.Line, Error, "include-caught", fmt.Sprintf("move [%s] above line %d", inc.Name, s.Line), "this runs %q of line %d, not [%s]", s.Name, s.Line, inc.Name)
			continue
		}
		f.add(inc.Line, Warning, "include-caught", "name the section", "this runs the pattern section %q of line %d", s.Name, s.Line)
	}
}

func (f *file) unknownInclude(inc ltspconf.Include) {
	if inc.Name == ltspconf.Unnamed {
		return
	}
	for _, e := range f.earlier {
		if e.conf.Lookup(inc.Name) < 0 {
			continue
		}
		if e.layer < f.layer {
			return // which the parser takes from there
		}
		f.add(inc.Line, Error, "include-unknown", "copy the section into this file", "section %q is in %s, and INCLUDE looks in its own file only", inc.Name, e.source.File)
		return
	}
	f.add(inc.Line, Error, "include-unknown", "mend the name or add the section", "no section matches %q", inc.Name)
}

// appletFile looks for what of ltsp-APPLET.conf is lost because ltsp.conf of the same layer was evaluated before.
func (f *file) appletFile() {
	var main *file
	for _, e := range f.earlier {
		if e.layer == f.layer && main == nil {
			main = e
		}
	}
	if main == nil {
		return
	}
	for i, l := range f.lines {
		if len(f.conf.Sections) > 0 && i+1 >= f.conf.Sections[0].Line {
			break
		}
		if t := strings.TrimSpace(string(l)); t != "" && t[0] != '#' {
			f.add(i+1, Error, "runs-once", "put it below a header that "+main.source.File+" does not have", "lines above the first header never run here, because those of %s ran", main.source.File)
			break
		}
	}
	for _, s := range f.conf.Sections {
		if slices.ContainsFunc(main.conf.Sections, func(o ltspconf.Section) bool { return o.Function == s.Function }) {
			f.add(s.Line, Warning, "runs-once", "use an applet's section, such as [init/*], in one file", "when section %q of %s ran, this one does not run", s.Name, main.source.File)
		}
	}
}
