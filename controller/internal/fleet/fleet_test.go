package fleet_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// library is a fleet.Library of a few images.
type library struct {
	images   map[string]fleet.Image
	versions map[string]fleet.Version
}

func (l library) Image(name string) (fleet.Image, bool) {
	i, ok := l.images[name]
	return i, ok
}

func (l library) Version(image string, number uint64) (fleet.Version, bool) {
	v, ok := l.versions[fleet.VersionName(image, number)]
	return v, ok
}

// newLibrary has lab with versions 1 to 3 (stable 2, testing 3, same 2), office with version 1 (stable), and boot loaders 1 (stable).
func newLibrary() library {
	l := library{images: map[string]fleet.Image{}, versions: map[string]fleet.Version{}}
	add := func(name string, kind manifest.Kind, last uint64, channels map[string]uint64) {
		image := fleet.Image{Name: name, Kind: kind, LastNumber: last, Channels: map[string]fleet.Channel{}}
		for channel, n := range channels {
			image.Channels[channel] = fleet.Channel{Name: channel, Version: n}
		}
		l.images[name] = image
		for n := uint64(1); n <= last; n++ {
			l.versions[fleet.VersionName(name, n)] = fleet.Version{Image: name, Number: n, Kind: kind, ID: manifest.ID{name[0], byte(n)}}
		}
	}
	add("lab", manifest.Image, 3, map[string]uint64{"stable": 2, "testing": 3, "same": 2})
	add("office", manifest.Image, 1, map[string]uint64{"stable": 1})
	add("bootloaders", manifest.Bootloaders, 1, map[string]uint64{"stable": 1})
	return l
}

func TestParseReference(t *testing.T) {
	good := map[string]fleet.Reference{
		"lab:stable":     {Image: "lab", Channel: "stable"},
		"lab-12.5:x_y":   {Image: "lab-12.5", Channel: "x_y"},
		"lab@12":         {Image: "lab", Number: 12},
		"a@184467440737": {Image: "a", Number: 184467440737},
	}
	for text, want := range good {
		got, err := fleet.ParseReference(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "lab", ":", "lab:", ":stable", "lab@", "lab@0", "lab@01", "lab@-1", "lab@1x", "lab@99999999999999999999", "Lab:stable", "lab:sta ble", "lab:a:b", "lab@1:x"} {
		if r, err := fleet.ParseReference(text); !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%q: got %v, %v; want ErrInvalid", text, r, err)
		}
	}
}

func TestSiteCheck(t *testing.T) {
	tests := []struct {
		name string
		site fleet.Site
		want string // part of the error; empty if it is fine
	}{
		{"plain", fleet.Site{Name: "a"}, ""},
		{"image not there yet", fleet.Site{Name: "a", Images: []string{"future:stable"}}, ""},
		{"policy", fleet.Site{Name: "a", Boot: fleet.BootPolicy{Boot: "lab:stable", Initrd: "school", KernelParameters: "quiet"}}, ""},
		{"name", fleet.Site{Name: "a b"}, "name"},
		{"pinned image", fleet.Site{Name: "a", Images: []string{"lab@2"}}, "IMAGE:CHANNEL"},
		{"image twice", fleet.Site{Name: "a", Images: []string{"lab:stable", "lab:stable"}}, "twice"},
		{"no image", fleet.Site{Name: "a", Images: []string{""}}, "empty"},
		{"boot loaders", fleet.Site{Name: "a", Images: []string{"bootloaders:stable"}}, "cannot boot"},
		{"initrd", fleet.Site{Name: "a", Boot: fleet.BootPolicy{Initrd: "tiny"}}, "initrd"},
		{"line break in parameters", fleet.Site{Name: "a", Boot: fleet.BootPolicy{KernelParameters: "a\nshell"}}, "control character"},
		{"long parameters", fleet.Site{Name: "a", Boot: fleet.BootPolicy{KernelParameters: strings.Repeat("x", 1025)}}, "1025 bytes"},
		{"negative timeout", fleet.Site{Name: "a", Boot: fleet.BootPolicy{NBDTimeout: -1}}, "NBD timeout"},
		{"many images", fleet.Site{Name: "a", Images: make([]string, 65)}, "at most 64"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { checkError(t, test.site.Check(newLibrary()), test.want) })
	}
}

