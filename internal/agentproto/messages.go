package agentproto

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of messages. A reader refuses what exceeds them.
const (
	// MaxCommandArgs and MaxCommandArgBytes bound Command.Args: how many, and their bytes in all.
	MaxCommandArgs     = 64
	MaxCommandArgBytes = 8 << 10
	// MaxCommandText bounds Command.Text in bytes.
	MaxCommandText = 4 << 10
	// DefaultCommandTimeout and MaxCommandTimeout are what a Command's Timeout means when it is zero, and its bound.
	DefaultCommandTimeout = 30 * time.Second
	MaxCommandTimeout     = 10 * time.Minute
	// MaxEventText bounds Event.Text, MaxResultError bounds Result.Error, in bytes.
	MaxEventText   = 512
	MaxResultError = 1 << 10
	// maxWord bounds kinds.
	maxWord = 32
	// outputRoom is what is left of a line for the JSON text of Result.Output.
	outputRoom = MaxLine - 8<<10
)

// Validate checks that the name is PolicyName or a digest.
func (f *Fetch) Validate() error {
	if f.Name != PolicyName && !isLowerHex(f.Name, 64) {
		return fmt.Errorf("%w: fetch of %.80q, want %q or 64 lower-case hex digits", ErrBadMessage, f.Name, PolicyName)
	}
	return nil
}

// Validate checks the size against MaxBlob and the form of the digest.
func (b *Blob) Validate() error {
	switch {
	case b.Size > MaxBlob:
		return fmt.Errorf("%w: blob of %d bytes, the limit is %d", ErrBadMessage, b.Size, MaxBlob)
	case !isLowerHex(b.SHA256, 64):
		return fmt.Errorf("%w: sha256 %.80q of a blob is not 64 lower-case hex digits", ErrBadMessage, b.SHA256)
	}
	return nil
}

// Validate checks the form of the digest.
func (n *Notice) Validate() error { return checkPolicy(n.Policy) }

// Validate checks the form of the digest. An Ack is never refused for its error's text.
func (a *Ack) Validate() error { return checkPolicy(a.Policy) }

func checkPolicy(digest string) error {
	if digest != "" && !isLowerHex(digest, 64) {
		return fmt.Errorf("%w: policy %.80q is not 64 lower-case hex digits", ErrBadMessage, digest)
	}
	return nil
}

// Validate checks ID, kind, lengths and time. Kinds that are not known pass when they are a word: who carries the command out must refuse them.
func (c *Command) Validate() error {
	if !isLowerHex(c.ID, 32) {
		return fmt.Errorf("%w: command id %.40q is not 32 lower-case hex digits", ErrBadMessage, c.ID)
	}
	if !isWord(c.Kind) {
		return fmt.Errorf("%w: command kind %.40q", ErrBadMessage, c.Kind)
	}
	total := 0
	for _, a := range c.Args {
		total += len(a)
	}
	switch {
	case len(c.Args) > MaxCommandArgs || total > MaxCommandArgBytes:
		return fmt.Errorf("%w: command with %d arguments of %d bytes, the limits are %d and %d", ErrBadMessage, len(c.Args), total, MaxCommandArgs, MaxCommandArgBytes)
	case len(c.Text) > MaxCommandText:
		return fmt.Errorf("%w: command with a text of %d bytes, the limit is %d", ErrBadMessage, len(c.Text), MaxCommandText)
	case strings.ContainsRune(c.Text, 0) || slices.ContainsFunc(c.Args, func(a string) bool { return strings.ContainsRune(a, 0) }):
		return fmt.Errorf("%w: command with a zero byte", ErrBadMessage)
	case c.Timeout < 0 || time.Duration(c.Timeout) > MaxCommandTimeout:
		return fmt.Errorf("%w: command timeout %v, want 0 to %v", ErrBadMessage, time.Duration(c.Timeout), MaxCommandTimeout)
	}
	return nil
}

// Limit is how long the work may take: Timeout, or its default.
func (c *Command) Limit() time.Duration {
	if c.Timeout <= 0 {
		return DefaultCommandTimeout
	}
	return min(time.Duration(c.Timeout), MaxCommandTimeout)
}

// Validate checks ID, lengths and exit code (-1 stands for a program that a signal ended).
func (r *Result) Validate() error {
	switch {
	case !isLowerHex(r.ID, 32):
		return fmt.Errorf("%w: result id %.40q is not 32 lower-case hex digits", ErrBadMessage, r.ID)
	case len(r.Error) > MaxResultError:
		return fmt.Errorf("%w: result with an error of %d bytes, the limit is %d", ErrBadMessage, len(r.Error), MaxResultError)
	case len(r.Output) > MaxOutput:
		return fmt.Errorf("%w: result with an output of %d bytes, the limit is %d", ErrBadMessage, len(r.Output), MaxOutput)
	case r.Exit < -1 || r.Exit > 255:
		return fmt.Errorf("%w: result with exit code %d", ErrBadMessage, r.Exit)
	}
	return nil
}

// Validate checks kind and text. Kinds that are not known pass when they are a word, so that an older satellite takes a newer agent's events.
func (e *Event) Validate() error {
	switch {
	case !isWord(e.Kind):
		return fmt.Errorf("%w: event kind %.40q", ErrBadMessage, e.Kind)
	case e.Text == "" || len(e.Text) > MaxEventText:
		return fmt.Errorf("%w: event with a text of %d bytes, want 1 to %d", ErrBadMessage, len(e.Text), MaxEventText)
	case strings.ContainsFunc(e.Text, unicode.IsControl):
		return fmt.Errorf("%w: event with more than one line", ErrBadMessage)
	}
	return nil
}

// isWord tells whether s can be a kind: lower-case letters and inner hyphens.
func isWord(s string) bool {
	if s == "" || len(s) > maxWord || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return (r < 'a' || r > 'z') && r != '-' })
}

// ClipOutput makes a Result's Output of what a program printed: its end of at most MaxOutput bytes that fits into a line whatever its characters are.
// Control characters other than line ends and tabs, and bytes that are no UTF-8, become spaces.
func ClipOutput(b []byte) string {
	b = b[max(0, len(b)-MaxOutput):]
	for len(b) > 0 && !utf8.RuneStart(b[0]) {
		b = b[1:]
	}
	text := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) && r != '\n' && r != '\t' {
			return ' '
		}
		return r
	}, string(b))
	text = tail(text, MaxOutput)
	for encodedLen(text) > outputRoom {
		text = tail(text, len(text)-max(1, (encodedLen(text)-outputRoom)/6))
	}
	return text
}

// tail returns the end of s, of at most n bytes and whole characters.
func tail(s string, n int) string {
	cut := max(0, len(s)-max(n, 0))
	for cut < len(s) && !utf8.RuneStart(s[cut]) {
		cut++
	}
	return s[cut:]
}

// encodedLen is the length of s as Writer writes it.
func encodedLen(s string) int {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return 0 // strings can always be encoded
	}
	return text.Len()
}
