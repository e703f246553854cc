//go:build component

package applet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/testtree"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/policy"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testimage"
)

// rootPackages are what the steps have something to do for. python3 is for LTSP's own scripts.
var rootPackages = []string{"cron", "rsyslog", "openssh-server", "rpcbind", "nfs-common", "man-db", "logrotate", "udev", "python3-minimal", "dbus", "busybox", "iproute2", "passwd"}

// debianRoot unpacks a small Debian and mounts into it what scripts need. Display managers are played by files: their packages are large.
func debianRoot(t *testing.T) string {
	t.Helper()
	archive, err := testimage.Build(t.Context(), testimage.Config{CacheDir: os.Getenv("LTSP_CACHE"), Packages: rootPackages, Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := testimage.Unpack(t.Context(), archive, root); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"usr/sbin/gdm3": "#!/bin/sh\n", "usr/sbin/lightdm": "#!/bin/sh\n", "usr/bin/sddm": "#!/bin/sh\n", "usr/sbin/slick-greeter": "#!/bin/sh\n", "usr/bin/snap": "#!/bin/sh\n",
		"etc/gdm3/daemon.conf": "[daemon]\n#AutomaticLogin = user\n[security]\n", "etc/lightdm/lightdm.conf": "[LightDM]\n[Seat:*]\n#autologin-user=\n",
		"usr/share/xsessions/xfce.desktop": "[Desktop Entry]\n", "var/lib/AccountsService/users/old": "[User]\n", "etc/cups/cupsd.conf": "",
		"var/lib/snapd/seed/snaps/core.snap": "x", "var/lib/snapd/snaps/": "", "etc/default/locale": "", "var/log/old.log.1": "x", "var/log/big.log": strings.Repeat("x", 3000),
		"var/crash/x.crash": "x", "etc/xdg/autostart/update-notifier.desktop": "[Desktop Entry]\n", "etc/modprobe.d/": "",
		"etc/systemd/system/anydesk.service":                         "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\nAlias=remote.service\n",
		"etc/systemd/system/multi-user.target.wants/anydesk.service": "-> /etc/systemd/system/anydesk.service",
		"etc/systemd/system/remote.service":                          "-> /etc/systemd/system/anydesk.service",
		"etc/init.d/x2goserver":                                      "#!/bin/sh\n### BEGIN INIT INFO\n# Provides: x2goserver\n# Default-Start: 2 3 4 5\n# Default-Stop: 0 1 6\n### END INIT INFO\n",
		"etc/rc2.d/S03x2goserver":                                    "-> ../init.d/x2goserver",
		"etc/update-motd.d/50-slow":                                  "#!/bin/sh\n", "etc/update-motd.d/00-header": "#!/bin/sh\n",
		"usr/lib/systemd/user/gnome-software-service.service":      "[Service]\nExecStart=/bin/true\n",
		"usr/share/polkit-1/actions/org.freedesktop.login1.policy": loginPolicy,
	} {
		testtree.Put(t, root, name, content)
	}
	for _, dir := range []string{"dev", "proc", "sys"} {
		bind(t, "/"+dir, filepath.Join(root, dir))
	}
	if err := unix.Mount("tmpfs", filepath.Join(root, "run"), "tmpfs", 0, "mode=0755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, filepath.Join(root, "run")) })
	return root
}

const loginPolicy = `<policyconfig>
<action id="org.freedesktop.login1.suspend"><defaults>
  <allow_any>auth_admin_keep</allow_any>
  <allow_active>yes</allow_active>
</defaults></action>
<action id="org.freedesktop.login1.hibernate-ignore-inhibit"><defaults>
  <allow_any>auth_admin_keep</allow_any>
  <allow_active>yes</allow_active>
</defaults></action>
<action id="org.freedesktop.login1.reboot"><defaults><allow_active>yes</allow_active></defaults></action>
</policyconfig>
`

func bind(t *testing.T, from, to string) {
	t.Helper()
	if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		t.Fatalf("bind %s: %v", from, err)
	}
	if err := unix.Mount("", to, "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		t.Fatalf("bind %s: %v", from, err)
	}
	t.Cleanup(func() { unmount(t, to) })
}

func unmount(t *testing.T, dir string) {
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Errorf("unmount %s: %v", dir, err)
	}
}

