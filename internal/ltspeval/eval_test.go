package ltspeval

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
)

var pc01 = ltspconf.Subject{MAC: "52:54:00:00:00:01", IP: "10.0.0.21", Hostname: "pc01", Applet: "init"}

func conf(text string) []Source {
	return []Source{{Scope: "organisation", File: "ltsp.conf", Text: []byte(text)}}
}

func evaluate(t *testing.T, sources []Source) *Result {
	t.Helper()
	res, err := Evaluate(t.Context(), Input{Sources: sources, Subject: pc01})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// values writes a result as NAME=value, with a ~ behind the name of what is inexact.
func values(res *Result) []string {
	var out []string
	for _, v := range res.Values {
		mark := ""
		if v.Inexact {
			mark = "~"
		}
		out = append(out, v.Name+mark+"="+v.Value)
	}
	return out
}

func TestProvenance(t *testing.T) {
	res := evaluate(t, []Source{
		{Scope: "organisation", File: "ltsp.conf", Text: []byte("A = 1\n[clients]\nA=2 # two\nf() {\n  A=\"$A 3\"\n}\n[common]\nexport A=4\n[pc01]\nf\nINCLUDE=crt\n[crt]\neval \"\nA=5\"\n")},
		{Scope: "organisation", File: "ltsp-init.conf", Text: []byte("[init/*]\nfor A in x 6; do :; done")},
		{Scope: "room/s/lab", File: "ltsp.conf", Text: []byte("\n\n[clients]\n: ${B:=7} $((C=8))\nA=9")},
	})
	v, _ := res.Get("A")
	at := func(scope, file string, line int, section, value string) Assignment {
		return Assignment{Scope: scope, File: file, Line: line, Section: section, Value: value}
	}
	want := []Assignment{
		at("room/s/lab", "ltsp.conf", 5, "clients", "9"),
		at("organisation", "ltsp-init.conf", 2, "init/*", "6"),
		at("organisation", "ltsp-init.conf", 2, "init/*", "x"),
		at("organisation", "ltsp.conf", 13, "crt", "5"),
		at("organisation", "ltsp.conf", 5, "clients", "4 3"),
		at("organisation", "ltsp.conf", 8, "common", "4"),
		at("organisation", "ltsp.conf", 3, "clients", "2"),
		at("organisation", "ltsp.conf", 1, "unnamed", "1"),
	}
	if diff := cmp.Diff(want, v.Assignments); diff != "" {
		t.Error(diff)
	}
	if got := values(res); !slices.Equal(got, []string{"A=9", "B=7", "C=8"}) {
		t.Errorf("got %q", got)
	}
	if want := []string{"unnamed", "clients", "common", "pc01", "crt", "unnamed", "init/*", "unnamed", "clients"}; slices.Equal(res.Sections, want) {
		t.Error("the unnamed section of ltsp-init.conf ran, which LTSP does not do")
	}
	if want := []string{"unnamed", "clients", "common", "pc01", "crt", "init/*", "unnamed", "clients"}; !slices.Equal(res.Sections, want) {
		t.Errorf("sections %q, want %q", res.Sections, want)
	}
}

func TestWhatOnlyTheClientKnows(t *testing.T) {
	tests := map[string]struct {
		text   string
		want   []string
		remark string
	}{
		"output":             {"A=$(hostname)x", []string{"A~=x"}, `ltsp.conf:1: command "hostname" is not run here`},
		"shadow":             {"A=$(cat /etc/shadow)", []string{"A~="}, `command "cat" is not run here`},
		"read file":          {"[clients]\nread A </etc/shadow", []string{"A~="}, `ltsp.conf:2: the file "/etc/shadow" is not opened`},
		"cat file":           {"A=$(cat </etc/shadow)", []string{"A~="}, "is not opened"},
		"dependent":          {"A=$(hostname)\nB=x$A\nC=${B#x}\nD=1", []string{"A~=", "B~=x", "C~=", "D=1"}, ""},
		"pipe":               {"A=$(echo x | sed s/x/y/)", []string{"A~="}, `command "sed"`},
		"arguments":          {"f() { A=$1; shift; B=$#; set -- x; C=$1; }\nf $(hostname) y", []string{"A~=y", "B~=0", "C=x"}, ""},
		"through read":       {"A=$(hostname | { read b; echo $b; })", []string{"A~="}, ""},
		"test":               {"A=1\n[clients]\ntest -f /x && A=2\nB=1", []string{"A~=1", "B=1"}, "test -f /x is only known to the client"},
		"not taken":          {"if test -e /x; then A=1; else B=2; fi\nC=3", []string{"B~=2", "C=3"}, "whether A is set hangs on"},
		"elif":               {"if test -e /x; then A=1; elif true; then B=2; fi\nC=3", []string{"B~=2", "C=3"}, ""},
		"case":               {"A=1\nB=1\ncase $(uname -m) in x86*) A=2 ;; *) B=2 ;; esac", []string{"A~=1", "B~=2"}, ""},
		"or":                 {"A=1\nfind /x || A=2\nB=1", []string{"A~=1", "B=1"}, ""},
		"loop":               {"A=1\nwhile find /x; do A=2; done\nuntil test -e /x; do A=3; done\nB=1", []string{"A~=1", "B=1"}, "how often this loop runs"},
		"function in branch": {"f() { A=2; }\nif find /x; then f; fi", []string{"A~=2"}, ""},
		"environment":        {"A=$PATH:/opt\nB=$HOME\nC=~/x", []string{"A~=:/opt", "B~=", "C~=~/x"}, ""},
		"file names":         {"for i in /etc/*.conf; do A=$i; done", []string{"A~=/etc/*.conf", "i~=/etc/*.conf"}, ""},
		"status":             {"grep -q x /y\nA=$?", []string{"A~=0"}, ""},
		"is a client":        {"if [ -d /run/ltsp/client ]; then A=1; fi", []string{"A=1"}, ""},
		"exact after all":    {"A=$(hostname)\nA=1", []string{"A=1"}, ""},
		"exported":           {"test -e /x && export A=1", nil, "whether A is set"},
		"sourced":            {". /etc/os-release", nil, `command "." is not run here`},
		"background":         {"A=1 &\nB=2", []string{"B=2"}, "in the background"},
		"trap and cd":        {"trap 'A=1' EXIT\ncd /tmp\nB=2", []string{"B=2"}, "cd is not followed"},
		"bash":               {"A=ab\nB=${A/a/x}\nC=1", []string{"A=ab"}, "sh does not have"},
		"append":             {"A=1\nA+=2\nB=1", []string{"A=1", "B=1"}, ""},
		"unset error":        {"A=1\n: ${B:?no}\nC=1", []string{"A=1"}, "a shell ends here"},
		"unquoted spaces":    {"X_MODES=1024x768 800x600\nB=1", []string{"B=1"}, `command "800x600"`},
		"written":            {"echo x >/etc/passwd\nA=1", []string{"A=1"}, `the file "/etc/passwd" is not opened`},
		"read-only":          {"readonly A=1\nA=2\nB=1", []string{"A=1"}, "read-only"},
		"unknown include":    {"[clients]\nINCLUDE=none", nil, `ltsp.conf:2: INCLUDE of "none", which no section matches`},
		"header in quotes":   {"A='x\n[pc01]\ny'\nB=1", []string{"A=x\n}; section_pc01() { test \"$section_pc01\" != 1 || return 0; section_pc01=1\ny", "B=1"}, `section "pc01" has no body`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			res := evaluate(t, conf(tt.text))
			if diff := cmp.Diff(tt.want, values(res)); diff != "" {
				t.Error(diff)
			}
			if all := strings.Join(res.Remarks, "\n"); !strings.Contains(all, tt.remark) {
				t.Errorf("no remark %q in\n%s", tt.remark, all)
			}
		})
	}
}

