package applet

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/testtree"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/ltspparam"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
)

// layer makes a level of policy from paths and contents.
func layer(scope string, files map[string]string) Layer {
	var t policy.Tree
	for name, content := range files {
		t = append(t, policy.File{Path: name, Kind: policy.Regular, Mode: 0o644, Content: []byte(content)})
	}
	t.Sort()
	return Layer{Scope: scope, Tree: t}
}

// config is for a tree in which the machine's own shell works.
func config(root string, layers ...Layer) Config {
	return Config{
		Root: root, Name: Init, Layers: layers, inPlace: true,
		Facts: step.Facts{Device: "eth0", MAC: net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}, Addr: netip.MustParsePrefix("10.0.1.4/23"), Server: "10.0.0.1", ServerPort: 2222, Sys: "/nowhere"},
	}
}

func mustRun(t *testing.T, cfg Config) Result {
	t.Helper()
	result, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestLayersHooksAndScripts(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, map[string]string{
		"etc/cron.d/":                           "",
		"etc/ltsp/client/init/60-own.sh":        "own_main() { OWN=$HOSTNAME; }\nconfig_dns() { DNS_DONE=\"$SEARCH_DOMAIN\"; }\n",
		"run/ltsp/client/init/60-own.sh":        "own_main() { OWN=wrong; }\n",
		"run/ltsp/client/init/55-cron.sh":       "cron_main() { CRON=script; }\n",
		"etc/ltsp/client/init/61-skipped.sh":    "skipped_main() { SKIPPED=1; }\n",
		"etc/ltsp/client/init/README":           "no script",
		"etc/ltsp/client/init/62-none":          "NONE=sourced\n",
		"etc/ltsp/client/initrd-bottom/60-x.sh": "WRONG=1\n",
	})
	organisation := layer("organisation", map[string]string{
		"ltsp.conf": "TOP=organisation\n[clients]\nA=1\nB=organisation\nPOST_INIT_2='ORDER=${ORDER}2'\n[52:54:00:*]\nMAC=$MAC_ADDRESS\n[common]\nshared() { C=shared; }\n[init/]\nD=applet\n",
	})
	room := layer("room/a/b", map[string]string{
		"ltsp.conf": "[clients]\nB=room\nshared\nPRE_INIT_1='SEARCH_DOMAIN=hook.example'\nPOST_INIT_1='ORDER=1; SEEN=\"$HOSTNAME $SERVER\"'\n" +
			"OMIT_FUNCTIONS='config_hosts install_ltsp no_such skipped_main bad-name'\nLTSP_SKIP_SCRIPTS=polkit,55-x\nHOSTNAME='pc%{IP}'\n",
		"ltsp-init.conf": "[common]\nE='ran before'\n[10.0.1.4]\nE='second file'\n", "ltsp-login.conf": "E=wrong\n",
	})
	result := mustRun(t, config(root, organisation, room))
	want := map[string]string{
		"TOP": "organisation", "A": "1", "B": "room", "C": "shared", "D": "applet", "E": "second file", "MAC": "52:54:00:01:02:03", "OWN": "pc260", "DNS_DONE": "hook.example",
		"CRON": "script", "ORDER": "12", "SEEN": "pc260 10.0.0.1", "HOSTNAME": "pc260", "SERVER": "10.0.0.1", "SSH_OPTIONS": "-p 2222", "NONE": "sourced", "WRONG": "", "SKIPPED": "", "GATEWAY": "192.168.67.1",
		"DEVICE": "eth0", "IP_ADDRESS": "10.0.1.4", "IPCONFIG_IPV4NETMASK": "255.255.254.0", "IPCONFIG_IPV4BROADCAST": "10.0.1.255",
	}
	got := map[string]string{}
	for name := range want {
		got[name] = result.Final[name]
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(result.Failures) > 0 {
		t.Errorf("failures: %v", result.Failures)
	}
	for _, words := range []string{"install_ltsp", "no_such", "bad-name"} {
		if !slices.ContainsFunc(result.Remarks, func(s string) bool { return strings.Contains(s, words) }) {
			t.Errorf("nothing is said of %s: %q", words, result.Remarks)
		}
	}
	for _, name := range []string{"config_hosts", "config_dns", "config_crontab", "deny_suspend"} {
		if !slices.Contains(result.Replaced, name) {
			t.Errorf("%s is not among the replaced: %v", name, result.Replaced)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "etc/hosts")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("config_hosts was omitted and ran: %v", err)
	}
	saved, err := Load(root, Init)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(result, saved); diff != "" {
		t.Errorf("saved (-result +loaded):\n%s", diff)
	}
	if info, err := os.Stat(filepath.Join(root, StateDir)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("who may read what was saved: %v, %v", info.Mode(), err)
	}
}

func TestConfigurationThatCannotBeEvaluated(t *testing.T) {
	t.Parallel()
	unevaluable(t, nil)
}

// unevaluable has a shell, nil for the machine's own, refuse configurations.
func unevaluable(t *testing.T, program []string) {
	t.Helper()
	good := layer("organisation", map[string]string{"ltsp.conf": "[clients]\nA=1\n"})
	for _, tt := range []struct {
		name, conf string
		words      []string
	}{
		{"syntax", "[clients]\nA=1\nif true; then )\nfi\n", []string{"ltsp.conf of site/a", "line 3"}},
		{"exit", "[clients]\nexit 0\n", []string{"ended"}},
		{"die", "[clients]\ndie no such printer\n", []string{"no such printer"}},
		{"loop", "[clients]\nwhile :; do :; done\n", []string{"deadline"}},
		{"NUL", "A=\x00\n", []string{"ltsp.conf of site/a"}},
		{"header", "[]\nA=1\n", []string{"ltsp.conf of site/a", "line 1"}},
		{"open quote", "[clients]\nA='x\n", []string{"ltsp.conf of site/a"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			root := testtree.New(t, map[string]string{"etc/hosts": "as it was\n"})
			cfg := config(root, good, layer("site/a", map[string]string{"ltsp.conf": tt.conf}))
			if tt.name == "loop" {
				cfg.Timeout = 500 * time.Millisecond
			}
			cfg.program = program
			_, err := Run(t.Context(), cfg)
			if !errors.Is(err, ErrEvaluate) {
				t.Fatalf("got %v", err)
			}
			for _, w := range tt.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("the error does not say %q: %v", w, err)
				}
			}
			if got := testtree.Read(t, root, "etc/hosts"); got != "as it was\n" {
				t.Errorf("something was done: %q", got)
			}
		})
	}
}

