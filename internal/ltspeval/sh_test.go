package ltspeval

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
)

// bySh evaluates with this machine's /bin/sh and the text that a client would run, and returns the variables that are named.
func bySh(t *testing.T, text string, s ltspconf.Subject, names []string) map[string]string {
	t.Helper()
	return layersBySh(t, []Source{{Text: []byte(text)}}, s, names)
}

func layersBySh(t *testing.T, sources []Source, s ltspconf.Subject, names []string) map[string]string {
	t.Helper()
	var layers [][]*ltspconf.File
	var text strings.Builder
	for i, src := range sources {
		f, err := ltspconf.Parse(src.Text)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 || src.Scope != sources[i-1].Scope {
			layers = append(layers, nil)
		}
		layers[len(layers)-1] = append(layers[len(layers)-1], f)
		text.Write(src.Text)
	}
	script := "echo() { printf '%s\\n' \"$*\"; }\n" + string(ltspconf.NewProgram(layers, s).Text)
	for _, n := range names {
		script += "printf '%s\\0' \"" + n + "=$" + n + "\"\n"
	}
	cmd := exec.CommandContext(t.Context(), "/bin/sh")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.Dir = t.TempDir() // so that no word is a file's name
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("sh: %v\n%s", err, text.String())
	}
	values := make(map[string]string)
	for v := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		n, v, _ := strings.Cut(v, "=")
		values[n] = v
	}
	return values
}

