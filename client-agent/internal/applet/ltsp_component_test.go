//go:build component

package applet

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/testtree"
)

// ltspInit is what LTSP's own applet needs around it: to be process 1, a network, and an init that ends.
const ltspInit = `set -e
mount -t proc proc "$1/proc"
ip link set lo up
ip link add eth0 type veth peer name other
ip link set other up
ip link set eth0 address 52:54:00:67:00:14 up
ip addr add 192.168.67.20/24 dev eth0
ip route add default via 192.168.67.1
exec chroot "$1" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin /usr/share/ltsp/ltsp init
`

// runLTSP runs LTSP's own init applet, of the package ltsp, on a root, and returns the CPU time that it took.
func runLTSP(t *testing.T, root string) time.Duration {
	t.Helper()
	for name, content := range map[string]string{
		"etc/ltsp/ltsp.conf": schoolConf, "etc/ltsp/passwd": schoolUsers.Passwd, "etc/ltsp/group": schoolUsers.Group,
		"run/net-eth0.conf": "DEVICE='eth0'\nIPV4DNS0='192.168.67.9'\nIPV4DNS1='0.0.0.0'\nDNSDOMAIN=''\nHOSTNAME=''\n",
	} {
		testtree.Put(t, root, name, content)
	}
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", "/usr/share/ltsp", filepath.Join(root, "usr/share/")).CombinedOutput(); err != nil {
		t.Fatalf("the package ltsp is needed: %v\n%s", err, out)
	}
	if err := os.Remove(filepath.Join(root, "sbin/init")); err != nil {
		t.Fatal(err)
	}
	testtree.Put(t, root, "sbin/init", "#!/bin/sh\n: >/ltsp-init-done\n")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ltspInit, "ltsp", root)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("ltsp init: %v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(root, "ltsp-init-done")); err != nil {
		t.Fatalf("ltsp init did not come to its end\n%s", out)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}

// cpu is what this process and its children have taken.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var all time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			t.Fatal(err)
		}
		all += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return all
}

// TestInitAsLTSP gives two copies of one root to LTSP's own init applet and to ours, with the same configuration, and compares what came out of it.
func TestInitAsLTSP(t *testing.T) {
	theirs, ours := debianRoot(t), debianRoot(t)
	theirCPU := runLTSP(t, theirs)
	before := cpu(t)
	result, err := Run(t.Context(), schoolConfig(ours, schoolConf))
	if err != nil {
		t.Fatal(err)
	}
	ourCPU := cpu(t) - before
	for _, f := range result.Failures {
		t.Errorf("%s: %s: %s", f.Step, f.Name, f.Error)
	}
	t.Logf("CPU: LTSP %v, agent %v", theirCPU.Round(time.Millisecond), ourCPU.Round(time.Millisecond))

	for _, view := range views {
		want, got := view.of(t, theirs), view.of(t, ours)
		if len(want) == 0 {
			t.Errorf("%s: LTSP's result is empty", view.name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-LTSP +agent):\n%s", view.name, diff)
		}
	}
}

