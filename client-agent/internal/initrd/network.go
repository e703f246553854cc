package initrd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/cmdline"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/dhcp4"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nic"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/uevent"
)

// Bounds of the network stage.
const (
	nicTimeout     = 60 * time.Second // for the driver, USB included
	carrierTimeout = 30 * time.Second // auto-negotiation needs about 3 s
	dhcpTimeout    = 60 * time.Second
	// rescan is the longest time between two looks at /sys while a NIC is waited for; events shorten it.
	rescan      = 500 * time.Millisecond
	carrierPoll = 20 * time.Millisecond
)

// network brings the boot NIC up with its address.
func (b *boot) network(ctx context.Context) error {
	want, err := b.args.Network()
	if err != nil {
		return err
	}
	mac, err := b.args.BootMAC()
	if err != nil {
		return err
	}
	route, err := nic.DialRoute()
	if err != nil {
		return err
	}
	defer route.Close()
	up := func(n nic.NIC) error { return nic.Up(route, n.Index) }
	w := nicWait{
		find:  func() (nic.NIC, error) { return findNIC(mac, want.Device, up) },
		sweep: func() { answerDevices(b.loader.Answer, b.scanner.New) },
		next:  b.events.Next, answer: func(alias string) { b.loader.Answer(alias) },
	}
	if b.nic, err = w.wait(nicTimeout); err != nil {
		return b.explainNoNIC(err)
	}
	if err := up(b.nic); err != nil {
		return err
	}
	if err := waitCarrier(ctx, b.nic.Name); err != nil {
		return err
	}
	if err := b.address(ctx, want); err != nil {
		return err
	}
	if err := nic.SetAddress(route, b.nic.Index, b.addr); err != nil {
		return err
	}
	if b.gateway.IsValid() {
		if err := nic.AddDefaultRoute(route, b.nic.Index, b.addr, b.gateway); err != nil {
			return err
		}
	}
	b.online = true
	b.log.Info("network is up", "nic", b.nic.Name, "mac", b.nic.MAC, "addr", b.addr)
	return nil
}

// findNIC looks for the boot NIC. Where nothing names it, all are brought up and the first with a link is taken.
func findNIC(mac net.HardwareAddr, name string, up func(nic.NIC) error) (nic.NIC, error) {
	n, err := nic.Find(sysPath, mac, name)
	if err == nil || mac != nil {
		return n, err
	}
	list, listErr := nic.List(sysPath)
	if listErr != nil {
		return nic.NIC{}, listErr
	}
	for _, n := range list {
		if err := up(n); err != nil {
			continue
		}
		if nic.Carrier(sysPath, n.Name) {
			return n, nil
		}
	}
	return nic.NIC{}, err
}

// nicWait waits for the NIC's driver, and meanwhile loads drivers for what turns up: a NIC behind USB or Thunderbolt needs several.
type nicWait struct {
	find   func() (nic.NIC, error)
	sweep  func() // looks for devices whose event was missed
	next   func(deadline time.Time) (uevent.Event, error)
	answer func(modalias string)
}

func (w nicWait) wait(limit time.Duration) (nic.NIC, error) {
	end := time.Now().Add(limit)
	for {
		n, err := w.find()
		if err == nil || !errors.Is(err, nic.ErrNotFound) || !time.Now().Before(end) {
			return n, err
		}
		until := time.Now().Add(rescan)
		for {
			event, err := w.next(until)
			if err != nil { // time is over, or events were lost: look everywhere
				w.sweep()
				break
			}
			if event.Modalias != "" {
				w.answer(event.Modalias)
			}
			if event.Subsystem == "net" {
				break
			}
		}
	}
}

// explainNoNIC adds what is there, so that somebody can see which driver is missing.
func (b *boot) explainNoNIC(err error) error {
	var there []string
	if list, listErr := nic.List(sysPath); listErr == nil {
		for _, n := range list {
			there = append(there, n.Name+" "+n.MAC.String())
		}
	}
	if len(there) == 0 {
		return fmt.Errorf("%w; no NIC has a driver (an image made with --initrd full has more of them)", err)
	}
	return fmt.Errorf("%w; there are %s", err, strings.Join(there, ", "))
}

func waitCarrier(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, carrierTimeout)
	defer cancel()
	tick := time.NewTicker(carrierPoll)
	defer tick.Stop()
	for !nic.Carrier(sysPath, name) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("network interface %s has no link after %v", name, carrierTimeout)
		}
	}
	return nil
}

// address takes the address from ip=, or asks for one.
func (b *boot) address(ctx context.Context, want cmdline.IP) error {
	var offer dhcp4.Offered
	if want.DHCP {
		var err error
		if offer, err = b.acquire(ctx); err != nil {
			return err
		}
		b.addr, b.gateway, b.lease = offer.Client, offer.Gateway, offer.Lease
		b.dhcpServer = offer.Server.String()
	} else {
		b.addr, b.gateway = want.Client, want.Gateway
	}
	if server, ok := b.args.Get("ltsp.dhcp"); ok {
		b.dhcpServer = server
	}
	b.names = []string{b.cfg.Hostname, want.Hostname, offer.Hostname}
	b.dns = chooseDNS(b.cfg.DNS, b.args.List("ltsp.dns"), want.DNS, offer.DNS)
	if b.domain = b.cfg.SearchDomain; b.domain == "" {
		b.domain = cleanDomain(offer.Domain)
	}
	return nil
}

func (b *boot) acquire(ctx context.Context) (dhcp4.Offered, error) {
	ctx, cancel := context.WithTimeout(ctx, dhcpTimeout)
	defer cancel()
	sock, err := dhcp4.Listen(ctx, b.nic.Name)
	if err != nil {
		return dhcp4.Offered{}, err
	}
	defer sock.Close()
	offer, err := dhcp4.Acquire(ctx, sock, b.nic.MAC)
	if err != nil {
		return dhcp4.Offered{}, fmt.Errorf("get an address on %s: %w", b.nic.Name, err)
	}
	return offer, nil
}

// chooseDNS returns the first list that has a usable server: policy, command line, ip=, DHCP.
func chooseDNS(policy, line []string, ip, dhcp []netip.Addr) []netip.Addr {
	for _, list := range [][]netip.Addr{parseAddrs(policy), parseAddrs(line), ip, dhcp} {
		if len(list) > 0 {
			return list
		}
	}
	return nil
}

func parseAddrs(texts []string) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		if a, err := netip.ParseAddr(text); err == nil && !a.IsUnspecified() && a.Zone() == "" {
			list = append(list, a)
		}
	}
	return list
}

// cleanDomain refuses what a DHCP server could use to write other lines into resolv.conf.
func cleanDomain(s string) string {
	s = strings.TrimRight(s, "\x00")
	if len(s) > 253 || slices.ContainsFunc([]byte(s), func(c byte) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_')
	}) {
		return ""
	}
	return s
}