// inRoot runs a command of the root's own.
func inRoot(t *testing.T, root string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Path = args[0]
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		text += fmt.Sprintf(" (%v)", err)
	}
	return strings.TrimSpace(text)
}

// schoolConf is what both the agent and LTSP's own scripts are given.
const schoolConf = `
[common]
SERVER=192.168.67.1
SEARCH_DOMAIN = school.example
[clients]
DNS_SERVER="192.168.67.1 9.9.9.9"
FSTAB_HOME="server:/home /home nfs defaults,nolock 0 0"
HOSTS_PRINTER="192.168.67.2 printer"
CRONTAB_OFF="0 22 * * * root /sbin/poweroff"
AUTOLOGIN="pc/guest"
RELOGIN=0
LIGHTDM_CONF="greeter-session=slick-greeter
user-session=xfce"
GDM3_CONF="WaylandEnable=false"
LTSPDM_USERS="(anna|guest%{HOSTNAME#pc})"
X_DRIVER=modesetting
X_MODES='"1024x768" "800x600"'
KEEP_SYSTEM_SERVICES="ssh logrotate.timer"
DISABLE_SYSTEM_SERVICES="dbus.socket"
MASK_SYSTEM_SERVICES="e2scrub_all.timer"
PASSWORDS_GUESTS="guest[0-9]*/R3Vlc3Q="
LANG=de_DE.UTF-8
POST_INIT_FLAG='echo "$HOSTNAME $SERVER $DNS_SERVER" >/etc/hook; usermod -p "*" root'
INCLUDE=room
[room]
PRE_INIT_1="HOSTNAME=pc07"
`

func schoolFacts() step.Facts {
	return step.Facts{
		Device: "eth0", MAC: net.HardwareAddr{0x52, 0x54, 0, 0x67, 0, 0x14}, Addr: netip.MustParsePrefix("192.168.67.20/24"),
		Gateway: netip.MustParseAddr("192.168.67.1"), DNS: []netip.Addr{netip.MustParseAddr("192.168.67.9")}, CommandLine: "quiet", Sys: "/nowhere",
	}
}

var schoolUsers = agentproto.Users{
	Passwd: "root:x:0:0:root:/root:/bin/bash\nteacher:x:1000:1000::/home/teacher:/bin/bash\nanna:x:1001:1001:Anna,,,:/home/anna:/bin/bash\nguest07:x:1007:1007::/home/guest07:/bin/bash\n",
	Group:  "root:x:0:\nsudo:x:27:teacher\nteacher:x:1000:\nanna:x:1001:\nguest07:x:1007:\nclass:x:2000:anna,guest07,gone\n",
}

func schoolConfig(root, conf string) Config {
	return Config{
		Root: root, Name: Init, Facts: schoolFacts(), Users: &schoolUsers,
		Layers: []Layer{{Scope: "organisation", Tree: policy.Tree{{Path: "ltsp.conf", Kind: policy.Regular, Mode: 0o600, Content: []byte(conf)}}}},
	}
}

// TestOtherShells: what one shell refuses, each does, in its own words.
func TestOtherShells(t *testing.T) {
	t.Parallel()
	for _, program := range [][]string{{"/bin/bash"}, {"/bin/bash", "--posix"}, {"/bin/busybox", "sh"}, {"/bin/dash"}} {
		t.Run(strings.Join(program, " "), func(t *testing.T) {
			t.Parallel()
			unevaluable(t, program)
			cfg := config(testtree.New(t, nil), layer("organisation", map[string]string{"ltsp.conf": "[clients]\nA=\"it's\n\\$x\"\nB='tab\t'\n[common]\nfalse\n"}))
			cfg.program = program
			if result := mustRun(t, cfg); result.Values["A"] != "it's\n$x" || result.Values["B"] != "tab\t" || len(result.Failures) > 0 {
				t.Errorf("got %q, %q, %v", result.Values["A"], result.Values["B"], result.Failures)
			}
		})
	}
}

