//go:build e2e

package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testvm"
)

// tree writes the files of a policy and returns their directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(content), 0o644))
	}
	return dir
}

// people opens a school with a login host that has the users given, each with the password NAME-password.
func people(t *testing.T, prefix string, o school.Opening, users ...string) (*school.School, *school.LoginHost) {
	t.Helper()
	o.People = true
	s := open(t, prefix, o)
	h, err := s.LoginHost(t.Context())
	must(t, err)
	for _, name := range users {
		must(t, h.AddUser(t.Context(), name, password(name)))
	}
	must(t, h.StartNFS(t.Context()))
	must(t, s.Do(t.Context(), "site", "set", school.Site, "--login-host", school.LoginHostAddr))
	must(t, s.Do(t.Context(), "site", "pin", school.Site, "--fingerprint", fingerprint(t, h)))
	must(t, s.Await(t.Context(), "the satellite has told its key", func() error {
		lines, err := s.Ctl(t.Context(), "site", "login-key", school.Site)
		if err == nil {
			err = h.Authorize(t.Context(), "ltsp", strings.TrimSpace(lines))
		}
		return err
	}))
	return s, h
}

func password(name string) string { return name + "-password" }

// fingerprint is what ssh-keygen says of the host's ed25519 key.
func fingerprint(t *testing.T, h *school.LoginHost) string {
	t.Helper()
	out, err := h.Run(t.Context(), "ssh-keygen", "-l", "-f", "/etc/ssh/ssh_host_ed25519_key.pub")
	must(t, err)
	words := strings.Fields(out)
	if len(words) < 2 {
		t.Fatalf("ssh-keygen says %q", out)
	}
	return words[1]
}

// schoolConf is a school's ltsp.conf, of which TestPeople looks at each line's effect on the running PC.
const schoolConf = `# The school's own settings.
HOSTS_PRINTER="192.168.67.9 printer"

[server]
DNS=1

[clients]
SEARCH_DOMAIN="school.example"
DNS_SERVER="192.168.67.53"
FSTAB_HOME="server:/home /home nfs defaults,nolock 0 0"
FSTAB_SCRATCH="tmpfs /scratch tmpfs size=5m,x-mount.mkdir 0 0"
CRONTAB_OFF="30 15 * * * root /sbin/poweroff"
CUPS_SERVER="print.school.example"
PRE_INIT_CUPS="mkdir -p /etc/cups"
PRE_INIT_KEY="ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key"
POST_INIT_MARK="section_mark"
POST_INITRD_BOTTOM_MARK="echo bottom >\$rootmnt/etc/mark-bottom"
MASK_SYSTEM_SERVICES="nfs-blkmap.service"
DISABLE_SYSTEM_SERVICES="lightdm"
KEEP_SYSTEM_SERVICES="ssh"
PWMERGE_SUR="anna|bert|guest|late"
PWMERGE_SGR="pupils"
PASSWORDS_GUEST="guest/"
X_DRIVER="vesa"
X_MODES='"1024x768" "800x600"'
X_VIRTUAL="1024 768"
MULTISEAT=1
UDEV_SEAT_1_GRAPHICS="*/0000:00:1?.0/*"
LANG="de_DE.UTF-8"
LOCAL_SWAP=1
READ_AHEAD_KB=64
DEBUG_LOG=1
REMOTEAPPS="xeyes"
OMIT_FUNCTIONS="config_motd polkit_main"
INCLUDE=mixin

[mark]
echo "hook of $HOSTNAME, applet init, server $SERVER" >/etc/mark-init

[mixin]
HOSTS_MIXIN="192.168.67.10 mixin"

[52:54:00:67:01:31]
KERNEL_PARAMETERS="school.test=1"
INCLUDE=mixin

[192.168.67.3?|10.*]
HOSTS_GLOB="192.168.67.11 glob"
HOSTNAME=pc%{IP}
`

// dropIn is a script as LTSP runs them from /etc/ltsp/client/init.
const dropIn = `hello_cmdline() { echo "cmdline" >/etc/mark-dropin; }
hello_main() { echo "main $MAC_ADDRESS $IP_ADDRESS" >>/etc/mark-dropin; }
`

