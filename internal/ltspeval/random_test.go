package ltspeval

import (
	"errors"
	"flag"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
)

// generator writes random texts of what sh and this package must agree about. They need no program and come to an end.
type generator struct {
	*rand.Rand
	depth int
}

func (g *generator) pick(options ...string) string { return options[g.IntN(len(options))] }

func (g *generator) name() string { return g.pick("A", "B", "C", "D", "E", "HOSTNAME") }

func (g *generator) text() string {
	return g.pick("", "a", "b c", " x", "y ", "a:b", "::", "1", "07", "a*c", "pc01", "x[ab]", "x-y", "é", "a/b/c", "\t", "!", "~", "a]", "--", "=")
}

func (g *generator) quoted() string {
	switch g.IntN(4) {
	case 0:
		return "'" + g.text() + "'"
	case 1:
		return `"` + strings.ReplaceAll(g.text(), `"`, "") + g.expansion() + g.pick("", `\"`, `\\`, `\$`, `\x`) + `"`
	case 2:
		return g.pick("a", "b1", "x.y", "1", `\ `, `\*`, `\"`, "/", "a:b")
	}
	return g.expansion()
}

func (g *generator) word() string {
	w := g.quoted()
	for g.IntN(3) == 0 {
		w += g.quoted()
	}
	return w
}

func (g *generator) pattern() string {
	p := ""
	for range 1 + g.IntN(3) {
		p += g.pick("*", "?", "a", "b", "[ab]", "[!a]", "[a-c]", `\*`, `"*"`, "x", "'?'", "/", ":", "[[:digit:]]", "$"+g.name(), `"$`+g.name()+`"`)
	}
	return p
}

func (g *generator) expansion() string {
	n := g.name()
	if g.depth > 3 {
		return "$" + n
	}
	g.depth++
	defer func() { g.depth-- }()
	switch g.IntN(12) {
	case 0:
		return "${" + n + g.pick("#", "##", "%", "%%") + g.pattern() + "}"
	case 1:
		return "${" + n + g.pick(":-", "-", ":+", "+", ":=", "=") + g.pick("a", "'b'", `"c d"`, "", "$"+g.name()) + "}"
	case 2:
		return "${#" + n + "}"
	case 3:
		return "$((" + g.arithmetic() + "))"
	case 4:
		return "$(printf '%s' " + g.word() + ")"
	case 5:
		return "$( " + g.command() + " printf '%s-' " + g.word() + ")"
	case 6:
		return g.pick("$#", "$1", "$2", "${1-none}", "$?")
	}
	return g.pick("$"+n, "${"+n+"}")
}

func (g *generator) arithmetic() string {
	a := g.pick("1", "2", "0", "010", "0x1f", "-3", "N", "(1+2)", "!0", "~5", "N=4")
	for range g.IntN(3) {
		a += g.pick("+", "-", "*", "<", ">", "<=", "==", "!=", "&&", "||", "&", "|", "^", "<<") + g.pick("1", "2", "7", "(0)", "N", "-1"[1:])
	}
	if g.IntN(5) == 0 {
		a = "(" + a + ")?" + g.pick("1", "N", "2+2") + ":" + g.pick("0", "3")
	}
	return a
}

func (g *generator) condition() string {
	switch g.IntN(5) {
	case 0:
		return g.pick("true", "false", "! true", "! false")
	case 1:
		return "test " + g.pick("-n", "-z") + ` "` + g.expansion() + `"`
	case 2:
		return `test "` + g.expansion() + `" ` + g.pick("=", "!=") + " " + g.pick("a", "1", "''", `"$A"`)
	case 3:
		return "test $((" + g.arithmetic() + ")) " + g.pick("-eq", "-lt", "-ge") + " 1"
	}
	return g.pick("true", "false") + g.pick(" && ", " || ") + g.pick("true", "false")
}