func TestSyntaxErrorsNameTheLine(t *testing.T) {
	tests := map[string]struct {
		text string
		line int
	}{
		"quote":            {"A=1\n[clients]\nB='x\n", 3},
		"fi":               {"[clients]\nif true; then\nA=1\n[pc01]\nB=1", 4},
		"stray":            {"A=1\n)\n", 2},
		"array":            {"\nA=(1 2)", 2},
		"test at column 0": {"A=1\n[ -f x ] || A=2\n", 2},
		"empty section":    {"\n\n[]", 3},
		"open substitute":  {"A=$(echo\n", 1},
		"here-document":    {"A=1\ncat <<EOF\nx", 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Compile(conf(tt.text))
			if !errors.Is(err, ErrSyntax) || !strings.HasPrefix(err.Error(), fmt.Sprintf("organisation/ltsp.conf:%d: ", tt.line)) {
				t.Errorf("got %v, want line %d", err, tt.line)
			}
		})
	}
}

// TestBadInput: each of these comes to an end within the limits.
func TestBadInput(t *testing.T) {
	doubling := "A=x\nwhile :; do A=$A$A; done"
	tests := map[string]struct {
		text string
		want error // nil: the rest of the file is evaluated
	}{
		"endless loop":            {"while true; do :; done", ErrLimit},
		"endless, no commands":    {"while A=1; do B=2; done", ErrLimit},
		"endless until":           {"until false; do A=1; done", ErrLimit},
		"endless substitution":    {"A=$(while :; do :; done)", ErrLimit},
		"endless output":          {"A=$(while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done)", ErrLimit},
		"endless for":             {"f() { for i in 1 2 3 4 5 6 7 8 9; do $1 $2 $3 $4 $5 $6 $7 $8 $9; done; }\ng() { f f f f f f f f f; }\ng", ErrLimit},
		"recursion":               {"f() { f; }\nf", ErrLimit},
		"mutual recursion":        {"f() { g; }\ng() { f; }\nf", ErrLimit},
		"recursion by substitute": {"f() { A=$(f); }\nf", ErrLimit},
		"recursion by expansion":  {"f() { : ${A:=$(f)}; }\nf", ErrLimit},
		"recursion by eval":       {"A='eval \"$A\"'\neval \"$A\"", ErrLimit},
		"recursion of sections":   {"[clients]\nINCLUDE=a\n[a]\nINCLUDE=b\n[b]\nINCLUDE=a\nsection_call a\nsection_a=\nsection_b=\nsection_call a", ErrLimit},
		"exponential calls":       {exponential(), ErrLimit},
		"doubling":                {doubling, ErrLimit},
		"doubling in arguments":   {"f() { f \"$@\" \"$@\"; }\nf x", ErrLimit},
		"doubling positional":     {"set -- x\nwhile :; do set -- \"$@\" \"$@\"; done", ErrLimit},
		"one huge word":           {"A=aaaaaaaaaaaaaaaa\nA=$A$A$A$A$A$A$A$A\nA=$A$A$A$A$A$A$A$A\nA=$A$A$A$A$A$A$A$A\nA=$A$A$A$A$A$A$A$A\nA=" + strings.Repeat("$A", 100_000), ErrLimit},
		"many variables":          {"i=0\nwhile :; do i=$((i+1)); eval \"V$i=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"; done", ErrLimit},
		"many functions":          {"i=0\nwhile :; do i=$((i+1)); eval \"f$i() { :; }\"; done", ErrLimit},
		"fork bomb":               {"f() { f | f & }\nf\nA=1", nil},
		"fork bomb of a pipe":     {"f() { f | f; }\nf", ErrLimit},
		"bash's fork bomb":        {":(){ :|:& };:\nA=1", ErrSyntax},
		"slow pattern":            {"A=" + strings.Repeat("a", 100_000) + "\nB=${A%%" + strings.Repeat("*a", 50) + "b}", ErrLimit},
		"slow suffix":             {"A=" + strings.Repeat("a", 500_000) + "\nB=${A%%*b*b*b}", ErrLimit},
		"wide printf":             {"A=$(printf '%2000000000d' 1)\nA=1", nil},
		"precise printf":          {"A=$(printf '%.2000000000d' 1)\nA=1", nil},
		"arithmetic overflow":     {"A=$((9223372036854775807+1))\nA=$((-9223372036854775807-1))\nA=1", nil},
		"division":                {"A=$((1/0))", nil},
		"smallest by minus one":   {"B=$((-9223372036854775807-1))\nA=$((B/-1))", nil},
		"deep arithmetic":         {"A=$((" + strings.Repeat("- ", 50_000) + "1))", ErrLimit},
		"deep brackets":           {strings.Repeat("(", 300_000), ErrLimit},
		"deep substitution":       {"A=" + strings.Repeat("$(", 200_000), ErrLimit},
		"deep blocks":             {strings.Repeat("{ ", 15_000) + ":" + strings.Repeat("; }", 15_000) + "\nA=1", nil},
		"deep expansion":          {"A=" + strings.Repeat("${B:-", 5_000) + "1" + strings.Repeat("}", 5_000), ErrLimit},
		"deep ifs":                {strings.Repeat("if :; then ", 30_000), ErrLimit},
		"long and-list":           {strings.Repeat(": && ", 40_000) + "A=1", nil},
		"long pipe":               {strings.Repeat(": | ", 100_000) + ":", ErrLimit},
		"elifs":                   {"if false; then :\n" + strings.Repeat("elif false; then :\n", 9_000) + "fi\nA=1", nil},
		"many commands":           {strings.Repeat("f\n", 40_000) + "A=1", nil},
		"ten megabytes":           {strings.Repeat("A=1\n", 2_500_000), ErrLimit},
		"sections":                {strings.Repeat("[a]\n", 200_000), ErrLimit},
		"NUL":                     {"A=\x00", ErrSyntax},
		"no UTF-8":                {"A='\xff\xfe'\n[\xff]x\nB=1", nil},
		"exit":                    {"A=1\nexit 3\nB=2", nil},
		"exec":                    {"exec /bin/sh\nA=1", nil},
		"break outside":           {"break 9\ncontinue\nA=1", nil},
		"return outside":          {"[clients]\nreturn 300\n[common]\nA=1", nil},
		"shift too far":           {"A=1\nshift 99\nA=2", nil},
		"unset all":               {"unset IFS HOSTNAME MAC_ADDRESS IP_ADDRESS _APPLET section\nA=1", nil},
		"wait for input":          {"read A\ncat\nA=1", nil},
		"kill":                    {"kill -9 $$\nkill 1\nA=1", nil},
		"reboot":                  {"reboot -f\nA=1", nil},
		"device":                  {"A=$(cat /dev/zero)\ndd if=/dev/zero of=/dev/sda\nA=1", nil},
		"network":                 {"A=$(curl http://10.0.0.1/x)\nexec 3<>/dev/tcp/10.0.0.1/80\nA=1", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			res, err := Evaluate(t.Context(), Input{Sources: conf(tt.text), Subject: pc01, Limits: Limits{Steps: 150_000}})
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err != nil {
				if !strings.HasPrefix(err.Error(), "organisation/ltsp.conf") || len(err.Error()) > 300 {
					t.Errorf("the error does not say where: %.400v", err)
				}
				return
			}
			if strings.HasSuffix(tt.text, "\nA=1") {
				if v, _ := res.Get("A"); v.Value != "1" {
					t.Errorf("A=%q; remarks: %.300q", v.Value, res.Remarks)
				}
			}
		})
	}
}

