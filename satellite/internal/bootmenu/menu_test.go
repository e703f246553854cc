package bootmenu

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

const pc01 = "52:54:00:67:00:10"

// id makes a version ID that ends in b.
func id(b byte) manifest.ID {
	var v manifest.ID
	v[0], v[31] = 0xab, b
	return v
}

// local is a verified version of an image.
func local(image string, number uint64, b byte) Version {
	return Version{
		Image: image, Number: number, ID: id(b), Kind: manifest.Image, Arch: "amd64", Digest: [32]byte{0xd1, 31: b},
		DataBytes: 204173312, SizeBytes: 205795328, Verified: true,
		Artifacts: []string{manifest.Squashfs, manifest.Kernel, manifest.InitrdFull, manifest.InitrdSchool},
	}
}

// serving is a version that clients can boot while it arrives.
func serving(image string, number uint64, b byte) Version {
	v := local(image, number, b)
	v.Verified, v.Serving, v.BytesDone, v.BytesTotal = false, true, 1, 2
	return v
}

// coming is a version on its way.
func coming(image string, number uint64, b byte, done, total uint64) Version {
	return Version{Image: image, Number: number, ID: id(b), Kind: manifest.Image, BytesDone: done, BytesTotal: total}
}

func wanted(image string, number uint64, b byte, channels ...string) config.Version {
	return config.Version{Image: image, Number: number, ID: id(b), Kind: manifest.Image, Channels: channels}
}

// site is a site with two satellites, two subnets and some clients.
func site() *config.Desired {
	return &config.Desired{
		Revision: 4, Site: "school",
		Versions: []config.Version{
			wanted("lab", 7, 7, "stable"), wanted("lab", 8, 8, "testing"), wanted("lab", 3, 3), wanted("office", 2, 0x22, "stable"),
		},
		Subnets: []config.Subnet{
			{Name: "room1", CIDR: netip.MustParsePrefix("192.168.67.0/24"), DNS: []netip.Addr{netip.MustParseAddr("192.168.67.1")}, Domain: "school.example"},
			{Name: "room2", CIDR: netip.MustParsePrefix("192.168.68.0/24"), Boot: "office:stable"},
			{Name: "broken", CIDR: netip.MustParsePrefix("192.168.69.0/24"), Boot: "::"},
		},
		Clients: []config.Client{
			{MAC: pc01, Name: "pc01"},
			{MAC: "52:54:00:67:00:11", Name: "pinned", Boot: "lab@3"},
			{MAC: "52:54:00:67:00:12", Name: "tester", Boot: "lab:testing", KernelParameters: "console=ttyS0  quiet"},
			{MAC: "52:54:00:67:00:13", Name: "odd", Boot: "lab@"},
			{MAC: "52:54:00:67:00:14", Name: "elsewhere", Boot: "games:stable"},
			{MAC: "52:54:00:67:00:15", Name: "Evil || shell", KernelParameters: "a || shell"},
			{MAC: "no mac", Name: "nobody"},
		},
		Peers: []config.Peer{
			{Name: "a1", Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.67.1/24"), netip.MustParsePrefix("192.168.68.1/24")}},
			{Name: "a2", Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("192.168.68.2/24"), netip.MustParsePrefix("192.168.67.2/24")}},
			{Name: "silent"},
		},
		Boot: config.Policy{Boot: "lab:stable", KernelParameters: "panic=30", Initrd: "full"},
	}
}

const anchor = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"