func checkError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("got %v, want no error", err)
		}
		return
	}
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want an error with %q", err, want)
	}
	if _, ok := errors.AsType[*fleet.Error](err); !ok {
		t.Errorf("%v is no fleet.Error", err)
	}
}

func lan() fleet.Subnet {
	return fleet.Subnet{
		Site: "a", Name: "lan", CIDR: netip.MustParsePrefix("10.1.0.0/24"), Mode: fleet.Authoritative, Gateway: netip.MustParseAddr("10.1.0.1"),
		Start: netip.MustParseAddr("10.1.0.100"), End: netip.MustParseAddr("10.1.0.200"), DNS: []netip.Addr{netip.MustParseAddr("10.1.0.1")}, Domain: "a.example",
	}
}

func TestSubnetCheck(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	others := []fleet.Subnet{{Name: "lan", CIDR: prefix("10.1.0.0/24")}, {Name: "other", CIDR: prefix("10.2.0.0/16")}}
	satellites := []fleet.Satellite{{Name: "a1"}, {Name: "a2", Revoked: true}}
	tests := []struct {
		name   string
		change func(*fleet.Subnet)
		want   string
	}{
		{"plain", func(*fleet.Subnet) {}, ""},
		{"one address", func(s *fleet.Subnet) { s.End = s.Start }, ""},
		{"proxy", func(s *fleet.Subnet) { s.Mode, s.Start, s.End = fleet.Proxy, netip.Addr{}, netip.Addr{} }, ""},
		{"owner", func(s *fleet.Subnet) { s.Satellite = "a1" }, ""},
		{"smallest", func(s *fleet.Subnet) {
			s.CIDR, s.Gateway, s.Start, s.End = prefix("10.9.0.0/30"), addr("10.9.0.1"), addr("10.9.0.2"), addr("10.9.0.2")
		}, ""},
		{"name", func(s *fleet.Subnet) { s.Name = "LAN" }, "name"},
		{"no network", func(s *fleet.Subnet) { s.CIDR = netip.Prefix{} }, "IPv4 network"},
		{"IPv6", func(s *fleet.Subnet) { s.CIDR = prefix("2001:db8::/64") }, "IPv4 network"},
		{"host bits", func(s *fleet.Subnet) { s.CIDR = prefix("10.1.0.7/24") }, "did you mean 10.1.0.0/24"},
		{"too small", func(s *fleet.Subnet) { s.CIDR = prefix("10.1.0.0/31") }, "prefix length"},
		{"too large", func(s *fleet.Subnet) { s.CIDR = prefix("0.0.0.0/0") }, "prefix length"},
		{"gateway elsewhere", func(s *fleet.Subnet) { s.Gateway = addr("10.3.0.1") }, "gateway"},
		{"gateway in the range", func(s *fleet.Subnet) { s.Gateway = addr("10.1.0.150") }, "lies in the range"},
		{"no range", func(s *fleet.Subnet) { s.Start = netip.Addr{} }, "wants a range"},
		{"range elsewhere", func(s *fleet.Subnet) { s.End = addr("10.1.1.5") }, "does not lie within"},
		{"broadcast in the range", func(s *fleet.Subnet) { s.End = addr("10.1.0.255") }, "does not lie within"},
		{"network in the range", func(s *fleet.Subnet) { s.Start = addr("10.1.0.0") }, "does not lie within"},
		{"backwards", func(s *fleet.Subnet) { s.Start, s.End = s.End, s.Start }, "ends before it begins"},
		{"IPv6 in the range", func(s *fleet.Subnet) { s.End = addr("2001:db8::1") }, "does not lie within"},
		{"large range", func(s *fleet.Subnet) {
			s.CIDR, s.Gateway, s.Start, s.End = prefix("11.0.0.0/8"), netip.Addr{}, addr("11.0.0.1"), addr("11.1.0.1")
		}, "65537 addresses"},
		{"range in proxy mode", func(s *fleet.Subnet) { s.Mode = fleet.Proxy }, "gives no addresses"},
		{"mode", func(s *fleet.Subnet) { s.Mode = "auto" }, "DHCP mode"},
		{"overlap", func(s *fleet.Subnet) {
			s.Name, s.CIDR, s.Gateway, s.Mode, s.Start, s.End = "x", prefix("10.2.3.0/24"), netip.Addr{}, fleet.Off, netip.Addr{}, netip.Addr{}
		}, "overlaps 10.2.0.0/16 of subnet other"},
		{"DNS", func(s *fleet.Subnet) { s.DNS = []netip.Addr{addr("::1")} }, "DNS server"},
		{"many DNS", func(s *fleet.Subnet) { s.DNS = make([]netip.Addr, 5) }, "at most 4"},
		{"domain", func(s *fleet.Subnet) { s.Domain = "a b" }, "domain"},
		{"lease time", func(s *fleet.Subnet) { s.LeaseTime = fleet.Duration(time.Second) }, "lease time"},
		{"pin", func(s *fleet.Subnet) { s.Boot = "lab@1" }, "IMAGE:CHANNEL"},
		{"unknown owner", func(s *fleet.Subnet) { s.Satellite = "a9" }, "no satellite a9"},
		{"revoked owner", func(s *fleet.Subnet) { s.Satellite = "a2" }, "no satellite a2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := lan()
			test.change(&s)
			checkError(t, s.Check(others, satellites, newLibrary()), test.want)
		})
	}
}

