//go:build component

package dhcp

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

func TestUdhcpcObtainsRenewsReleases(t *testing.T) {
	l := newLab(t, Authoritative)
	srv, events := l.serve()
	c := l.host("c1")
	p, out := l.udhcpc(c)
	bound := out.expect("bound")
	addr := field(t, bound, "ip")
	for name, want := range map[string]string{
		"mask": "24", "router": "192.168.67.1", "dns": "192.168.67.1", "domain": "school.example", "lease": "43200", "server": "192.168.67.1",
	} {
		if got := field(t, bound, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	events.expect("event ack", addr)
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if got := field(t, out.expect("renew"), "ip"); got != addr {
		t.Errorf("renewal gave %s instead of %s", got, addr)
	}
	events.expect("event ack", addr)
	if err := p.Signal(syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	out.expect("deconfig")
	l.stop(p, out)
	// The release has no answer; the next exchange of another client comes after it in the server's queue.
	p, out = l.udhcpc(l.host("c2"), "-q", "-n")
	out.expect("bound")
	l.stop(p, out)
	l.stop(srv, events)
	if got := stored(t, l.spec.DB)[netip.MustParseAddr(addr)]; !strings.HasSuffix(got, "released") {
		t.Errorf("after the release: %q", got)
	}
}

func TestDhclientObtainsRebootsReleases(t *testing.T) {
	l := newLab(t, Authoritative)
	srv, events := l.serve()
	c, dir := l.host("c1"), t.TempDir()
	bound := l.runDhclient(c, dir, "BOUND", "-1") // goes into the background once the lease is on its disk
	addr := field(t, bound, "ip")
	if field(t, bound, "router") != "192.168.67.1" || field(t, bound, "server") != "192.168.67.1" || field(t, bound, "boot") != "" {
		t.Errorf("bound: %s", bound)
	}
	l.runDhclient(c, dir, "STOP", "-x")
	if got := field(t, l.runDhclient(c, dir, "REBOOT", "-1"), "ip"); got != addr { // it has a lease on file: INIT-REBOOT
		t.Errorf("reboot gave %s instead of %s", got, addr)
	}
	l.runDhclient(c, dir, "RELEASE", "-r")
	p, out := l.udhcpc(l.host("c2"), "-q", "-n")
	out.expect("bound")
	l.stop(p, out)
	l.stop(srv, events)
	if got := stored(t, l.spec.DB)[netip.MustParseAddr(addr)]; !strings.HasSuffix(got, "released") {
		t.Errorf("after the release: %q", got)
	}
}

func TestTwoClientsAndAFullRange(t *testing.T) {
	l := newLab(t, Authoritative, func(s *serverSpec) {
		s.Settings.Subnets[0].RangeStart = netip.MustParseAddr("192.168.67.100")
		s.Settings.Subnets[0].RangeEnd = netip.MustParseAddr("192.168.67.101")
	})
	srv, events := l.serve()
	_, out1 := l.udhcpc(l.host("c1"))
	_, out2 := l.udhcpc(l.host("c2"))
	a, b := field(t, out1.expect("bound"), "ip"), field(t, out2.expect("bound"), "ip")
	if a == b {
		t.Fatalf("both clients got %s", a)
	}
	// Each reaches the satellite from its address: the frames that carried the answers did no harm to anybody's ARP cache.
	p, out := l.udhcpc(l.host("c3"), "-n", "-t", "2")
	if said := out.rest(); strings.Contains(said, "bound") {
		t.Errorf("third client of a range of two:\n%s", said)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Wait(ctx); err == nil {
		t.Error("udhcpc was content without an address")
	}
	l.stop(srv, events)
	if n := len(stored(t, l.spec.DB)); n != 2 {
		t.Errorf("%d leases stored", n)
	}
}

func TestKilledServerKeepsLeases(t *testing.T) {
	l := newLab(t, Authoritative)
	srv, _ := l.serve()
	p, out := l.udhcpc(l.host("c1"))
	addr := field(t, out.expect("bound"), "ip")
	if err := srv.Kill9(); err != nil {
		t.Fatal(err)
	}
	_, events := l.serve()
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if got := field(t, out.expect("renew"), "ip"); got != addr {
		t.Errorf("renewal after the crash gave %s instead of %s", got, addr)
	}
	events.expect("event ack", addr)
	_, out = l.udhcpc(l.host("c2"), "-r", addr)
	if got := field(t, out.expect("bound"), "ip"); got == addr {
		t.Errorf("%s was given twice", addr)
	}
}

// TestKillInTheMiddleLosesNoLease kills the server while 200 clients are being served: every address that a client was promised
// must be in the database, for that client.
func TestKillInTheMiddleLosesNoLease(t *testing.T) {
	l := newLab(t, Authoritative)
	srv, _ := l.serve()
	crowd := newCrowd(t, l.host("crowd"), 200)
	crowd.discover()
	crowd.run(func(acked int) bool { return acked < 60 })
	if err := srv.Kill9(); err != nil {
		t.Fatal(err)
	}
	crowd.collect() // what was on its way
	found := stored(t, l.spec.DB)
	for addr, mac := range crowd.acked {
		if found[addr] != mac.String()+" bound" {
			t.Errorf("%s was promised to %s; the database says %q", addr, mac, found[addr])
		}
	}
	if len(crowd.acked) < 60 {
		t.Errorf("only %d ACKs seen", len(crowd.acked))
	}
}

// TestCrowd switches many PCs on in one moment. None repeats anything.
func TestCrowd(t *testing.T) {
	for _, n := range []int{200, 1000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			l := newLab(t, Authoritative, func(s *serverSpec) {
				s.Settings.Interfaces[0].Addr = netip.MustParsePrefix("192.168.67.1/20")
				s.Settings.Subnets[0].Prefix = netip.MustParsePrefix("192.168.64.0/20")
				s.Settings.Subnets[0].RangeStart = netip.MustParseAddr("192.168.70.0")
				s.Settings.Subnets[0].RangeEnd = netip.MustParseAddr("192.168.75.255")
			})
			srv, events := l.serve()
			crowd := newCrowd(t, l.host("crowd"), n)
			crowd.discover()
			crowd.run(func(acked int) bool { return acked < n })
			if len(crowd.acked) != n || len(crowd.byMAC) != n {
				t.Errorf("%d addresses for %d clients", len(crowd.acked), len(crowd.byMAC))
			}
			l.stop(srv, events)
			if found := len(stored(t, l.spec.DB)); found != n {
				t.Errorf("%d leases stored", found)
			}
		})
	}
}

// TestProxyBesideDnsmasq: a foreign server gives the addresses, the satellite adds boot files and stays out of everything else.
func TestProxyBesideDnsmasq(t *testing.T) {
	l := newLab(t, Proxy)
	router := l.host("rt", "192.168.67.254/24")
	_, foreign := start(t, router, testnet.Proc{Path: "sh", Args: []string{"-c",
		"exec dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 --interface=lan --bind-interfaces --user=root --no-ping --log-dhcp " +
			"--leasefile-ro --dhcp-range=192.168.67.180,192.168.67.190,12h --log-facility=- 2>&1"}})
	foreign.expect("DHCP, IP range")
	srv, events := l.serve()

	dir := t.TempDir()
	_, out := start(t, l.host("c1"), l.dhclient(dir, "-d"))
	bound := out.expect("BOUND")
	if field(t, bound, "server") != "192.168.67.254" || field(t, bound, "boot") != "" {
		t.Errorf("plain client: %s", bound)
	}
	offers := offersFor(t, l.host("c2"), pxe(0))
	for _, m := range offers {
		switch m.ServerIdentifier().String() {
		case "192.168.67.1":
			if ip4(m.YourIPAddr).IsValid() || m.BootFileName != "ltsp/undionly.kpxe" {
				t.Errorf("the proxy's offer:\n%s", m.Summary())
			}
		case "192.168.67.254":
			if !ip4(m.YourIPAddr).IsValid() || m.BootFileName != "" {
				t.Errorf("the router's offer:\n%s", m.Summary())
			}
		}
	}
	said := l.stop(srv, events)
	if n := strings.Count(said, "event"); n != 2 || !strings.Contains(said, "event proxy-offer firmware 02:00:00:00:00:00") {
		t.Errorf("the satellite took part in more than the PXE client's discover:\n%s", said)
	}
	if n := len(stored(t, l.spec.DB)); n != 0 {
		t.Errorf("%d leases in proxy mode", n)
	}
}

// TestStrangerIsProbed has an address taken by a host that DHCP never heard of.
func TestStrangerIsProbed(t *testing.T) {
	l := newLab(t, Authoritative, func(s *serverSpec) {
		s.Settings.Subnets[0].RangeStart = netip.MustParseAddr("192.168.67.100")
		s.Settings.Subnets[0].RangeEnd = netip.MustParseAddr("192.168.67.101")
	})
	srv, events := l.serve()
	var taken string
	for n := range 2 { // both addresses are leased and released
		h := l.host(fmt.Sprintf("c%d", n))
		p, out := l.udhcpc(h, "-R")
		addr := field(t, out.expect("bound"), "ip")
		if n == 0 { // the one that will be reused first
			taken = addr
		}
		if err := p.Signal(syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		out.expect("deconfig")
		if err := h.IP("link", "set", "lan", "down"); err != nil {
			t.Fatal(err)
		}
	}
	l.host("squat", taken+"/24")
	_, out := l.udhcpc(l.host("c9"))
	if got := field(t, out.expect("bound"), "ip"); got == taken {
		t.Errorf("%s is in use and was given away", taken)
	}
	l.stop(srv, events)
	if who := stored(t, l.spec.DB)[netip.MustParseAddr(taken)]; !strings.HasSuffix(who, "declined") {
		t.Errorf("stranger's address is stored as %q", who)
	}
}