// TestAgreesWithSh evaluates texts here and by /bin/sh: nothing in them needs a program.
func TestAgreesWithSh(t *testing.T) {
	tests := map[string]string{
		"quotes":            `A='a  b'` + "\n" + `B="x $A y"` + "\nC=$A\nD=\\$A\\ b\nE=\"a\\\"b\\c\\$d\"\nF=a'b'\"c\"d",
		"continued":         "A=a\\\nb\nB=\"a\\\nb\"\nC='a\\\nb'",
		"multi-line":        "A=\"one\ntwo = three\n  four\"\nB='x\n\ny'",
		"defaults":          "A=${N:-x}\nB=${N-x}\nE=\nC=${E:-x}\nD=${E-x}\nF=${A:+y}\nG=${N+y}\nH=${N:=z}\nI=$N\nJ=\"${N2:-\"q u\"}\"\nK=\"${N2:-a\\}b}\"\nL=${N2:-a   b}",
		"lazy defaults":     "A=x\nB=${A:-${C:=y}}\nD=${C:-unset}",
		"removal":           "A=/a/b.c.d\nB=${A#*/}\nC=${A##*/}\nD=${A%.*}\nE=${A%%.*}\nF=${A#x}\nG=${#A}\nP='*'\nH=a*b\nI=${H#a\"$P\"}\nJ=${H#a$P}\nK=\"${A##*\"/\"}\"\nL=${HOSTNAME#pc}\nM=${MAC_ADDRESS##*:}\nN=\"${A%'.d'}\"",
		"brackets":          "A=b9\ncase $A in [!a-c]*) B=1 ;; [a-c][[:digit:]]) B=2 ;; esac\nC='a]'\ncase $C in a]) D=1 ;; esac\nE=-x\ncase $E in [a-]x) F=1 ;; esac\ncase '[' in [) G=1 ;; esac\ncase 'a*' in a\\*) H=1 ;; esac",
		"case":              "A=x\ncase $A in y|x) B=1 ;; *) B=2 ;; esac\ncase '' in '') C=1 ;; esac\ncase abc in *b*) D=1 ;; esac\ncase $HOSTNAME in\npc0?) E=1 ;;\nesac",
		"substitution":      "A=$(echo a; echo b)\nB=$(printf '%s-' 1 2 3)\nC=`echo \\`echo x\\``\nD=\"$(echo \"a  b\")\"\nE=$(echo a  b)\nF=$(X=1; echo $X)$X",
		"echo is LTSP's":    `A=$(echo -n 'a\tb')`,
		"printf":            `A=$(printf '%d|%5d|%-5s|%03d|%x|%X|%o|%c|%%|%s' 3 4 a 7 255 255 8 xyz end)` + "\n" + `B=$(printf 'a\tb\\\101\n')` + "\n" + `C=$(printf '%b' 'x\0101\ty')` + "\n" + `D=$(printf '%.2s' abc)` + "\n" + `E=$(printf '%s %s\n' a b c)` + "\nF=$(printf '%d' 0x1f)\nG=$(printf '%d' \"'a\")",
		"arithmetic":        "A=$((1+2*3))\nB=$((010+0x10))\nC=$((A>6 && B!=0))\nD=$((A?5:6))\nE=$(( (A-1)%4 ))\nF=$((X=3))\nG=$((X+=4))\nH=$((~0))\nI=$((1<<4|1))\nJ=$((!A))\nK=$(($A+1))\nL=$((-7/2))\nM=$((UNSET+1))",
		"test":              "[ a = a ] && A=1\ntest -z \"$N\" && B=1\nif [ 3 -gt 2 ] && ! [ a != a ]; then C=1; fi\n[ ! a = b -a 1 -eq 1 ] && D=1\ntest -n '' || E=1\n test \\( a = b \\) -o c && F=1\ntest ! && G=1\n",
		"if":                "if false; then A=1; elif true; then A=2; else A=3; fi\nif false; then :; fi\nB=$?",
		"loops":             "for i in a b 'c d'; do A=$A$i,; done\nn=0\nwhile [ $n -lt 5 ]; do n=$((n+1)); [ $n = 3 ] && continue; [ $n = 5 ] && break; B=$B$n; done\nuntil [ $n -le 0 ]; do n=$((n-1)); done\nfor i in; do C=1; done\nfor x in 1 2; do for y in 1 2; do D=$D$x$y; continue 2; done; done",
		"functions":         "f() { local a=1; A=$1$a$#; return 3; }\na=0\nf x y || B=$?\nC=$a\ng() { h() { E=nested; }; }\ng\nh\nk() ( F=lost )\nk\nl() { for a; do G=$G$a; done; }\nl 1 2 3",
		"local":             "o=out\nf() { local o; A=$o; o=in; g; }\ng() { B=$o; o=changed; }\nf\nC=$o",
		"arguments":         "f() { A=$#; B=\"$*\"; C=\"$1$2\"; shift; D=$1; set -- p q; E=$2; for i in \"$@\"; do F=$F[$i]; done; }\nf 'a b' c\ng() { f \"$@\" z; }\ng 'x y'\nH=\"$1\"",
		"splitting":         "v='a  b c'\nset -- $v\nA=$#\nIFS=:\nw=a::b:\nset -- $w\nB=$#\nC=\"$*\"\nIFS=': '\nx=' a : b  c:'\nset -- $x\nD=$#$2\nunset IFS\nset -- x$v\"$v\"\nE=$#$1",
		"status":            "A=$(false) || B=1\nC=$(echo x; exit 3)\nD=$?\n! true\nE=$?\ntrue && false || F=1\n{ false; }\nG=$?\n(exit 4)\nH=$?",
		"temporary":         "f() { A=$X; }\nX=1\nX=2 f\nB=$X\nX=3 :\nC=$X\nY=1 true\nD=$Y\nZ=4 export W=5\nE=$Z",
		"export":            "x='a b'\nexport A=$x\nexport B\nB=1\nreadonly C=$x\nexport D=\"q r\" E=2",
		"eval":              "n=FOO\neval \"$n='a b'\"\neval A=1 B=2\neval 'for i in 1 2; do C=$C$i; done'\nD='$A'\neval E=$D",
		"here-documents":    "A=$(cat <<EOF\nx $B\n$(echo y)\n\\$z\nEOF\n)\nread -r C D <<EOF\n one  two three \nEOF\nE=$(cat <<'EOF'\n$x `y`\nEOF\n)\nF=$(cat <<-EOF\n\t\ttabs\n\tEOF\n)\nwhile read -r l; do G=$G$l,; done <<EOF\n1\n2\nEOF",
		"pipes":             "A=$(echo x y | while read a b; do echo $b; done)\necho z | read B\nC=$(echo 1 | cat)",
		"read":              "IFS=: read -r A B C <<EOF\na:b:c:d\nEOF\nread D <<EOF\nx\\ty\nEOF\nread -r E F <<EOF\nonly\nEOF\n IFS= read -r G <<EOF\n  spaces \nEOF",
		"unset":             "A=1\nunset A\nB=${A-gone}\nf() { C=1; }\nunset -f f\nunset NEVER",
		"subshell":          "A=1\n(A=2; B=3)\nC=$A${B-no}",
		"comments":          "A=1 # x\nB='# y'\n# C=1\nD=a#b",
		"semicolons":        "A=1; B=2;C=3\n{ D=4; E=5; }",
		"spaces at column":  "A = x\nB  =  'y z'\n C=1",
		"section":           "V=0\n[clients]\nA=1\n[pc01]\nB=$A$V\nINCLUDE=x\n[x]\nC=\"$section\"\nD=$1",
		"unquoted pattern":  "A=\"x*\"\nB=x[1]",
		"self":              "A=a\nA=$A$A A=$A$A",
		"at":                "f() { A=$@; B=\"x$@y\"; set -- \"$@\"; C=$#; }\nf 'a b' c\ng() { set -- x\"$@\"y; D=$#; }\ng",
		"empty fields":      "set -- \"\" '' $N a\"\"\nA=$#",
		"hash in expansion": "A=${HOSTNAME#pc0}\nB=$((10#1+0)) || :\n",
	}
	delete(tests, "hash in expansion") // bash only
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			s := ltspconf.Subject{MAC: "52:54:00:00:00:01", IP: "10.0.0.21", Hostname: "pc01", Applet: "init"}
			res, err := Evaluate(t.Context(), Input{Sources: []Source{{File: "ltsp.conf", Text: []byte(text)}}, Subject: s})
			if err != nil {
				t.Fatal(err)
			}
			got := make(map[string]string)
			names := strings.Split("A B C D E F G H I J K L M N FOO W", " ")
			for _, n := range names {
				v, _ := res.Get(n)
				got[n] = v.Value
				if v.Inexact {
					t.Errorf("%s is said to be inexact", n)
				}
			}
			if diff := cmp.Diff(bySh(t, text, s, names), got); diff != "" {
				t.Errorf("-sh +here\n%s%s", diff, strings.Join(res.Remarks, "\n"))
			}
			if !slices.IsSortedFunc(res.Values, func(a, b Value) int { return strings.Compare(a.Name, b.Name) }) {
				t.Error("values are not sorted")
			}
		})
	}
}