func TestClientCheck(t *testing.T) {
	subnets := []fleet.Subnet{lan(), {Name: "guests", CIDR: netip.MustParsePrefix("10.5.0.0/24"), Mode: fleet.Proxy}}
	others := []fleet.Client{{MAC: "52:54:00:00:00:01", Name: "pc1", Address: netip.MustParseAddr("10.1.0.50")}}
	tests := []struct {
		name   string
		client fleet.Client
		want   string
	}{
		{"plain", fleet.Client{Name: "pc2", Boot: "lab@3", Address: netip.MustParseAddr("10.1.0.51")}, ""},
		{"itself", fleet.Client{MAC: "52:54:00:00:00:01", Name: "pc1", Address: netip.MustParseAddr("10.1.0.50")}, ""},
		{"name", fleet.Client{Name: "PC 2"}, "name"},
		{"taken name", fleet.Client{Name: "pc1"}, "belongs to client 52:54:00:00:00:01"},
		{"taken address", fleet.Client{Address: netip.MustParseAddr("10.1.0.50")}, "belongs to client"},
		{"gateway's address", fleet.Client{Address: netip.MustParseAddr("10.1.0.1")}, "no address for a client"},
		{"broadcast address", fleet.Client{Address: netip.MustParseAddr("10.1.0.255")}, "no address for a client"},
		{"address in no subnet", fleet.Client{Address: netip.MustParseAddr("10.9.0.1")}, "no subnet of site"},
		{"address in a proxy subnet", fleet.Client{Address: netip.MustParseAddr("10.5.0.9")}, "gives no addresses"},
		{"version that is not there", fleet.Client{Boot: "lab@4"}, "no version lab@4"},
		{"boot loaders", fleet.Client{Boot: "bootloaders@1"}, "cannot boot"},
		{"reference", fleet.Client{Boot: "lab"}, "names no version"},
		{"parameters", fleet.Client{KernelParameters: "a\tb"}, "control character"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.client.MAC == "" {
				test.client.MAC = "52:54:00:00:00:02"
			}
			checkError(t, test.client.Check(others, subnets, newLibrary()), test.want)
		})
	}
}