func (g *generator) command() string {
	if g.depth > 3 {
		return g.name() + "=" + g.word() + "\n"
	}
	g.depth++
	defer func() { g.depth-- }()
	switch g.IntN(16) {
	case 0:
		return " if " + g.condition() + "; then\n" + g.command() + " else\n" + g.command() + " fi\n"
	case 1:
		return " for " + g.pick("I", "A") + " in " + g.word() + " " + g.word() + "; do\n" + g.command() + " done\n"
	case 2:
		return ` case "` + g.expansion() + `" in ` + g.pattern() + ") " + g.name() + "=m1 ;; " + g.pattern() + "|" + g.pattern() + ") " + g.name() + "=m2 ;; esac\n"
	case 3:
		return " " + g.pick("f", "g", "h") + " " + g.word() + " " + g.word() + "\n"
	case 4:
		return " set -- " + g.word() + " " + g.word() + "\n " + g.name() + "=\"$#$" + g.pick("*", "1", "2") + "\"\n"
	case 5:
		g.depth += 4
		defer func() { g.depth -= 4 }()
		return " read -r " + g.name() + " " + g.name() + " <<EOF\n" + g.text() + g.expansion() + " " + g.text() + "\nEOF\n"
	case 6:
		return " " + g.condition() + g.pick(" && ", " || ") + strings.TrimLeft(g.command(), " ")
	case 7:
		return " { " + strings.TrimLeft(g.command(), " ") + " } || :\n"
	case 8:
		return " (\n" + g.command() + " )\n"
	case 9:
		return " eval " + g.pick("'"+g.name()+"=$A'", `"`+g.name()+`='x y'"`, "B=1 C=2", "") + "\n"
	case 10:
		return " IFS=" + g.pick(":", "' '", "': '", "''", "ab") + "\n" + g.command() + " unset IFS\n"
	case 11:
		return " unset " + g.pick("A", "B", "C", "Z") + "\n"
	case 12:
		return " " + g.name() + "=" + g.word() + " " + g.pick(":", "true", "f x", "eval C=2") + "\n"
	}
	return g.name() + g.pick("=", " = ") + g.word() + "\n"
}

func (g *generator) program() string {
	var b strings.Builder
	g.depth = 2
	b.WriteString("f() {\n local A\n A=$1\n " + g.name() + "=\"$A$#\"\n}\ng() {\n" + g.command() + " return 3\n}\nh() {\n for a; do D=\"$D<$a>\"; done\n shift\n B=\"$*\"\n}\n")
	g.depth = 0
	b.WriteString("[clients]\n")
	for range 3 + g.IntN(8) {
		b.WriteString(g.command())
		if g.IntN(6) == 0 {
			b.WriteString(g.pick("[pc*]\n", "[common]\n", "[x]\n", "INCLUDE=x\n", "[52:54:*]\n", "[init/*]\n"))
		}
	}
	return b.String()
}

var seeds = flag.Uint64("seeds", 300, "number of random texts that are compared with /bin/sh")

// TestAgreesWithShAtRandom evaluates random texts here and by /bin/sh.
func TestAgreesWithShAtRandom(t *testing.T) {
	t.Parallel()
	compared := 0
	for seed := range *seeds {
		g := &generator{Rand: rand.New(rand.NewPCG(seed, 7))}
		text := g.program()
		s := ltspconf.Subject{MAC: "52:54:00:00:00:01", IP: "10.0.0.21", Hostname: "pc01", Applet: "init"}
		res, err := Evaluate(t.Context(), Input{Sources: []Source{{File: "ltsp.conf", Text: []byte(text)}}, Subject: s})
		if errors.Is(err, ErrLimit) {
			continue // functions that call each other
		}
		if err != nil {
			t.Errorf("seed %d: %v\n%s", seed, err, text)
			continue
		}
		if strings.Contains(strings.Join(res.Remarks, "\n"), "not run here") || strings.Contains(strings.Join(res.Remarks, "\n"), "ends here") {
			continue // a word became a command, or sh gives up
		}
		names := strings.Split("A B C D E I N", " ")
		got := make(map[string]string)
		skip := false
		for _, n := range names {
			v, _ := res.Get(n)
			got[n] = v.Value
			skip = skip || v.Inexact
		}
		if skip {
			continue // words that are file names
		}
		compared++
		if diff := cmp.Diff(bySh(t, text, s, names), got); diff != "" {
			t.Errorf("seed %d: -sh +here\n%s\n%s\n%s", seed, diff, strings.Join(res.Remarks, "\n"), text)
		}
	}
	if compared < 100 {
		t.Errorf("only %d texts were compared", compared)
	}
	t.Logf("%d texts compared", compared)
}
