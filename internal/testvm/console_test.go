package testvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCleaner(t *testing.T) {
	tests := []struct{ name, raw, want string }{
		{"plain", "hello\r\nworld\r\n", "hello\nworld\n"},
		{"colours", "\x1b[0;32m  OK  \x1b[0m done", "  OK   done"},
		{"iPXE progress", "vmlinuz... 10%\b\b\b20%\b\b\bok", "vmlinuz... 10%20%ok"},
		{"OVMF screen", "\x1b[2J\x1b[01;01H\x1b[=3hBdsDxe\x1b[02;01H>>Start PXE\x1b[02;12H over", "\nBdsDxe\n>>Start PXE over"},
		{"cursor after newline", "line\n\x1b[5;1Hnext", "line\nnext"},
		{"title", "a\x1b]0;title\x07b\x1b]0;t\x1b\\c", "abc"},
		{"charset", "a\x1b(Bb\x1b)0c", "abc"},
		{"two byte sequence", "a\x1b7b\x1b8c", "abc"},
		{"double escape", "a\x1b\x1b[1mb", "ab"},
		{"escape inside a sequence", "a\x1b[1\x1b[2Kb", "ab"},
		{"bell, nul, delete", "a\x07b\x00c\x7fd", "abcd"},
		{"tab and UTF-8", "a\tß", "a\tß"},
		{"unfinished", "a\x1b[", "a"},
		{"endless parameters", "a\x1b[" + strings.Repeat("1;", 40) + "mb", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var c cleaner
			got := string(c.clean(nil, []byte(test.raw)))
			if test.name == "endless parameters" {
				if !strings.HasPrefix(got, "a") || !strings.HasSuffix(got, "b") {
					t.Errorf("got %q", got)
				}
				return
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// FuzzCleaner checks that the result does not depend on how the stream is cut, and holds nothing unreadable.
func FuzzCleaner(f *testing.F) {
	f.Add([]byte("a\x1b[01;01Hb\x1b]0;t\x1b\\c\r\n"), 3)
	f.Add([]byte("\x1b\x1b[5;1H\x1b[5;9Hx\b\b"), 1)
	f.Add([]byte("\x1b(B\x1bPq\x07\x1b[999999999999999999999999999999999999999999999m"), 7)
	f.Fuzz(func(t *testing.T, raw []byte, step int) {
		var whole, pieces cleaner
		want := whole.clean(nil, raw)
		var got []byte
		step = max(1, step)
		for rest := raw; len(rest) > 0; {
			n := min(step, len(rest))
			got = pieces.clean(got, rest[:n])
			rest = rest[n:]
		}
		if !bytes.Equal(want, got) {
			t.Errorf("cut at %d: %q instead of %q", step, got, want)
		}
		if i := bytes.IndexFunc(want, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' || r == 0x7f }); i >= 0 {
			t.Errorf("control character in %q", want)
		}
		if len(want) > len(raw) {
			t.Errorf("%d bytes became %d", len(raw), len(want))
		}
	})
}

var never = regexp.MustCompile(`KERNEL PANIC`)

// newTestConsole has a clock that follows the bubble's.
func newTestConsole() *console {
	begin := time.Now()
	return newConsole(io.Discard, io.Discard, func() time.Duration { return time.Since(begin) })
}

func TestExpect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestConsole()
		go func() {
			for _, text := range []string{"boot", "ing\r\n", "addr 10.0", ".0.5\n", "login: ", "login: "} {
				time.Sleep(time.Second)
				c.write([]byte(text))
			}
		}()
		want := []struct {
			pattern string
			match   Match
		}{
			{`booting`, Match{Text: "booting", At: 2 * time.Second}},
			{`addr (\S+)\n|(other)`, Match{Text: "addr 10.0.0.5\n", Groups: []string{"10.0.0.5", ""}, At: 4 * time.Second}},
			{`login:`, Match{Text: "login:", At: 5 * time.Second}},
			{`login:`, Match{Text: "login:", At: 6 * time.Second}}, // the second one, not the first again
		}
		for _, w := range want {
			got, err := c.expect(t.Context(), regexp.MustCompile(w.pattern), never)
			if err != nil {
				t.Fatalf("%s: %v", w.pattern, err)
			}
			if diff := cmp.Diff(w.match, got); diff != "" {
				t.Errorf("%s: %s", w.pattern, diff)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := c.expect(ctx, regexp.MustCompile(`booting`), never); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("text before the last match: %v", err)
		}
	})
}

func TestExpectLateTextCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestConsole()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() {
			time.Sleep(time.Second - settle/2) // in time, but the search after it would be late
			c.write([]byte("ready"))
		}()
		if _, err := c.expect(ctx, regexp.MustCompile(`ready`), never); err != nil {
			t.Error(err)
		}
	})
}

