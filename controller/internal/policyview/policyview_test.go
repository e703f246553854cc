package policyview_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/policyview"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspparam"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

var (
	organisation = fleet.Scope{}
	site         = fleet.Scope{Site: "a"}
	lab          = fleet.Scope{Site: "a", Room: "lab"}
)

// level is a level of one ltsp.conf, and more files as NAME, TEXT.
func level(scope fleet.Scope, text string, more ...string) policyview.Level {
	l := policyview.Level{Scope: scope, Confs: []policyview.Conf{{File: "ltsp.conf", Text: []byte(text)}}}
	for i := 0; i < len(more); i += 2 {
		l.Confs = append(l.Confs, policyview.Conf{File: more[i], Text: []byte(more[i+1])})
	}
	return l
}

func pc(n int, room string) policyview.Client {
	return policyview.Client{
		MAC: fleet.MAC(fmt.Sprintf("52:54:00:00:%02x:%02x", n>>8, n&255)), Name: fmt.Sprintf("pc%02d", n), Hostname: fmt.Sprintf("pc%02d", n), Site: "a", Room: room,
		Address: fmt.Sprintf("10.1.%d.%d", n>>8, n&255),
	}
}

// show writes a plan in a few lines.
func show(p *policyview.Plan) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d", p.Changed, p.Total)
	text := func(s *string) string {
		if s == nil {
			return "-"
		}
		return *s
	}
	for _, c := range p.Clients {
		fmt.Fprintf(&b, "\n%s:", c.Client.Name)
		for _, change := range c.Changes {
			fmt.Fprintf(&b, " %s=%s>%s", change.Variable, text(change.Before), text(change.After))
		}
		if c.Error != "" {
			b.WriteString(" error")
		}
	}
	return b.String()
}

