package shell

import (
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Quote returns a word for the shell that means s.
func Quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// Assignments is a script that sets variables. Names that no variable can have are left out.
func Assignments(values map[string]string) string {
	names := make([]string, 0, len(values))
	for name := range values {
		if isName(name) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	var b strings.Builder
	for _, name := range names {
		b.WriteString(name + "=" + Quote(values[name]) + "\n")
	}
	return b.String()
}

func isName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// parseVariables reads what the shell's set prints: NAME=value with any of the quotes that dash, bash and busybox use there. What is no assignment, and what
// follows it up to the end of the line, is skipped.
func parseVariables(text string) map[string]string {
	values := map[string]string{}
	for text != "" {
		name, rest, ok := strings.Cut(text, "=")
		if !ok || !isName(name) || strings.HasPrefix(rest, "(") {
			_, text, _ = strings.Cut(text, "\n")
			continue
		}
		var value string
		value, text = parseWord(rest)
		values[name] = value
	}
	return values
}

// parseWord reads a value up to the end of its line, outside of quotes, and returns what follows.
func parseWord(text string) (value, rest string) {
	var b strings.Builder
	for text != "" {
		c := text[0]
		switch {
		case c == '\n':
			return b.String(), text[1:]
		case c == '\'':
			end := strings.IndexByte(text[1:], '\'')
			if end < 0 {
				end = len(text) - 1
			}
			b.WriteString(text[1 : 1+end])
			text = text[min(len(text), end+2):]
		case c == '"':
			text = doubleQuoted(&b, text[1:])
		case c == '$' && strings.HasPrefix(text, "$'"):
			text = dollarQuoted(&b, text[2:])
		case c == '\\' && len(text) > 1:
			b.WriteByte(text[1])
			text = text[2:]
		default:
			b.WriteByte(c)
			text = text[1:]
		}
	}
	return b.String(), ""
}

func doubleQuoted(b *strings.Builder, text string) (rest string) {
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return text[i+1:]
		case c == '\\' && i+1 < len(text) && strings.IndexByte("$`\"\\\n", text[i+1]) >= 0:
			i++
			b.WriteByte(text[i])
		default:
			b.WriteByte(c)
		}
	}
	return ""
}

// escapes of $'...' with one letter (bash(1), QUOTING).
var escapes = map[byte]byte{'a': 7, 'b': 8, 'e': 27, 'E': 27, 'f': 12, 'n': 10, 'r': 13, 't': 9, 'v': 11, '\\': '\\', '\'': '\'', '"': '"', '?': '?'}

func dollarQuoted(b *strings.Builder, text string) (rest string) {
	for text != "" {
		switch {
		case text[0] == '\'':
			return text[1:]
		case text[0] == '\\' && len(text) > 1:
			text = escape(b, text[1:])
		default:
			b.WriteByte(text[0])
			text = text[1:]
		}
	}
	return ""
}

// escape reads what follows a backslash.
func escape(b *strings.Builder, text string) (rest string) {
	c := text[0]
	if plain, ok := escapes[c]; ok {
		b.WriteByte(plain)
		return text[1:]
	}
	number := func(from, digits, base int) string {
		end := from
		for end < len(text) && end < from+digits {
			if _, err := strconv.ParseUint(text[end:end+1], base, 8); err != nil {
				break
			}
			end++
		}
		n, err := strconv.ParseUint(text[from:end], base, 32)
		if err != nil {
			return text[1:] // no digit: nothing is meant
		}
		if c == 'u' || c == 'U' {
			b.Write(utf8.AppendRune(nil, rune(n)))
		} else {
			b.WriteByte(byte(n))
		}
		return text[end:]
	}
	switch {
	case c >= '0' && c <= '7':
		return number(0, 3, 8)
	case c == 'x':
		return number(1, 2, 16)
	case c == 'u':
		return number(1, 4, 16)
	case c == 'U':
		return number(1, 8, 16)
	case c == 'c' && len(text) > 1:
		b.WriteByte(text[1] & 0x1f)
		return text[2:]
	}
	b.WriteString("\\" + text[:1])
	return text[1:]
}