func TestFailuresDoNotStopTheRest(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, map[string]string{"etc/login.defs": "", "etc/cron.d/": "", "etc/hosts/dir/file": "in the way"})
	cfg := config(root, layer("organisation", map[string]string{
		"ltsp.conf": "PRE_INIT_1=false\nPWMERGE_SUR='(?<x'\nPOST_INIT_1='die it is over'\nDEBUG_SHELL=1\nCRONTAB_1='* * * * * root true'\n"}))
	cfg.Users = &agentproto.Users{}
	result := mustRun(t, cfg)
	var names []string
	for _, f := range result.Failures {
		names = append(names, f.Name)
	}
	if diff := cmp.Diff([]string{"PRE_INIT", "config_hosts", "merge_accounts", "POST_INIT"}, names); diff != "" {
		t.Errorf("(-want +got):\n%s\n%v", diff, result.Failures)
	}
	if !result.DebugShell {
		t.Error("DEBUG_SHELL is not told")
	}
	if !strings.Contains(testtree.Read(t, root, "etc/cron.d/ltsp"), "root true") {
		t.Error("the steps behind did not run")
	}
	if log := testtree.Read(t, root, "run/ltsp/debug.log"); !strings.Contains(log, "it is over") || !strings.Contains(log, "config_hosts") {
		t.Errorf("debug log: %s", log)
	}
}

func TestDebugLogOff(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, nil)
	mustRun(t, config(root, layer("organisation", map[string]string{"ltsp.conf": "DEBUG_LOG=0\n"})))
	if rootdir.Root(root).Exists("/run/ltsp/debug.log") {
		t.Error("it is there")
	}
}

func TestKernelParametersWinInInitrdBottomOnly(t *testing.T) {
	t.Parallel()
	conf := layer("organisation", map[string]string{"ltsp.conf": "IMAGE_TO_RAM=0\n[initrd-bottom/]\nX=1\nPRE_INITRD_BOTTOM_Y='PRE=$X'\n"})
	for applet, want := range map[string]string{InitrdBottom: "1/a b/1", Init: "0//"} {
		cfg := config(testtree.New(t, nil), conf)
		cfg.Name, cfg.Facts.CommandLine = applet, `quiet ltsp.image-to-ram=1 ltsp.text="a b" x.ltsp.other=1`
		result := mustRun(t, cfg)
		if got := result.Values["IMAGE_TO_RAM"] + "/" + result.Values["TEXT"] + "/" + result.Final["PRE"]; got != want {
			t.Errorf("%s: got %s, want %s", applet, got, want)
		}
	}
}

