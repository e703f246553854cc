package ltspconf

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// run evaluates layers, each a list of texts, in this machine's /bin/sh and returns what ends up in the variables.
func run(t *testing.T, s Subject, layers [][]string, names ...string) map[string]string {
	t.Helper()
	var files [][]*File
	for _, l := range layers {
		var fs []*File
		for _, text := range l {
			fs = append(fs, parse(t, text))
		}
		files = append(files, fs)
	}
	script := string(NewProgram(files, s).Text)
	for _, n := range names {
		script += "printf '%s\\0' \"" + n + "=$" + n + "\"\n"
	}
	cmd := exec.CommandContext(t.Context(), "/bin/sh")
	cmd.Stdin = strings.NewReader(script)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("sh: %v\n%s", err, script)
	}
	values := make(map[string]string)
	for v := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		n, v, _ := strings.Cut(v, "=")
		values[n] = v
	}
	return values
}

var pc01 = Subject{MAC: "52:54:00:00:00:01", IP: "10.0.0.21", Hostname: "pc01", Applet: "init"}

func TestProgramRunsSectionsInOrder(t *testing.T) {
	conf := `V=unnamed
[clients]
V="$V clients"
[common]
V="$V common"
[server]
V="$V server"
[52:54:00:*]
V="$V mac"
HOSTNAME=pc02
[52:54:00:00:00:01]
V="$V hidden"
[10.0.0.21]
V="$V ip"
[pc01]
V="$V oldname"
[pc02]
V="$V name"
INCLUDE=crt
INCLUDE=crt
[crt]
V="$V crt"
[init/]
V="$V applet"
[init/pc02]
V="$V applet-name"
`
	got := run(t, pc01, [][]string{{conf}}, "V")
	if want := "unnamed clients common mac ip name crt applet applet-name"; got["V"] != want {
		t.Errorf("got %q, want %q", got["V"], want)
	}
	server := pc01
	server.Server, server.Applet = true, "ipxe"
	if got, want := run(t, server, [][]string{{conf}}, "V")["V"], "unnamed common server mac ip name crt"; got != want {
		t.Errorf("on the server: got %q, want %q", got, want)
	}
}

func TestAppletFileOfALayerDoesNotRunASectionAgain(t *testing.T) {
	got := run(t, pc01, [][]string{
		{"A=1\n[clients]\nA=2", "A=3\n[clients]\nA=4\n[common]\nB=5"},
		{"C=6\n[clients]\nA=\"$A 7\""},
	}, "A", "B", "C")
	if diff := cmp.Diff(map[string]string{"A": "2 7", "B": "5", "C": "6"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestIncludeFromAnEarlierLayer(t *testing.T) {
	got := run(t, pc01, [][]string{
		{"[crt]\nA=organisation\n[lcd]\nB=organisation"},
		{"[crt]\nA=site"},
		{"[clients]\nINCLUDE=crt\nINCLUDE=lcd\nINCLUDE=none"},
	}, "A", "B")
	if diff := cmp.Diff(map[string]string{"A": "site", "B": "organisation"}, got); diff != "" {
		t.Error(diff)
	}
	got = run(t, pc01, [][]string{{"[crt]\nA=1", "[clients]\nINCLUDE=crt"}}, "A")
	if got["A"] != "" {
		t.Error("an INCLUDE of ltsp-APPLET.conf reached ltsp.conf of its layer, which LTSP does not allow")
	}
}

func TestHooksReachSectionsOfEarlierLayers(t *testing.T) {
	got := run(t, pc01, [][]string{
		{"[wall]\nINCLUDE=paint\n[paint]\nA=painted"},
		{"[clients]\nPOST_INIT_X=section_wall\n[common]\neval \"$POST_INIT_X\""},
	}, "A")
	if got["A"] != "painted" {
		t.Errorf("A=%q", got["A"])
	}
}

func TestSubjectIsQuoted(t *testing.T) {
	s := Subject{MAC: "'; A=1; '", IP: "$(A=2)", Hostname: "`A=3`", Applet: "\\'\n"}
	if got := run(t, s, [][]string{{"B=ok"}}, "A", "B", "HOSTNAME"); got["A"] != "" || got["B"] != "ok" || got["HOSTNAME"] != "`A=3`" {
		t.Errorf("got %q", got)
	}
}

func TestReservedSectionsNeverRun(t *testing.T) {
	s := pc01
	s.Hostname = "call"
	got := run(t, s, [][]string{{"[clients]\nB=1\nINCLUDE=list\n[call]\nA=1\n[list]\nA=2\n[esac]\nA=3\n"}}, "A", "B")
	if diff := cmp.Diff(map[string]string{"A": "", "B": "1"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestLocate(t *testing.T) {
	a, b, c := parse(t, "A=1\n[x]\nB=2\n"), parse(t, "C=3"), parse(t, "\n\nD=4\n[y]\n")
	p := NewProgram([][]*File{{a, b}, {c}}, pc01)
	found := 0
	for i, l := range strings.Split(string(p.Text), "\n") {
		layer, file, line, ok := p.Locate(i + 1)
		for _, want := range []struct {
			text              string
			layer, file, line int
		}{{"A=1", 0, 0, 1}, {"B=2", 0, 0, 3}, {"C=3", 0, 1, 1}, {"D=4", 1, 0, 3}} {
			if l == want.text {
				found++
				if !ok || layer != want.layer || file != want.file || line != want.line {
					t.Errorf("%s is in layer %d file %d line %d (%v)", l, layer, file, line, ok)
				}
			}
		}
	}
	if found != 4 {
		t.Errorf("%d of 4 lines found", found)
	}
	if _, _, _, ok := p.Locate(1); ok {
		t.Error("the first line is from no file")
	}
}

func TestOrder(t *testing.T) {
	s := Subject{MAC: "m", IP: "i", Hostname: "h", Applet: "init"}
	if got, want := Order(s), []string{"unnamed", "clients", "common", "m", "i", "h", "init/", "init/m", "init/i", "init/h"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	s.Server, s.Applet = true, "ltsp"
	if got, want := Order(s), []string{"unnamed", "common", "server", "m", "i", "h"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestKernelScript(t *testing.T) {
	got := string(KernelScript(`root=/dev/nbd0 ltsp.image=images/a.img LTSP.Debug-Shell=1 x="/path to ltsp.vbox=1" ltsp.hosts_a="10.0.0.1 a" ltsp.=x ltsp.1a=2 ltsp.x ltsp.a;b=1` + "\n"))
	want := "IMAGE=images/a.img\nDEBUG_SHELL=1\nHOSTS_A=\"10.0.0.1 a\"\n"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
