package command

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// etcLTSP writes files of /etc/ltsp and returns the directory.
func etcLTSP(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestPolicyEval(t *testing.T) {
	org := etcLTSP(t, map[string]string{
		"ltsp.conf":      "[clients]\nHOSTNAME=\"pc%{IP}\"\nPWMERGE_SUR=\".*%{HOSTNAME#pc}\"\nA=1\nB=$(hostname)\nTEXT=\"a\nb\"\n",
		"ltsp-init.conf": "[init/*]\nC=$SERVER\n", "ltsp-x.conf": "[*]\nD=1\n", "passwd": "x",
	})
	room := etcLTSP(t, map[string]string{"ltsp.conf": "[52:54:00:aa:bb:cc]\nA=2\n"})
	code, out, errs := run(t, "policy", "eval", org, room, "--mac", "52-54-00-AA-BB-CC", "--ip", "10.0.1.2/23", "--set", "SERVER=10.0.0.1", "--lost")
	if code != ExitOK {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	want := []string{
		"NAME VALUE SET IN SECTION",
		"A 2 ROOM/ltsp.conf:2 [52:54:00:aa:bb:cc]",
		"lost 1 ORG/ltsp.conf:4 [clients]",
		"B ~ ORG/ltsp.conf:5 [clients]",
		"C 10.0.0.1 ORG/ltsp-init.conf:2 [init/*]",
		"HOSTNAME pc%{IP} (pc258) ORG/ltsp.conf:2 [clients]",
		"PWMERGE_SUR .*%{HOSTNAME#pc} (.*258) ORG/ltsp.conf:3 [clients]",
		`TEXT a\nb ORG/ltsp.conf:6 [clients]`,
	}
	var got []string
	for l := range strings.Lines(strings.NewReplacer(org, "ORG", room, "ROOM").Replace(out)) {
		got = append(got, strings.Join(strings.Fields(l), " "))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(errs, `ltsp.conf:5: command "hostname" is not run here`) {
		t.Errorf("no remark: %s", errs)
	}
}

func TestPolicyEvalForPrograms(t *testing.T) {
	file := filepath.Join(etcLTSP(t, map[string]string{"ltsp.conf": "A=1\n[clients]\nA=2\n[server]\nB=1\n"}), "ltsp.conf")
	code, out, errs := run(t, "policy", "eval", file, "-o", "json", "--mac", "52:54:00:aa:bb:cc")
	var got evaluationView
	if err := json.Unmarshal([]byte(out), &got); code != ExitOK || err != nil {
		t.Fatalf("exit code %d, %v: %s", code, err, errs)
	}
	want := evaluationView{
		Values: []valueView{{Name: "A", Value: "2", Assignments: []assignmentView{
			{File: file, Line: 3, Section: "clients", Value: "2"}, {File: file, Line: 1, Section: "unnamed", Value: "1"},
		}}},
		Sections: []string{"unnamed", "clients"}, Remarks: []string{},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, out, _ := run(t, "policy", "eval", file, "--server", "-o", "yaml"); !strings.Contains(out, "name: B") {
		t.Errorf("yaml of the server's view: %s", out)
	}
}

func TestPolicyLint(t *testing.T) {
	dir := etcLTSP(t, map[string]string{"ltsp.conf": "[c*]\n[clients]\nA=1\n", "ltsp-init.conf": "A=1\n"})
	code, out, errs := run(t, "policy", "lint", dir)
	if code != ExitInvalid || !strings.Contains(errs, "2 of 5 findings are errors") {
		t.Errorf("exit code %d: %s", code, errs)
	}
	for _, want := range []string{dir + "/ltsp.conf:2 ", "shadowed-section", "move it above line 1", dir + "/ltsp-init.conf:1 ", "runs-once"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	good := etcLTSP(t, map[string]string{"ltsp.conf": "[clients]\nLOCAL_SWAP=0\n"})
	if code, out, errs := run(t, "policy", "lint", good, "-o", "json"); code != ExitOK || strings.TrimSpace(out) != "[]" {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
	if code, out, _ := run(t, "policy", "lint", good); code != ExitOK || !strings.Contains(out, "nothing found") {
		t.Errorf("exit code %d: %s", code, out)
	}
	if code, out, _ := run(t, "policy", "lint", "--rules"); code != ExitOK || !strings.Contains(out, "shadowed-section") {
		t.Errorf("exit code %d: %s", code, out)
	}
}

func TestPolicyFilesExitCodes(t *testing.T) {
	dir := etcLTSP(t, map[string]string{"bad.conf": "[clients]\nA='", "loop.conf": "while :; do :; done", "huge.conf": strings.Repeat("#", 2<<20), "ok.conf": "A=1"})
	at := func(name string) string { return filepath.Join(dir, name) }
	tests := []struct {
		args []string
		want int
		says string
	}{
		{[]string{"eval", at("bad.conf")}, ExitInvalid, at("bad.conf") + ":2: syntax error"},
		{[]string{"eval", at("loop.conf")}, ExitInvalid, at("loop.conf") + ":1: limit exceeded"},
		{[]string{"eval", at("huge.conf")}, ExitInvalid, "has more than"},
		{[]string{"lint", at("bad.conf")}, ExitInvalid, "1 of 1 findings"},
		{[]string{"eval", at("none.conf")}, ExitFailed, "no such file"},
		{[]string{"eval", dir}, ExitFailed, "look for ltsp.conf"},
		{[]string{"eval"}, ExitUsage, "requires at least 1 arg"},
		{[]string{"lint"}, ExitUsage, "name at least one file"},
		{[]string{"eval", at("ok.conf"), at("ok.conf")}, ExitUsage, "named twice"},
		{[]string{"eval", at("ok.conf"), "--mac", "x"}, ExitUsage, "--mac"},
		{[]string{"eval", at("ok.conf"), "--ip", "300.0.0.1"}, ExitUsage, "--ip"},
		{[]string{"eval", at("ok.conf"), "--set", "=1"}, ExitUsage, "NAME=VALUE"},
		{[]string{"eval", at("ok.conf"), "-o", "xml"}, ExitUsage, "table, json or yaml"},
	}
	for _, tt := range tests {
		code, _, errs := run(t, append([]string{"policy"}, tt.args...)...)
		if code != tt.want || !strings.Contains(errs, tt.says) {
			t.Errorf("%q: exit code %d, want %d; said %q", tt.args, code, tt.want, errs)
		}
	}
}

func TestHostNumber(t *testing.T) {
	for prefix, want := range map[string]string{"192.168.67.20/24": "20", "10.161.254.38/16": "65062", "10.0.0.1/32": "0", "0.0.0.7/0": "7", "fe80::1/64": ""} {
		if got := hostNumber(netip.MustParsePrefix(prefix)); got != want {
			t.Errorf("%s: got %q, want %q", prefix, got, want)
		}
	}
}
