package shell

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
)

// start starts a shell on the real root, with its files in a directory of the test.
func start(t *testing.T, program []string, lines func(string)) *Shell {
	t.Helper()
	s, err := Start(t.Context(), Config{Root: "/", Dir: filepath.Join(t.TempDir(), "ltsp"), Program: program, Output: lines})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func eachShell(t *testing.T, test func(t *testing.T, program []string)) {
	for name, program := range shells {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, program)
		})
	}
}

// awkward values of variables.
var awkward = map[string]string{
	"V_EMPTY": "", "V_PLAIN": "word", "V_BLANK": " a  b ", "V_LINES": "a\nb\n\nV_FALSE=no\n", "V_QUOTE": `it's "so" '' \' \\ \n`, "V_DOLLAR": "$HOME `id` ${x} $(id)",
	"V_ODD": "\x01\x7f\t\r\x1b[0m", "V_BYTES": "\xff\xfe é 日本", "V_GLOB": "* ? [a-c] ~ # ! { } ; & | < >", "V_EQUALS": "=a=b=", "V_END": "x\n",
}

func TestVariables(t *testing.T) {
	t.Parallel()
	eachShell(t, func(t *testing.T, program []string) {
		s := start(t, program, nil)
		if err := s.Set(t.Context(), awkward); err != nil {
			t.Fatal(err)
		}
		got, err := s.Variables(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		mine := map[string]string{}
		for name, value := range got {
			if strings.HasPrefix(name, "V_") {
				mine[name] = value
			}
		}
		if diff := cmp.Diff(awkward, mine); diff != "" {
			t.Errorf("(-set +got):\n%s", diff)
		}
		if got["BASE_DIR"] != "/srv/ltsp" || got["_NL"] != "\n" {
			t.Errorf("the prelude's: %q %q", got["BASE_DIR"], got["_NL"])
		}
	})
}

func TestScriptsShareOneShell(t *testing.T) {
	t.Parallel()
	eachShell(t, func(t *testing.T, program []string) {
		s := start(t, program, nil)
		for _, script := range []string{"A=1\nf() { A=$((A+1)); }\nset -e\n", "f\nlocal b\nb=2\ncat\nread -r line || :\nfalse || :\n", "f; set +e\n"} {
			if err := s.Run(t.Context(), "script", script); err != nil {
				t.Fatalf("%s: %v", script, err)
			}
		}
		got, err := s.Variables(t.Context())
		if err != nil || got["A"] != "3" {
			t.Errorf("A=%q, %v", got["A"], err)
		}
		known, err := s.Functions(t.Context(), []string{"config_dns", "f", "g"})
		if diff := cmp.Diff([]string{"f"}, known); err != nil || diff != "" {
			t.Errorf("functions: %v\n%s", err, diff)
		}
	})
}

func TestFailures(t *testing.T) {
	t.Parallel()
	eachShell(t, func(t *testing.T, program []string) {
		s := start(t, program, nil)
		var exit *ExitError
		if err := s.Run(t.Context(), "failing", "A=1\nfalse\n"); !errors.As(err, &exit) || exit.Status != "1" || errors.Is(err, ErrEnded) {
			t.Errorf("false: %v", err)
		}
		if err := s.Run(t.Context(), "next", "test $A = 1\n"); err != nil {
			t.Errorf("the shell did not go on: %v", err)
		}
		err := s.Run(t.Context(), "exiting", "warn something bad >&2\nexit 3\n")
		if !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "something bad") {
			t.Errorf("exit: %v", err)
		}
		if err := s.Run(t.Context(), "after", ":\n"); !errors.Is(err, ErrEnded) {
			t.Errorf("after exit: %v", err)
		}
	})
}

func TestSyntaxErrorNamesTheLine(t *testing.T) {
	t.Parallel()
	eachShell(t, func(t *testing.T, program []string) {
		s := start(t, program, nil)
		err := s.Run(t.Context(), "broken", ":\n:\nif true; then )\nfi\n")
		if err == nil || !strings.Contains(err.Error(), "broken.sh") || !strings.Contains(err.Error(), "3") {
			t.Errorf("got %v", err)
		}
	})
}

