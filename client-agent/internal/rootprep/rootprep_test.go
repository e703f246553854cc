package rootprep

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/testtree"
)

var testMAC = net.HardwareAddr{0x52, 0x54, 0, 0x67, 0, 0x1a}

func TestHostname(t *testing.T) {
	t.Parallel()
	tests := []struct {
		addr  string
		names []string
		want  string
	}{
		{"192.168.67.20/24", nil, "ltsp20"},
		{"10.161.254.38/16", nil, "ltsp65062"},
		{"10.0.1.4/23", nil, "ltsp260"},
		{"10.1.2.3/8", nil, "ltsp66051"},
		{"10.1.2.3/32", nil, "ltsp0"},
		{"192.168.67.20/24", []string{"pc07", "other"}, "pc07"},
		{"192.168.67.20/24", []string{"", "from-dhcp.school.example"}, "from-dhcp"},
		{"192.168.67.20/24", []string{"bad name", "-x", "192 168"}, "ltsp20"},
	}
	for _, tt := range tests {
		if got := Hostname(netip.MustParsePrefix(tt.addr), tt.names...); got != tt.want {
			t.Errorf("%s %v: got %s, want %s", tt.addr, tt.names, got, tt.want)
		}
	}
}

func TestMachineID(t *testing.T) {
	t.Parallel()
	if got := MachineID(testMAC); got != "52540067001a00000000000000000000" {
		t.Errorf("got %s", got)
	}
}

func TestEditHosts(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, old, domain, want string }{
		{"empty", "", "", "127.0.0.1\tlocalhost\n127.0.1.1\tpc07\n::1\tlocalhost ip6-localhost ip6-loopback\n"},
		{"with a domain", "", "school.example", "127.0.0.1\tlocalhost\n127.0.1.1\tpc07.school.example pc07\n::1\tlocalhost ip6-localhost ip6-loopback\n"},
		{"foreign lines stay", "127.0.0.1 localhost\n127.0.1.1 builder # old\n\n# servers\n192.168.67.1 server\n::1 localhost ip6-localhost\nff02::1 ip6-allnodes", "",
			"127.0.1.1\tpc07\n127.0.0.1 localhost\n\n# servers\n192.168.67.1 server\n::1 localhost ip6-localhost\nff02::1 ip6-allnodes\n"},
		{"a comment is no entry", "#127.0.0.1 localhost\n127.0.0.1 other\n::1 localhost\n", "", "127.0.0.1\tlocalhost\n127.0.1.1\tpc07\n#127.0.0.1 localhost\n127.0.0.1 other\n::1 localhost\n"},
	}
	for _, tt := range tests {
		got := editHosts(tt.old, "pc07", tt.domain)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
		if again := editHosts(got, "pc07", tt.domain); strings.Count(again, "127.0.1.1") != 1 || strings.Count(again, "\n") != strings.Count(got, "\n") {
			t.Errorf("%s: a second edit adds something: %q", tt.name, again)
		}
	}
}

func TestEditFstab(t *testing.T) {
	t.Parallel()
	const off = "# not on a diskless client: "
	old := `# comment
UUID=1234 / ext4 errors=remount-ro 0 1
overlay / overlay rw 0 0
/dev/sda2 none swap sw 0 0
/swapfile none swap sw 0 0
LABEL=home	/home ext4 defaults 0 2
/dev/sr0 /media/cdrom udf,iso9660 user,noauto 0 0
tmpfs /tmp tmpfs defaults 0 0
server:/home /home nfs defaults 0 0
rpool/x /x zfs defaults 0 0
/srv/a /srv/b none bind 0 0

short
UUID=9 /boot/efi vfat umask=0077 0 1`
	want := ""
	for line := range strings.Lines(old) {
		for _, bad := range []string{"UUID=1234", "overlay", "/dev/sda2", "/swapfile", "LABEL=", "rpool", "UUID=9"} {
			if strings.HasPrefix(line, bad) {
				want += off
			}
		}
		want += line
	}
	if diff := cmp.Diff(want, editFstab(old)); diff != "" {
		t.Error(diff)
	}
	if got := editCrypttab("# c\n\nsda5_crypt UUID=1 none luks\n"); got != "# c\n\n"+off+"sda5_crypt UUID=1 none luks\n" {
		t.Errorf("got %q", got)
	}
}

