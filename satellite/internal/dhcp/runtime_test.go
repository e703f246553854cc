//go:build component

package dhcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

// runHere runs a server of this process on a thread inside the satellite's namespace, where Run opens the sockets.
func (l *lab) runHere() *Server {
	l.t.Helper()
	s, err := New(Config{Settings: l.spec.Settings, Log: &fakeLog{}, NoProbe: true})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	end := make(chan error, 1)
	go func() { end <- l.sat.Do(ctx, func() error { return s.Run(ctx) }) }()
	<-s.Ready()
	l.t.Cleanup(func() {
		cancel()
		if err := <-end; err != nil {
			l.t.Error(err)
		}
	})
	return s
}

// obtain runs a DHCP client until it has an address.
func (l *lab) obtain(h *testnet.Host) string {
	l.t.Helper()
	p, out := l.udhcpc(h, "-q", "-t", "60")
	addr := field(l.t, out.expect("bound"), "ip")
	l.stop(p, out)
	return addr
}

func TestInterfaceIsReplaced(t *testing.T) {
	l := newLab(t, Authoritative)
	l.runHere()
	c := l.host("c1")
	first := l.obtain(c)
	ip := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", append([]string{"-n"}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %q: %v: %s", args, err, out)
		}
	}
	sat, sw := l.sat.Namespace(), l.net.SwitchNamespace()
	ip(sat, "link", "del", "lan")
	ip(sat, "link", "add", "lan", "type", "veth", "peer", "name", "again0", "netns", sw)
	ip(sw, "link", "set", "again0", "master", l.lan.Name, "up")
	ip(sat, "addr", "add", "192.168.67.1/24", "dev", "lan")
	ip(sat, "link", "set", "lan", "up")
	if second := l.obtain(c); second != first {
		t.Errorf("%s before, %s after", first, second)
	}
}

func TestSettingsChangeUnderway(t *testing.T) {
	l := newLab(t, Off)
	s := l.runHere()
	settings := l.spec.Settings
	settings.Subnets[0].Mode = Authoritative
	settings.Subnets[0].RangeStart, settings.Subnets[0].RangeEnd = netip.MustParseAddr("192.168.67.60"), netip.MustParseAddr("192.168.67.60")
	c := l.host("c1")
	p, out := l.udhcpc(c, "-t", "60")
	out.expect("deconfig")
	if err := s.SetConfig(settings); err != nil {
		t.Fatal(err)
	}
	if a := field(t, out.expect("bound"), "ip"); a != "192.168.67.60" {
		t.Errorf("got %s", a)
	}
	l.stop(p, out)
	settings.Interfaces = nil
	if err := s.SetConfig(settings); err != nil {
		t.Fatal(err)
	}
	settings.Interfaces = l.spec.Settings.Interfaces
	settings.Subnets[0].RangeStart, settings.Subnets[0].RangeEnd = netip.MustParseAddr("192.168.67.70"), netip.MustParseAddr("192.168.67.70")
	if err := s.SetConfig(settings); err != nil {
		t.Fatal(err)
	}
	if a := l.obtain(l.host("c2")); a != "192.168.67.70" {
		t.Errorf("after the change: %s", a)
	}
}

// TestPortIsTaken has another DHCP server on the satellite itself, which then ends.
func TestPortIsTaken(t *testing.T) {
	l := newLab(t, Authoritative)
	var other net.PacketConn
	err := l.sat.Do(t.Context(), func() (err error) {
		other, err = net.ListenPacket("udp4", ":67")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var opened error
	err = l.sat.Do(t.Context(), func() error {
		k, err := openLink(l.spec.Settings.Interfaces[0])
		if err == nil {
			k.close()
		}
		opened = err
		return nil
	})
	if err != nil || !errors.Is(opened, unix.EADDRINUSE) {
		t.Errorf("opening beside another server: %v, %v", opened, err)
	}
	other.Close()
	l.runHere()
	l.obtain(l.host("c1"))
}

// BenchmarkSockets takes new PCs from DISCOVER to a durable lease through a relay's sockets, the server being a process of its
// own with its database on disk.
func BenchmarkSockets(b *testing.B) {
	for _, outstanding := range []int{1, 32, 200} {
		b.Run(fmt.Sprintf("outstanding=%d", outstanding), func(b *testing.B) { benchSockets(b, outstanding) })
	}
}

func benchSockets(b *testing.B, outstanding int) {
	l := newLab(b, Authoritative, func(s *serverSpec) {
		s.Settings = bigSubnet()
		s.Settings.Interfaces = []Interface{{Name: "lan", Addr: netip.MustParsePrefix("10.0.0.1/11")}}
		s.NoRA, s.Quiet = true, true
	})
	if err := l.sat.IP("addr", "add", "10.0.0.1/11", "dev", "lan"); err != nil {
		b.Fatal(err)
	}
	srv, _ := l.serve()
	relay, err := l.host("relay", "10.0.0.2/11").ListenPacket(b.Context(), "udp4", "10.0.0.2:67")
	if err != nil {
		b.Fatal(err)
	}
	defer relay.Close()
	if err := relay.(*net.UDPConn).SetReadBuffer(8 << 20); err != nil {
		b.Fatal(err)
	}
	before, err := srv.CPUTime()
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	if err := relayClients(relay, b.N, outstanding); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	after, err := srv.CPUTime()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "DORA/s")
	b.ReportMetric(float64((after-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

// relayClients keeps a number of exchanges going until n are done. Nothing is sent twice.
func relayClients(relay net.PacketConn, n, outstanding int) error {
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.0.0.1:67"))
	begun := 0
	begin := func() error {
		if begun++; begun > n {
			return nil
		}
		m := relayed(uint32(begun))
		_, err := relay.WriteTo(append(m, 53, 1, byte(dhcpv4.MessageTypeDiscover), 255), to)
		return err
	}
	for range outstanding {
		if err := begin(); err != nil {
			return err
		}
	}
	buf := make([]byte, 1500)
	for done := 0; done < n; {
		if err := relay.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		size, _, err := relay.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("%d of %d served: %w", done, n, err)
		}
		if kind(buf[:size]) == dhcpv4.MessageTypeAck {
			done++
			if err := begin(); err != nil {
				return err
			}
			continue
		}
		m := append(relayed(binary.BigEndian.Uint32(buf[4:])), 53, 1, byte(dhcpv4.MessageTypeRequest), 50, 4)
		m = append(append(m, buf[16:20]...), 54, 4, 10, 0, 0, 1, 255)
		if _, err := relay.WriteTo(m, to); err != nil {
			return err
		}
	}
	return nil
}

// kind finds option 53.
func kind(m []byte) dhcpv4.MessageType {
	for o := m[240:]; len(o) > 2 && o[0] != 255; o = o[2+int(o[1]):] {
		if o[0] == 53 {
			return dhcpv4.MessageType(o[2])
		}
	}
	return dhcpv4.MessageTypeNone
}

func relayed(n uint32) []byte {
	m := bootRequest(0, n)
	copy(m[24:], []byte{10, 0, 0, 2})
	return m
}