func menu(t *testing.T, change func(*State)) *Menu {
	t.Helper()
	s := State{
		Desired: site(), Satellite: "a1", TrustAnchor: anchor,
		Versions: []Version{local("lab", 3, 3), local("lab", 7, 7), local("lab", 8, 8), local("office", 2, 0x22)},
	}
	if change != nil {
		change(&s)
	}
	m, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// ask is a request by a PC with the address A.B.C.20 in the subnet of local, which is this satellite's.
func ask(mac, local string) Request {
	l := netip.MustParseAddr(local)
	c := l.As4()
	c[3] = 20
	return Request{MAC: mac, Arch: "i386", Platform: "pcbios", Local: l, Client: netip.AddrFrom4(c)}
}

func TestChoose(t *testing.T) {
	t.Parallel()
	const room1, room2, room3 = "192.168.67.1", "192.168.68.1", "192.168.69.1"
	only := func(v ...Version) func(*State) { return func(s *State) { s.Versions = v } }
	tests := []struct {
		name    string
		change  func(*State)
		request Request
		want    string // IMAGE@NUMBER, or nothing
		source  string
		note    string // a part of it
		problem string // a part of it
	}{
		{"site default", nil, ask(pc01, room1), "lab@7", "site default", "", ""},
		{"unknown PC", nil, ask("52:54:00:67:00:99", room1), "lab@7", "site default", "", ""},
		{"PC without a MAC", nil, ask("", room1), "lab@7", "site default", "", ""},
		{"subnet", nil, ask(pc01, room2), "office@2", "subnet room2", "", ""},
		{"subnet by the satellite's address", nil, Request{MAC: pc01, Local: netip.MustParseAddr(room2)}, "office@2", "subnet room2", "", ""},
		{"subnet by a mapped address", nil, Request{MAC: pc01, Client: netip.MustParseAddr("::ffff:192.168.68.9")}, "office@2", "subnet room2", "", ""},
		{"pin beats subnet", nil, ask("52:54:00:67:00:11", room2), "lab@3", "client pin", "", ""},
		{"channel of the client", nil, ask("52:54:00:67:00:12", room2), "lab@8", "client channel", "", ""},
		{"unusable entry of the client", nil, ask("52:54:00:67:00:13", room1), "lab@7", "site default", "entry of the client is unusable", ""},
		{"unusable entry of the subnet", nil, ask(pc01, room3), "lab@7", "site default", "entry of the subnet broken is unusable", ""},
		{"image of another site", nil, ask("52:54:00:67:00:14", room1), "", "client channel", "", "image games is not assigned to this site"},
		{"nothing assigned", func(s *State) { s.Desired.Boot.Boot = "" }, ask(pc01, room1), "", "", "", "no image is assigned"},
		{"no configuration", func(s *State) { s.Desired = nil }, ask(pc01, room1), "", "", "", "no image is assigned"},

		{"newest while the wanted one comes", only(coming("lab", 7, 7, 1, 2), local("lab", 3, 3), local("lab", 2, 2)), ask(pc01, room1),
			"lab@3", "site default", "version 7 (lab:stable) is not complete at this satellite yet, so version 3, the newest complete one", ""},
		{"served last beats newest", func(s *State) {
			s.Versions = []Version{local("lab", 3, 3), local("lab", 8, 8)}
			s.Served = map[string]manifest.ID{"lab:stable": id(3)}
		}, ask(pc01, room1), "lab@3", "site default", "version 3, which was served last", ""},
		{"served last but gone", func(s *State) {
			s.Versions = []Version{local("lab", 8, 8)}
			s.Served = map[string]manifest.ID{"lab:stable": id(3)}
		}, ask(pc01, room1), "lab@8", "site default", "newest complete", ""},
		{"pin not here", only(local("lab", 7, 7)), ask("52:54:00:67:00:11", room1), "lab@7", "client pin", "version 3 (lab@3) is not complete", ""},
		{"channel unknown", func(s *State) { s.Desired.Boot.Boot = "lab:beta" }, ask(pc01, room1), "lab@8", "site default", "lab:beta is not known at this site", ""},
		{"image on its way", only(coming("lab", 7, 7, 300, 1000), local("office", 2, 0x22)), ask(pc01, room1), "", "site default", "", "image lab is not ready"},
		{"wanted one still arriving but served", only(serving("lab", 7, 7), local("lab", 3, 3)), ask(pc01, room1), "lab@7", "site default", "", ""},
		{"complete ones only", func(s *State) {
			s.Versions = []Version{serving("lab", 7, 7), local("lab", 3, 3)}
			s.Desired.Transfer.CompleteOnly = true
		}, ask(pc01, room1), "lab@3", "site default", "version 7 (lab:stable) is not complete at this satellite yet, so version 3", ""},
		{"no substitute that still arrives", only(serving("lab", 8, 8), local("lab", 3, 3)), ask(pc01, room1), "lab@3", "site default", "newest complete", ""},
		{"served without a kernel", only(Version{Image: "lab", Number: 7, ID: id(7), Kind: manifest.Image, Serving: true}), ask(pc01, room1),
			"", "site default", "", "image lab is not ready"},
		{"nothing on disk", only(), ask(pc01, room1), "", "site default", "", "image lab is not ready"},
		{"boot loaders are no image", only(Version{Image: "lab", Number: 7, ID: id(7), Kind: manifest.Bootloaders, Verified: true}), ask(pc01, room1),
			"", "site default", "", "image lab is not ready"},
		{"verified without a kernel", only(Version{Image: "lab", Number: 7, ID: id(7), Kind: manifest.Image, Verified: true}), ask(pc01, room1),
			"", "site default", "", "image lab is not ready"},
		{"another processor", nil, Request{MAC: pc01, Arch: "arm64"}, "", "site default", "", "not made for this PC's processor (arm64)"},
		{"UEFI of 64 bits", nil, Request{MAC: pc01, Arch: "x86_64"}, "lab@7", "site default", "", ""},
		{"unheard-of processor", nil, Request{MAC: pc01, Arch: "riscv64"}, "lab@7", "site default", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := menu(t, tt.change)
			c := m.Choose(tt.request)
			got := ""
			if c.Version != nil {
				got = c.Version.String()
			}
			if got != tt.want || c.Source != tt.source || !strings.Contains(c.Note, tt.note) || tt.note == "" && c.Note != "" || !strings.Contains(c.Problem, tt.problem) ||
				(c.Version == nil) != (c.Problem != "") {
				t.Errorf("got %q by %q, note %q, problem %q", got, c.Source, c.Note, c.Problem)
			}
			script, _ := m.Script(tt.request)
			checkScript(t, script)
		})
	}
}