// TestPeople takes a school's ltsp.conf, users, homes and remote applications from one end to the other: a login host with OpenSSH and an NFS server
// that are not ours, a stock PC on whose console people log in, and an admin who changes things while it runs.
func TestPeople(t *testing.T) {
	s, h := people(t, "e2eppl", school.Opening{}, "anna", "carl", "guest")
	_, err := h.Run(t.Context(), "groupadd", "--users", "anna", "pupils")
	must(t, err)
	dir := tree(t, map[string]string{"ltsp.conf": schoolConf, "banner": "welcome\n", "client/init/60-hello.sh": dropIn})
	must(t, s.Do(t.Context(), "policy", "apply", dir, "--site", school.Site, "--note", "first", "--yes"))
	must(t, s.Do(t.Context(), "client", "set", mac("31"), "--site", school.Site, "--address", "192.168.67.31"))

	disk := filepath.Join(s.Dir, "swap.raw")
	swapDisk(t, disk)
	vm, client := boot(t, s, testvm.Machine{Name: "people", MAC: mac("31"), MemoryMiB: 768,
		ExtraArgs: []string{"-drive", "file=" + disk + ",format=raw,if=virtio"}})
	if client.Report.Hostname != "pc31" {
		t.Errorf("the PC calls itself %q, want pc31", client.Report.Hostname)
	}
	g := takeConsole(t, vm)
	t.Run("parameters", func(t *testing.T) { checkParameters(g.in(t)) })
	t.Run("log in", func(t *testing.T) { checkLogins(g.in(t), h) })
	t.Run("a new user logs in on the running PC", func(t *testing.T) { checkNewUser(g.in(t), h) })
	t.Run("a remote application", func(t *testing.T) { checkRemoteApp(g.in(t)) })
	t.Run("a new policy on the running PC", func(t *testing.T) { checkLivePolicy(g.in(t), s, dir) })
	t.Run("another room: homes by SSHFS, automatic login", func(t *testing.T) { checkRoom(t, s, h) })
	t.Run("explain", func(t *testing.T) { checkExplain(t, s) })
	t.Run("commands", func(t *testing.T) { checkCommands(g.in(t), s) })
	t.Run("login host away", func(t *testing.T) { checkLoginHostAway(g.in(t), s, h) })
	t.Run("login host with another key", func(t *testing.T) { checkOtherKey(g.in(t), s, h) })
}

// swapDisk makes a disk with one swap partition.
func swapDisk(t *testing.T, path string) {
	t.Helper()
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, 32<<20))
	part := exec.Command("sfdisk", "--quiet", path)
	part.Stdin = strings.NewReader("label: dos\nstart=2048, type=82\n")
	if out, err := part.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v: %s", err, out)
	}
	area := path + ".area"
	must(t, os.WriteFile(area, make([]byte, 31<<20), 0o600))
	if out, err := exec.Command("mkswap", area).CombinedOutput(); err != nil {
		t.Fatalf("mkswap: %v: %s", err, out)
	}
	if out, err := exec.Command("dd", "if="+area, "of="+path, "bs=1M", "seek=1", "conv=notrunc", "status=none").CombinedOutput(); err != nil {
		t.Fatalf("dd: %v: %s", err, out)
	}
}