func TestEndlessScriptIsKilled(t *testing.T) {
	t.Parallel()
	eachShell(t, func(t *testing.T, program []string) {
		s := start(t, program, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		err := s.Run(ctx, "loop", "while :; do :; done\n")
		if !errors.Is(err, ErrEnded) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// TestProcessLeftBehind: a daemon that a hook starts holds the pipes; neither the next script nor Close waits for it.
func TestProcessLeftBehind(t *testing.T) {
	t.Parallel()
	s := start(t, nil, nil)
	if err := s.Run(t.Context(), "daemon", "sleep 30 &\nDAEMON=$!\n"); err != nil {
		t.Fatal(err)
	}
	values, err := s.Variables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), "end", "exit 0\n"); !errors.Is(err, ErrEnded) {
		t.Fatal(err)
	}
	s.Close()
	if _, err := os.Stat("/proc/" + values["DAEMON"]); err != nil {
		t.Errorf("the daemon of the hook is gone: %v", err)
	}
	s.kill()
}

func TestExpand(t *testing.T) {
	t.Parallel()
	eachShell(t, func(t *testing.T, program []string) {
		s := start(t, program, nil)
		if err := s.Set(t.Context(), map[string]string{"IP": "20", "HOSTNAME": "pc07", "Q": `a "b" 'c'`}); err != nil {
			t.Fatal(err)
		}
		for text, want := range map[string]string{
			"ltsp${IP}": "ltsp20", "(guest|a)${HOSTNAME#pc}": "(guest|a)07", `say "x" '$IP'`: `say "x" '20'`, `\$IP \\ \n`: `$IP \ \n`, "$Q": `a "b" 'c'`,
			"100$": "100$", "end\n": "end", "$(printf x)": "x", `\"`: `\"`,
		} {
			if got, err := s.Expand(t.Context(), text); err != nil || got != want {
				t.Errorf("%q: got %q, want %q (%v)", text, got, want, err)
			}
		}
		if got, err := s.Expand(t.Context(), "${IP"); err == nil {
			t.Errorf("an open brace: %q", got)
		}
		if got, err := s.Expand(t.Context(), "$IP"); err != nil || got != "20" {
			t.Errorf("after an error: %q, %v", got, err)
		}
	})
}

func TestPrelude(t *testing.T) {
	t.Parallel()
	const script = `
HOSTS_2=two HOSTS_1='one  1
more' HOSTS_3= OTHER=x HOSTNAME=pc07
list() { printf '<%s>' "$@"; }
R="$(echo_vars 'HOSTS_[[:alnum:]_]*' | tr '\n' ,)/$(echo_vars 'HOSTS_[[:alnum:]_]*' HOSTS_2 | tr '\n' ,)/$(echo_values 'HOSTS_[[:alnum:]_]*' | tr '\n' ,)"
R="$R/$(echo 'a\nb' -n)/$(eval_percent '"%{HOSTNAME#pc}"')/$(textif '' y n)$(textif x y n)$(textifb 0 y n)$(textifb 1 y n)"
rw false && R="$R/rw"
rwr false || R="$R/rwr"
rwr ! false || R="$R/not"
rs sh -c 'echo out; echo err >&2; exit 1' && R="$R/rs"
is_command cat rw && R="$R/is"
is_command cat no-such || R="$R/isnot"
R="$R/$(exclude_kept_services 'b x' 'a b # comment
c  d')"
mkdir -p "$DIR/1" "$DIR/2"
for f in 1/10-a 1/20-b 2/10-a 2/05-c 1/none; do : >"$DIR/$f"; done
R="$R/$(run_parts_list "$DIR/1" "$DIR/2" "$DIR/3" | sed "s|$DIR/||" | tr '\n' ,)"
`
	want := "HOSTS_1,HOSTS_2,/HOSTS_1,/one  1,more,two,/a\\nb -n/\"07\"/nyny/rw/rwr/not/rs/is/isnot/a\nc\nd/2/05-c,2/10-a,1/20-b,"
	eachShell(t, func(t *testing.T, program []string) {
		var mu sync.Mutex
		var lines []string
		s := start(t, program, func(line string) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, line)
		})
		if err := s.Set(t.Context(), map[string]string{"DIR": t.TempDir()}); err != nil {
			t.Fatal(err)
		}
		if err := s.Run(t.Context(), "helpers", script); err != nil {
			t.Fatal(err)
		}
		got, err := s.Variables(t.Context())
		if diff := cmp.Diff(want, got["R"]); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
		if err := s.Run(t.Context(), "re", "re false\n"); !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "LTSP command failed: false") {
			t.Errorf("re: %v", err)
		}
		s.Close()
		mu.Lock()
		defer mu.Unlock()
		if all := strings.Join(lines, "\n"); strings.Count(all, "LTSP command failed: false") != 3 || strings.Contains(all, "err") {
			t.Errorf("printed: %s", all)
		}
	})
}

func FuzzParseVariables(f *testing.F) {
	f.Add("A='it'\"'\"'s'\nB=$'a\\nb'\nC=(1 2)\nD=\"x\\\"y\"\nfn () \n{ \n    x=1\n}\nE=plain\\ text\n")
	f.Add("A='open")
	f.Add("A=$'\\x")
	f.Fuzz(func(t *testing.T, text string) {
		for name := range parseVariables(text) {
			if !isName(name) {
				t.Errorf("name %q", name)
			}
		}
	})
}

func TestStartNeedsAShell(t *testing.T) {
	t.Parallel()
	if s, err := Start(t.Context(), Config{Root: rootdir.Root(t.TempDir()), Dir: "/run/ltsp"}); err == nil {
		s.Close()
		t.Error("a shell in an empty root")
	}
}