// TestInitOnDebian runs the whole applet on a real root and asks the root's own tools what has become of it.
func TestInitOnDebian(t *testing.T) {
	root := debianRoot(t)
	testtree.Put(t, root, "etc/ltsp/client/init/60-own.sh", "own_main() { echo \"$HOSTNAME\" >/etc/own; }\nconfig_motd() { :; }\n")
	begin := time.Now()
	result, err := Run(t.Context(), schoolConfig(root, schoolConf))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("took %v", time.Since(begin))
	for _, f := range result.Failures {
		t.Errorf("%s: %s: %s", f.Step, f.Name, f.Error)
	}
	for _, r := range result.Remarks {
		t.Log(r)
	}
	for _, tt := range []struct{ want, command string }{
		{"anna:x:1001:1001:Anna,,,:/home/anna:/bin/bash", "getent passwd anna"},
		{"anna:pamltsp:::::::", "getent shadow anna"},
		{"guest07:pamltsp=R3Vlc3Q=:::::::", "getent shadow guest07"},
		{"root:*", "getent shadow root | cut -d: -f1,2"},
		{"class:x:2000:anna,guest07", "getent group class"},
		{"sudo:x:27:teacher", "getent group sudo"},
		{"ltspdm:anna,guest07", "getent group ltspdm | cut -d: -f1,4"},
		{"", "pwck -rq"}, {"", "grpck -r"},
		{"192.168.67.1    server", "getent hosts server"},
		{"192.168.67.2    printer", "getent hosts printer"},
		{"127.0.1.1       pc07.school.example pc07", "getent hosts pc07"},
		{"nfs", "findmnt --fstab -no FSTYPE /home"},
		{"masked (exit status 1)", "systemctl --root=/ is-enabled rsyslog"},
		{"masked (exit status 1)", "systemctl --root=/ is-enabled apt-daily.service"},
		{"masked (exit status 1)", "systemctl --root=/ is-enabled e2scrub_all.timer"},
		{"enabled", "systemctl --root=/ is-enabled ssh"},
		{"enabled", "systemctl --root=/ is-enabled logrotate.timer"},
		{"disabled (exit status 1)", "systemctl --root=/ is-enabled man-db.timer"},
		{"disabled (exit status 1)", "systemctl --root=/ is-enabled anydesk.service"},
		{"masked (exit status 1)", "systemctl --root=/ --user --global is-enabled gnome-software-service"},
		{"enabled", "systemctl --root=/ is-enabled rpcbind"}, // there is NFS
		{"5254006700140000", "head -c 16 /etc/machine-id"},
		{"pc07 192.168.67.1 192.168.67.1 9.9.9.9", "cat /etc/hook"},
		{"pc07", "cat /etc/own"},
		{"/etc/update-motd.d/50-slow", "ls /etc/update-motd.d/50-slow"}, // the drop-in's config_motd
		{"Storage=volatile", "sh -c \"systemd-analyze cat-config systemd/journald.conf | grep ^Storage=\""},
		{"LANG=de_DE.UTF-8", "grep LANG /etc/default/locale"},
		{"autologin-user=guest07", "grep ^autologin-user= /etc/lightdm/lightdm.conf"},
		{"autologin-user-timeout=0", "grep ^autologin-user-timeout= /etc/lightdm/lightdm.conf"},
		{"AutomaticLogin=guest07", "grep ^AutomaticLogin= /etc/gdm3/daemon.conf"},
		{"Session=xfce.desktop", "grep Session /etc/sddm.conf"},
		{"0", "stat -c %s /var/log/big.log"},
		{"0 22 * * * root /sbin/poweroff", "tail -n 1 /etc/cron.d/ltsp"},
		{"4", "grep -c >no< /usr/share/polkit-1/actions/org.freedesktop.login1.policy"},
		{"600", "stat -c %a /run/ltsp/applet/init.json"},
		{"", "sh -c \"udevadm verify /run/udev/rules.d/99-ltsp-swap.rules 2>&1 | grep -i error\" (exit status 1)"},
		{"K97x2goserver", "sh -c \"ls /etc/rc2.d | grep x2go\""},
	} {
		command, suffix, _ := strings.Cut(tt.command, " (")
		got := inRoot(t, root, append([]string{"/bin/sh", "-c"}, quoteGreater(command))...)
		if suffix != "" {
			tt.want = strings.TrimSpace(tt.want + " (" + suffix)
		}
		if got != tt.want {
			t.Errorf("%s:\n got %q\nwant %q", tt.command, got, tt.want)
		}
	}
	live(t, root, result)
}