// checkParameters looks at the system for the effect of each parameter.
func checkParameters(g guest) {
	for _, check := range [][3]string{
		{"HOSTNAME with %{IP}", "hostname", `^pc31$`},
		{"HOSTS_x above the first section", "getent hosts printer", `^192\.168\.67\.9 `},
		{"SERVER is the login host", "getent hosts server", `^192\.168\.67\.3 `},
		{"INCLUDE", "getent hosts mixin", `^192\.168\.67\.10 `},
		{"a section by address with a glob", "getent hosts glob", `^192\.168\.67\.11 `},
		{"SEARCH_DOMAIN", "hostname -f; grep ^search /etc/resolv.conf", `^pc31\.school\.example\nsearch school\.example$`},
		{"DNS_SERVER", "grep ^nameserver /etc/resolv.conf", `^nameserver 192\.168\.67\.53$`},
		{"FSTAB_HOME", "findmnt -n -o FSTYPE,SOURCE /home", `^nfs4? +server:/home$`},
		{"FSTAB_SCRATCH", "findmnt -n -o FSTYPE,OPTIONS /scratch", `^tmpfs .*size=5120k`},
		{"CRONTAB_x", "cat /etc/cron.d/ltsp", `^30 15 \* \* \* root /sbin/poweroff$`},
		{"CUPS_SERVER, PRE_INIT_x", "cat /etc/cups/client.conf", `^ServerName print\.school\.example$`},
		{"POST_INIT_x calls a section", "cat /etc/mark-init", `^hook of pc31, applet init, server 192\.168\.67\.3$`},
		{"POST_INITRD_BOTTOM_x", "cat /etc/mark-bottom", `^bottom$`},
		{"MASK_SYSTEM_SERVICES", "systemctl is-enabled nfs-blkmap.service", `^masked$`},
		{"services masked by default", "systemctl is-enabled apt-daily.service rsyslog.service; readlink /etc/systemd/system/apt-daily.service", `/dev/null`},
		{"DISABLE_SYSTEM_SERVICES", "systemctl is-enabled lightdm.service display-manager.service 2>&1; systemctl is-active lightdm", `^inactive$`},
		{"KEEP_SYSTEM_SERVICES", "systemctl is-enabled ssh.service", `^enabled$`},
		{"services disabled by default", "systemctl is-enabled man-db.timer systemd-random-seed.service logrotate.timer 2>&1; ls /etc/systemd/system/timers.target.wants /lib/systemd/system/sysinit.target.wants", `(?s)^(disabled|static|masked|Failed).*`},
		{"PWMERGE_SUR takes whom it names", "getent passwd anna guest", `^anna:x:`},
		{"PWMERGE_SUR leaves out others", "getent passwd carl; echo $?", `^2$`},
		{"PWMERGE_SGR", "getent group pupils", `^pupils:.*:anna$`},
		{"users have pamltsp instead of a hash", "grep ^anna: /etc/shadow", `^anna:pamltsp`},
		{"X_DRIVER, X_MODES, X_VIRTUAL", "cat /etc/X11/xorg.conf", `(?s)Driver\s+"vesa".*Virtual\s+1024 768|Virtual\s+1024 768.*Driver\s+"vesa"|"1024x768" "800x600"`},
		{"MULTISEAT, UDEV_SEAT_n_x", "cat /etc/udev/rules.d/72-ltsp-seats.rules", `DEVPATH=="\*/0000:00:1\?\.0/\*", ENV\{ID_SEAT\}="seat-1`},
		{"LOCAL_SWAP", "swapon --noheadings --show=NAME", `^/dev/vda1$`},
		{"READ_AHEAD_KB", "cat /sys/block/nbd0/queue/read_ahead_kb /sys/block/dm-0/queue/read_ahead_kb", `^64$`},
		{"DEBUG_LOG", "stat -c %a /run/ltsp/debug.log", `^600$`},
		{"REMOTEAPPS", "command -v xeyes; test -x /usr/local/bin/xeyes && echo there", `^/usr/local/bin/xeyes\nthere$`},
		{"OMIT_FUNCTIONS", "ls /etc/polkit-1/rules.d /usr/share/polkit-1/rules.d /var/lib/polkit-1 2>/dev/null | grep -c -i ltsp", `^0$`},
		{"KERNEL_PARAMETERS of a MAC section", "cat /proc/cmdline", `\bschool\.test=1\b`},
		{"drop-in script", "cat /etc/mark-dropin", `^main 52:54:00:67:01:31 192\.168\.67\.31`},
		{"files of the policy's tree", "cat /etc/ltsp/banner", `^welcome$`},
		{"machine-id", "cat /etc/machine-id", `^525400670131` + strings.Repeat("0", 20) + `$`},
		{"journal in memory", "systemd-analyze cat-config systemd/journald.conf | grep -i '^Storage='; ls -d /var/log/journal 2>&1", `^Storage=volatile`},
		{"a quick stop", "systemctl show -p DefaultTimeoutStopUSec", `=10s$`},
		{"processes end with their session", "systemd-analyze cat-config systemd/logind.conf | grep ^KillUserProcesses", `=yes$`},
		{"pam_exec is in place", "grep -c pam_exec /etc/pam.d/common-auth", `^[1-9]`},
		{"secrets are root's only", "find /run/ltsp /etc/ltsp -name '*.conf' -perm /077 -type f -exec grep -l PASSWORDS {} +; echo none", `^none$`},
	} {
		g.wants(check[0], check[1], check[2])
	}
}