func TestUnknownApplet(t *testing.T) {
	t.Parallel()
	if _, err := Run(t.Context(), Config{Root: t.TempDir(), Name: "login"}); !errors.Is(err, ErrName) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, config(t.TempDir())); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestAffected(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name          string
		before, after map[string]string
		live, reboot  []string
	}{
		{"nothing", map[string]string{"A": "1", "B": ""}, map[string]string{"A": "1"}, nil, nil},
		{"foreign", map[string]string{"A": "1"}, map[string]string{"B": "1"}, nil, nil},
		{"family", map[string]string{"HOSTS_A": "1", "CRONTAB_X": "1"}, map[string]string{"HOSTS_B": "1", "CRONTAB_X": "2"}, []string{"config_hosts", "config_crontab"}, nil},
		{"reboot", nil, map[string]string{"FSTAB_X": "1", "HOSTNAME": "pc"}, []string{"configure_gdm", "configure_lightdm", "configure_sddm"}, []string{"config_hostname", "config_fstab"}},
		{"users", map[string]string{step.InputUsers: "a"}, map[string]string{step.InputUsers: "b"}, []string{"merge_accounts", "configure_gdm", "configure_lightdm", "configure_sddm", "ltspdm"}, nil},
		{"hooks", nil, map[string]string{"POST_INIT_X": "1", "PRE_INIT_Y": "1", "POST_INITRD_BOTTOM_X": "1", step.InputScripts: "1", "OMIT_FUNCTIONS": "x"}, nil, []string{"PRE", "POST", "scripts"}},
		{"keep", nil, map[string]string{"KEEP_SYSTEM_SERVICES": "ssh"}, []string{"config_userns", "disable_system_services", "mask_system_services"}, nil},
	} {
		live, reboot := Affected(tt.before, tt.after)
		if diff := cmp.Diff([][]string{tt.live, tt.reboot}, [][]string{live, reboot}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestReapply(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, map[string]string{"etc/cron.d/": "", "etc/cups/client.conf": "ServerName image\n", "usr/sbin/lightdm": "#!/bin/sh\n",
		"etc/lightdm/lightdm.conf": "[Seat:*]\n", "etc/passwd": "root:x:0:0::/:/\nanna:x:1001:1001::/:/\n"})
	conf := func(text string) Layer {
		return layer("organisation", map[string]string{"ltsp.conf": "PRE_INIT_X='SEARCH_DOMAIN=hook.example'\n" + text})
	}
	boot := mustRun(t, config(root, conf("CRONTAB_1='one'\nFSTAB_1=a\nCUPS_SERVER=printserver\n")))

	again := func(previous Result, text string) Result {
		t.Helper()
		result, err := Reapply(t.Context(), config(root, conf(text)), previous)
		if err != nil {
			t.Fatal(err)
		}
		if len(result.Failures) > 0 {
			t.Errorf("failures: %v", result.Failures)
		}
		return result
	}
	one := again(boot, "HOSTS_1='10.0.0.9 printer'\nFSTAB_1=b\nCUPS_SERVER=ignore\nAUTOLOGIN=anna\nHOSTNAME=other\nPOST_INIT_1=:\n")
	if diff := cmp.Diff([]string{
		"config_hostname: needs a reboot because of HOSTNAME", "config_fstab: needs a reboot because of FSTAB_1", "POST: needs a reboot because of POST_INIT_1",
	}, one.Pending); diff != "" {
		t.Errorf("pending (-want +got):\n%s", diff)
	}
	if hosts := testtree.Read(t, root, "etc/hosts"); !strings.Contains(hosts, "10.0.0.9 printer\n") || !strings.Contains(hosts, "ltsp260.hook.example ltsp260\n") {
		t.Errorf("hosts: %s", hosts)
	}
	if text := testtree.Read(t, root, "etc/cups/client.conf"); text != "ServerName image\n" {
		t.Errorf("cups: %s", text)
	}
	if text := testtree.Read(t, root, "etc/fstab"); !strings.HasSuffix(text, "\na\n") {
		t.Errorf("fstab changed: %s", text)
	}
	lightdm := testtree.Read(t, root, "etc/lightdm/lightdm.conf")
	if strings.Count(lightdm, "autologin-user=") != 1 || !strings.Contains(lightdm, "autologin-user=anna\n") || strings.Contains(testtree.Read(t, root, "etc/cron.d/ltsp"), "one") {
		t.Errorf("lightdm: %s", lightdm)
	}
	// Back to what it was: nothing is pending, nothing of the change is left.
	two := again(one, "CRONTAB_1='one'\nFSTAB_1=a\nCUPS_SERVER=printserver\n")
	if len(two.Pending) > 0 {
		t.Errorf("pending: %q", two.Pending)
	}
	if hosts := testtree.Read(t, root, "etc/hosts"); strings.Contains(hosts, "printer") {
		t.Errorf("hosts: %s", hosts)
	}
	if text := testtree.Read(t, root, "etc/cups/client.conf"); text != "ServerName printserver\n" {
		t.Errorf("cups: %s", text)
	}
	if three := again(two, "CRONTAB_1='one'\nFSTAB_1=a\nCUPS_SERVER=printserver\n"); !slices.Equal(three.Ran, nil) {
		t.Errorf("nothing has changed and %v ran", three.Ran)
	}
	// What cannot be evaluated changes nothing.
	broken := config(root, conf("CRONTAB_1='two'\nfi\n"))
	if kept, err := Reapply(t.Context(), broken, two); !errors.Is(err, ErrEvaluate) || !cmp.Equal(kept, two) {
		t.Errorf("broken: %v", err)
	}
}

// TestReapplyTriesAgain: what failed is tried again although nothing has changed.
func TestReapplyTriesAgain(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, map[string]string{"etc/hosts/x": ""})
	result := mustRun(t, config(root))
	if len(result.Failures) != 1 {
		t.Fatalf("failures: %v", result.Failures)
	}
	if err := os.RemoveAll(filepath.Join(root, "etc/hosts")); err != nil {
		t.Fatal(err)
	}
	result, err := Reapply(t.Context(), config(root), result)
	if err != nil || len(result.Failures) > 0 || !slices.Contains(result.Ran, "config_hosts") {
		t.Errorf("%v, %v, ran %v", err, result.Failures, result.Ran)
	}
}

