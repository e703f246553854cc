package ltsplint

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspeval"
)

func one(text string) []ltspeval.Source {
	return []ltspeval.Source{{Scope: "organisation", File: "ltsp.conf", Text: []byte(text)}}
}

// lines writes findings as "LINE SEVERITY RULE".
func lines(fs []Finding) []string {
	var out []string
	for _, f := range fs {
		out = append(out, fmt.Sprintf("%d %s %s", f.Line, f.Severity, f.Rule))
	}
	return out
}

var tests = []struct {
	name, text string
	want       []string
}{
	{"nothing", "# comment\n[clients]\nHOSTNAME=\"pc%{IP}\"\nFSTAB_HOME=\"server:/home /home nfs defaults,nolock 0 0\"\n[52:54:00:aa:bb:cc]\nHOSTNAME=pc01\nINCLUDE=crt\n[crt]\nX_MODES='\"800x600\"'\n[b8:27:eb:*|dc:a6:32:*]\nLOCAL_SWAP=0\n[pc0?]\nMY_OWN=1\n[init/pc*]\nDEBUG_LOG=1\n", nil},
	{"syntax", "[clients]\nA='x\n", []string{"2 error syntax"}},
	{"syntax of a header", "\n[a|]\nA=1", []string{"2 error syntax"}},
	{"too large", strings.Repeat("#\n", 600_000), []string{"0 error syntax"}},
	{"lines still count", "[AB cd] x\nA='x\n", []string{"1 warning text-behind-header", "1 warning upper-case", "2 error syntax"}},
	{"carriage returns", "[clients]\r\nA=1\r\n", []string{"1 warning carriage-return"}},
	{"glob above a MAC", "[52:54:00:*]\n[52:54:00:aa:bb:cc]\n", []string{"2 warning shadowed-section"}},
	{"glob above a glob", "[52:54:*]\n[52:54:00:*]\n[5?:*]\n", []string{"2 warning shadowed-section"}},
	{"alternative", "[pc*]\n[x|pc01]\n", []string{"2 warning shadowed-section"}},
	{"shadowed clients", "[c*]\n[clients]\n", []string{"1 warning glob-catches-special", "1 warning glob-catches-special", "2 error shadowed-section"}},
	{"everything", "[clients]\n[common]\n[server]\n[*]\n", nil},
	{"everything first", "[*]\n", []string{"1 warning glob-catches-special", "1 warning glob-catches-special", "1 warning glob-catches-special"}},
	{"applet patterns do not shadow hosts", "[init/*]\n[pc01]\n", nil},
	{"include caught", "[clients]\nINCLUDE=crt\n[pc*|cr*]\n[crt]\n", []string{"2 error include-caught", "4 warning shadowed-section"}},
	{"include of a pattern", "[clients]\nINCLUDE=crt\n[cr?]\n", []string{"2 note differs", "2 warning include-caught"}[1:]},
	{"include unknown", "[clients]\nINCLUDE=crt\n", []string{"2 error include-unknown"}},
	{"include indented", "[clients]\n  INCLUDE=crt\nif true; then\n\tinclude=crt\nfi\n[crt]\n", []string{"2 error include-indented", "4 error include-indented"}},
	{"upper case", "[PC-*]\n[AA:BB:CC:DD:EE:FF]\n[Clients]\n[Init/AA:*]\n[CRT]\nINCLUDE=CRT\n", []string{"1 warning upper-case"}},
	{"host name with capitals", "[52:54:00:aa:bb:cc]\nHOSTNAME=PC01\n", []string{"2 warning host-name-upper-case"}},
	{"character class", "[pc0[1-3]]\n", []string{"1 warning character-class"}},
	{"text behind", "[pc01] first floor\n[pc02] # comment\n", []string{"1 warning text-behind-header"}},
	{"deleted", "[caf\xc3\xa9]\n[a+b]\n[my pc]\n[ok ]\n", []string{"1 warning deleted-characters", "2 warning deleted-characters", "3 warning deleted-characters"}},
	{"test at the line's start", "[clients]\n[ -f /x ] && A=1\n[ \"$A\" = b ] ; B=1\n", []string{"2 error test-at-line-start", "3 error test-at-line-start"}},
	{"collision", "[a.b]\nA=1\n[a_b]\nA=2\n", []string{"1 error function-collision"}},
	{"twice", "[clients]\nA=1\n[common]\n[Clients]\nA=2\n", []string{"1 error duplicate-section"}},
	{"reserved", "[list]\n[call]\n[unnamed]\n", []string{"1 error reserved-section", "2 error reserved-section", "3 error reserved-section"}},
	{"header in quotes", "[clients]\nLIGHTDM_CONF=\"\n[Seat:*]\nx = y\"\nA='\n[b]\n'\n", []string{"3 error header-in-quotes", "6 error header-in-quotes"}},
	{"here-document", "[clients]\nread A <<EOF\n[b] c\nINCLUDE=d\nEOF\n", []string{"3 error header-in-quotes"}},
	{"tab", "\t[clients]\n A=1\n", []string{"1 note no-section", "1 error tabbed-header"}},
	{"open", "[clients\n", []string{"1 note no-section", "1 error open-header"}},
	{"empty", "", []string{"1 note no-section"}},
	{"network", "[10.0.0.0/24]\n", []string{"1 error cidr"}},
	{"dashes", "[52-54-00-AA-BB-CC]\n", []string{"1 warning upper-case", "1 error mac-form"}},
	{"half a MAC", "[52:54:00]\n[52:54:00:aa:bb:c]\n[52:54:0*]\n", []string{"1 error mac-form", "2 error mac-form"}},
	{"default host name", "[ltsp20]\n", []string{"1 warning default-host-name"}},
	{"server's on clients", "[clients]\nNFS_HOME=1\nPOST_IPXE_X=y\n[server]\nPOST_IPXE_X=y\n", []string{"2 warning server-value-on-clients", "2 note not-here", "3 warning server-value-on-clients", "3 note not-here", "5 note not-here"}},
	{"clients' on the server", "[server]\nAUTOLOGIN=x\nPOST_INIT_X=:\n", []string{"2 warning client-value-on-server", "3 warning client-value-on-server"}},
	{"menu", "[clients]\nDEFAULT_IMAGE=x\n[52:54:*]\nMENU_TIMEOUT=1\n[pc*]\nKERNEL_PARAMETERS=x\n[52:54:00:aa:bb:cc]\nMENU_TIMEOUT=0\n", []string{
		"2 warning server-value-on-clients", "2 note differs", "4 warning mac-only", "4 note differs", "6 warning mac-only", "6 note differs", "7 warning shadowed-section"}},
	{"spaced", "[clients]\n  A = x\nB = y\nif :; then\n\tC = z\nfi\n", []string{"2 error spaced-assignment", "5 error spaced-assignment"}},
	{"append", "[clients]\nA+=x\n A+=\"y z\"\n", []string{"2 error plus-equals", "3 error plus-equals"}},
	{"unquoted", "[clients]\nX_MODES=1024x768 800x600\nMASK_SYSTEM_SERVICES=a b c\nLC_ALL=C sort x\nMY=1 cmd\n", []string{"2 error unquoted-spaces", "3 error unquoted-spaces"}},
	{"hooks of the initrd", "[common]\nPOST_INITRD_BOTTOM_X=:\n[clients]\nPRE_INITRD_BOTTOM_X=:\n", []string{"2 warning initrd-hook"}},
	{"passwords", "[clients]\nPASSWORDS_A=\"guest/Z3Vlc3Q= a[0-9]*/\"\nPASSWORDS_B=\"x/Pz8/Pw==\"\nPASSWORDS_C=guest\nPASSWORDS_D=\"a/not base64!\"\n", []string{
		"3 note password-slash", "4 error password-form", "5 warning password-form", "5 error password-form"}},
	{"pamltsp", "[clients]\nSSHFS=0\n", []string{"2 note pamltsp-conf"}},
	{"server", "[clients]\nSERVER=10.0.0.1\n", []string{"2 note server-set"}},
	{"typos", "[clients]\nAUTOLOGN=x\nFSTB_HOME=x\nhostname=pc\nX_MODE=y\nMY_VAR=1\nCUPS_SEVRER=$MY_VAR\nPOST_INI_X=y\n", []string{
		"2 warning typo", "3 warning typo", "4 warning typo", "5 warning typo", "7 warning typo", "8 warning typo"}},
	{"own variables", "[clients]\nFSTB=x\nA=$FSTB\nHOME_DIRS=1\n[x]\ntest \"$HOME_DIRS\" || :\n", nil},
	{"suffix", "[clients]\nFSTAB=x\nHOSTS=y\nPOST_INIT=z\n", []string{"2 error family-suffix", "3 error family-suffix", "4 error family-suffix"}},
	{"host names", "[52:54:00:00:00:01]\nHOSTNAME=pc01\n[52:54:00:00:00:02]\nHOSTNAME=pc01\n[clients]\nHOSTNAME=pc\n", []string{"4 warning host-name-collision", "6 warning host-name-collision"}},
	{"exit", "[clients]\nexit 0\ntest x || exec y\n", []string{"2 warning exit", "3 warning exit"}},
	{"last command", "[pc01]\nA=1\ntest -f /x && A=2\n[pc02]\ntest -f /x && A=2\n:\n[pc03]\n test -f y\n", []string{"3 note last-command", "8 note last-command"}},
	{"twice", "[clients]\nLIGHTDM_CONF=a=1\nLIGHTDM_CONF=b=2\nif test \"$X\"; then\nRELOGIN=1\nelse\nRELOGIN=0\nfi\nRELOGIN=1\nMINE=1\nMINE=2\n[pc01]\nLIGHTDM_CONF=c\n", []string{"2 warning assigned-twice"}},
	{"automatic login", "[clients]\nAUTOLOGIN=1\n[pc01]\nAUTOLOGIN=pc/guest\n", []string{"2 error autologin-form"}},
	{"old parameters", "[clients]\nLDM_SESSION=x\nSCREEN_07=ldm\n", []string{"2 warning ltsp5", "3 warning ltsp5"}},
	{"differs", "[common]\nBASE_DIR=/x\n[clients]\nREMOTEAPPS=gimp\nREMOTEAPPS_TRUSTED=1\n", []string{"2 note differs", "4 note differs"}},
	{"not here", "[server]\nNAT=1\nNAT=0\n", []string{"2 note not-here", "2 warning assigned-twice"}},
}