// checkLogins logs people in by passwords that the login host checks.
func checkLogins(g guest, h *school.LoginHost) {
	if g.logIn("anna", "wrong") {
		g.t.Error("anna is in with a wrong password")
		g.logOut()
	}
	if g.logIn("carl", password("carl")) {
		g.t.Error("carl is in, whom PWMERGE_SUR does not name")
		g.logOut()
	}
	if !g.logIn("anna", password("anna")) {
		g.t.Fatalf("anna is not let in\nconsole:\n%s", g.Tail(30))
	}
	g.wants("who it is", "id -un; pwd", `^anna\n/home/anna$`)
	g.sh("echo 'written on the PC' >homework.txt; sync")
	text, err := os.ReadFile(filepath.Join(h.Root, "home/anna/homework.txt"))
	if err != nil || string(text) != "written on the PC\n" {
		g.t.Errorf("the login host has %q, %v", text, err)
	}
	g.logOut()
	if !g.logIn("guest", "") {
		g.t.Fatalf("guest, whom PASSWORDS_x lets in without one, is not let in\nconsole:\n%s", g.Tail(30))
	}
	g.logOut()
}

// checkNewUser adds somebody on the login host, who logs in on the PC that runs.
func checkNewUser(g guest, h *school.LoginHost) {
	must(g.t, h.AddUser(g.t.Context(), "late", password("late")))
	took := g.until("the new user is known", "getent passwd late", `^late:x:`, time.Minute)
	g.t.Logf("a user added on the login host is known to the running PC after %.1f s", took.Seconds())
	if !g.logIn("late", password("late")) {
		g.t.Fatalf("late is not let in\nconsole:\n%s", g.Tail(30))
	}
	g.logOut()
	_, err := h.Run(g.t.Context(), "userdel", "late")
	must(g.t, err)
	g.until("a user who is gone is not known any more", "getent passwd late; echo code=$?", `^code=2$`, time.Minute)
}

// checkRemoteApp runs xeyes from the login host in a window on the PC.
func checkRemoteApp(g guest) {
	if !g.logIn("anna", password("anna")) {
		g.t.Fatalf("anna is not let in\nconsole:\n%s", g.Tail(30))
	}
	defer g.logOut()
	g.sh("Xvfb :5 -screen 0 640x480x16 >/tmp/xvfb.log 2>&1 & export DISPLAY=:5")
	g.until("Xvfb runs", "xwininfo -root >/dev/null 2>&1 && echo up", `^up$`, time.Minute)
	g.sh("xeyes </dev/null >/tmp/xeyes.log 2>&1 & :") // as from a menu: without a terminal
	g.until("the window is there", "xwininfo -root -tree | grep xeyes; cat /tmp/xeyes.log", `"xeyes"`, 2*time.Minute)
	if out, err := exec.Command("pgrep", "-x", "xeyes").Output(); err != nil || len(out) == 0 { // the PC's own processes cannot be seen from here
		g.t.Errorf("no xeyes runs on the login host: %v", err)
	}
	g.sh("kill -9 %2 %1; wait")
}

