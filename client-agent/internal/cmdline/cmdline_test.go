package cmdline

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestArgs(t *testing.T) {
	t.Parallel()
	a := Parse(" initrd=initrd.img console=tty0 console=ttyS0,115200 quiet empty= dyndbg=\"file x +p\" \"key=with blank\" r8169.debug=16 " +
		"nbd.nbds_max=4 snd-hda.model=\"a b\" modprobe.blacklist=a,,b modprobe.blacklist=c a=b=c -- single\n")
	tests := []struct {
		key, want string
		ok        bool
	}{
		{"initrd", "initrd.img", true},
		{"console", "ttyS0,115200", true},
		{"quiet", "", true},
		{"empty", "", true},
		{"dyndbg", "file x +p", true},
		{"key", "with blank", true},
		{"a", "b=c", true},
		{"single", "", false},
		{"absent", "", false},
	}
	for _, tt := range tests {
		if got, ok := a.Get(tt.key); got != tt.want || ok != tt.ok || a.Has(tt.key) != tt.ok {
			t.Errorf("%s: got %q, %v", tt.key, got, ok)
		}
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, a.List("modprobe.blacklist")); diff != "" {
		t.Error(diff)
	}
	for module, want := range map[string]string{"r8169": "debug=16", "nbd": "nbds_max=4", "snd_hda": `model="a b"`, "e1000e": ""} {
		if got := a.Module(module); got != want {
			t.Errorf("module %s: got %q, want %q", module, got, want)
		}
	}
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr
	tests := []struct {
		name, line string
		want       IP
		err        string
	}{
		{"absent", "quiet", IP{DHCP: true}, ""},
		{"dhcp", "ip=dhcp", IP{DHCP: true}, ""},
		{"empty", "ip=", IP{DHCP: true}, ""},
		{"dracut", "ip=eth0:dhcp", IP{DHCP: true, Device: "eth0"}, ""},
		{"last one counts", "ip=dhcp ip=10.0.0.2::", IP{Client: netip.MustParsePrefix("10.0.0.2/8")}, ""},
		{"full", "ip=192.168.67.20:192.168.67.1:192.168.67.254:255.255.255.0:pc07:eth0:off:192.168.67.2:192.168.67.3:192.168.67.4",
			IP{
				Client: netip.MustParsePrefix("192.168.67.20/24"), Server: addr("192.168.67.1"), Gateway: addr("192.168.67.254"),
				Hostname: "pc07", Device: "eth0", DNS: []netip.Addr{addr("192.168.67.2"), addr("192.168.67.3")},
			}, ""},
		{"as iPXE writes it", "ip=10.161.254.38:10.161.0.1::255.255.0.0",
			IP{Client: netip.MustParsePrefix("10.161.254.38/16"), Server: addr("10.161.0.1")}, ""},
		{"no gateway as zeros", "ip=192.168.67.20::0.0.0.0:255.255.255.0", IP{Client: netip.MustParsePrefix("192.168.67.20/24")}, ""},
		{"class B", "ip=172.16.3.4", IP{Client: netip.MustParsePrefix("172.16.3.4/16")}, ""},
		{"class C", "ip=192.168.3.4:::0.0.0.0", IP{Client: netip.MustParsePrefix("192.168.3.4/24")}, ""},
		{"host name only", "ip=::::pc07:eth0:dhcp", IP{DHCP: true, Hostname: "pc07", Device: "eth0"}, ""},
		{"garbage", "ip=fast", IP{}, `"fast" is not an IPv4 address`},
		{"IPv6", "ip=[fd67::2]::::", IP{}, "is not an IPv4 address"},
		{"mask with holes", "ip=10.0.0.2:::255.0.255.0", IP{}, "ones are not in front"},
		{"mask garbage", "ip=10.0.0.2:::24", IP{}, "is not a netmask"},
		{"too many", "ip=1.2.3.4::::::::::", IP{}, "fields"},
		{"gateway garbage", "ip=10.0.0.2::x", IP{}, `"x" is not an IPv4 address`},
		{"DNS garbage", "ip=10.0.0.2:::::::x", IP{}, `"x" is not an IPv4 address`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse(tt.line).Network()
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %+v, error %v, want one about %q", got, err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			opts := cmp.Options{
				cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
				cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
			}
			if diff := cmp.Diff(tt.want, got, opts); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBootMAC(t *testing.T) {
	t.Parallel()
	if mac, err := Parse("BOOTIF=01-52-54-00-67-00-10").BootMAC(); err != nil || mac.String() != "52:54:00:67:00:10" {
		t.Errorf("got %v, %v", mac, err)
	}
	if mac, err := Parse("quiet").BootMAC(); err != nil || mac != nil {
		t.Errorf("absent: got %v, %v", mac, err)
	}
	if mac, err := Parse("BOOTIF=eth0").BootMAC(); err == nil {
		t.Errorf("garbage: got %v", mac)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`ip=192.168.67.20:192.168.67.1:192.168.67.254:255.255.255.0:pc07:eth0:off BOOTIF=01-52-54-00-67-00-10 a="b c" -- x`)
	f.Add(`ip=1.2.3.4:::240.0.0.0 "" = "="`)
	f.Fuzz(func(t *testing.T, line string) {
		a := Parse(line)
		ip, err := a.Network()
		if err == nil && ip.DHCP == ip.Client.IsValid() {
			t.Errorf("%q: DHCP %v with client %v", line, ip.DHCP, ip.Client)
		}
		if mac, err := a.BootMAC(); err == nil && mac != nil && len(mac) != 6 {
			t.Errorf("%q: MAC %v", line, mac)
		}
		a.Module("nbd")
		a.List("modprobe.blacklist")
	})
}
