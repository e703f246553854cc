//go:build component

package ltspcorpus

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspconf"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspeval"
)

var update = flag.Bool("update", false, "write the values of the Debian package ltsp into expect.json")

// dump is a shell function that writes all variables as NAME=VALUE, each ended by a NUL.
const dump = `dump() {
	_saved_ifs=$IFS
	IFS=' 	
'
	for _name in $(set | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p' | sort -u); do
		eval "test \"\${$_name+x}\" = x" || continue
		eval "printf '%s=%s\\0' $_name \"\$$_name\""
	done
	printf 'END=1\0'
	IFS=$_saved_ifs
}
`

// own are variables of the shells, of LTSP and of this test.
var own = regexp.MustCompile(`^(_.*|section.*|IFS|PPID|OPTIND|PWD|OLDPWD|PATH|SHLVL|LINENO|BB_ASH_VERSION|HUSH_VERSION|PS[124]|is_command|MAC_ADDRESS|IP_ADDRESS|LC_ALL|LANG|DEBUG_LOG|END)$`)

// runShell runs a script that calls dump once before and once after the evaluation, and returns what changed.
func runShell(t *testing.T, script string, command ...string) (values map[string]string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin = strings.NewReader(script)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if ctx.Err() != nil {
		t.Fatal("the shell does not come to an end")
	}
	before, after, ok := strings.Cut(string(out), "END=1\x00")
	after, complete := strings.CutSuffix(after, "END=1\x00")
	if e, failed := errors.AsType[*exec.ExitError](err); failed {
		err = fmt.Errorf("%w: %s", err, e.Stderr)
	}
	if err == nil && (!ok || !complete) {
		err = fmt.Errorf("the script ended too early")
	}
	if err != nil {
		return nil, err
	}
	old := variables(before)
	values = variables(after)
	for name, v := range values {
		if was, known := old[name]; own.MatchString(name) || known && was == v {
			delete(values, name)
		}
	}
	return values, nil
}

func variables(text string) map[string]string {
	values := make(map[string]string)
	for v := range strings.SplitSeq(strings.TrimSuffix(text, "\x00"), "\x00") {
		if name, value, ok := strings.Cut(v, "="); ok {
			values[name] = value
		}
	}
	return values
}

// byLTSP evaluates a case with the Debian package ltsp, in mount, network and PID namespaces of its own.
func byLTSP(t *testing.T, c Case, client Client) (map[string]string, error) {
	t.Helper()
	s := client.Subject()
	var b strings.Builder
	b.WriteString("set -e\nmount -t tmpfs tmpfs /etc/ltsp\nmount -t tmpfs tmpfs /run\n")
	fmt.Fprintf(&b, "cp %s/ltsp*.conf /etc/ltsp/\n", quote(c.Dir))
	if !s.Server {
		b.WriteString("mkdir -p /run/ltsp/client\n")
	}
	// LTSP's entry point reads its functions only, because it is not called by its own name. A client that dies waits there for ever.
	b.WriteString("set +e\nsleep() { exit 1; }\n. /usr/share/ltsp/ltsp\nset +e\n" + dump)
	fmt.Fprintf(&b, "DEBUG_LOG=0\n_APPLET=%s\nDEVICE=lo\nMAC_ADDRESS=%s\nIP_ADDRESS=%s\nHOSTNAME=%s\ndump\n", quote(s.Applet), quote(s.MAC), quote(s.IP), quote(s.Hostname))
	b.WriteString("re eval_ini /etc/ltsp/ltsp.conf\nif [ -r \"/etc/ltsp/ltsp-$_APPLET.conf\" ]; then re eval_ini \"/etc/ltsp/ltsp-$_APPLET.conf\"; fi\ndump\n")
	return runShell(t, b.String(), "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
		"sh", "-c", `sh -c 'script=$(cat; echo .); eval "${script%.}"'; exit $?`) // not as PID 1, which LTSP takes for a client's init
}

// byTranslation evaluates what a client's agent gives to its shell.
func byTranslation(t *testing.T, client Client, sources []ltspeval.Source, shell ...string) (map[string]string, error) {
	t.Helper()
	var layer []*ltspconf.File
	for _, s := range sources {
		f, err := ltspconf.Parse(s.Text)
		if err != nil {
			return nil, err
		}
		layer = append(layer, f)
	}
	program := string(ltspconf.NewProgram([][]*ltspconf.File{layer}, client.Subject()).Text)
	preset := fmt.Sprintf("echo() { printf '%%s\\n' \"$*\"; }\nBASE_DIR=/srv/ltsp\nTFTP_DIR=/srv/tftp\nHOME_DIR=/home\nHOSTNAME=%s\n_APPLET=%s\n", quote(client.Hostname), quote(client.Applet))
	if !client.Server {
		// Files are not the translation's business; what the corpus asks for is answered here.
		preset += "test() { case \"$*\" in \"-d /run/ltsp/client\") return 0 ;; esac; command test \"$@\"; }\n"
	}
	return runShell(t, dump+preset+"dump\n"+program+"dump\n", shell...)
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func compare(t *testing.T, client Client, got map[string]string, err error, ignoreDiffering bool) {
	t.Helper()
	if client.Error != "" {
		if err == nil {
			t.Errorf("it was evaluated, want an error")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	want := exact(client)
	if !ignoreDiffering {
		want = maps.Clone(client.Values)
	}
	for name := range got {
		_, differs := client.Differs[name]
		if ignoreDiffering && differs || slices.Contains(client.Inexact, name) {
			delete(got, name)
			delete(want, name)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-expected +shell\n%s", diff)
	}
}

// TestAgreesWithLTSP compares the corpus with the evaluator of the Debian package ltsp.
func TestAgreesWithLTSP(t *testing.T) {
	if *update {
		updateAll(t)
	}
	each(t, func(t *testing.T, c Case, client Client, _ []ltspeval.Source) {
		got, err := byLTSP(t, c, client)
		if client.Refused != "" {
			if err == nil {
				t.Error("LTSP takes it")
			}
			return
		}
		compare(t, client, got, err, true)
	})
}

// TestTranslationInRealShells runs what clients run in the shells that clients have.
func TestTranslationInRealShells(t *testing.T) {
	for _, shell := range [][]string{{"dash"}, {"busybox", "sh"}} {
		t.Run(shell[0], func(t *testing.T) {
			each(t, func(t *testing.T, _ Case, client Client, sources []ltspeval.Source) {
				got, err := byTranslation(t, client, sources, shell...)
				compare(t, client, got, err, true)
			})
		})
	}
}

// truth is what LTSP says, and what dash makes of the translation where LTSP refuses.
func truth(t *testing.T, c Case, client Client) (map[string]string, error) {
	t.Helper()
	if client.Refused == "" {
		return byLTSP(t, c, client)
	}
	sources, err := c.Sources(client.Applet)
	if err != nil {
		return nil, err
	}
	return byTranslation(t, client, sources, "dash")
}

// updateAll writes LTSP's own values into the corpus.
func updateAll(t *testing.T) {
	t.Helper()
	for _, c := range load(t) {
		for i, client := range c.Clients {
			if client.Error != "" {
				continue
			}
			got, err := truth(t, c, client)
			if err != nil {
				t.Fatalf("%s/%s: %v", c.Name, client.Name, err)
			}
			c.Clients[i].Values = got
		}
		text, err := json.MarshalIndent(c, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(c.Dir, "expect.json"), append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