func TestParseMAC(t *testing.T) {
	for _, text := range []string{"52:54:00:AB:cd:01", "52-54-00-ab-cd-01", "5254.00ab.cd01"} {
		if got, err := fleet.ParseMAC(text); err != nil || got != "52:54:00:ab:cd:01" {
			t.Errorf("%s: got %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "x", "52:54:00:ab:cd", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00", "02:00:5e:10:00:00:00:01"} {
		if got, err := fleet.ParseMAC(text); !errors.Is(err, fleet.ErrInvalid) {
			t.Errorf("%s: got %s, %v; want ErrInvalid", text, got, err)
		}
	}
}

func TestChannels(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	image := fleet.Image{Name: "lab"}
	point := func(n uint64) {
		t.Helper()
		if _, err := image.Point("stable", n, now); err != nil {
			t.Fatal(err)
		}
	}
	point(1)
	if err := image.Rollback("stable", now); !errors.Is(err, fleet.ErrState) {
		t.Errorf("rollback to nowhere: %v", err)
	}
	if err := image.Rollback("nothing", now); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("rollback of no channel: %v", err)
	}
	point(2)
	before := image
	point(3)
	if moved, err := image.Point("stable", 3, now); moved || err != nil {
		t.Errorf("pointing where it points: %v, %v", moved, err)
	}
	if before.Channels["stable"].Version != 2 {
		t.Error("the copy from before has changed too")
	}
	if err := image.Rollback("stable", now); err != nil || image.Channels["stable"].Version != 2 || image.Channels["stable"].Previous() != 1 {
		t.Errorf("after a rollback: %v, %v", image.Channels, err)
	}
	point(4)
	point(2)
	if err := image.Forget(2); !errors.Is(err, fleet.ErrInUse) {
		t.Errorf("forget what a channel points to: %v", err)
	}
	if err := image.Forget(4); err != nil { // 2 -> 4 -> 2 without the 4 in the middle leads nowhere
		t.Fatal(err)
	}
	if got := image.Channels["stable"]; got.Version != 2 || got.Previous() != 1 {
		t.Errorf("after 4 is gone: %+v", got)
	}
	for n := range uint64(100) {
		point(n + 10)
	}
	if n := len(image.Channels["stable"].History); n > 32 {
		t.Errorf("history of %d steps", n)
	}
	if _, err := image.Point("Not Good", 1, now); !errors.Is(err, fleet.ErrInvalid) {
		t.Errorf("bad name: %v", err)
	}
}

func TestRenewed(t *testing.T) {
	cert := func(s string) fleet.Certificate { return fleet.Certificate{Serial: s} }
	list := []fleet.Certificate{cert("a")}
	list = fleet.Renewed(list, "a", cert("b")) // a stays until b was seen
	list = fleet.Renewed(list, "b", cert("c"))
	if diff := cmp.Diff([]fleet.Certificate{cert("b"), cert("c")}, list); diff != "" {
		t.Errorf("after b was used (-want +got):\n%s", diff)
	}
	for i := range 100 {
		list = fleet.Renewed(list, "b", cert("n"+string(rune('0'+i%10))))
	}
	if len(list) > 8 || list[0].Serial != "b" || list[len(list)-1].Serial != "n9" {
		t.Errorf("after 100 renewals with b: %v", list)
	}
	if fleet.Accepts(list, "a") || !fleet.Accepts(list, "b") {
		t.Error("a is accepted or b is not")
	}
}

func TestBound(t *testing.T) {
	s := fleet.Status{Problems: make([]string, 100), Build: strings.Repeat("ü", 300) + "\x00", Versions: make([]fleet.VersionStatus, 1000), Addresses: []string{"a\x1b[31mb\u009bc"}}
	s.Bound()
	if len(s.Problems) != 16 || len(s.Build) > 256 || len(s.Versions) != 256 || s.Addresses[0] != "a [31mb c" {
		t.Errorf("bounded to %d problems, %d bytes, %d versions, address %q", len(s.Problems), len(s.Build), len(s.Versions), s.Addresses[0])
	}
}

func TestJSON(t *testing.T) {
	before := lan()
	before.LeaseTime = fleet.Duration(time.Hour)
	raw, err := json.Marshal(before)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), `"lease_time":"1h0m0s"`) || !strings.Contains(string(raw), `"cidr":"10.1.0.0/24"`) {
		t.Errorf("not for people: %s", raw)
	}
	var after fleet.Subnet
	if err := json.Unmarshal(raw, &after); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	v := fleet.Version{ID: manifest.ID{1}, Digest: fleet.Hash{2}}
	if raw, err = json.Marshal(v); err != nil || !strings.Contains(string(raw), `"digest":"02000000`) || !strings.Contains(string(raw), `"sha256":""`) {
		t.Errorf("version as %s, %v", raw, err)
	}
	var back fleet.Version
	if err := json.Unmarshal(raw, &back); err != nil || back != v {
		t.Errorf("version back: %+v, %v", back, err)
	}
}
