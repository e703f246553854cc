package bootmenu

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

func saying(c Conf) func(*State) {
	return func(s *State) { s.Conf = func(string, netip.Addr) Conf { return c } }
}

func TestConfChoosesTheImage(t *testing.T) {
	t.Parallel()
	const pinned, tester = "52:54:00:67:00:11", "52:54:00:67:00:12"
	tests := []struct {
		name, image, mac, local string
		want, source, note      string
	}{
		{"image", "office", pc01, "192.168.67.1", "office@2", "ltsp.conf", ""},
		{"file of an image", "office.img", pc01, "192.168.67.1", "office@2", "ltsp.conf", ""},
		{"channel", "lab:testing", pc01, "192.168.67.1", "lab@8", "ltsp.conf", ""},
		{"number", "lab@3", pc01, "192.168.67.1", "lab@3", "ltsp.conf", ""},
		{"before the subnet", "lab", pc01, "192.168.68.1", "lab@7", "ltsp.conf", ""},
		{"behind the client's pin", "office", pinned, "192.168.67.1", "lab@3", "client pin", ""},
		{"behind the client's channel", "office", tester, "192.168.67.1", "lab@8", "client channel", ""},
		{"unknown image", "x86_64", pc01, "192.168.67.1", "lab@7", "site default", "DEFAULT_IMAGE of ltsp.conf, x86_64, is no image of this site"},
		{"nonsense", "a b", pc01, "192.168.67.1", "lab@7", "site default", "is no image of this site"},
		{"item", "disk", pc01, "192.168.67.1", "lab@7", "site default", ""},
		{"nothing", "", pc01, "192.168.67.1", "lab@7", "site default", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := menu(t, saying(Conf{DefaultImage: tt.image})).Choose(ask(tt.mac, tt.local))
			if c.Version == nil || c.Version.String() != tt.want || c.Source != tt.source || !strings.Contains(strings.ReplaceAll(c.Note, `"`, ""), tt.note) || tt.note == "" && c.Note != "" {
				t.Errorf("version %v by %s, note %q", c.Version, c.Source, c.Note)
			}
		})
	}
}

func TestPickedFromTheMenu(t *testing.T) {
	t.Parallel()
	picked := ask(pc01, "192.168.67.1")
	for boot, want := range map[string]string{"office:stable": "office@2 menu", "lab:stable": "lab@7 menu", "lab@3": "lab@7 site default", "games:stable": "lab@7 site default"} {
		picked.Boot = boot
		m := menu(t, saying(Conf{MenuTimeout: new(0)}))
		if c := m.Choose(picked); c.Version.String()+" "+c.Source != want {
			t.Errorf("%s: %s by %s, want %s", boot, c.Version, c.Source, want)
		}
		// Without a menu nobody can pick.
		if c := menu(t, nil).Choose(picked); c.Source != "site default" {
			t.Errorf("%s without a menu: by %s", boot, c.Source)
		}
	}
	picked.Boot = "office:stable"
	m := menu(t, saying(Conf{MenuTimeout: new(0)}))
	script, _ := m.Script(picked)
	if s := string(script); strings.Contains(s, "choose") || !strings.Contains(s, "platform=${platform}&boot=office:stable && goto initrd") {
		t.Errorf("script of what was picked:\n%s", s)
	}
	checkScript(t, script)
	if b, _, err := m.BootConfig(picked, token, noon); err != nil || b.Image != "office" {
		t.Errorf("boot configuration of %s, %v", b.Image, err)
	}
}

func TestKernelParametersOfConf(t *testing.T) {
	t.Parallel()
	tester := ask("52:54:00:67:00:12", "192.168.67.1")
	script, _ := menu(t, saying(Conf{KernelParameters: "loglevel=3  nomodeset"})).Script(tester)
	if !strings.Contains(string(script), " panic=30 loglevel=3 nomodeset console=ttyS0 quiet &&") {
		t.Errorf("script:\n%s", script)
	}
	script, _ = menu(t, saying(Conf{KernelParameters: "a || shell"})).Script(tester)
	if s := string(script); strings.Contains(s, "a || shell") || !strings.Contains(strings.ReplaceAll(s, "\necho ", " "), "KERNEL_PARAMETERS of ltsp.conf are unusable") {
		t.Errorf("script:\n%s", s)
	}
}

