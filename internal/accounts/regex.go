package accounts

import (
	"fmt"
	"regexp"
	"strings"
)

// Pattern is one of the PWMERGE_ expressions. Those are Python's; it matches whole names, as Python's re.fullmatch does.
type Pattern struct {
	text         string
	alternatives []alternative
}

// alternative is one part of the expression at its top level: what must and must not be at the beginning of the name, and the rest.
type alternative struct {
	looks []look
	rest  *regexp.Regexp
}

type look struct {
	not bool
	re  *regexp.Regexp
}

// Limits of expressions and names that are matched.
const maxPattern = 64 << 10

// CompilePattern translates an expression. Constructs of Python's that Go cannot match are errors: back references, look-behinds, look-aheads elsewhere than at the
// beginning, conditionals, possessive repeats and flags other than i and s. The empty expression is nil, which matches nothing.
func CompilePattern(text string) (*Pattern, error) {
	if text == "" {
		return nil, nil
	}
	if len(text) > maxPattern {
		return nil, fmt.Errorf("expression of %d bytes: at most %d are allowed", len(text), maxPattern)
	}
	p := &Pattern{text: text}
	t := translator{in: text}
	flags := t.flags()
	for {
		a, err := t.alternative(flags)
		if err != nil {
			return nil, fmt.Errorf("expression %q: %w", text, err)
		}
		p.alternatives = append(p.alternatives, a)
		if t.at == len(t.in) {
			return p, nil
		}
		t.at++ // the bar
	}
}

// Match tells whether the whole name matches. A nil Pattern matches nothing.
func (p *Pattern) Match(name string) bool {
	if p == nil {
		return false
	}
	for _, a := range p.alternatives {
		if a.match(name) {
			return true
		}
	}
	return false
}

func (a alternative) match(name string) bool {
	for _, l := range a.looks {
		if l.re.MatchString(name) == l.not {
			return false
		}
	}
	return a.rest.MatchString(name)
}

// translator reads Python's syntax (its documentation of module re) and writes Go's.
type translator struct {
	in    string
	at    int
	depth int
}

const maxDepth = 200

func (t *translator) rest() string { return t.in[t.at:] }

// flags reads (?i) or the like at the beginning.
func (t *translator) flags() string {
	for _, f := range []string{"(?i)", "(?s)", "(?is)", "(?si)"} {
		if strings.HasPrefix(t.in, f) {
			t.at = len(f)
			return f
		}
	}
	return ""
}

// alternative reads up to a bar at the top level or the end.
func (t *translator) alternative(flags string) (alternative, error) {
	var a alternative
	for {
		switch rest := t.rest(); {
		case strings.HasPrefix(rest, "^"):
			t.at++
		case strings.HasPrefix(rest, `\A`):
			t.at += 2
		case strings.HasPrefix(rest, "(?!"), strings.HasPrefix(rest, "(?="):
			t.at += 3
			inner, err := t.sequence(")")
			if err != nil {
				return a, err
			}
			if t.at == len(t.in) {
				return a, fmt.Errorf("an open (")
			}
			t.at++
			re, err := regexp.Compile(flags + `\A(?:` + inner + `)`)
			if err != nil {
				return a, err
			}
			if next := t.rest(); next != "" && strings.IndexByte("*+?{", next[0]) >= 0 {
				return a, fmt.Errorf("a look-ahead that is repeated cannot be used")
			}
			a.looks = append(a.looks, look{rest[2] == '!', re})
		default:
			inner, err := t.sequence("|")
			if err != nil {
				return a, err
			}
			a.rest, err = regexp.Compile(flags + `\A(?:` + inner + `)\z`)
			return a, err
		}
	}
}