// TestParametersSayWhenTheyTakeEffect holds what the table of parameters promises to what the steps do.
func TestParametersSayWhenTheyTakeEffect(t *testing.T) {
	t.Parallel()
	compared := 0
	for _, p := range ltspparam.All() {
		if p.Support == ltspparam.No || !strings.Contains(p.Applet, Init) || strings.Contains(p.Applet, InitrdBottom) {
			continue
		}
		name := p.Name
		if p.Family {
			name += "1_X"
		}
		live, reboot := Affected(nil, map[string]string{name: "x"})
		switch {
		case p.Effect == ltspparam.Live && len(reboot) == 0 && len(live) > 0, p.Effect == ltspparam.Reboot && len(reboot) > 0:
			compared++
		case p.Effect == ltspparam.Live || p.Effect == ltspparam.Reboot:
			t.Errorf("%s takes effect %q by the table; live %v, reboot %v", name, p.Effect, live, reboot)
		}
	}
	if compared < 30 {
		t.Errorf("only %d parameters were compared", compared)
	}
}

// everything is a configuration that gives each step something to do.
const everything = `SERVER=10.0.0.1
HOSTS_1='10.0.0.9 printer'
DNS_SERVER=10.0.0.1
CRONTAB_1='* * * * * root true'
FSTAB_1='server:/home /home nfs defaults 0 0'
AUTOLOGIN=anna
LTSPDM_USERS='anna|ben'
GDM3_CONF=a=b
X_DRIVER=vesa
MASK_SYSTEM_SERVICES=cups
DISABLE_SYSTEM_SERVICES=own
PASSWORDS_1=anna/YQ==
REMOTEAPPS=xeyes
LANG=de_DE.UTF-8
UDEV_SEAT_1_X='*/usb1/*'
`