// exponential makes functions that each call the one before twice.
func exponential() string {
	var b strings.Builder
	b.WriteString("f0() { :; }\n")
	for i := 1; i < 60; i++ {
		fmt.Fprintf(&b, "f%d() { f%d; f%d; }\n", i, i-1, i-1)
	}
	b.WriteString("f59")
	return b.String()
}

func TestLimitsAreTheCallers(t *testing.T) {
	text := "i=0\nwhile [ $i -lt 100 ]; do i=$((i+1)); done"
	if _, err := Evaluate(t.Context(), Input{Sources: conf(text), Subject: pc01, Limits: Limits{Steps: 200}}); !errors.Is(err, ErrLimit) {
		t.Errorf("got %v", err)
	}
	if _, err := Evaluate(t.Context(), Input{Sources: conf(text), Subject: pc01}); err != nil {
		t.Error(err)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	res := evaluate(t, conf("i=0\nwhile [ $i -lt 1000 ]; do i=$((i+1)); done"))
	v, _ := res.Get("i")
	if n := len(v.Assignments); n != maxAssignments || v.Assignments[0].Value != "1000" || v.Assignments[n-1].Value != "901" {
		t.Errorf("%d assignments, the last is %q", n, v.Assignments[0].Value)
	}
}

func TestEvaluateObeysItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Evaluate(ctx, Input{Sources: conf("while :; do :; done"), Subject: pc01, Limits: Limits{Steps: 1 << 40}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestVarsAndKernel(t *testing.T) {
	in := Input{
		Sources: conf("IMAGE=a\nA=$SERVER/$DEVICE"), Subject: pc01, Kernel: `quiet ltsp.image=b.img ltsp.x="y z"`,
		Vars: map[string]string{"SERVER": "10.0.0.1", "DEVICE": "eth0", "UNUSED": "1"},
	}
	for applet, want := range map[string][]string{
		"init":           {"A=10.0.0.1/eth0", "IMAGE=a"},
		"initrd-bottom":  {"A=10.0.0.1/eth0", "IMAGE=b.img", "X=y z"},
		"initrd-bottom/": {"A=10.0.0.1/eth0", "IMAGE=a"},
	} {
		in.Subject.Applet = applet
		res, err := Evaluate(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		if got := values(res); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", applet, got, want)
		}
	}
}

func TestServerSide(t *testing.T) {
	s := pc01
	s.Server = true
	res, err := Evaluate(t.Context(), Input{Sources: conf("[clients]\nA=1\n[server]\nB=1\n"), Subject: s})
	if err != nil {
		t.Fatal(err)
	}
	if got := values(res); !slices.Equal(got, []string{"B=1"}) {
		t.Errorf("got %q", got)
	}
}

func TestFamily(t *testing.T) {
	res := evaluate(t, conf("HOSTS_Z=1\nHOSTS_A=2\nHOSTS_B=\nHOSTS_=3\nHOSTS=4"))
	var got []string
	for _, v := range res.Family("HOSTS_") {
		got = append(got, v.Value)
	}
	if !slices.Equal(got, []string{"2", "1"}) {
		t.Errorf("got %q", got)
	}
}

func TestExpand(t *testing.T) {
	vars := map[string]string{"HOSTNAME": "pc07", "IP": "20", "MAC": "aabb"}
	tests := []struct {
		value, want string
		inexact     bool
	}{
		{"ltsp%{IP}", "ltsp20", false},
		{"plain", "plain", false},
		{"(guest|[ab][0-9]-)%{HOSTNAME#pc}", "(guest|[ab][0-9]-)07", false},
		{"%MAC-$IP", "aabb-20", false},
		{`"%{IP}" 'x'`, `"20" 'x'`, false},
		{`\%{IP}`, "${IP}", false},
		{"a%{NONE}b", "ab", false},
		{"%(hostname)", "", true},
		{"%((IP+1))", "21", false},
		{"a\nb%IP", "a\nb20", false},
	}
	for _, tt := range tests {
		got, inexact, err := Expand(t.Context(), tt.value, vars)
		if err != nil || got != tt.want || inexact != tt.inexact {
			t.Errorf("%q: got %q (%v, %v), want %q", tt.value, got, inexact, err, tt.want)
		}
	}
	if _, _, err := Expand(t.Context(), "%(while :; do :; done)", vars); !errors.Is(err, ErrLimit) {
		t.Errorf("endless: %v", err)
	}
	if _, _, err := Expand(t.Context(), "100%{", vars); !errors.Is(err, ErrSyntax) {
		t.Errorf("syntax: %v", err)
	}
}

func TestProgramIsSafeForManySubjects(t *testing.T) {
	p, err := Compile(conf("[clients]\nA=$HOSTNAME\nf() { B=${A#pc}; }\nf\n[pc1]\nC=1"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	for i := range 8 {
		go func() {
			s := pc01
			s.Hostname = fmt.Sprintf("pc%d", i)
			res, err := p.Evaluate(t.Context(), Query{Subject: s})
			if err == nil {
				if v, _ := res.Get("B"); v.Value != fmt.Sprint(i) {
					err = fmt.Errorf("%s has B=%q", s.Hostname, v.Value)
				}
			}
			done <- err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func FuzzEvaluate(f *testing.F) {
	for _, s := range []string{
		"A=1\n[clients]\nINCLUDE=x\n[x]\nB=${A:-$(echo y | cat)}\n", "f() { local a=$1; A=$a; }\nf x\nfor i in a b; do A=$A$i; done",
		"case $HOSTNAME in pc[0-9]*) A=${HOSTNAME#pc} ;; esac\nB=$((1+2))", "read A B <<EOF\nx y $C\nEOF\nprintf '%5s|%d\n' a 3",
		"while [ \"$A\" != xxx ]; do A=x$A; done\neval \"B=$A\"\nset -- a b; shift; unset A", "A='\n[b]\n'\n[c|d*]\ntest ! -f x || A=2 &",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<16 {
			return
		}
		in := Input{Sources: []Source{{Scope: "s", File: "f", Text: []byte(text)}}, Subject: pc01, Limits: Limits{Steps: 20_000, Memory: 1 << 20, Word: 1 << 16, Depth: 50}}
		res, err := Evaluate(t.Context(), in)
		if err != nil {
			if !errors.Is(err, ErrSyntax) && !errors.Is(err, ErrLimit) {
				t.Errorf("no kind: %v", err)
			}
			return
		}
		again, err := Evaluate(t.Context(), in)
		if err != nil || !cmp.Equal(res, again) {
			t.Errorf("two evaluations differ: %v\n%s", err, cmp.Diff(res, again))
		}
		lines := strings.Count(text, "\n") + 1
		for _, v := range res.Values {
			for _, a := range v.Assignments {
				if a.Line < 1 || a.Line > lines {
					t.Errorf("%s is set in line %d of %d", v.Name, a.Line, lines)
				}
			}
		}
	})
}
