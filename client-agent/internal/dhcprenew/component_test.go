//go:build component

package dhcprenew

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/dhcp4"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nic"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

// TestDnsmasq gets an address from dnsmasq as the initrd does, and renews it as the resident agent does: by unicast, and by broadcast where
// the server is not known.
func TestDnsmasq(t *testing.T) {
	lab, err := testnet.New(t.Context(), testnet.Config{Prefix: "agdhcp"})
	if err != nil {
		t.Fatal(err)
	}
	defer lab.Close()
	lan, err := lab.Bridge("lan")
	if err != nil {
		t.Fatal(err)
	}
	sat, err := lab.Host("sat", lan.At("192.168.67.1/24"))
	if err != nil {
		t.Fatal(err)
	}
	pc, err := lab.Host("pc", lan.At())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = sat.Start(ctx, testnet.Proc{Path: "dnsmasq", LogFile: t.TempDir() + "/dnsmasq.log", Args: []string{
		"--conf-file=/dev/null", "--keep-in-foreground", "--port=0", "--no-ping", "--leasefile-ro", "--user=root", "--pid-file=",
		"--dhcp-range=192.168.67.100,192.168.67.120,1h", "--dhcp-option=option:router,192.168.67.254",
	}})
	if err != nil {
		t.Fatal(err)
	}
	mac, offer := acquire(ctx, t, pc)
	if offer.Server != netip.MustParseAddr("192.168.67.1") || offer.Gateway != netip.MustParseAddr("192.168.67.254") ||
		offer.Client.Bits() != 24 || offer.Lease != time.Hour {
		t.Errorf("got %+v", offer)
	}
	for name, server := range map[string]netip.Addr{"renew": offer.Server, "rebind": {}} {
		status := renew(ctx, t, pc, mac, offer.Client.Addr(), server)
		left := time.Until(status.Lease.Expires)
		if status.Problem != "" || status.Lease.Server != offer.Server || left < 59*time.Minute || left > time.Hour {
			t.Errorf("%s: got %+v", name, status)
		}
	}
}

func acquire(ctx context.Context, t *testing.T, pc *testnet.Host) (net.HardwareAddr, dhcp4.Offered) {
	t.Helper()
	var mac net.HardwareAddr
	var offer dhcp4.Offered
	err := pc.Do(ctx, func() error {
		iface, err := net.InterfaceByName("lan")
		if err != nil {
			return err
		}
		mac = iface.HardwareAddr
		sock, err := dhcp4.Listen(ctx, "lan")
		if err != nil {
			return err
		}
		defer sock.Close()
		if offer, err = dhcp4.Acquire(ctx, sock, mac); err != nil {
			return err
		}
		c, err := nic.DialRoute()
		if err != nil {
			return err
		}
		defer c.Close()
		return nic.SetAddress(c, iface.Index, offer.Client)
	})
	if err != nil {
		t.Fatal(err)
	}
	return mac, offer
}

// renew runs until the first status with news.
func renew(ctx context.Context, t *testing.T, pc *testnet.Host, mac net.HardwareAddr, addr, server netip.Addr) Status {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var last Status
	Run(ctx, Config{MAC: mac, Addr: addr, Server: server,
		Open: func(ctx context.Context) (conn Conn, err error) {
			err = pc.Do(ctx, func() error {
				conn, err = dhcp4.Listen(ctx, "lan")
				return err
			})
			return conn, err
		},
		Changed: func(s Status) {
			if s.Lease != nil || s.Problem != "" {
				last = s
				cancel()
			}
		},
	})
	if last.Lease == nil && last.Problem == "" {
		t.Fatal("no news of the lease in time")
	}
	return last
}