func TestHostnameOfConf(t *testing.T) {
	t.Parallel()
	for mac, want := range map[string]string{pc01: "pc01", "52:54:00:67:00:99": "library1"} {
		m := menu(t, saying(Conf{Hostname: "library1"}))
		b, _, err := m.BootConfig(ask(mac, "192.168.67.1"), token, noon)
		script, _ := m.Script(ask(mac, "192.168.67.1"))
		if err != nil || b.Hostname != want || !strings.Contains(string(script), "${netX/netmask}:"+want+" ") {
			t.Errorf("%s: %q, %v\n%s", mac, b.Hostname, err, script)
		}
	}
}

func TestMenus(t *testing.T) {
	t.Parallel()
	full := Conf{MenuTimeout: new(7000), Titles: map[string]string{"LAB_IMG": "Debian for the lab", "OFFICE": "-- Office || shell"}}
	shell := func(s *State) { s.Desired.Boot.Shell = true }
	for _, tt := range []struct {
		file    string
		conf    Conf
		change  func(*State)
		request Request
	}{
		{"menu.ipxe", full, nil, ask(pc01, "192.168.67.1")},
		{"menu-shell-disk.ipxe", Conf{MenuTimeout: new(0), DefaultImage: "disk"}, shell, ask(pc01, "192.168.67.1")},
		{"hidden-disk.ipxe", Conf{MenuTimeout: new(-1), DefaultImage: "disk"}, nil, ask(pc01, "192.168.67.1")},
		{"menu-not-ready.ipxe", full, func(s *State) { s.Versions = nil }, ask(pc01, "192.168.67.1")},
	} {
		t.Run(tt.file, func(t *testing.T) {
			t.Parallel()
			script, _ := menu(t, func(s *State) {
				saying(tt.conf)(s)
				if tt.change != nil {
					tt.change(s)
				}
			}).Script(tt.request)
			checkScript(t, script)
			golden(t, tt.file, script)
		})
	}
	plain, _ := menu(t, nil).Script(ask(pc01, "192.168.67.1"))
	tftp := ask(pc01, "192.168.67.1")
	tftp.TFTP = true
	for name, script := range map[string][]byte{
		"hidden":                             first(menu(t, saying(Conf{MenuTimeout: new(-1), Titles: full.Titles})).Script(ask(pc01, "192.168.67.1"))),
		"shell that the site does not allow": first(menu(t, saying(Conf{DefaultImage: "shell"})).Script(ask(pc01, "192.168.67.1"))),
	} {
		if strings.Contains(string(script), "choose") {
			t.Errorf("%s: there is a menu:\n%s", name, script)
		}
		if name == "hidden" {
			if diff := cmp.Diff(string(plain), string(script)); diff != "" {
				t.Errorf("a hidden menu changes the script:\n%s", diff)
			}
		}
	}
	if script := first(menu(t, saying(full)).Script(tftp)); strings.Contains(string(script), "choose") {
		t.Errorf("a menu by TFTP, which can't tell what was picked:\n%s", script)
	}
}

func first(script []byte, _ Choice) []byte { return script }

func TestMenuIsBounded(t *testing.T) {
	t.Parallel()
	m := menu(t, func(s *State) {
		saying(Conf{MenuTimeout: new(0)})(s)
		for i := range 40 {
			s.Desired.Versions = append(s.Desired.Versions, wanted("image"+string(rune('a'+i%26))+string(rune('a'+i/26)), 1, byte(100+i)))
		}
		s.Desired.Versions = append(s.Desired.Versions, config.Version{Image: "loaders", Kind: "bootloaders", Number: 1, ID: id(99), Channels: []string{"stable"}})
	})
	script, _ := m.Script(ask(pc01, "192.168.67.1"))
	checkScript(t, script)
	if n := strings.Count(string(script), "item --key"); n != 9+3 {
		t.Errorf("%d keys", n)
	}
	if s := string(script); !strings.Contains(s, "do-image lab\n") {
		t.Errorf("the default is no item:\n%s", s)
	}
	if n := strings.Count(string(script), "\nitem"); n != maxMenuImages+2+3 {
		t.Errorf("%d items", n)
	}
}