func TestServers(t *testing.T) {
	t.Parallel()
	text := func(list []server) string {
		var out []string
		for _, s := range list {
			out = append(out, s.name+"="+s.addr.String())
		}
		return strings.Join(out, " ")
	}
	tests := []struct {
		name    string
		change  func(*State)
		request Request
		want    string
	}{
		{"self by the connection, peer by the subnet", nil, ask(pc01, "192.168.67.1"), "a1=192.168.67.1 a2=192.168.67.2"},
		{"the other subnet", nil, ask(pc01, "192.168.68.1"), "a1=192.168.68.1 a2=192.168.68.2"},
		{"behind a router", nil, Request{MAC: pc01, Local: netip.MustParseAddr("192.168.67.9"), Client: netip.MustParseAddr("10.0.0.1")},
			"a1=192.168.67.9 a2=192.168.67.2"},
		{"no local address", nil, Request{MAC: pc01}, "a1=192.168.67.1 a2=192.168.68.2"},
		{"this satellite is the second", func(s *State) { s.Satellite = "a2" }, ask(pc01, "192.168.67.2"), "a2=192.168.67.2 a1=192.168.67.1"},
		{"not in the list yet", func(s *State) { s.Satellite = "new" }, ask(pc01, "192.168.67.7"), "new=192.168.67.7 a2=192.168.67.2 a1=192.168.67.1"},
		{"turned by the MAC", func(s *State) { s.Satellite = "new" }, ask("52:54:00:67:00:11", "192.168.67.7"), "new=192.168.67.7 a1=192.168.67.1 a2=192.168.67.2"},
		{"unusable name", func(s *State) { s.Desired.Peers[1].Name = "a || b" }, ask(pc01, "192.168.67.1"), "a1=192.168.67.1"},
		{"no addresses at all", func(s *State) { s.Desired.Peers = nil }, Request{MAC: pc01}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := menu(t, tt.change)
			if got := text(m.servers(tt.request, m.subnet(tt.request))); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			script, _ := m.Script(tt.request)
			checkScript(t, script)
		})
	}
}

func TestCurrentAndLoader(t *testing.T) {
	t.Parallel()
	loaders := func(n uint64, b byte, files ...string) Version {
		return Version{Image: "bootloaders", Number: n, ID: id(b), Kind: manifest.Bootloaders, Artifacts: files, Verified: true}
	}
	m := menu(t, func(s *State) {
		s.Versions = append(s.Versions, loaders(1, 0x31, "undionly.kpxe", "old.efi"), loaders(2, 0x32, "undionly.kpxe"), loaders(3, 0x33, "undionly.kpxe"))
		s.Desired.Versions = append(s.Desired.Versions, config.Version{Image: "bootloaders", Number: 2, ID: id(0x32), Channels: []string{"stable"}})
	})
	for image, want := range map[string]string{"lab": "lab@7", "office": "office@2", "games": "", "bootloaders": ""} {
		v, ok := m.Current(image)
		if ok != (want != "") || ok && v.String() != want {
			t.Errorf("current version of %s: %s, %v, want %q", image, v.String(), ok, want)
		}
	}
	for file, want := range map[string]string{"undionly.kpxe": "bootloaders@2", "old.efi": "bootloaders@1", "kernel": ""} {
		v, ok := m.Loader(file)
		if ok != (want != "") || ok && v.String() != want {
			t.Errorf("loader %s: %s, %v, want %q", file, v.String(), ok, want)
		}
	}
}

func TestNewWantsAName(t *testing.T) {
	t.Parallel()
	if _, err := New(State{Satellite: "A1\n"}); err == nil {
		t.Error("a satellite without a usable name was accepted")
	}
	m := menu(t, nil)
	if diff := cmp.Diff([]any{"school", uint64(4), "a1"}, []any{m.Site(), m.Revision(), m.Satellite()}); diff != "" {
		t.Error(diff)
	}
	if _, ok := m.Ready(id(7)); !ok {
		t.Error("version 7 is verified")
	}
	if _, ok := m.Ready(id(99)); ok {
		t.Error("version 99 is unknown")
	}
}
