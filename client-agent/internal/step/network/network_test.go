package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/testtree"
)

// within runs all functions of the step in a tree.
func within(t *testing.T, root string, values step.Values) *step.Context {
	t.Helper()
	c := &step.Context{
		Ctx: t.Context(), Root: rootdir.Root(root), Values: values, System: step.None{}, Memory: step.NewMemory(rootdir.Root(root), "/run/ltsp/applet", nil),
		Facts: step.Facts{Device: "eth0", MAC: net.HardwareAddr{0x52, 0x54, 0, 0x67, 0, 0x1a}, Addr: netip.MustParsePrefix("192.168.67.20/24")},
		Expand: func(text string) (string, error) {
			if strings.Contains(text, "bad") {
				return "", errors.New("does not parse")
			}
			return strings.NewReplacer("%{HOSTNAME#pc}", "07", "%", "$").Replace(text), nil
		},
	}
	c.Lookup = func(_ context.Context, servers []string, name string) (netip.Addr, error) {
		if name == "login.example" && cmp.Equal(servers, []string{"10.0.0.53"}) {
			return netip.MustParseAddr("10.0.0.99"), nil
		}
		return netip.Addr{}, errors.New("no such host")
	}
	for _, f := range Step().Functions {
		if f.Do == nil {
			continue
		}
		if err := f.Do(c); err != nil {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
	return c
}

func TestHostname(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ given, want string }{
		{"", "ltsp20"}, {"pc07", "pc07"}, {"PC07 and more", "PC07"}, {"pc%{IP}-%{MAC}", "pc20-52540067001a"}, {"x%{HOSTNAME#pc}", "x07"}, {"a.b", "a.b"},
		{"-x", "ltsp20"}, {"a\nb", "ltsp20"}, {strings.Repeat("x", 70), "ltsp20"}, {"#", "ltsp20"},
	} {
		root := testtree.New(t, nil)
		c := within(t, root, step.Values{"HOSTNAME": tt.given})
		if got := testtree.Read(t, root, "etc/hostname"); got != tt.want+"\n" || c.Values["HOSTNAME"] != tt.want {
			t.Errorf("%q: got %q, %q", tt.given, got, c.Values["HOSTNAME"])
		}
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		values step.Values
		want   []string
		remark bool
	}{
		{"nothing", step.Values{}, []string{"127.0.1.1\tltsp20"}, false},
		{"all", step.Values{"SERVER": "10.0.0.1", "SEARCH_DOMAIN": "a.example b.example", "HOSTS_B": "10.0.0.2 b", "HOSTS_A": "10.0.0.3 a\n10.0.0.4 c\n"},
			[]string{"127.0.1.1\tltsp20.a.example ltsp20", "10.0.0.1\tserver", "10.0.0.3 a", "10.0.0.4 c", "10.0.0.2 b"}, false},
		{"a name", step.Values{"SERVER": "login.example", "DNS_SERVER": "10.0.0.53"}, []string{"127.0.1.1\tltsp20", "10.0.0.99\tserver"}, false},
		{"a name of ours", step.Values{"SERVER": "box", "HOSTS_1": "# x\n10.0.0.8 a box"}, []string{"127.0.1.1\tltsp20", "10.0.0.8\tserver", "10.0.0.8 a box"}, false},
		{"a name that nobody knows", step.Values{"SERVER": "nobody"}, []string{"127.0.1.1\tltsp20"}, true},
	} {
		root := testtree.New(t, map[string]string{"etc/hosts": "1.2.3.4 of-the-image\n"})
		c := within(t, root, tt.values)
		var got []string
		for line := range strings.Lines(testtree.Read(t, root, "etc/hosts")) {
			if line[0] != '#' && line[0] != ':' && line[0] != 'f' && line != "\n" && !strings.Contains(line, "\tlocalhost") {
				got = append(got, strings.TrimSuffix(line, "\n"))
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" || (len(c.Remarks) > 0) != tt.remark {
			t.Errorf("%s: remarks %q (-want +got):\n%s", tt.name, c.Remarks, diff)
		}
	}
}

func TestResolver(t *testing.T) {
	t.Parallel()
	resolved := map[string]string{"etc/resolv.conf": "-> ../run/systemd/resolve/stub-resolv.conf", "usr/lib/systemd/systemd-resolved": "#!x"}
	dns := step.Values{"DNS_SERVER": "10.0.0.1 10.0.0.2", "SEARCH_DOMAIN": "school.example"}
	for _, tt := range []struct {
		name   string
		tree   map[string]string
		values step.Values
		file   string
		want   string
	}{
		{"plain", map[string]string{"etc/resolv.conf": "nameserver 9.9.9.9\n"}, dns, "etc/resolv.conf", "search school.example\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n"},
		{"dangling", map[string]string{"etc/resolv.conf": "-> /run/x"}, dns, "etc/resolv.conf", "search school.example\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n"},
		{"link without resolved", map[string]string{"etc/resolv.conf": "-> /run/systemd/resolve/stub-resolv.conf"}, dns, "etc/resolv.conf", "search school.example\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n"},
		{"resolved", resolved, dns, "etc/systemd/resolved.conf.d/ltsp.conf", "[Resolve]\nDNS=10.0.0.1 10.0.0.2\nDomains=school.example\n"},
		{"resolvconf", map[string]string{"etc/resolv.conf": "-> /run/resolvconf/x", "sbin/resolvconf": "#!x"}, dns, "etc/resolvconf/resolv.conf.d/base", "search school.example\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n"},
		{"DNS=1", nil, step.Values{"DNS": "1", "SERVER": "10.0.0.7", "DNS_SERVER": "1.1.1.1"}, "etc/resolv.conf", "nameserver 10.0.0.7\n"},
		{"none", map[string]string{"etc/resolv.conf": "nameserver 9.9.9.9\n"}, step.Values{}, "etc/resolv.conf", "nameserver 9.9.9.9\n"},
	} {
		root := testtree.New(t, tt.tree)
		within(t, root, tt.values)
		if diff := cmp.Diff(tt.want, strings.TrimPrefix(testtree.Read(t, root, tt.file), generated)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		if tt.name == "resolved" {
			if target, err := os.Readlink(root + "/etc/resolv.conf"); err != nil || !strings.Contains(target, "resolve") {
				t.Errorf("the link is gone: %q, %v", target, err)
			}
		}
	}
}

func TestNICIsLeftAlone(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, map[string]string{
		"etc/NetworkManager/NetworkManager.conf": "[main]\n", "etc/network/interfaces": "auto eth0\niface eth0 inet dhcp\n", "etc/dhcpcd.conf": "hostname\n",
		"sbin/ifdown": "#!/bin/sh\n", "etc/netplan/x.yaml": "", "lib/systemd/system-generators/netplan": "#!x",
	})
	within(t, root, step.Values{"DNS_SERVER": "10.0.0.1"})
	for name, want := range map[string]string{
		"etc/NetworkManager/conf.d/zz-ltsp-boot.conf": "# The root file system hangs on this NIC.\n[keyfile]\nunmanaged-devices+=mac:52:54:00:67:00:1a\n\n" +
			"[device-ltsp-boot]\nmatch-device=mac:52:54:00:67:00:1a\nmanaged=0\n\n[main]\nrc-manager=unmanaged\n",
		"etc/network/interfaces":                   "# The root file system hangs on eth0.\nauto lo\niface lo inet loopback\n\niface eth0 inet manual\n",
		"etc/dhcpcd.conf":                          "hostname\n\n# The root file system hangs on this NIC.\ndenyinterfaces eth0\n",
		"run/systemd/network/00-ltsp-boot.network": "# The root file system hangs on this NIC.\n[Match]\nMACAddress=52:54:00:67:00:1a\n\n[Link]\nUnmanaged=yes\n",
	} {
		if diff := cmp.Diff(want, testtree.Read(t, root, name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if target := rootdir.Root(root).Readlink("/sbin/ifdown"); target != "/bin/true" {
		t.Errorf("ifdown: %q", target)
	}
	for _, gone := range []string{"/etc/netplan", "/lib/systemd/system-generators/netplan"} {
		if rootdir.Root(root).Exists(gone) {
			t.Errorf("%s is there", gone)
		}
	}
	bare := testtree.New(t, nil)
	within(t, bare, step.Values{})
	for _, absent := range []string{"/etc/network", "/etc/NetworkManager", "/etc/dhcpcd.conf", "/sbin/ifdown"} {
		if rootdir.Root(bare).Exists(absent) {
			t.Errorf("%s was made though nobody reads it", absent)
		}
	}
}