// desktop is a tree that has what the steps look for.
func desktop(t *testing.T) string {
	t.Helper()
	return testtree.New(t, map[string]string{
		"etc/cron.d/": "", "etc/cups/client.conf": "ServerName image\n", "usr/sbin/lightdm": "#!x", "usr/sbin/gdm3": "#!x", "usr/bin/sddm": "#!x", "usr/sbin/slick-greeter": "#!x",
		"usr/bin/snap": "#!x", "etc/lightdm/lightdm.conf": "[Seat:*]\n", "etc/gdm3/custom.conf": "", "etc/default/locale": "", "etc/ltsp/epoptes.crt": "c",
		"etc/passwd": "root:x:0:0::/:/\n", "etc/group": "root:x:0:\n", "etc/shadow": "root:*:::::::\n", "etc/gshadow": "root:*::\n", "etc/login.defs": "",
		"var/lib/AccountsService/users/old": "", "var/log/apt/x": "", "var/log/big": strings.Repeat("x", 2000), "etc/X11/xorg.conf": "old\n", "etc/modprobe.d/": "",
		"usr/lib/systemd/system/own.service": "[Install]\nWantedBy=multi-user.target\n", "etc/systemd/system/multi-user.target.wants/own.service": "-> /usr/lib/systemd/system/own.service",
		"etc/NetworkManager/x": "", "etc/network/interfaces": "", "etc/udev/rules.d/": "", "usr/lib/tmpfiles.d/systemd.conf": "a x\n", "etc/xdg/autostart/update-notifier.desktop": "",
	})
}

func everythingConfig(root string) Config {
	cfg := config(root, layer("organisation", map[string]string{"ltsp.conf": everything}))
	cfg.Users = &agentproto.Users{Passwd: "anna:x:1001:1001::/:/\nben:x:1002:1002::/:/\n", Group: "anna:x:1001:\nben:x:1002:\n"}
	return cfg
}

// state is the tree without what the agent keeps for itself, groups in order.
func state(t *testing.T, root string) map[string]string {
	t.Helper()
	files := testtree.Show(t, root)
	for name := range files {
		if strings.HasPrefix(name, "run/ltsp/") {
			delete(files, name)
		}
	}
	for _, name := range []string{"etc/group", "etc/gshadow"} { // their order means nothing
		lines := strings.SplitAfter(files[name], "\n")
		slices.Sort(lines)
		files[name] = strings.Join(lines, "")
	}
	return files
}

// TestDoingItAgainChangesNothing: each live function, done again with the same values, leaves what it left the first time.
func TestDoingItAgainChangesNothing(t *testing.T) {
	t.Parallel()
	root := desktop(t)
	result := mustRun(t, everythingConfig(root))
	if len(result.Failures) > 0 {
		t.Fatalf("failures: %v", result.Failures)
	}
	before := state(t, root)
	var live []string
	for _, s := range steps(Init) {
		for _, f := range s.Functions {
			if f.Live {
				live = append(live, f.Name)
				result.Failures = append(result.Failures, Failure{Name: f.Name}) // has each tried again
			}
		}
	}
	again, err := Reapply(t.Context(), everythingConfig(root), result)
	if err != nil || len(again.Failures) > 0 || len(again.Pending) > 0 {
		t.Fatalf("%v, %v, %v", err, again.Failures, again.Pending)
	}
	for _, name := range live {
		if !slices.Contains(again.Ran, name) {
			t.Errorf("%s did not run again", name)
		}
	}
	if diff := cmp.Diff(before, state(t, root)); diff != "" {
		t.Errorf("(-first +again):\n%s", diff)
	}
}

// TestNothingLeavesTheRoot: links of an image that lead elsewhere on this machine do not.
func TestNothingLeavesTheRoot(t *testing.T) {
	t.Parallel()
	outside := testtree.New(t, map[string]string{"file": "outside\n", "dir/kept.1": "outside\n"})
	root := desktop(t)
	for _, name := range []string{"etc/hosts", "etc/fstab", "etc/hostname", "etc/machine-id", "etc/resolv.conf", "etc/cron.d/ltsp", "etc/sddm.conf", "etc/cups/client.conf",
		"etc/lightdm/lightdm.conf", "etc/passwd", "etc/shadow", "etc/X11/xorg.conf", "etc/udev/rules.d/72-ltsp-seats.rules", "etc/NetworkManager/conf.d/zz-ltsp-boot.conf"} {
		if err := os.RemoveAll(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
		testtree.Put(t, root, name, "-> "+outside+"/file")
	}
	for _, name := range []string{"var/log", "var/crash", "etc/systemd/journald.conf.d", "etc/modprobe.d", "var/lib/AccountsService/users"} {
		if err := os.RemoveAll(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
		testtree.Put(t, root, name, "-> ../../../../../../../../../../.."+outside+"/dir")
	}
	mustRun(t, everythingConfig(root)) // not each step can succeed
	if diff := cmp.Diff(map[string]string{"file": "outside\n", "dir/kept.1": "outside\n"}, testtree.Show(t, outside)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}
