package nic

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/netlink"
)

// sysfs makes class/net with the given files.
func sysfs(t *testing.T, files map[string]string) string {
	t.Helper()
	sys := t.TempDir()
	for name, content := range files {
		file := filepath.Join(sys, "class/net", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return sys
}

func interfaces() map[string]string {
	return map[string]string{
		"lo/type": "772", "lo/address": "00:00:00:00:00:00", "lo/ifindex": "1",
		"br0/type": "1", "br0/address": "52:54:00:67:00:10", "br0/ifindex": "4",
		"eth0/type": "1", "eth0/address": "52:54:00:67:00:10", "eth0/ifindex": "2", "eth0/device/vendor": "0x1af4",
		"eth0/carrier": "1", "eth0/speed": "1000", "eth0/duplex": "full",
		"eth1/type": "1", "eth1/address": "52:54:00:67:00:11", "eth1/ifindex": "3", "eth1/device/vendor": "0x8086",
		"eth1/carrier": "0", "eth1/speed": "-1", "eth1/duplex": "unknown",
		"bad/type": "1", "bad/address": "x", "bad/ifindex": "9",
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	sys := sysfs(t, interfaces())
	mac := func(s string) net.HardwareAddr {
		m, err := net.ParseMAC(s)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	tests := []struct {
		name   string
		mac    net.HardwareAddr
		device string
		want   string
		err    string
	}{
		{"hardware before bridge", mac("52:54:00:67:00:10"), "", "eth0", ""},
		{"second", mac("52:54:00:67:00:11"), "eth0", "eth1", ""},
		{"unknown address", mac("52:54:00:67:00:12"), "eth0", "", "none has the address 52:54:00:67:00:12"},
		{"by name", nil, "eth1", "eth1", ""},
		{"unknown name", nil, "eth7", "", `none is called "eth7"`},
		{"ambiguous", nil, "", "", "2 to choose from"},
	}
	for _, tt := range tests {
		got, err := Find(sys, tt.mac, tt.device)
		if tt.err != "" {
			if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got %v, want %q", tt.name, err, tt.err)
			}
			continue
		}
		if err != nil || got.Name != tt.want {
			t.Errorf("%s: got %v, %v", tt.name, got, err)
		}
	}
	single := interfaces()
	for name := range single {
		if strings.HasPrefix(name, "eth1") {
			delete(single, name)
		}
	}
	if got, err := Find(sysfs(t, single), nil, ""); err != nil || got.Name != "eth0" || got.Index != 2 {
		t.Errorf("the only one: got %+v, %v", got, err)
	}
	if _, err := List(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no sysfs: %v", err)
	}
}

func TestLinkState(t *testing.T) {
	t.Parallel()
	sys := sysfs(t, interfaces())
	if !Carrier(sys, "eth0") || Carrier(sys, "eth1") || Carrier(sys, "gone") {
		t.Error("carrier is wrong")
	}
	for name, want := range map[string][2]any{"eth0": {1000, "full"}, "eth1": {0, ""}, "gone": {0, ""}} {
		if mbps, duplex := Speed(sys, name); mbps != want[0] || duplex != want[1] {
			t.Errorf("%s: %d %q", name, mbps, duplex)
		}
	}
}

// kernel records one request.
type kernel struct {
	kind, flags uint16
	data        []byte
	err         error
}

func (k *kernel) Execute(kind, flags uint16, data []byte) ([]netlink.Message, error) {
	k.kind, k.flags, k.data = kind, flags, data
	return nil, k.err
}

func attrs(t *testing.T, data []byte) map[uint16][]byte {
	t.Helper()
	list, err := netlink.ParseAttrs(data)
	if err != nil {
		t.Fatal(err)
	}
	m := map[uint16][]byte{}
	for _, a := range list {
		m[a.Type] = a.Data
	}
	return m
}

func TestSetAddress(t *testing.T) {
	t.Parallel()
	k := &kernel{}
	if err := SetAddress(k, 2, netip.MustParsePrefix("10.161.254.38/16")); err != nil {
		t.Fatal(err)
	}
	if k.kind != unix.RTM_NEWADDR || k.flags != unix.NLM_F_CREATE|unix.NLM_F_REPLACE || k.data[1] != 16 || k.data[4] != 2 {
		t.Errorf("request %+v", k)
	}
	want := map[uint16][]byte{
		unix.IFA_LOCAL: {10, 161, 254, 38}, unix.IFA_ADDRESS: {10, 161, 254, 38}, unix.IFA_BROADCAST: {10, 161, 255, 255},
		unix.IFA_CACHEINFO: {255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0},
	}
	if diff := cmp.Diff(want, attrs(t, k.data[unix.SizeofIfAddrmsg:])); diff != "" {
		t.Error(diff)
	}
	k.err = unix.ENODEV
	if err := SetAddress(k, 2, netip.MustParsePrefix("10.0.0.1/31")); !errors.Is(err, unix.ENODEV) {
		t.Errorf("got %v", err)
	}
}

func TestAddDefaultRoute(t *testing.T) {
	t.Parallel()
	network := netip.MustParsePrefix("192.168.67.20/24")
	for gateway, onlink := range map[string]bool{"192.168.67.254": false, "10.0.0.1": true} {
		k := &kernel{}
		if err := AddDefaultRoute(k, 2, network, netip.MustParseAddr(gateway)); err != nil {
			t.Fatal(err)
		}
		if got := k.data[8] == unix.RTNH_F_ONLINK; k.kind != unix.RTM_NEWROUTE || got != onlink {
			t.Errorf("%s: request %+v", gateway, k)
		}
		if got := attrs(t, k.data[unix.SizeofRtMsg:]); net.IP(got[unix.RTA_GATEWAY]).String() != gateway || got[unix.RTA_OIF][0] != 2 {
			t.Errorf("%s: attributes %v", gateway, got)
		}
	}
	if err := AddDefaultRoute(&kernel{err: unix.EEXIST}, 2, network, network.Addr()); err != nil {
		t.Errorf("a route that is there: %v", err)
	}
	if err := AddDefaultRoute(&kernel{err: unix.EPERM}, 2, network, network.Addr()); !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v", err)
	}
}

func TestUp(t *testing.T) {
	t.Parallel()
	k := &kernel{}
	if err := Up(k, 2); err != nil || k.kind != unix.RTM_NEWLINK || len(k.data) != unix.SizeofIfInfomsg || k.data[8] != 1 || k.data[12] != 1 {
		t.Errorf("request %+v, %v", k, err)
	}
	k.err = unix.EPERM
	if err := Up(k, 2); !errors.Is(err, unix.EPERM) {
		t.Errorf("got %v", err)
	}
}
