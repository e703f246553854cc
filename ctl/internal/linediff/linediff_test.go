package linediff_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/ctl/internal/linediff"
)

func TestUnified(t *testing.T) {
	t.Parallel()
	numbers := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintln(&b, i)
		}
		return b.String()
	}
	for name, c := range map[string]struct{ from, to, want string }{
		"same":             {"a\n", "a\n", ""},
		"all new":          {"", "a\nb\n", "@@ -0,0 +1,2 @@\n+a\n+b\n"},
		"all gone":         {"a\nb\n", "", "@@ -1,2 +0,0 @@\n-a\n-b\n"},
		"replaced":         {"a\nb\nc\n", "a\nx\nc\n", "@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n"},
		"two places":       {numbers(20), strings.Replace(strings.Replace(numbers(20), "2\n", "", 1), "18\n", "18\nx\n", 1), "@@ -1,6 +1,5 @@\n 0\n 1\n-2\n 3\n 4\n 5\n@@ -17,4 +16,5 @@\n 16\n 17\n 18\n+x\n 19\n"},
		"places that meet": {numbers(9), "0\n1\nx\n2\n3\n4\n5\n6\n8\n", "@@ -1,9 +1,9 @@\n 0\n 1\n+x\n 2\n 3\n 4\n 5\n 6\n-7\n 8\n"},
	} {
		got := linediff.Unified("x", "y", []byte(c.from), []byte(c.to))
		want := c.want
		if want != "" {
			want = "--- x\n+++ y\n" + want
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// apply patches a text, without looking at line numbers of the result.
func apply(t *testing.T, from []string, diff string) []string {
	t.Helper()
	var out []string
	at := 0
	for line := range strings.Lines(diff) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "--- "), strings.HasPrefix(line, "+++ "):
		case strings.HasPrefix(line, "@@ "):
			var first, n int
			if _, err := fmt.Sscanf(line, "@@ -%d,%d", &first, &n); err != nil {
				t.Fatal(err)
			}
			if n > 0 {
				first--
			}
			out = append(out, from[at:first]...)
			at = first
		case line[0] == '+':
			out = append(out, line[1:])
		default:
			if from[at] != line[1:] {
				t.Fatalf("line %d is %q, the patch says %q", at, from[at], line[1:])
			}
			if line[0] == ' ' {
				out = append(out, from[at])
			}
			at++
		}
	}
	return append(out, from[at:]...)
}

// What is shown leads from one text to the other.
func TestPatchesApply(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	text := func() []string {
		list := make([]string, random.IntN(30))
		for i := range list {
			list[i] = string(rune('a' + random.IntN(4)))
		}
		return list
	}
	for range 3000 {
		from, to := text(), text()
		join := func(l []string) []byte { return []byte(strings.Join(append(l, ""), "\n")) }
		diff := linediff.Unified("x", "y", join(from), join(to))
		if got := apply(t, from, diff); strings.Join(got, ",") != strings.Join(to, ",") {
			t.Fatalf("%q to %q: patched %q\n%s", from, to, got, diff)
		}
	}
}

// Texts that have nothing in common cost no more than the bound.
func TestLargeTexts(t *testing.T) {
	t.Parallel()
	text := func(prefix string) []byte {
		var b strings.Builder
		for i := range 6000 {
			fmt.Fprintln(&b, prefix, i)
		}
		return []byte(b.String())
	}
	if got := linediff.Unified("x", "y", text("a"), text("b")); !strings.Contains(got, "@@ -1,6000 +1,6000 @@") {
		t.Errorf("begins with %q", got[:100])
	}
}