func TestRules(t *testing.T) {
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Lint(one(tt.text))
			if diff := cmp.Diff(tt.want, lines(got)); diff != "" {
				t.Error(diff)
			}
			for _, f := range got {
				if f.Text == "" || f.Remedy == "" || f.Scope != "organisation" || f.File != "ltsp.conf" || strings.Contains(f.Text+f.Remedy, "%!") {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}

func TestLayers(t *testing.T) {
	got := Lint([]ltspeval.Source{
		{Scope: "organisation", File: "ltsp.conf", Text: []byte("[clients]\n[crt]\n")},
		{Scope: "organisation", File: "ltsp-init.conf", Text: []byte("# comment\n\nA=1\n[clients]\nINCLUDE=crt\n[init/*]\n")},
		{Scope: "site/a", File: "ltsp.conf", Text: []byte("[clients]\nINCLUDE=crt\nINCLUDE=none\n")},
	})
	var files []string
	for _, f := range got {
		files = append(files, f.Scope+"/"+f.File)
	}
	want := []string{"3 error runs-once", "4 warning runs-once", "5 error include-unknown", "3 error include-unknown"}
	if diff := cmp.Diff(want, lines(got)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"organisation/ltsp-init.conf", "organisation/ltsp-init.conf", "organisation/ltsp-init.conf", "site/a/ltsp.conf"}, files); diff != "" {
		t.Error(diff)
	}
}

// TestEachRuleIsListedAndSeen wants the list of rules to be the rules that the tests above see.
func TestEachRuleIsListedAndSeen(t *testing.T) {
	seen := map[string]bool{"runs-once": true}
	for _, tt := range tests {
		for _, f := range Lint(one(tt.text)) {
			seen[f.Rule] = true
		}
	}
	var listed []string
	for _, r := range Rules() {
		listed = append(listed, r.Name)
		if !seen[r.Name] {
			t.Errorf("no test sees rule %q", r.Name)
		}
	}
	for r := range seen {
		if !slices.Contains(listed, r) {
			t.Errorf("rule %q is not listed", r)
		}
	}
	if !slices.IsSorted(listed) {
		t.Error("rules are not sorted")
	}
}

var update = flag.Bool("update", false, "write the table of docs/ltsp.conf.md")

// TestRulesAreDocumented compares the table of docs/ltsp.conf.md with the code's.
func TestRulesAreDocumented(t *testing.T) {
	const name = "../../docs/ltsp.conf.md"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	const from, to = "<!-- rules -->\n", "<!-- end of rules -->\n"
	before, rest, ok := strings.Cut(string(text), from)
	table, after, ended := strings.Cut(rest, to)
	if !ok || !ended {
		t.Fatal("the marks of the table are missing")
	}
	if *update {
		if err := os.WriteFile(name, []byte(before+from+Markdown()+to+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(Markdown(), table); diff != "" {
		t.Errorf("docs/ltsp.conf.md is old; run: go test ./internal/ltsplint -update\n%s", diff)
	}
}

func TestNearest(t *testing.T) {
	for name, want := range map[string]string{
		"AUTOLOGIN_": "AUTOLOGIN", "HOSTNAMES": "HOSTNAME", "CRONTB_X": "CRONTAB_X", "LANGUAGES": "LANGUAGE", "DNS1": "", "FOO": "", "SERVERS": "SERVER", "Autologin": "AUTOLOGIN", "dns": "", "SEVRER": "SERVER",
	} {
		if got := nearest(name); got != want {
			t.Errorf("nearest(%q) = %q, want %q", name, got, want)
		}
	}
}

func FuzzLint(f *testing.F) {
	for _, tt := range tests {
		if len(tt.text) < 1000 {
			f.Add(tt.text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<14 {
			return
		}
		n := strings.Count(text, "\n") + 1
		for _, x := range Lint(one(text)) {
			if x.Line < 0 || x.Line > n || x.Rule == "" || x.Severity == "" {
				t.Errorf("%+v in %d lines", x, n)
			}
		}
	})
}
