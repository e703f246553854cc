package bootmenu

import (
	"errors"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/hw"
)

func TestParseQuery(t *testing.T) {
	t.Parallel()
	const uuid = "67000000-0000-4000-8000-00000000001a"
	tests := []struct {
		name, query string
		want        Request
		bad         bool
	}{
		{"empty", "", Request{}, false},
		{"as iPXE asks", "mac=52:54:00:67:00:1a&uuid=" + uuid + "&arch=i386&platform=pcbios",
			Request{MAC: "52:54:00:67:00:1a", UUID: uuid, Arch: "i386", Platform: "pcbios"}, false},
		{"hyphens, upper case, again", "mac=52-54-00-67-00-1A&uuid=" + strings.ToUpper(uuid) + "&again=1", Request{MAC: "52:54:00:67:00:1a", UUID: uuid, Again: true}, false},
		{"escaped", "mac=52%3A54%3A00%3A67%3A00%3A1a", Request{MAC: "52:54:00:67:00:1a"}, false},
		{"picked from the menu", "boot=lab:stable", Request{Boot: "lab:stable"}, false},
		{"picked without a channel", "boot=lab", Request{Boot: "lab:stable"}, false},
		{"picked nonsense", "boot=lab||shell", Request{}, false},
		{"empty MAC", "mac=&uuid=x", Request{}, true},
		{"short MAC", "mac=52:54:00", Request{}, true},
		{"script in the MAC", "mac=52:54:00:67:00:1a%0ashell", Request{}, true},
		{"broadcast", "mac=ff:ff:ff:ff:ff:ff", Request{}, true},
		{"zero", "mac=00:00:00:00:00:00", Request{}, true},
		{"bad escape", "mac=%zz", Request{}, true},
		{"semicolon", "mac=52:54:00:67:00:1a;x=1", Request{}, true},
		{"too long", "x=" + strings.Repeat("a", MaxQuery), Request{}, true},
		{"odd values are dropped", "uuid=1234&arch=a%20b&platform=" + strings.Repeat("x", 17) + "&again=yes", Request{}, false},
		{"placeholder UUID", "uuid=00000000-0000-0000-0000-000000000000", Request{}, false},
		{"misplaced hyphens", "uuid=670000000-000-4000-8000-00000000001a", Request{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := ParseQuery(tt.query)
			if (err != nil) != tt.bad || err != nil && !errors.Is(err, ErrRequest) {
				t.Fatalf("error %v, want one: %v", err, tt.bad)
			}
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if _, err := ParseQuery("mac=x"); !errors.Is(err, hw.ErrNoMAC) {
		t.Errorf("error %v does not tell of the MAC", err)
	}
}

func TestCheckKernelParameters(t *testing.T) {
	t.Parallel()
	for s, ok := range map[string]bool{
		"":                                true,
		"console=ttyS0,115200 quiet a||b": true,
		`dyndbg="file x +p" x=a\b`:        true,
		"netconsole=@${ip}/eth0,@${srv}/": true,
		"quiet\nshell":                    false,
		"quiet\tx":                        false,
		"ü":                               false,
		"a || shell":                      false,
		"a && b":                          false,
		"a ; b":                           false,
		"#comment":                        false,
		`x \`:                             false,
		strings.Repeat("x", MaxKernelParameters+1): false,
	} {
		if err := CheckKernelParameters(s); (err == nil) != ok {
			t.Errorf("%.40q: %v", s, err)
		}
	}
}

func FuzzParseQuery(f *testing.F) {
	f.Add("mac=52:54:00:67:00:1a&uuid=67000000-0000-4000-8000-00000000001a&arch=i386&platform=pcbios&again=1")
	f.Add("mac=%35%32-54-00-67-00-1A&&=&;")
	f.Add("arch=||&platform=${x}")
	f.Fuzz(func(t *testing.T, query string) {
		r, err := ParseQuery(query)
		if err != nil {
			return
		}
		if r.MAC != "" {
			if mac, err := ParseMAC(r.MAC); err != nil || mac != r.MAC {
				t.Errorf("MAC %q is not in its canonical form", r.MAC)
			}
		}
		again := url.Values{"mac": {r.MAC}, "uuid": {r.UUID}, "arch": {r.Arch}, "platform": {r.Platform}}
		if r.MAC == "" {
			again.Del("mac")
		}
		if r.Boot != "" {
			again.Set("boot", r.Boot)
		}
		r2, err := ParseQuery(again.Encode())
		r2.Again = r.Again
		if err != nil || r2 != r {
			t.Errorf("%q: read again: %+v, %v, want %+v", query, r2, err, r)
		}
	})
}

// FuzzScript puts arbitrary texts wherever data enters a script.
func FuzzScript(f *testing.F) {
	f.Add("pc01", "quiet", "lab:stable", "room1", "i386")
	f.Add("x || shell", "a # b", "lab@9", "${x", "\n:label")
	f.Add("-n --x", "quiet", "lab:stable", "-r", "-")
	f.Fuzz(func(t *testing.T, name, params, boot, subnet, arch string) {
		m := menu(t, func(s *State) {
			s.Desired.Clients[0].Name = name
			s.Desired.Clients[0].KernelParameters = params
			s.Desired.Clients[0].Boot = boot
			s.Desired.Subnets[0].Name = subnet
			s.Desired.Site = name
			s.Desired.Peers[1].Name = name
			s.Conf = func(string, netip.Addr) Conf {
				return Conf{DefaultImage: boot, KernelParameters: params, Hostname: name, Titles: map[string]string{"LAB": subnet, "OFFICE_IMG": name}}
			}
		})
		script, _ := m.Script(Request{MAC: pc01, Arch: arch, Local: netip.MustParseAddr("192.168.67.1")})
		if strings.Contains(params, "${") {
			return // settings in kernel parameters are the admin's own
		}
		checkScript(t, script)
	})
}