// sequence reads up to one of the end characters, which it leaves, or the end of the text.
func (t *translator) sequence(ends string) (string, error) {
	if t.depth++; t.depth > maxDepth {
		return "", fmt.Errorf("more than %d parentheses in each other", maxDepth)
	}
	defer func() { t.depth-- }()
	var b strings.Builder
	for t.at < len(t.in) {
		c := t.in[t.at]
		if strings.IndexByte(ends, c) >= 0 {
			return b.String(), nil
		}
		var err error
		switch c {
		case ')':
			return "", fmt.Errorf("a ) too much")
		case '(':
			err = t.group(&b)
		case '[':
			err = t.class(&b)
		case '\\':
			err = t.escape(&b)
		case '{':
			err = t.count(&b)
		case '*', '+', '?', '}':
			b.WriteByte(c)
			t.at++
			if c != '}' && strings.HasPrefix(t.rest(), "+") {
				err = fmt.Errorf("possessive repeats cannot be used")
			}
		default:
			b.WriteByte(c)
			t.at++
		}
		if err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

var groupName = regexp.MustCompile(`^\(\?P<[A-Za-z_]\w*>`)

func (t *translator) group(b *strings.Builder) error {
	open := "("
	switch rest := t.rest(); {
	case strings.HasPrefix(rest, "(?:"):
		open = "(?:"
	case groupName.MatchString(rest):
		open = groupName.FindString(rest)
	case strings.HasPrefix(rest, "(?!"), strings.HasPrefix(rest, "(?="):
		return fmt.Errorf("a look-ahead elsewhere than at the beginning cannot be used")
	case strings.HasPrefix(rest, "(?<"):
		return fmt.Errorf("a look-behind cannot be used")
	case strings.HasPrefix(rest, "(?"):
		return fmt.Errorf("%.4s cannot be used", rest)
	}
	t.at += len(open)
	inner, err := t.sequence(")")
	if err != nil {
		return err
	}
	if t.at == len(t.in) {
		return fmt.Errorf("an open (")
	}
	t.at++
	b.WriteString(open + inner + ")")
	return nil
}

var (
	counted = regexp.MustCompile(`^\{(\d*)(,?)(\d*)\}`)
	// Classes of Python's text patterns, which know all scripts.
	classes = map[byte]string{'d': `\p{Nd}`, 'w': `\p{L}\p{N}_`, 's': `\s\v\x{85}\p{Z}`}
	// plain are escapes that both mean alike.
	plain = "afnrtv"
)

// count reads {n}, {n,}, {,m} or {n,m}; any other brace is itself.
func (t *translator) count(b *strings.Builder) error {
	m := counted.FindStringSubmatch(t.rest())
	if m == nil || m[1]+m[2]+m[3] == "" {
		b.WriteString(`\{`)
		t.at++
		return nil
	}
	if m[1] == "" {
		m[1] = "0"
	}
	b.WriteString("{" + m[1] + m[2] + m[3] + "}")
	t.at += len(m[0])
	if strings.HasPrefix(t.rest(), "+") {
		return fmt.Errorf("possessive repeats cannot be used")
	}
	return nil
}

// escape reads a backslash outside of a class.
func (t *translator) escape(b *strings.Builder) error {
	if t.at+1 == len(t.in) {
		return fmt.Errorf("a backslash at the end")
	}
	c := t.in[t.at+1]
	switch {
	case classes[c] != "":
		b.WriteString("[" + classes[c] + "]")
	case classes[c|0x20] != "" && c < 'a':
		b.WriteString("[^" + classes[c|0x20] + "]")
	case c == 'A' || c == 'b' || c == 'B':
		b.WriteString(`\` + string(c))
	case c == 'Z':
		b.WriteString(`\z`)
	default:
		return t.character(b)
	}
	t.at += 2
	return nil
}

// character reads an escape that means one character, in a class or outside.
func (t *translator) character(b *strings.Builder) error {
	c := t.in[t.at+1]
	switch {
	case strings.IndexByte(plain, c) >= 0:
		b.WriteString(`\` + string(c))
	case c == 'x' || c == 'u':
		digits := 2
		if c == 'u' {
			digits = 4
		}
		if len(t.in) < t.at+2+digits {
			return fmt.Errorf("an escape without its digits")
		}
		b.WriteString(`\x{` + t.in[t.at+2:t.at+2+digits] + "}")
		t.at += digits
	case c >= '1' && c <= '9':
		return fmt.Errorf("back references cannot be used")
	case c == '0' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z':
		return fmt.Errorf(`\%c cannot be used`, c)
	case c >= 0x80:
		b.WriteByte(c) // the rest of the character follows by itself
	default:
		b.WriteString(`\` + string(c))
	}
	t.at += 2
	return nil
}

// class reads a set in brackets.
func (t *translator) class(b *strings.Builder) error {
	b.WriteByte('[')
	t.at++
	if strings.HasPrefix(t.rest(), "^") {
		b.WriteByte('^')
		t.at++
	}
	for first := true; t.at < len(t.in); first = false {
		switch c := t.in[t.at]; {
		case c == ']' && !first:
			b.WriteByte(']')
			t.at++
			return nil
		case c == '\\' && t.at+1 < len(t.in):
			n := t.in[t.at+1]
			switch {
			case classes[n] != "":
				b.WriteString(classes[n])
				t.at += 2
			case n == 'b':
				b.WriteString(`\x08`)
				t.at += 2
			case classes[n|0x20] != "" && n < 'a':
				return fmt.Errorf(`\%c within brackets cannot be used`, n)
			default:
				if err := t.character(b); err != nil {
					return err
				}
			}
		case c == '[' || c == ']' || c == '^' || c == '&' || c == '~':
			b.WriteString(`\` + string(c))
			t.at++
		default:
			b.WriteByte(c)
			t.at++
		}
	}
	return fmt.Errorf("an open [")
}
