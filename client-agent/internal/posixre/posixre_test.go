package posixre

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
)

// TestSubstituteAsSed holds Substitute to the real sed.
func TestSubstituteAsSed(t *testing.T) {
	t.Parallel()
	for _, expression := range []string{
		"pc/guest", "user", "^pc/&-", `\(pc\)0*\([0-9][0-9]*\)/\2\1`, "[^0-9]*/x", `[0-9]\{2\}/n`, `p\|c/x`, "a+/x", `0\+/x`, `7\?$/z`, "*/x", `\/x/y`, "a/b/", "a/b/g", "/x", "c.*0/[&]",
		"[]0]/x", `pc\`, "[/x", `\(p/x`, `x\{,2\}c/1`, "^*pc/x", `\(^p\)c/\1`, `[[:digit:]]\+/N`, `(p)/x`, "p|c/x", "pc07/a\\&b",
	} {
		for _, line := range []string{"pc07", "room-a+b|c", "x(p)*/"} {
			cmd := exec.Command("sed", "s/"+expression+"/")
			cmd.Stdin = strings.NewReader(line + "\n")
			want, sedErr := cmd.Output()
			if strings.HasSuffix(expression, "g") && strings.Count(expression, "/") == 2 {
				sedErr = errors.New("a flag is not known here") // s/a/b/g/ is refused by sed as well
			}
			got, err := Substitute(line, expression)
			switch {
			case sedErr != nil && err == nil:
				t.Errorf("s/%s/ on %s: sed refuses it, we get %q", expression, line, got)
			case sedErr == nil && (err != nil || got != strings.TrimSuffix(string(want), "\n")):
				t.Errorf("s/%s/ on %s: sed gives %q, we %q, %v", expression, line, want, got, err)
			}
		}
	}
}

func TestUnsupported(t *testing.T) {
	t.Parallel()
	for _, p := range []string{`\(a\)\1`, "[[.x.]]", "[", `a\`, strings.Repeat("a", maxPattern+1)} {
		if re, err := Basic(p); err == nil {
			t.Errorf("%.20s: %v", p, re)
		}
	}
	if re, err := Extended(`(a)\1`); err == nil {
		t.Errorf("%v", re)
	}
}

func TestExtendedAsGrep(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"^(guest|[ab][0-9]-)07$", "^a|b$", `^x\.y$`, "^a{2}$", "[[:upper:]]", `[\d]`, "^$", "a+", `^\(a\)$`, `a\|b`} {
		re, err := Extended(p)
		if err != nil {
			t.Errorf("%s: %v", p, err)
			continue
		}
		for _, line := range []string{"", "guest07", "a1-07", "ab", "xb", "x.y", "xxy", "aa", "A", "d", `\`, "(a)", "a|b"} {
			cmd := exec.Command("grep", "-qE", "-e", p)
			cmd.Stdin = strings.NewReader(line + "\n")
			want := cmd.Run() == nil
			if p == `a\|b` && line != "a|b" {
				continue // GNU grep's own extension
			}
			if got := re.MatchString(line); got != want {
				t.Errorf("%s on %q: got %v", p, line, got)
			}
		}
	}
}

func FuzzSubstitute(f *testing.F) {
	f.Add("pc07", "pc/guest")
	f.Add("pc07", `\(.\)*[^]]/\1&`)
	f.Fuzz(func(t *testing.T, line, expression string) {
		_, _ = Substitute(line, expression) // must not panic
	})
}