// quoteGreater keeps ">no<" a word.
func quoteGreater(s string) string { return strings.ReplaceAll(s, ">no<", "'>no<'") }

// live changes the policy of the root that is in use.
func live(t *testing.T, root string, result Result) {
	conf := strings.NewReplacer(
		`HOSTS_PRINTER="192.168.67.2 printer"`, `HOSTS_SCANNER="192.168.67.3 scanner"`, `CRONTAB_OFF="0 22 * * * root /sbin/poweroff"`, "CUPS_SERVER=localhost",
		`AUTOLOGIN="pc/guest"`, "", `MASK_SYSTEM_SERVICES="e2scrub_all.timer"`, `MASK_SYSTEM_SERVICES="cron"`, "X_DRIVER=modesetting", "", "X_MODES=", "NOTHING=",
		`KEEP_SYSTEM_SERVICES="ssh logrotate.timer"`, `KEEP_SYSTEM_SERVICES="man-db.timer"`, "FSTAB_HOME=", "FSTAB_OTHER=",
	).Replace(schoolConf)
	cfg := schoolConfig(root, conf)
	cfg.Users = &agentproto.Users{Passwd: schoolUsers.Passwd + "new:x:1010:1010::/home/new:/bin/sh\n", Group: schoolUsers.Group + "new:x:1010:\n"}
	cfg.Users.Passwd = strings.Replace(cfg.Users.Passwd, "anna:x:1001:1001:Anna,,,:/home/anna:/bin/bash\n", "", 1)
	inRoot(t, root, "/usr/sbin/useradd", "-r", "made-later")
	begin := time.Now()
	result, err := Reapply(t.Context(), cfg, result)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("live: took %v, ran %v", time.Since(begin), result.Ran)
	for _, f := range result.Failures {
		t.Errorf("live: %s: %s: %s", f.Step, f.Name, f.Error)
	}
	want := []string{"config_fstab: needs a reboot because of FSTAB_HOME, FSTAB_OTHER"}
	if diff := cmp.Diff(want, result.Pending); diff != "" {
		t.Errorf("pending (-want +got):\n%s", diff)
	}
	for _, tt := range []struct{ want, command string }{
		{"new:x:1010:1010::/home/new:/bin/sh", "getent passwd new"},
		{"(exit status 2)", "getent passwd anna"},
		{"guest07:pamltsp=R3Vlc3Q=:::::::", "getent shadow guest07"},
		{"root:*", "getent shadow root | cut -d: -f1,2"},
		{"made-later", "getent passwd made-later | cut -d: -f1"},
		{"class:x:2000:guest07", "getent group class"},
		{"(exit status 2)", "getent hosts printer"},
		{"192.168.67.3    scanner", "getent hosts scanner"},
		{"PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin", "tail -n 1 /etc/cron.d/ltsp"},
		{"ServerName localhost", "cat /etc/cups/client.conf"},
		{"autologin-user=", "grep ^autologin-user= /etc/lightdm/lightdm.conf"},
		{"masked (exit status 1)", "systemctl --root=/ is-enabled cron"},
		{"(exit status 2)", "ls /etc/X11/xorg.conf 2>/dev/null"},
		{"enabled", "systemctl --root=/ is-enabled man-db.timer"},
		{"disabled (exit status 1)", "systemctl --root=/ is-enabled logrotate.timer"},
		{"disabled (exit status 1)", "systemctl --root=/ is-enabled ssh"},
		{"", "pwck -rq"}, {"", "grpck -r"},
	} {
		if got := inRoot(t, root, "/bin/sh", "-c", tt.command); got != tt.want {
			t.Errorf("live: %s:\n got %q\nwant %q", tt.command, got, tt.want)
		}
	}
}
