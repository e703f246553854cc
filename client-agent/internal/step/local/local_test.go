package local

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/steptest"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/testtree"
)

func allSteps() []step.Step {
	return []step.Step{Cron(), Polkit(), Snap(), Swap(), Systemd(), Various(), Xorg()}
}

// body is a file without the line that says who made it.
func body(t *testing.T, root, name string) string {
	t.Helper()
	return strings.TrimPrefix(testtree.Read(t, root, name), generated)
}

func exists(root, name string) bool {
	_, err := os.Lstat(filepath.Join(root, name))
	return err == nil
}

// TestBareImage: an image that has nothing gets little.
func TestBareImage(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, nil)
	c := steptest.New(t, root, step.Values{})
	steptest.Do(t, c, allSteps()...)
	var names []string
	for name := range testtree.Show(t, root) {
		if !strings.HasPrefix(name, "run/ltsp/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	want := []string{
		"etc/fstab", "etc/machine-id", "etc/sysctl.d/99-ltsp-userns.conf", "etc/systemd/journald.conf.d/ltsp.conf", "etc/systemd/system.conf.d/ltsp.conf",
		"etc/systemd/user.conf.d/ltsp.conf", "run/systemd/system/ltsp-swap@.service", "run/udev/rules.d/99-ltsp-swap.rules",
	}
	if diff := cmp.Diff(want, names); diff != "" || len(c.Remarks) > 0 {
		t.Errorf("remarks %q (-want +got):\n%s", c.Remarks, diff)
	}
}

func TestCron(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, map[string]string{"etc/cron.d/popularity-contest": "", "etc/cron.d/own": "", "etc/cron.daily/man-db": "", "etc/cron.daily/own": ""})
	c := steptest.New(t, root, step.Values{"CRONTAB_B": "b", "CRONTAB_A": "a1\na2"})
	steptest.Do(t, c, Cron())
	if diff := cmp.Diff("PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin\na1\na2\nb\n", body(t, root, "etc/cron.d/ltsp")); diff != "" {
		t.Error(diff)
	}
	if exists(root, "etc/cron.d/popularity-contest") || exists(root, "etc/cron.daily/man-db") || !exists(root, "etc/cron.daily/own") || !exists(root, "etc/cron.d/own") {
		t.Error("not the right jobs are gone")
	}
}

func TestCups(t *testing.T) {
	t.Parallel()
	files := map[string]string{"etc/cups/client.conf": "ServerName image\n", "lib/systemd/system/cups.service": "x", "etc/systemd/system/cups.path": "-> /lib/systemd/system/cups.path"}
	const own = "-> /lib/systemd/system/cups.path"
	for _, tt := range []struct {
		name         string
		values       step.Values
		conf, socket string
		path         string
	}{
		{"default", step.Values{"SERVER": "10.0.0.1"}, "ServerName 10.0.0.1\n", "-> /dev/null", "-> /dev/null"},
		{"a host", step.Values{"SERVER": "10.0.0.1", "CUPS_SERVER": "print"}, "ServerName print\n", "-> /dev/null", "-> /dev/null"},
		{"localhost", step.Values{"SERVER": "10.0.0.1", "CUPS_SERVER": "localhost"}, "ServerName localhost\n", "", own},
		{"ignore", step.Values{"SERVER": "10.0.0.1", "CUPS_SERVER": "ignore"}, "ServerName image\n", "", own},
		{"no server", step.Values{}, "ServerName image\n", "", own},
	} {
		root := testtree.New(t, files)
		c := steptest.New(t, root, step.Values{"CUPS_SERVER": "before"})
		steptest.Do(t, c, Various()) // another value before leaves nothing
		c.Values, c.Live = tt.values, true
		steptest.Do(t, c, Various())
		got := testtree.Show(t, root)
		if got["etc/cups/client.conf"] != tt.conf || got["etc/systemd/system/cups.socket"] != tt.socket || got["etc/systemd/system/cups.path"] != tt.path {
			t.Errorf("%s: %q, socket %q, path %q", tt.name, got["etc/cups/client.conf"], got["etc/systemd/system/cups.socket"], got["etc/systemd/system/cups.path"])
		}
		verb := map[bool]string{true: "stop", false: "start"}[tt.socket != ""]
		if calls := c.System.(*steptest.System).Calls; !slices.Equal(calls, []string{"daemon-reload", verb + " cups.service"}) {
			t.Errorf("%s: systemctl %q", tt.name, calls)
		}
	}
}

