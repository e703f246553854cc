//go:build component

package nic

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

// TestKernel gives a real interface an address whose lifetime is running out, and lets ip(8) tell what became of it.
func TestKernel(t *testing.T) {
	lab, err := testnet.New(t.Context(), testnet.Config{Prefix: "agnic"})
	if err != nil {
		t.Fatal(err)
	}
	defer lab.Close()
	lan, err := lab.Bridge("lan")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := lab.Host("pc", lan.At())
	if err != nil {
		t.Fatal(err)
	}
	prefix := netip.MustParsePrefix("192.168.67.20/24")
	if err := pc.IP("addr", "add", prefix.String(), "brd", "+", "dev", "lan", "valid_lft", "100", "preferred_lft", "100"); err != nil {
		t.Fatal(err)
	}
	err = pc.Do(t.Context(), func() error {
		iface, err := net.InterfaceByName("lan")
		if err != nil {
			return err
		}
		c, err := DialRoute()
		if err != nil {
			return err
		}
		defer c.Close()
		if err := Up(c, iface.Index); err != nil {
			return err
		}
		for range 2 { // the second time everything is there already
			if err := SetAddress(c, iface.Index, prefix); err != nil {
				return err
			}
			if err := AddDefaultRoute(c, iface.Index, prefix, netip.MustParseAddr("10.0.0.1")); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		"addr show dev lan": "inet 192.168.67.20/24 brd 192.168.67.255 scope global lan\n       valid_lft forever preferred_lft forever",
		"route show":        "default via 10.0.0.1 dev lan onlink",
	} {
		out, err := pc.Output(t.Context(), "ip", strings.Fields("-4 "+command)...)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.ReplaceAll(string(out), "proto boot ", ""), want) {
			t.Errorf("ip %s shows %s, want %q", command, out, want)
		}
	}
}