// TestLayersAgreeWithSh evaluates several layers here and as a client would.
func TestLayersAgreeWithSh(t *testing.T) {
	files := func(texts ...string) []Source {
		var out []Source
		for i := 0; i < len(texts); i += 3 {
			out = append(out, Source{Scope: texts[i], File: texts[i+1], Text: []byte(texts[i+2])})
		}
		return out
	}
	tests := map[string][]Source{
		"later wins":         files("o", "ltsp.conf", "A=1\n[pc01]\nA=2\nB=2\n", "s", "ltsp.conf", "A=3\n", "r", "ltsp.conf", "[clients]\nB=\"$A$B\"\n"),
		"include":            files("o", "ltsp.conf", "[crt]\nA=o\nINCLUDE=deep\n[deep]\nB=o\n", "s", "ltsp.conf", "[crt]\nA=s\n[clients]\nINCLUDE=crt\nINCLUDE=deep\n", "r", "ltsp.conf", "[clients]\nC=$A\nINCLUDE=crt\nINCLUDE=deep\nINCLUDE=none\n"),
		"include by pattern": files("o", "ltsp.conf", "[c*]\nA=\"$A+\"\n", "s", "ltsp.conf", "[pc01]\nINCLUDE=crt\nINCLUDE=crt\n"),
		"applet files":       files("o", "ltsp.conf", "A=1\n[clients]\nB=1\n", "o", "ltsp-init.conf", "A=2\n[clients]\nB=2\n[init/]\nC=2\n", "s", "ltsp-init.conf", "D=3\n[clients]\nE=3\n[init/]\nC=3\nINCLUDE=only\n", "s2", "ltsp.conf", "[only]\nA=4\n"),
		"functions live on":  files("o", "ltsp.conf", "f() { A=o$1; }\n[wall]\nB=$A\nINCLUDE=paint\n[paint]\nC=$B\n", "r", "ltsp.conf", "[clients]\nf x\nsection_wall\nf() { D=r; }\nf\n"),
		"same function":      files("o", "ltsp.conf", "[a.b]\nA=1\n[clients]\nINCLUDE=a.b\n", "r", "ltsp.conf", "[a_b]\nA=2\n[clients]\nINCLUDE=a.b\n"),
		"call":               files("o", "ltsp.conf", "[x]\nA=o\n", "r", "ltsp.conf", "[clients]\nsection_call x y\n[y]\nB=r\n"),
		"host name":          files("o", "ltsp.conf", "[52:54:00:00:00:01]\nHOSTNAME=lab\n", "r", "ltsp.conf", "[lab]\nA=1\n[pc01]\nB=1\n[init/lab]\nC=1\n"),
		"header in quotes":   files("o", "ltsp.conf", "[clients]\nA='\n[pc01]\n'\n[x]\nB=1\n", "r", "ltsp.conf", "[clients]\nINCLUDE=x\n"),
	}
	for name, sources := range tests {
		t.Run(name, func(t *testing.T) {
			s := ltspconf.Subject{MAC: "52:54:00:00:00:01", IP: "10.0.0.21", Hostname: "pc01", Applet: "init"}
			res, err := Evaluate(t.Context(), Input{Sources: sources, Subject: s})
			if err != nil {
				t.Fatal(err)
			}
			names := strings.Fields("B C D E HOSTNAME")
			if name != "header in quotes" {
				names = append(names, "A")
			}
			got := make(map[string]string)
			for _, n := range names {
				v, _ := res.Get(n)
				got[n] = v.Value
			}
			if got["HOSTNAME"] == "" {
				got["HOSTNAME"] = "pc01"
			}
			if diff := cmp.Diff(layersBySh(t, sources, s, names), got); diff != "" {
				t.Errorf("-sh +here\n%s%q", diff, res.Remarks)
			}
		})
	}
}
