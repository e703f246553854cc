//go:build component

package ra

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/ipv6"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

// patience bounds each wait.
const patience = 30 * time.Second

// watched is a log whose lines can be waited for.
type watched struct {
	mu    sync.Mutex
	text  strings.Builder
	lines chan string
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	w.text.Write(b)
	w.mu.Unlock()
	w.lines <- string(b)
	return len(b), nil
}

func (w *watched) said() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func (w *watched) expect(t *testing.T, word string) {
	t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case s := <-w.lines:
			if strings.Contains(s, word) {
				return
			}
		case <-timeout:
			t.Fatalf("log never said %q:\n%s", word, w.said())
		}
	}
}

// hosts makes a LAN with a satellite and a client.
func hosts(t *testing.T) (sat, client *testnet.Host) {
	t.Helper()
	lab, err := testnet.New(t.Context(), testnet.Config{Prefix: "dhra", Log: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	lan, err := lab.Bridge("lan")
	if err != nil {
		t.Fatal(err)
	}
	if sat, err = lab.Host("sat", lan.At()); err != nil {
		t.Fatal(err)
	}
	if client, err = lab.Host("c1", lan.At()); err != nil {
		t.Fatal(err)
	}
	return sat, client
}

// run starts a server on a thread inside the host: Run opens all sockets itself.
func run(t *testing.T, sat *testnet.Host, cfg Config) *Server {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	end := make(chan error, 1)
	go func() { end <- sat.Do(ctx, func() error { return s.Run(ctx) }) }()
	<-s.Ready()
	t.Cleanup(func() {
		cancel()
		if err := <-end; err != nil {
			t.Error(err)
		}
	})
	return s
}

// solicitor is a client's ICMPv6 socket.
func solicitor(t *testing.T, h *testnet.Host) *ipv6.PacketConn {
	t.Helper()
	var conn *ipv6.PacketConn
	err := h.Do(t.Context(), func() error {
		raw, err := net.ListenPacket("ip6:ipv6-icmp", "::")
		if err != nil {
			return err
		}
		nic, err := net.InterfaceByName("lan")
		if err != nil {
			return err
		}
		conn = ipv6.NewPacketConn(raw)
		var only ipv6.ICMPFilter
		only.SetAll(true)
		only.Accept(ipv6.ICMPTypeRouterAdvertisement)
		return errors.Join(conn.SetICMPFilter(&only), conn.SetMulticastInterface(nic),
			conn.SetControlMessage(ipv6.FlagHopLimit|ipv6.FlagDst, true))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func ask(t *testing.T, conn *ipv6.PacketConn, hops int) {
	t.Helper()
	to := &net.IPAddr{IP: netip.IPv6LinkLocalAllRouters().AsSlice()}
	if _, err := conn.WriteTo([]byte{133, 0, 0, 0, 0, 0, 0, 0}, &ipv6.ControlMessage{HopLimit: hops}, to); err != nil {
		t.Fatal(err)
	}
}

func TestAnswersSolicitations(t *testing.T) {
	sat, client := hosts(t)
	s := run(t, sat, Config{Interfaces: []string{"lan"}})
	conn := solicitor(t, client)
	ask(t, conn, 64)
	ask(t, conn, 255)
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1500)
	n, cm, from, err := conn.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	ra := buf[:n]
	src, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP)
	if n != advertisementLen+8 || ra[0] != typeAdvertisement || ra[6] != 0 || ra[7] != 0 || ra[16] != optSourceLinkAddr {
		t.Errorf("advertisement: %x", ra)
	}
	if !src.IsLinkLocalUnicast() || cm.HopLimit != 255 || cm.Dst.IsMulticast() {
		t.Errorf("from %s to %s with hop limit %d", src, cm.Dst, cm.HopLimit)
	}
	// The kernel's own checksum test let it pass; the forwarded solicitation got no answer.
	if valid, invalid := testutil.ToFloat64(s.metrics.solicitations), testutil.ToFloat64(s.metrics.invalid); valid != 1 || invalid != 1 {
		t.Errorf("%g solicitations, %g invalid", valid, invalid)
	}
}

func TestWithoutIPv6(t *testing.T) {
	sat, client := hosts(t)
	if err := sat.Sysctl("net.ipv6.conf.lan.disable_ipv6=1"); err != nil {
		t.Fatal(err)
	}
	log := &watched{lines: make(chan string, 1000)}
	run(t, sat, Config{Interfaces: []string{"lan"}, Retry: 20 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(log, nil))})
	log.expect(t, "no IPv6 link-local address")
	if err := sat.Sysctl("net.ipv6.conf.lan.disable_ipv6=0"); err != nil {
		t.Fatal(err)
	}
	log.expect(t, "answering router solicitations")
	if n := strings.Count(log.said(), "no IPv6 link-local address"); n != 1 {
		t.Errorf("said %d times that IPv6 is off", n)
	}
	conn := solicitor(t, client)
	ask(t, conn, 255)
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := conn.ReadFrom(make([]byte, 1500)); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("no answer after IPv6 was switched on")
		}
		t.Fatal(err)
	}
}