func TestMakePlan(t *testing.T) {
	t.Parallel()
	base := policyview.Levels{
		level(organisation, "[clients]\nAUTOLOGIN=guest\nCUPS_SERVER=$SERVER\n[section_of_org]\nX=1\n"),
		level(site, "[clients]\nRELOGIN=1\n[pc02]\nRELOGIN=0\n"),
		level(lab, "[clients]\nAUTOLOGIN=lab\n"),
	}
	clients := []policyview.Client{pc(1, "lab"), pc(2, ""), pc(3, "office"), {MAC: "52:54:00:00:00:ff", Name: "other", Site: "b", Server: "10.9.9.9"}}
	tests := []struct {
		name   string
		change policyview.Level
		want   string
	}{
		{"nothing", base[1], "0 of 3"},
		{"comment", level(site, "# only\n[clients]\nRELOGIN=1\n[pc02]\nRELOGIN=0\n"), "0 of 3"},
		{"for all", level(organisation, "[clients]\nAUTOLOGIN=guest\nCUPS_SERVER=$SERVER\nTIMEZONE_X=new\n"),
			"4 of 4\npc01: TIMEZONE_X=->new\npc02: TIMEZONE_X=->new\npc03: TIMEZONE_X=->new\nother: TIMEZONE_X=->new"},
		{"what rooms override", level(organisation, "[clients]\nAUTOLOGIN=other\nCUPS_SERVER=$SERVER\n"),
			"3 of 4\npc02: AUTOLOGIN=guest>other\npc03: AUTOLOGIN=guest>other\nother: AUTOLOGIN=guest>other"},
		{"by name", level(site, "[clients]\nRELOGIN=1\n"), "1 of 3\npc02: RELOGIN=0>1"},
		{"one room", level(lab, "[clients]\nAUTOLOGIN=\n"), "1 of 1\npc01: AUTOLOGIN=lab>"},
		{"a room that had none", level(fleet.Scope{Site: "a", Room: "office"}, "RELOGIN=0\n"), "1 of 1\npc03: RELOGIN=1>0"},
		{"an applet's file", level(lab, "[clients]\nAUTOLOGIN=lab\n", "ltsp-init.conf", "[common]\nLOCAL_SWAP=0\n", "ltsp-ipxe.conf", "Y=1\n"), "1 of 1\npc01: LOCAL_SWAP=->0"},
		{"the initrd's view", level(lab, "[clients]\nAUTOLOGIN=lab\n[initrd-bottom/pc01]\nIMAGE_TO_RAM=1\n"), "1 of 1\npc01: IMAGE_TO_RAM=->1"},
		{"both views", level(lab, "[clients]\nAUTOLOGIN=lab\nRELOGIN=0\n[initrd-bottom/pc01]\nIMAGE_TO_RAM=1\n"), "1 of 1\npc01: IMAGE_TO_RAM=->1 RELOGIN=1>0"},
		{"does not parse", level(lab, "if\n"), "0 of 1\npc01: error"},
		{"does not end", level(lab, "while true; do :; done\n"), "0 of 1\npc01: error"},
		{"nobody reads it", level(lab, "[clients]\nAUTOLOGIN=lab\nNFS_HOME=1\n"), "1 of 1\npc01: NFS_HOME=->1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			plan, err := policyview.MakePlan(t.Context(), test.change.Scope, base, base.With(test.change), clients)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, show(plan)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What nobody knows is for hooks, which run when a client starts.
func TestEffect(t *testing.T) {
	t.Parallel()
	relogin, ok := ltspparam.Lookup("RELOGIN")
	if !ok {
		t.Fatal("RELOGIN is not known")
	}
	plan, err := policyview.MakePlan(t.Context(), lab, nil, policyview.Levels{level(lab, "RELOGIN=0\nMY_OWN=1\nNFS_HOME=1\n")}, []policyview.Client{pc(1, "lab")})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, c := range plan.Clients[0].Changes {
		got[c.Variable] = c.Effect
	}
	if diff := cmp.Diff(map[string]string{"RELOGIN": string(relogin.Effect), "MY_OWN": "reboot", "NFS_HOME": ""}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPlanIsBounded(t *testing.T) {
	t.Parallel()
	var clients []policyview.Client
	for n := range policyview.MaxPlanned + 50 {
		clients = append(clients, pc(n, ""))
	}
	plan, err := policyview.MakePlan(t.Context(), site, nil, policyview.Levels{level(site, "X=\"$MAC_ADDRESS\"\n")}, clients)
	if err != nil || plan.Changed != len(clients) || len(plan.Clients) != policyview.MaxPlanned || *plan.Clients[7].Changes[0].After != string(clients[7].MAC) {
		t.Errorf("%d changed, %d told, %v", plan.Changed, len(plan.Clients), err)
	}
	long := "X=" + strings.Repeat("é", 100_000) + "\n"
	if plan, err = policyview.MakePlan(t.Context(), site, nil, policyview.Levels{level(site, long)}, clients[:3]); err != nil || len(*plan.Clients[0].Changes[0].After) > 4<<10+8 {
		t.Errorf("a long value: %v", err)
	}
	// An endless loop costs its limit for a few clients, not for each of a thousand.
	plan, err = policyview.MakePlan(t.Context(), site, nil, policyview.Levels{level(site, "while true; do :; done\n")}, clients)
	given := 0
	for _, c := range plan.Clients {
		if strings.Contains(c.Error, "was not looked at") {
			given++
		}
	}
	if err != nil || given < policyview.MaxPlanned-100 {
		t.Errorf("%d of %d were given up, %v", given, len(plan.Clients), err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := policyview.MakePlan(ended, site, nil, policyview.Levels{level(site, "X=1\n")}, clients); !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v", err)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	levels := policyview.Levels{
		level(organisation, "AUTOLOGIN=all\n[clients]\nAUTOLOGIN=guest\n"),
		level(site, "[pc01]\nAUTOLOGIN=\"one\"\nDATE=$(date)\n"),
		level(lab, "NEVER=1\n"),
		level(fleet.Scope{Site: "b"}, "AUTOLOGIN=other-site\n"),
	}
	c := pc(1, "")
	c.Server = "10.0.0.9"
	e, err := policyview.Explain(t.Context(), levels, c, policyview.Init, []string{"SERVER", "AUTOLOGIN", "DATE", "NEVER"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range e.Values {
		line := fmt.Sprintf("%s=%s inexact=%v", v.Name, v.Value, v.Inexact)
		for _, a := range v.Assignments {
			line += fmt.Sprintf(" %s/%s:%d[%s]%s", a.Scope, a.File, a.Line, a.Section, a.Value)
		}
		got = append(got, line)
	}
	want := []string{
		"SERVER=10.0.0.9 inexact=false",
		"AUTOLOGIN=one inexact=false site/a/ltsp.conf:2[pc01]one organisation/ltsp.conf:3[clients]guest organisation/ltsp.conf:1[unnamed]all",
		"DATE= inexact=true site/a/ltsp.conf:3[pc01]",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if remarks := strings.Join(e.Remarks, "; "); !strings.Contains(remarks, "NEVER is not set") || !strings.Contains(remarks, "date") {
		t.Errorf("remarks %q", remarks)
	}
	if _, err := policyview.Explain(t.Context(), policyview.Levels{level(site, "if\n")}, c, policyview.Init, nil); !errors.Is(err, fleet.ErrInvalid) {
		t.Errorf("syntax: %v", err)
	}
	local := pc(1, "")
	local.ServerIsLocal = true
	if e, err = policyview.Explain(t.Context(), levels[:1], local, policyview.Init, nil); err != nil || len(e.Remarks) != 1 || !strings.Contains(e.Remarks[0], "SERVER") {
		t.Errorf("a local login host: %+v, %v", e, err)
	}
	unknown := policyview.Client{MAC: "52:54:00:00:00:01", Site: "a"}
	unknown.TakeReported("ltsp20")
	if unknown.Hostname != "" {
		t.Error("the default name was taken")
	}
	unknown.TakeReported("lab-7")
	if e, err = policyview.Explain(t.Context(), levels, unknown, policyview.Init, nil); err != nil || len(e.Remarks) != 2 {
		t.Errorf("remarks %q, %v", e.Remarks, err)
	}
}

// The initrd sees the kernel's parameters.
func TestExplainInitrd(t *testing.T) {
	t.Parallel()
	c := pc(1, "")
	c.KernelParameters = "quiet ltsp.debug-shell=1"
	levels := policyview.Levels{level(site, "DEBUG_SHELL=0\n")}
	for applet, want := range map[string]string{policyview.Init: "0", policyview.InitrdBottom: "1"} {
		e, err := policyview.Explain(t.Context(), levels, c, applet, []string{"DEBUG_SHELL"})
		if err != nil || len(e.Values) != 1 || e.Values[0].Value != want {
			t.Errorf("%s: %+v, %v", applet, e, err)
		}
	}
}

func TestConfs(t *testing.T) {
	t.Parallel()
	tree := policy.Tree{
		{Path: "client/ltsp.conf", Kind: policy.Regular}, {Path: "ltsp-init.conf", Kind: policy.Regular, Content: []byte("i")}, {Path: "ltsp-x.conf", Kind: policy.Symlink},
		{Path: "ltsp.conf", Kind: policy.Regular, Content: []byte("l")},
	}
	want := []policyview.Conf{{File: "ltsp.conf", Text: []byte("l")}, {File: "ltsp-init.conf", Text: []byte("i")}}
	if diff := cmp.Diff(want, policyview.Confs(tree)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLint(t *testing.T) {
	t.Parallel()
	levels := policyview.Levels{level(organisation, "if\n"), level(site, "A=1\n", "ltsp-init.conf", "B=(\n"), level(lab, "C='\n")}
	for scope, want := range map[fleet.Scope]string{organisation: "organisation/ltsp.conf", site: "site/a/ltsp-init.conf", lab: "room/a/lab/ltsp.conf"} {
		findings := policyview.Lint(levels, scope)
		err := policyview.Refusal(findings)
		if !errors.Is(err, fleet.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", scope, err)
		}
	}
	if findings := policyview.Lint(policyview.Levels{level(organisation, "A=1\n")}, organisation); policyview.Refusal(findings) != nil {
		t.Errorf("nothing wrong: %v", findings)
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	file := func(name, text string, mode uint16) policy.File {
		return policy.File{Path: name, Kind: policy.Regular, Mode: mode, Content: []byte(text)}
	}
	before := policy.Tree{file("a", "1", 0o644), file("b", "1", 0o644), file("c", "1", 0o644), file("d", "1", 0o644)}
	after := policy.Tree{file("b", "1", 0o644), file("c", "2", 0o644), file("d", "1", 0o600), file("e", "1", 0o644)}
	if diff := cmp.Diff([]string{"-a", "~c", "~d", "+e"}, policyview.Files(before, after)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// BenchmarkPlanOfThousandClients plans a change of the organisation's level for 1,000 clients of which each has a section of its own at its site, that
// is 2,000 evaluations of three levels.
func BenchmarkPlanOfThousandClients(b *testing.B) {
	var clients []policyview.Client
	var sections strings.Builder
	for n := range 1000 {
		clients = append(clients, pc(n, "lab"))
		fmt.Fprintf(&sections, "[%s]\nHOSTNAME=pc%d\nAUTOLOGIN=user%d\n", clients[n].MAC, n, n)
	}
	before := policyview.Levels{
		level(organisation, "[common]\nTIMEZONE=Europe/Athens\n[clients]\nFSTAB_HOME=\"server:/home /home nfs defaults,nolock 0 0\"\nCUPS_SERVER=$SERVER\nPOST_INIT_X='echo hello'\n"),
		level(site, sections.String()),
		level(lab, "[clients]\nRELOGIN=1\nREMOTEAPPS=\"gimp calc\"\n"),
	}
	after := before.With(level(organisation, "[common]\nTIMEZONE=Europe/Berlin\n[clients]\nFSTAB_HOME=\"server:/home /home nfs defaults,nolock 0 0\"\nCUPS_SERVER=$SERVER\nPOST_INIT_X='echo hello'\n"))
	b.ReportAllocs()
	for b.Loop() {
		plan, err := policyview.MakePlan(b.Context(), organisation, before, after, clients)
		if err != nil || plan.Changed != 1000 {
			b.Fatal(plan.Changed, err)
		}
	}
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N), "s/plan")
}
