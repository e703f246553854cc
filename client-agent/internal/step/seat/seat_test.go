package seat

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/steptest"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/testtree"
)

func desktop() map[string]string {
	return map[string]string{
		"usr/sbin/gdm3": "#!x", "usr/sbin/lightdm": "#!x", "usr/bin/sddm": "#!x", "usr/sbin/slick-greeter": "#!x", "usr/sbin/arctica-greeter": "#!x",
		"etc/gdm3/daemon.conf": "[daemon]\n", "etc/lightdm/lightdm.conf": "[Seat:*]\nx=y", "etc/sddm.conf": "-> sddm/real.conf", "etc/sddm/real.conf": "[Theme]\n",
		"usr/share/xsessions/xfce.desktop": "", "usr/lib/lightdm/lightdm-greeter-session": "#!/bin/sh\nset -e\nexec \"$@\"\n",
		"etc/passwd": "root:x:0:0::/:/\nanna:x:1001:1001::/:/\nguest07:x:1007:1007::/:/\nguest08:x:1008:1008::/:/\n", "etc/group": "root:x:0:\n", "etc/gshadow": "root:*::\n",
		"etc/shadow": "root:*:::::::\n", "var/lib/AccountsService/users/old": "[User]\n", "var/lib/AccountsService/users/anna": "[User]\n", "etc/extra.conf": "from=file\n",
	}
}

// added is what was written behind the image's own text, comments left out.
func added(t *testing.T, root, name, own string) string {
	t.Helper()
	text, ok := strings.CutPrefix(testtree.Read(t, root, name), own)
	if !ok {
		t.Errorf("%s: the image's text is not at the beginning: %q", name, testtree.Read(t, root, name))
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		if line != "\n" && line[0] != '#' {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestDisplayManagers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name               string
		values             step.Values
		gdm, lightdm, sddm string
		remark             bool
	}{
		{"nobody", step.Values{}, "AutomaticLoginEnable=false\nAutomaticLogin=\n", "autologin-user=\nautologin-user-timeout=2\n", "User=\nSession=xfce.desktop\nRelogin=true\n", false},
		{"a user", step.Values{"AUTOLOGIN": "anna", "RELOGIN": "0"}, "AutomaticLoginEnable=true\nAutomaticLogin=anna\n", "autologin-user=anna\nautologin-user-timeout=0\n",
			"User=anna\nSession=xfce.desktop\nRelogin=false\n", false},
		{"by the name of the PC", step.Values{"AUTOLOGIN": "pc/guest", "RELOGIN_TIMEOUT": "9", "GDM3_CONF": "a=b", "LIGHTDM_CONF": "/etc/extra.conf", "SDDM_CONF": "[X11]\nc=d\n"},
			"AutomaticLoginEnable=true\nAutomaticLogin=guest07\na=b\n", "autologin-user=guest07\nautologin-user-timeout=9\nfrom=file\n", "User=guest07\nSession=xfce.desktop\nRelogin=true\n[X11]\nc=d\n", false},
		{"no such user", step.Values{"AUTOLOGIN": "guest"}, "AutomaticLoginEnable=false\nAutomaticLogin=\n", "autologin-user=\nautologin-user-timeout=2\n", "User=\nSession=xfce.desktop\nRelogin=true\n", true},
		{"not a line more", step.Values{"AUTOLOGIN": "anna\n[Seat:1]"}, "AutomaticLoginEnable=false\nAutomaticLogin=\n", "autologin-user=\nautologin-user-timeout=2\n", "User=\nSession=xfce.desktop\nRelogin=true\n", false},
	} {
		root := testtree.New(t, desktop())
		c := steptest.New(t, root, step.Values{"AUTOLOGIN": "guest08"})
		steptest.Do(t, c, DisplayManager()) // what other values did before leaves nothing
		c.Values, c.Remarks = tt.values, nil
		c.Values["HOSTNAME"] = "pc07"
		steptest.Do(t, c, DisplayManager())
		for _, f := range []struct{ file, own, want string }{
			{"etc/gdm3/daemon.conf", "[daemon]\n", "[daemon]\n" + tt.gdm},
			{"etc/lightdm/lightdm.conf", "[Seat:*]\nx=y\n", "[Seat:*]\ngreeter-show-manual-login=true\ngreeter-hide-users=false\n" + tt.lightdm},
			{"etc/sddm/real.conf", "[Theme]\n", "[Autologin]\n" + tt.sddm},
		} {
			if diff := cmp.Diff(f.want, added(t, root, f.file, f.own)); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", tt.name, f.file, diff)
			}
		}
		if (len(c.Remarks) > 0) != tt.remark {
			t.Errorf("%s: remarks %q", tt.name, c.Remarks)
		}
	}
	bare := testtree.New(t, map[string]string{"etc/passwd": ""})
	steptest.Do(t, steptest.New(t, bare, step.Values{"AUTOLOGIN": "x"}), DisplayManager())
	if got := testtree.Show(t, bare); len(got) != 1 {
		t.Errorf("an image without display manager: %v", got)
	}
}

