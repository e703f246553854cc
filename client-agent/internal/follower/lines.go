package follower

import (
	"strings"
	"unicode"
)

// Bounds of a report's lists.
const (
	maxLines = 32
	maxLine  = 200 // bytes
)

// clip makes lines fit for a report.
func clip(lines []string) []string {
	var out []string
	for _, l := range lines[:min(len(lines), maxLines)] {
		out = append(out, line(l))
	}
	return out
}

// line makes one line of a text.
func line(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.TrimSpace(s))
	return strings.ToValidUTF8(s[:min(len(s), maxLine)], "")
}