// TestAllFunctionsAreKnown: each function of LTSP's client scripts can be named in OMIT_FUNCTIONS.
func TestAllFunctionsAreKnown(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, applet := range []string{InitrdBottom, Init} {
		for _, s := range steps(applet) {
			known[s.Main] = true
			for _, f := range s.Functions {
				known[f.Name] = true
			}
		}
	}
	files, err := filepath.Glob("/usr/share/ltsp/client/*/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	common, err := filepath.Glob("/usr/share/ltsp/common/ltsp/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 15 {
		t.Fatalf("%d scripts: the package ltsp is needed", len(files))
	}
	definition := regexp.MustCompile(`(?m)^([a-z_0-9]+)\(\)`)
	for _, file := range append(files, common...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range definition.FindAllStringSubmatch(string(text), -1) {
			if !known[m[1]] && !ltspFunctions[m[1]] {
				t.Errorf("%s of %s is not known", m[1], file)
			}
		}
	}
}

// A view is what is compared of a root.
type view struct {
	name string
	of   func(t *testing.T, root string) []string
}

var views = []view{
	{"passwd", lines("etc/passwd", nil)},
	{"shadow", lines("etc/shadow", regexp.MustCompile(`^root:`))}, // the date of the hook's change
	{"group", lines("etc/group", regexp.MustCompile(`^ltspdm:`))}, // its free ID
	{"fstab", lines("etc/fstab", nil)},
	{"cron", lines("etc/cron.d/ltsp", nil)},
	{"machine-id", lines("etc/machine-id", nil)},
	{"hostname", lines("etc/hostname", nil)},
	{"resolv.conf", lines("etc/resolv.conf", nil)},
	{"hook", lines("etc/hook", nil)},
	{"lightdm", lines("etc/lightdm/lightdm.conf", nil)},
	{"gdm", lines("etc/gdm3/daemon.conf", nil)},
	{"sddm", lines("etc/sddm.conf", nil)},
	{"slick", lines("etc/lightdm/slick-greeter.conf", nil)},
	{"cups", lines("etc/cups/client.conf", nil)},
	{"polkit", lines("usr/share/polkit-1/actions/org.freedesktop.login1.policy", nil)},
	{"tmpfiles", lines("usr/lib/tmpfiles.d/systemd.conf", nil)},
	{"xorg", func(t *testing.T, root string) []string {
		var found []string
		for line := range strings.SplitSeq(testtree.Read(t, root, "etc/X11/xorg.conf"), "\n") {
			f := strings.Fields(line)
			if len(f) > 1 && slices.Contains([]string{"Driver", "Modes", "Virtual", "HorizSync"}, f[0]) {
				found = append(found, strings.Join(f, " "))
			}
		}
		return found
	}},
	{"hosts", func(t *testing.T, root string) []string {
		var found []string
		for _, name := range []string{"localhost", "pc07", "pc07.school.example", "server", "printer"} {
			found = append(found, inRoot(t, root, "/usr/bin/getent", "ahostsv4", name))
		}
		return found
	}},
	{"ltspdm", func(t *testing.T, root string) []string {
		return []string{inRoot(t, root, "/bin/sh", "-c", "getent group ltspdm | cut -d: -f4; getent shadow root | cut -d: -f1,2")}
	}},
	{"removed", func(t *testing.T, root string) []string {
		return []string{inRoot(t, root, "/bin/sh", "-c", "ls -d /etc/cron.daily/* /var/log/* /var/crash/* /var/lib/AccountsService/users/* /etc/update-motd.d/* /etc/xdg/autostart/* 2>/dev/null")}
	}},
	{"units", units},
}

// lines are those of a file, comments and empty ones left out.
func lines(file string, but *regexp.Regexp) func(t *testing.T, root string) []string {
	return func(t *testing.T, root string) []string {
		var found []string
		for line := range strings.SplitSeq(testtree.Read(t, root, file), "\n") {
			line = strings.TrimSpace(line)
			if line == "" || line[0] == '#' || but != nil && but.MatchString(line) {
				continue
			}
			if file == "etc/group" {
				at := strings.LastIndexByte(line, ':') + 1
				members := strings.Split(line[at:], ",")
				sort.Strings(members)
				line = line[:at] + strings.Join(members, ",")
			}
			found = append(found, line)
		}
		return found
	}
}

// units lists the state of each unit of the system. What newer releases of LTSP disable and this one does not is left out, and so is what the agent masks for
// its own network.
func units(t *testing.T, root string) []string {
	var found []string
	for line := range strings.SplitSeq(inRoot(t, root, "/bin/systemctl", "--root=/", "list-unit-files", "--no-legend", "--no-pager"), "\n") {
		if f := strings.Fields(line); len(f) > 1 && !strings.HasPrefix(f[0], "ltsp") && !strings.HasPrefix(f[0], "snapd.hold") {
			found = append(found, f[0]+" "+f[1])
		}
	}
	return append(found, "session: "+inRoot(t, root, "/bin/systemctl", "--root=/", "--user", "--global", "is-enabled", "gnome-software-service"))
}