func TestGreeterUsers(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, desktop())
	c := steptest.New(t, root, step.Values{"LTSPDM_USERS": "(anna|guest0[7-8])", "SLICK_CONF": "draw-grid=false"})
	steptest.Do(t, c, DisplayManager())
	got := testtree.Show(t, root)
	if got["etc/group"] != "root:x:0:\nltspdm:x:999:anna,guest07,guest08\n" || got["etc/gshadow"] != "root:*::\nltspdm:!::anna,guest07,guest08\n" {
		t.Errorf("group %q, gshadow %q", got["etc/group"], got["etc/gshadow"])
	}
	if _, ok := got["var/lib/AccountsService/users/guest07"]; !ok || got["var/lib/AccountsService/users/anna"] != "[User]\n" || got["var/lib/AccountsService/users/old"] != "" {
		t.Errorf("AccountsService: %v", got)
	}
	if text := added(t, root, "etc/lightdm/slick-greeter.conf", ""); text != "[Greeter]\ngroup-filter=ltspdm\ndraw-grid=false\n" {
		t.Errorf("slick: %q", text)
	}
	if text := got["usr/lib/lightdm/lightdm-greeter-session"]; !strings.Contains(text, "set -e\ndconf write") || !strings.HasSuffix(text, "\nexec \"$@\"\n") {
		t.Errorf("arctica: %q", text)
	}
	c.Values = step.Values{"LTSPDM_USERS": "anna"}
	steptest.Do(t, c, DisplayManager())
	if got := testtree.Read(t, root, "etc/group"); !strings.HasSuffix(got, "ltspdm:x:999:anna\n") {
		t.Errorf("fewer users: %q", got)
	}
	c.Values = step.Values{}
	steptest.Do(t, c, DisplayManager())
	if rootdir.Root(root).Exists("/etc/lightdm/slick-greeter.conf") || strings.Contains(testtree.Read(t, root, "usr/lib/lightdm/lightdm-greeter-session"), "dconf") {
		t.Error("the filter is not taken back")
	}
	c.Values = step.Values{"LTSPDM_USERS": "nobody"}
	steptest.Do(t, c, DisplayManager())
	if len(c.Remarks) == 0 {
		t.Error("nothing is said of an expression that matches nobody")
	}
}

func TestMultiseat(t *testing.T) {
	t.Parallel()
	const card1, card2 = "sys/devices/pci0000:00/0000:00:02.0/", "sys/devices/pci0000:00/0000:01:00.0/"
	for _, tt := range []struct {
		name   string
		sys    map[string]string
		values step.Values
		want   string
	}{
		{"nothing", nil, step.Values{}, ""},
		{"one card", map[string]string{card1 + "boot_vga": "1"}, step.Values{"MULTISEAT": "1"}, ""},
		{"two cards", map[string]string{card2 + "boot_vga": "0", card1 + "boot_vga": "1"}, step.Values{"MULTISEAT": "1"},
			"TAG==\"seat\", DEVPATH==\"/devices/pci0000:00/0000:00:02.0*\", ENV{ID_SEAT}=\"seat-1\"\nTAG==\"seat\", DEVPATH==\"*/usb?/?-[13579]/*\", ENV{ID_SEAT}=\"seat-1\"\n"},
		{"behind a hub", map[string]string{card2 + "boot_vga": "0", card1 + "boot_vga": "1", card1 + "usb1/1-1/1-1.3/x": ""}, step.Values{"MULTISEAT": "1"},
			"TAG==\"seat\", DEVPATH==\"/devices/pci0000:00/0000:00:02.0*\", ENV{ID_SEAT}=\"seat-1\"\nTAG==\"seat\", DEVPATH==\"*/usb?/?-?/?-?.[13579]/*\", ENV{ID_SEAT}=\"seat-1\"\n"},
		{"by hand", nil, step.Values{"UDEV_SEAT_2_SOUND": "*/sound/*", "UDEV_SEAT_1_USB": "*/usb1/*", "UDEV_SEAT_X": "bad", "UDEV_SEAT_3_QUOTE": `x", RUN+="/bin/sh`},
			"TAG==\"seat\", DEVPATH==\"*/usb1/*\", ENV{ID_SEAT}=\"seat-1\"\nTAG==\"seat\", DEVPATH==\"*/sound/*\", ENV{ID_SEAT}=\"seat-2\"\n"},
	} {
		root := testtree.New(t, tt.sys)
		testtree.Put(t, root, "etc/udev/rules.d/72-ltsp-seats.rules", "of another machine")
		testtree.Put(t, root, "sys/devices/", "")
		steptest.Do(t, steptest.New(t, root, tt.values), Multiseat())
		if got := testtree.Show(t, root)["etc/udev/rules.d/72-ltsp-seats.rules"]; got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
}