// checkLivePolicy changes the policy under the running PC.
func checkLivePolicy(g guest, s *school.School, dir string) {
	conf := strings.Replace(schoolConf, `192.168.67.9 printer`, `192.168.67.99 printer`, 1)
	conf = strings.Replace(conf, `CUPS_SERVER="print.school.example"`, `CUPS_SERVER="other.school.example"`, 1)
	conf = strings.Replace(conf, `size=5m`, `size=6m`, 1)
	must(g.t, os.WriteFile(filepath.Join(dir, "ltsp.conf"), []byte(conf), 0o644))
	plan, err := s.Ctl(g.t.Context(), "policy", "plan", dir, "--site", school.Site)
	must(g.t, err)
	for _, want := range []string{"HOSTS_PRINTER", "CUPS_SERVER", "FSTAB_SCRATCH", "pc31"} {
		if !strings.Contains(plan, want) {
			g.t.Errorf("the plan does not speak of %s:\n%s", want, plan)
		}
	}
	began := time.Now()
	must(g.t, s.Do(g.t.Context(), "policy", "apply", dir, "--site", school.Site, "--yes"))
	g.until("the new line is in hosts", "getent hosts printer", `^192\.168\.67\.99 `, time.Minute)
	g.t.Logf("from policy apply to the running client: %.1f s", time.Since(began).Seconds())
	g.until("the new printer server", "cat /etc/cups/client.conf", `^ServerName other\.school\.example$`, time.Minute)
	must(g.t, s.Await(g.t.Context(), "what needs a reboot is told", func() error {
		out, err := s.Ctl(g.t.Context(), "client", "show", mac("31"))
		if err == nil && !strings.Contains(out, "FSTAB_SCRATCH") {
			err = fmt.Errorf("client show says %s", out)
		}
		return err
	}))
	must(g.t, s.Do(g.t.Context(), "policy", "undo", "--site", school.Site))
	g.until("the old line is back", "getent hosts printer", `^192\.168\.67\.9 `, time.Minute)
}

// roomConf is a room's ltsp.conf; it lies over schoolConf.
const roomConf = `[clients]
FSTAB_HOME="tmpfs /elsewhere tmpfs size=1m,x-mount.mkdir 0 0"
DISABLE_SYSTEM_SERVICES=""
AUTOLOGIN="guest"
RELOGIN_TIMEOUT=0
LIGHTDM_CONF="[Seat:*]
xserver-command=/usr/local/bin/headless-x
user-session=lesson"
POST_INIT_LESSON="section_lesson"

[lesson]
install -m 755 /etc/ltsp/lesson/headless-x /etc/ltsp/lesson/lesson-session /usr/local/bin/
install -D -m 644 /etc/ltsp/lesson/lesson.desktop /usr/share/xsessions/lesson.desktop
`

// headlessX is an X server that needs no graphics card; it drops what lightdm says about virtual terminals.
const headlessX = `#!/bin/sh
display=$1
auth=$(echo "$*" | sed -n 's/.*-auth \([^ ]*\).*/\1/p')
exec Xvfb "$display" -screen 0 640x480x16 -nolisten tcp -auth "$auth"
`

// checkRoom boots a PC of another room.
func checkRoom(t *testing.T, s *school.School, h *school.LoginHost) {
	dir := tree(t, map[string]string{"ltsp.conf": roomConf, "lesson/headless-x": headlessX,
		"lesson/lesson-session": "#!/bin/sh\nxeyes & exec sleep 100000\n", "lesson/lesson.desktop": "[Desktop Entry]\nName=Lesson\nExec=/usr/local/bin/lesson-session\nType=Application\n"})
	must(t, s.Do(t.Context(), "policy", "apply", dir, "--room", school.Site+"/lab2", "--yes"))
	must(t, s.Do(t.Context(), "client", "set", mac("32"), "--site", school.Site, "--room", "lab2", "--address", "192.168.67.32"))
	vm, _ := boot(t, s, testvm.Machine{Name: "room", MAC: mac("32"), MemoryMiB: 768})
	defer vm.Kill()
	g := takeConsole(t, vm)
	g.wants("the site's policy holds here too", "getent hosts printer", `^192\.168\.67\.9 `)
	g.wants("the room's comes last", "findmnt -n -o FSTYPE /elsewhere; findmnt -n /home", `^tmpfs$`)
	g.until("guest's session runs without anybody logging in", "ps -o user= -C lesson-session,sleep", `^guest$`, 3*time.Minute)
	g.wants("lightdm is what runs it", "systemctl is-active lightdm; loginctl list-sessions --no-legend", `(?s)^active.*guest`)

	if !g.logIn("anna", password("anna")) {
		t.Fatalf("anna is not let in\nconsole:\n%s", g.Tail(30))
	}
	g.wants("her home comes by SSHFS", "findmnt -n -o FSTYPE /home/anna", `^fuse\.sshfs$`)
	g.sh("echo 'by sshfs' >letter.txt; sync")
	if text, err := os.ReadFile(filepath.Join(h.Root, "home/anna/letter.txt")); err != nil || string(text) != "by sshfs\n" {
		t.Errorf("the login host has %q, %v", text, err)
	}
	g.logOut()
	g.until("her home is unmounted when she has gone", "findmnt -n /home/anna || echo gone", `^gone$`, 3*time.Minute)
	if g.logIn("anna", "wrong") {
		t.Error("anna is in with a wrong password")
		g.logOut()
	}
}