func TestFstab(t *testing.T) {
	t.Parallel()
	const line = "server:/home /home nfs defaults 0 0"
	old := map[string]string{"etc/fstab": "UUID=1 / ext4 defaults 0 1\n", "etc/crypttab": "# none\nx UUID=2 none\n"}
	root := testtree.New(t, old)
	steptest.Do(t, steptest.New(t, root, step.Values{"FSTAB_HOME": line, "SERVER": "10.0.0.1"}), Various())
	if got := body(t, root, "etc/fstab"); got != line+"\n" {
		t.Errorf("fstab: %q", got)
	}
	if got := testtree.Read(t, root, "etc/crypttab"); got != "# none\n# not on a diskless client: x UUID=2 none\n" {
		t.Errorf("crypttab: %q", got)
	}
	old["usr/lib/klibc/bin/nfsmount"] = "#!x"
	root = testtree.New(t, old)
	steptest.Do(t, steptest.New(t, root, step.Values{"FSTAB_HOME": line, "FSTAB_X": "server:/x /x sshfs", "SERVER": "10.0.0.1"}), Various())
	if got := body(t, root, "etc/fstab"); got != "10.0.0.1:/home /home nfs defaults 0 0\nserver:/x /x sshfs\n" {
		t.Errorf("with klibc's nfsmount: %q", got)
	}
	if got := rootdir.Root(root).Readlink("/usr/sbin/mount.nfs"); got != "/usr/lib/klibc/bin/nfsmount" {
		t.Errorf("mount.nfs: %q", got)
	}
}