func TestPlanResolver(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, target string
		content      []byte
		resolved     bool
		want         resolverPlan
	}{
		{"missing", "", nil, true, writeResolver},
		{"empty", "", []byte{}, false, writeResolver},
		{"only comments", "", []byte("# nameserver 1.2.3.4\nsearch x\n"), false, writeResolver},
		{"good", "", []byte("nameserver 192.168.67.1\n"), false, keepResolver},
		{"link to resolved's file", "../run/systemd/resolve/stub-resolv.conf", nil, true, tellResolved},
		{"link to resolved's file without resolved", "/run/systemd/resolve/stub-resolv.conf", nil, false, writeResolver},
		{"link to another program's file", "/run/NetworkManager/resolv.conf", nil, true, writeResolver},
	}
	for _, tt := range tests {
		if got := planResolver(tt.target, tt.content, tt.resolved); got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.want)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPrepareDesktop(t *testing.T) {
	t.Parallel()
	root, run := testtree.New(t, map[string]string{
		"etc/hosts":                              "127.0.0.1 localhost\n::1 localhost\n192.168.67.1 server\n",
		"etc/hostname":                           "-> /nowhere",
		"etc/fstab":                              "UUID=1 / ext4 defaults 0 1\n",
		"etc/crypttab":                           "",
		"etc/resolv.conf":                        "",
		"etc/NetworkManager/NetworkManager.conf": "[main]\n",
		"etc/network/interfaces":                 "auto eth0\niface eth0 inet dhcp\n",
		"etc/dhcpcd.conf":                        "hostname\n",
		"var/lib/dbus/machine-id":                "0123\n",
	}), t.TempDir()
	err := Prepare(Config{Root: root, Run: run, Hostname: "pc07", Domain: "school.example", MAC: testMAC, NIC: "eth0",
		DNS: []netip.Addr{netip.MustParseAddr("192.168.67.1"), netip.MustParseAddr("fd67::1")}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"etc/hostname":            "pc07\n",
		"etc/hosts":               "127.0.1.1\tpc07.school.example pc07\n127.0.0.1 localhost\n::1 localhost\n192.168.67.1 server\n",
		"etc/machine-id":          "52540067001a00000000000000000000\n",
		"var/lib/dbus/machine-id": "52540067001a00000000000000000000\n",
		"etc/fstab":               "# not on a diskless client: UUID=1 / ext4 defaults 0 1\n",
		"etc/resolv.conf":         "search school.example\nnameserver 192.168.67.1\nnameserver fd67::1\n",
		"etc/NetworkManager/conf.d/zz-ltsp-boot.conf": "# The root file system hangs on this NIC.\n[keyfile]\nunmanaged-devices+=mac:52:54:00:67:00:1a\n\n" +
			"[device-ltsp-boot]\nmatch-device=mac:52:54:00:67:00:1a\nmanaged=0\n\n[main]\nrc-manager=unmanaged\n",
		"etc/network/interfaces": "# The root file system hangs on eth0.\nauto lo\niface lo inet loopback\n\niface eth0 inet manual\n",
		"etc/dhcpcd.conf":        "hostname\n\n# The root file system hangs on this NIC.\ndenyinterfaces eth0\n",
	}
	for name, content := range want {
		if diff := cmp.Diff(content, read(t, filepath.Join(root, name))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if got := read(t, filepath.Join(run, "systemd/network/00-ltsp-boot.network")); !strings.Contains(got, "MACAddress=52:54:00:67:00:1a") {
		t.Errorf("networkd: %s", got)
	}
	if got := read(t, filepath.Join(run, "systemd/system/multi-user.target.wants/ltsp-agent.service")); !strings.Contains(got, "ExecStart=/run/ltsp/agent resident\n") {
		t.Errorf("unit: %s", got) // read through the link
	}
	if _, err := os.Lstat(filepath.Join(root, "run/systemd")); err == nil {
		t.Error("/run was written in the root, where the real /run will hide it")
	}
}

func TestPrepareResolved(t *testing.T) {
	t.Parallel()
	root, run := testtree.New(t, map[string]string{
		"etc/resolv.conf":                  "-> ../run/systemd/resolve/stub-resolv.conf",
		"usr/lib/systemd/systemd-resolved": "#!x",
		"var/lib/dbus/machine-id":          "-> /etc/machine-id",
	}), t.TempDir()
	cfg := Config{Root: root, Run: run, Hostname: "ltsp20", MAC: testMAC, NIC: "eth0", DNS: []netip.Addr{netip.MustParseAddr("192.168.67.1")}}
	if err := Prepare(cfg); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(run, "systemd/resolved.conf.d/ltsp.conf")); got != "[Resolve]\nDNS=192.168.67.1\n" {
		t.Errorf("got %q", got)
	}
	if target, err := os.Readlink(filepath.Join(root, "etc/resolv.conf")); err != nil || !strings.Contains(target, "systemd/resolve") {
		t.Errorf("the link is gone: %q, %v", target, err)
	}
	for _, absent := range []string{"etc/network", "etc/NetworkManager", "etc/dhcpcd.conf", "etc/fstab", "etc/crypttab"} {
		if _, err := os.Lstat(filepath.Join(root, absent)); err == nil {
			t.Errorf("%s was made though nobody reads it", absent)
		}
	}
	if target, err := os.Readlink(filepath.Join(root, "var/lib/dbus/machine-id")); err != nil || target != "/etc/machine-id" {
		t.Errorf("link to machine-id: %q, %v", target, err)
	}
}

func TestPrepareWithoutDNS(t *testing.T) {
	t.Parallel()
	root, run := testtree.New(t, map[string]string{"etc/resolv.conf": "# empty\n"}), t.TempDir()
	if err := Prepare(Config{Root: root, Run: run, Hostname: "ltsp20", MAC: testMAC, NIC: "eth0"}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(root, "etc/resolv.conf")); got != "# empty\n" {
		t.Errorf("got %q", got)
	}
}

func TestPrepareReportsFailure(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, map[string]string{"etc": "a file"})
	if err := Prepare(Config{Root: root, Run: t.TempDir(), Hostname: "x", MAC: testMAC, NIC: "eth0"}); err == nil {
		t.Error("no error though /etc cannot be written")
	}
}