func checkExplain(t *testing.T, s *school.School) {
	out, err := s.Ctl(t.Context(), "client", "explain", mac("31"), "HOSTNAME", "FSTAB_HOME")
	must(t, err)
	for _, want := range []string{"pc%{IP}", "192.168.67.3?|10.*", "FSTAB_HOME", "clients", "site/" + school.Site} {
		if !strings.Contains(out, want) {
			t.Errorf("client explain does not speak of %q:\n%s", want, out)
		}
	}
}

func checkCommands(g guest, s *school.School) {
	out, err := s.Ctl(g.t.Context(), "client", "logs", mac("31"))
	if err != nil || !strings.Contains(out, "systemd") {
		g.t.Errorf("client logs: %v: %.300s", err, out)
	}
	if out, err := s.Ctl(g.t.Context(), "client", "run", mac("31"), "--", "touch", "/run/ran"); err == nil {
		g.t.Errorf("client run works though the site does not allow it: %s", out)
	}
	must(g.t, s.Do(g.t.Context(), "site", "set", school.Site, "--allow-run"))
	must(g.t, s.Await(g.t.Context(), "client run works", func() error {
		out, err := s.Ctl(g.t.Context(), "client", "run", mac("31"), "--", "cat", "/etc/hostname")
		if err == nil && !strings.Contains(out, "pc31") {
			err = fmt.Errorf("it printed %q", out)
		}
		return err
	}))
	must(g.t, s.Do(g.t.Context(), "client", "message", mac("31"), "--text", "the lesson ends"))
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	g.expect(ctx, `the lesson ends`)
}

// checkLoginHostAway wants a clear refusal, and PCs and people that go on.
func checkLoginHostAway(g guest, s *school.School, h *school.LoginHost) {
	must(g.t, h.StopSSH())
	if g.logIn("anna", password("anna")) {
		g.t.Error("anna is in though nobody could check her password")
		g.logOut()
	}
	if g.logIn("guest", "") {
		g.logOut()
	} else {
		g.t.Error("guest needs no login host and is not let in")
	}
	g.wants("accounts stay known", "getent passwd anna", `^anna:x:`)
	must(g.t, s.Await(g.t.Context(), "the admin is told", func() error {
		out, err := s.Ctl(g.t.Context(), "client", "events")
		if err == nil && !strings.Contains(out, "login-host") {
			err = fmt.Errorf("events: %s", out)
		}
		return err
	}))
	must(g.t, h.StartSSH(g.t.Context()))
	if !g.logIn("anna", password("anna")) {
		g.t.Fatalf("the login host is back and anna is not let in\nconsole:\n%s", g.Tail(30))
	}
	g.logOut()
}

// checkOtherKey puts another machine in the login host's place.
func checkOtherKey(g guest, s *school.School, h *school.LoginHost) {
	must(g.t, h.StopSSH())
	must(g.t, h.ChangeHostKeys(g.t.Context()))
	must(g.t, h.StartSSH(g.t.Context()))
	if g.logIn("anna", password("anna")) {
		g.t.Error("anna's password went to a host with another key")
		g.logOut()
	}
	must(g.t, s.Await(g.t.Context(), "the admin is told", func() error {
		out, err := s.Ctl(g.t.Context(), "client", "events")
		if err == nil && !strings.Contains(out, "host-key") {
			err = fmt.Errorf("events: %s", out)
		}
		return err
	}))
	must(g.t, s.Await(g.t.Context(), "the satellite refuses it too", func() error {
		info, err := s.SatelliteInfo(g.t.Context(), "sat1")
		if err == nil && !strings.Contains(strings.Join(info.Problems, "\n"), "host key") {
			err = fmt.Errorf("problems: %q", info.Problems)
		}
		return err
	}))
}