func TestVarious(t *testing.T) {
	t.Parallel()
	machine, err := machineName()
	if err != nil {
		t.Fatal(err)
	}
	root := testtree.New(t, map[string]string{
		"var/crash/a": "", "var/log/a.1": "", "var/log/a.gz": "", "var/log/a.old/x": "", "var/log/apt/history": "", "var/log/apt/deep/x": "", "var/log/big": strings.Repeat("x", 1025),
		"var/log/small": strings.Repeat("x", 1024), "var/log/link": "-> big", "lib/systemd/system-generators/systemd-gpt-auto-generator": "#!x",
		"etc/update-motd.d/10-a": "", "etc/update-motd.d/59-b": "", "etc/update-motd.d/99-c": "", "etc/update-motd.d/00-d": "",
		"etc/default/locale": "# empty\n", "var/lib/dbus/machine-id": "0123\n", "etc/ltsp/bin/sshfs-" + machine: "#!x", "etc/ltsp/epoptes.crt": "cert",
		"usr/share/gnome-shell/search-providers/org.gnome.Software-search-provider.ini": "[Shell Search Provider]\n",
		"usr/share/polkit-1/actions/org.freedesktop.login1.policy":                      "<action id=\"org.freedesktop.login1.hibernate\">\n <allow_any>yes</allow_any>\n</action>\n<action id=\"org.freedesktop.login1.halt\"><allow_any>yes</allow_any></action>\n",
		"usr/lib/tmpfiles.d/systemd.conf":                                               "d /run/x\na+ /var/log\nA /y\n", "etc/sysctl.d/10-console-messages.conf": "",
	})
	c := steptest.New(t, root, step.Values{"LANGUAGE": "de", "REMOTEAPPS": "xeyes"})
	c.Facts.CommandLine = "quiet netconsole=@/eth0,@10.0.0.1/"
	steptest.Do(t, c, allSteps()...)
	got := testtree.Show(t, root)
	for name, want := range map[string]string{
		"var/log/big": "", "var/log/small": strings.Repeat("x", 1024), "var/log/link": "-> big", "etc/machine-id": "52540067001a00000000000000000000\n",
		"var/lib/dbus/machine-id": "-> /etc/machine-id", "usr/bin/sshfs": "-> /etc/ltsp/bin/sshfs-" + machine, "etc/epoptes/server.crt": "-> ../ltsp/epoptes.crt",
		"etc/default/locale": "# empty\n" + generated + "LANG=C.UTF-8\nLANGUAGE=de\n",
		"usr/share/gnome-shell/search-providers/org.gnome.Software-search-provider.ini": "[Shell Search Provider]\nDefaultDisabled=true\n",
		"usr/share/polkit-1/actions/org.freedesktop.login1.policy":                      "<action id=\"org.freedesktop.login1.hibernate\">\n <allow_any>no</allow_any>\n</action>\n<action id=\"org.freedesktop.login1.halt\"><allow_any>yes</allow_any></action>\n",
		"usr/lib/tmpfiles.d/systemd.conf":                                               "d /run/x\n# a+ /var/log\n# A /y\n",
	} {
		if diff := cmp.Diff(want, got[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for _, gone := range []string{"var/crash/a", "var/log/a.1", "var/log/a.gz", "var/log/a.old", "var/log/apt/history", "var/log/apt/deep", "etc/update-motd.d/10-a",
		"lib/systemd/system-generators/systemd-gpt-auto-generator", "etc/sysctl.d/10-console-messages.conf"} {
		if exists(root, gone) {
			t.Errorf("%s is there", gone)
		}
	}
	for _, there := range []string{"etc/update-motd.d/59-b", "etc/update-motd.d/99-c", "etc/update-motd.d/00-d", "var/log/apt"} {
		if !exists(root, there) {
			t.Errorf("%s is gone", there)
		}
	}
	if len(c.Remarks) != 1 || !strings.Contains(c.Remarks[0], "REMOTEAPPS") {
		t.Errorf("remarks: %q", c.Remarks)
	}
	// Other values take it back.
	if err := os.Remove(filepath.Join(root, "etc/ltsp/bin/sshfs-"+machine)); err != nil {
		t.Fatal(err)
	}
	c.Values = step.Values{"IGNORE_EPOPTES": "1"}
	steptest.Do(t, c, Various())
	if exists(root, "usr/bin/sshfs") || exists(root, "etc/epoptes/server.crt") {
		t.Error("what the policy had is still there")
	}
}

// apps notes what was registered.
type apps struct{ words string }

func (a *apps) Register(_ context.Context, _ rootdir.Root, values step.Values) error {
	a.words = values["REMOTEAPPS"]
	return nil
}

func TestRemoteApps(t *testing.T) {
	t.Parallel()
	c := steptest.New(t, testtree.New(t, nil), step.Values{"REMOTEAPPS": "xeyes gimp"})
	registered := &apps{}
	c.RemoteApps = registered
	steptest.Do(t, c, Various())
	if registered.words != "xeyes gimp" || len(c.Remarks) > 0 {
		t.Errorf("got %q, %q", registered.words, c.Remarks)
	}
}

func TestSnap(t *testing.T) {
	t.Parallel()
	files := map[string]string{"usr/bin/snap": "#!x", "var/lib/snapd/seed/snaps/a.snap": "x", "var/lib/snapd/seed/snaps/b.snap": "x", "var/lib/snapd/snaps/b.snap": "own"}
	root := testtree.New(t, files)
	steptest.Do(t, steptest.New(t, root, step.Values{}), Snap())
	got := testtree.Show(t, root)
	if got["var/lib/snapd/snaps/a.snap"] != "-> /var/lib/snapd/seed/snaps/a.snap" || got["var/lib/snapd/snaps/b.snap"] != "own" ||
		got["lib/systemd/system/snapd.service.wants/snapd.hold.service"] != "-> ../snapd.hold.service" || !strings.Contains(got["lib/systemd/system/snapd.hold.service"], "refresh.hold='2") {
		t.Errorf("got %v", got)
	}
	root = testtree.New(t, files)
	steptest.Do(t, steptest.New(t, root, step.Values{"SYMLINK_SNAPS": "0"}), Snap())
	if exists(root, "var/lib/snapd/snaps/a.snap") {
		t.Error("SYMLINK_SNAPS=0 linked")
	}
}

func TestSwapOff(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, nil)
	steptest.Do(t, steptest.New(t, root, step.Values{"LOCAL_SWAP": "0"}), Swap())
	if exists(root, swapRules) {
		t.Error("LOCAL_SWAP=0 swaps")
	}
}

func TestXorg(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, map[string]string{"etc/X11/xorg.conf": "the image's\n"})
	c := steptest.New(t, root, step.Values{"X_DRIVER": "vesa", "X_HORIZSYNC": "28.0-87.0", "X_VERTREFRESH": "43-87", "X_PREFERREDMODE": "1024x768", "X_MODELINE": `"a" 94.5`,
		"X_VIRTUAL": "800 600", "X_MODES": `"1024x768" "800x600"`})
	steptest.Do(t, c, Xorg())
	want := `
Section "Device"
	Identifier "device"
	Driver "vesa"
EndSection

Section "Monitor"
	Identifier "monitor"
	HorizSync 28.0-87.0
	VertRefresh 43-87
	Option "PreferredMode" "1024x768"
	Modeline "a" 94.5
EndSection

Section "Screen"
	Identifier "screen"
	Device "device"
	Monitor "monitor"
	SubSection "Display"
		Virtual 800 600
		Modes "1024x768" "800x600"
	EndSubSection
EndSection
`
	if diff := cmp.Diff(want, body(t, root, "etc/X11/xorg.conf")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	c.Values = step.Values{}
	steptest.Do(t, c, Xorg())
	if got := testtree.Read(t, root, "etc/X11/xorg.conf"); got != "the image's\n" {
		t.Errorf("taken back: %q", got)
	}
}