func TestExpectFatal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestConsole()
		c.write([]byte("fine\nKERNEL PANIC\nready\n"))
		if _, err := c.expect(t.Context(), regexp.MustCompile(`fine`), never); err != nil {
			t.Errorf("what stands before the panic: %v", err)
		}
		if _, err := c.expect(t.Context(), regexp.MustCompile(`ready`), never); err == nil || !strings.Contains(err.Error(), "PANIC") {
			t.Errorf("what stands behind the panic: %v", err)
		}
		if _, err := c.expect(t.Context(), regexp.MustCompile(`KERNEL (\S+)`), never); err != nil {
			t.Errorf("the panic itself: %v", err)
		}
	})
}

func TestExpectEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestConsole()
		c.write([]byte("last words"))
		go func() {
			time.Sleep(time.Second)
			c.end()
		}()
		if _, err := c.expect(t.Context(), regexp.MustCompile(`never`), never); !errors.Is(err, ErrEnded) {
			t.Errorf("got %v", err)
		}
		if _, err := c.expect(t.Context(), regexp.MustCompile(`words`), never); err != nil {
			t.Errorf("what was said before the end: %v", err)
		}
	})
}

func TestConsoleForgetsTheBeginning(t *testing.T) {
	c := newTestConsole()
	line := bytes.Repeat([]byte("x"), 1<<16)
	for range consoleLimit/len(line) + 1 {
		c.write(line)
	}
	c.write([]byte("\nthe end\n"))
	if len(c.all()) > consoleLimit {
		t.Errorf("%d bytes are kept", len(c.all()))
	}
	match, err := c.expect(t.Context(), regexp.MustCompile(`the end`), never)
	if err != nil || match.Text != "the end" {
		t.Errorf("%v, %v", match, err)
	}
}

func TestTimedLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var raw, timed bytes.Buffer
		begin := time.Now()
		c := newConsole(&raw, &timed, func() time.Duration { return time.Since(begin) })
		for _, text := range []string{"one", "\r\ntwo\r\n", "\r\n"} {
			time.Sleep(1500 * time.Millisecond)
			c.write([]byte(text))
		}
		if diff := cmp.Diff("one\r\ntwo\r\n\r\n", raw.String()); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff("[    1.500] one\n[    3.000] two\n[    4.500] \n", timed.String()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestTail(t *testing.T) {
	c := newTestConsole()
	for i := range 5 {
		c.write([]byte(fmt.Sprintf("line %d  \r\n\r\n", i)))
	}
	if got := c.tail(2); got != "line 3\nline 4" {
		t.Errorf("tail %q", got)
	}
	if got := c.tail(100); strings.Count(got, "\n") != 4 {
		t.Errorf("tail %q", got)
	}
}

func TestMarksAreBounded(t *testing.T) {
	var at time.Duration
	c := newConsole(io.Discard, io.Discard, func() time.Duration { at += 2 * time.Millisecond; return at })
	for range maxMarks * 2 {
		c.write([]byte("x"))
	}
	if len(c.marks) > maxMarks {
		t.Errorf("%d marks", len(c.marks))
	}
	if got := c.timeOfLocked(int64(len(c.text))); got != at {
		t.Errorf("time of the last byte %v, want %v", got, at)
	}
}
