// Package posixre translates what ltsp.conf has for sed and awk, POSIX basic and extended regular expressions, to Go's. What Go cannot match (back
// references) is an error.
package posixre

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// maxPattern bounds a pattern, in bytes.
const maxPattern = 4096

// Basic compiles a basic regular expression as GNU sed understands it: \( \) group, \{ \} count, \| \+ \? are special, + ? | ( ) { } are not. Matches are the
// leftmost, and of those the longest.
func Basic(pattern string) (*regexp.Regexp, error) {
	text, err := basic(pattern)
	if err != nil {
		return nil, fmt.Errorf("expression %q: %w", pattern, err)
	}
	return compile(pattern, text)
}

func compile(pattern, text string) (*regexp.Regexp, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("expression of %d bytes: at most %d are allowed", len(pattern), maxPattern)
	}
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, fmt.Errorf("expression %q: %w", pattern, err)
	}
	re.Longest()
	return re, nil
}

// Extended compiles an extended regular expression as awk and grep -E understand it.
func Extended(pattern string) (*regexp.Regexp, error) {
	var b strings.Builder
	for i := 0; i < len(pattern); {
		if pattern[i] == '[' {
			end, err := bracket(&b, pattern, i)
			if err != nil {
				return nil, fmt.Errorf("expression %q: %w", pattern, err)
			}
			i = end
			continue
		}
		if pattern[i] == '\\' && i+1 < len(pattern) {
			if err := escaped(&b, pattern[i+1]); err != nil {
				return nil, fmt.Errorf("expression %q: %w", pattern, err)
			}
			i += 2
			continue
		}
		b.WriteByte(pattern[i])
		if strings.HasPrefix(pattern[i:], "{,") {
			b.WriteByte('0')
		}
		i++
	}
	return compile(pattern, b.String())
}

var errReference = errors.New("back references cannot be used")

// escaped writes a backslash and what follows it where it has no other meaning.
func escaped(b *strings.Builder, c byte) error {
	switch {
	case c >= '1' && c <= '9':
		return errReference
	case c == 'w' || c == 'W' || c == 's' || c == 'S' || c == 'b' || c == 'B':
		b.WriteString(`\` + string(c))
	case c == 'n':
		b.WriteString(`\n`)
	case c == 't':
		b.WriteString(`\t`)
	case c == '<' || c == '>':
		b.WriteString(`\b`)
	default:
		b.WriteString(regexp.QuoteMeta(string(c)))
	}
	return nil
}

func basic(pattern string) (string, error) {
	var b strings.Builder
	start := true // of the expression, a group or an alternative: * is itself, ^ an anchor
	for i := 0; i < len(pattern); {
		c := pattern[i]
		next := byte(0)
		if i+1 < len(pattern) {
			next = pattern[i+1]
		}
		switch {
		case c == '\\' && next == 0:
			return "", errors.New("a backslash at the end")
		case c == '\\':
			special := strings.IndexByte("(){}|+?", next) >= 0
			if special {
				b.WriteByte(next)
				if next == '{' && i+2 < len(pattern) && pattern[i+2] == ',' {
					b.WriteByte('0') // at most so many
				}
			} else if err := escaped(&b, next); err != nil {
				return "", err
			}
			start = special && (next == '(' || next == '|')
			i += 2
			continue
		case c == '[':
			end, err := bracket(&b, pattern, i)
			if err != nil {
				return "", err
			}
			i, start = end, false
			continue
		case c == '*' && start:
			b.WriteString(`\*`)
		case c == '*' || c == '.':
			b.WriteByte(c)
		case c == '^' && start:
			b.WriteByte('^')
			i++
			continue // still the start: ^* means a star
		case c == '$' && (next == 0 || next == '\\' && i+2 < len(pattern) && (pattern[i+2] == ')' || pattern[i+2] == '|')):
			b.WriteByte('$')
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
		start = false
		i++
	}
	return b.String(), nil
}

// bracket writes the bracket expression at i and returns where it ends. Within it a backslash is itself.
func bracket(b *strings.Builder, pattern string, i int) (end int, err error) {
	b.WriteByte('[')
	i++
	if i < len(pattern) && pattern[i] == '^' {
		b.WriteByte('^')
		i++
	}
	for first := true; i < len(pattern); first = false {
		switch c := pattern[i]; {
		case c == ']' && !first:
			b.WriteByte(']')
			return i + 1, nil
		case c == '[' && strings.HasPrefix(pattern[i:], "[:"):
			n := strings.Index(pattern[i:], ":]")
			if n < 0 {
				return 0, errors.New("a class without its end")
			}
			b.WriteString(pattern[i : i+n+2])
			i += n + 2
			continue
		case c == '[' && i+1 < len(pattern) && (pattern[i+1] == '.' || pattern[i+1] == '='):
			return 0, errors.New("collating elements cannot be used")
		case c == ']' || c == '[' || c == '\\' || c == '^' || c == '&':
			b.WriteByte('\\')
			b.WriteByte(c)
		default:
			b.WriteByte(c)
		}
		i++
	}
	return 0, errors.New("an open [")
}

// Substitute does what sed's s/PATTERN/REPLACEMENT/ does to one line; expression is PATTERN/REPLACEMENT. ErrNoExpression is the error of a text that sed
// would not take as one.
func Substitute(line, expression string) (string, error) {
	parts := split(expression)
	if len(parts) != 2 || parts[0] == "" {
		return "", ErrNoExpression
	}
	re, err := Basic(parts[0])
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoExpression, err)
	}
	at := re.FindStringSubmatchIndex(line)
	if at == nil {
		return line, nil
	}
	with, err := replacement(parts[1], line, at)
	if err != nil {
		return "", err
	}
	return line[:at[0]] + with + line[at[1]:], nil
}

// ErrNoExpression says that a text is no PATTERN/REPLACEMENT.
var ErrNoExpression = errors.New("no expression for sed")

// split cuts at slashes that no backslash protects, and takes that backslash away. A slash within brackets cuts too, as in sed.
func split(s string) []string {
	parts := []string{""}
	for i := 0; i < len(s); i++ {
		last := len(parts) - 1
		switch {
		case s[i] == '\\' && i+1 < len(s):
			if s[i+1] != '/' {
				parts[last] += `\`
			}
			i++
			parts[last] += s[i : i+1]
		case s[i] == '/':
			parts = append(parts, "")
		default:
			parts[last] += s[i : i+1]
		}
	}
	return parts
}

// replacement fills in & and \1 to \9.
func replacement(text, line string, at []int) (string, error) {
	var b strings.Builder
	group := func(n int) error {
		if 2*n+1 >= len(at) {
			return fmt.Errorf("%w: there is no group %d", ErrNoExpression, n)
		}
		if at[2*n] >= 0 {
			b.WriteString(line[at[2*n]:at[2*n+1]])
		}
		return nil
	}
	for i := 0; i < len(text); i++ {
		var err error
		switch c := text[i]; {
		case c == '&':
			err = group(0)
		case c == '\\' && i+1 < len(text):
			i++
			if n := text[i]; n >= '0' && n <= '9' {
				err = group(int(n - '0'))
			} else {
				b.WriteByte(n)
			}
		default:
			b.WriteByte(c)
		}
		if err != nil {
			return "", err
		}
	}
	return b.String(), nil
}
