// Package cmdline reads the kernel command line as far as the agent obeys it: quoting, BOOTIF, ip= and the ltsp.* words.
// It is pure parsing.
package cmdline

import (
	"slices"
	"strings"
)

// MaxLen bounds how much of a command line is looked at, in bytes. The kernels we know have 4096 at most.
const MaxLen = 64 << 10

// Args is a parsed command line in its own order.
type Args struct {
	words []word
}

type word struct {
	key, value string
	hasValue   bool
}

// Parse splits text at blanks. Double quotes keep blanks together and vanish, as in the kernel's next_arg (lib/cmdline.c).
// Words behind "--" belong to init and are left out.
func Parse(text string) Args {
	if len(text) > MaxLen {
		text = text[:MaxLen]
	}
	var a Args
	for text = strings.TrimLeft(text, blanks); text != ""; text = strings.TrimLeft(text, blanks) {
		var raw string
		raw, text = cutWord(text)
		if raw == "--" {
			break
		}
		if key, value, ok := strings.Cut(raw, "="); ok {
			a.words = append(a.words, word{unquote(key), unquote(value), true})
		} else {
			a.words = append(a.words, word{key: unquote(raw)})
		}
	}
	return a
}

const blanks = " \t\r\n\v\f\x00"

// cutWord returns the text up to the first blank outside quotes, and what follows.
func cutWord(text string) (raw, rest string) {
	quoted := false
	for i := range len(text) {
		switch {
		case text[i] == '"':
			quoted = !quoted
		case !quoted && strings.IndexByte(blanks, text[i]) >= 0:
			return text[:i], text[i:]
		}
	}
	return text, ""
}

func unquote(s string) string { return strings.ReplaceAll(s, `"`, "") }

// Get returns the last value given for key, and whether key was there at all. A word without "=" has the value "".
func (a Args) Get(key string) (string, bool) {
	for _, w := range slices.Backward(a.words) {
		if w.key == key {
			return w.value, true
		}
	}
	return "", false
}

// Has tells whether key is there, with or without a value.
func (a Args) Has(key string) bool {
	_, ok := a.Get(key)
	return ok
}

// List returns the comma-separated elements of every occurrence of key, in order, empty ones left out.
func (a Args) List(key string) []string {
	var list []string
	for _, w := range a.words {
		if w.key != key {
			continue
		}
		for element := range strings.SplitSeq(w.value, ",") {
			if element != "" {
				list = append(list, element)
			}
		}
	}
	return list
}

// Module returns the parameters for a kernel module, as modprobe takes them: every "NAME.parameter[=value]", blank-separated.
// In a module's name "-" and "_" are the same.
func (a Args) Module(name string) string {
	name = strings.ReplaceAll(name, "-", "_")
	var params []string
	for _, w := range a.words {
		module, param, ok := strings.Cut(w.key, ".")
		if !ok || param == "" || strings.ReplaceAll(module, "-", "_") != name {
			continue
		}
		if w.hasValue {
			param += "=" + quoteBlank(w.value)
		}
		params = append(params, param)
	}
	return strings.Join(params, " ")
}

func quoteBlank(s string) string {
	if strings.ContainsAny(s, blanks) {
		return `"` + s + `"`
	}
	return s
}
