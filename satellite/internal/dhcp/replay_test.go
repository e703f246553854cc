package dhcp

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

// theirs is what a reply of the captured dnsmasq says, in the places where the client looks.
type theirs struct {
	kind   dhcpv4.MessageType
	to     netip.AddrPort
	m      *dhcpv4.DHCPv4
	answer bool
}

// TestReplay gives the captured clients' packets to the policy and holds its answers against those of the dnsmasq in the capture.
func TestReplay(t *testing.T) {
	for _, name := range pcapFiles(t) {
		t.Run(strings.TrimPrefix(name, "testdata/"), func(t *testing.T) {
			mode, addr := Authoritative, "192.168.67.23"
			if strings.Contains(name, "proxy") {
				mode, addr = Proxy, "192.168.67.187"
			}
			b := newBench(t, mode, func(s *Settings) {
				if mode == Authoritative { // dnsmasq's choice in the capture
					s.Reservations = []lease.Reservation{{MAC: lease.MAC{0x52, 0x54, 0, 0x67, 0, 0x10}, Addr: netip.MustParseAddr(addr)}}
				}
			})
			replay(t, b, mustPcap(t, name))
		})
	}
}

func replay(t *testing.T, b *bench, all []captured) {
	asked, answered := 0, 0
	for i, c := range all {
		if c.dst.Port() != serverPort && c.dst.Port() != pxePort || c.src.Addr() == netip.MustParseAddr("192.168.67.1") {
			continue
		}
		m, err := dhcpv4.FromBytes(c.payload)
		if err != nil || m.OpCode != dhcpv4.OpcodeBootRequest {
			continue
		}
		asked++
		out := b.hear(c.payload, datagram{port: c.dst.Port(), src: c.src, dst: c.dst.Addr()})
		want := reference(all[i+1:], m)
		if (out.reply != nil) != want.answer {
			t.Errorf("packet %d, %s: dnsmasq answers: %t, we: %+v", i, m.MessageType(), want.answer, out)
			continue
		}
		if out.reply != nil {
			answered++
			compare(t, i, m, out.reply, want)
		}
	}
	if asked == 0 || answered == 0 {
		t.Errorf("%d packets replayed, %d answered", asked, answered)
	}
}

// reference finds the satellite's answer to m: the next packet of 192.168.67.1 in the same transaction, if it comes before the
// client's next word.
func reference(rest []captured, m *dhcpv4.DHCPv4) theirs {
	for _, c := range rest {
		r, err := dhcpv4.FromBytes(c.payload)
		if err != nil {
			continue
		}
		if r.OpCode == dhcpv4.OpcodeBootRequest {
			break
		}
		if c.src.Addr() == netip.MustParseAddr("192.168.67.1") && r.TransactionID == m.TransactionID {
			return theirs{r.MessageType(), c.dst, r, true}
		}
	}
	return theirs{}
}

func compare(t *testing.T, i int, req *dhcpv4.DHCPv4, got *reply, want theirs) {
	t.Helper()
	m := got.msg
	if m.MessageType() != want.kind || m.TransactionID != req.TransactionID {
		t.Errorf("packet %d: we answer %s, dnsmasq %s", i, m.MessageType(), want.kind)
	}
	if got.to.addr != want.to {
		t.Errorf("packet %d: we answer to %s, dnsmasq to %s", i, got.to.addr, want.to)
	}
	for name, ips := range map[string][2]net.IP{
		"yiaddr": {m.YourIPAddr, want.m.YourIPAddr}, "ciaddr": {m.ClientIPAddr, want.m.ClientIPAddr}, "giaddr": {m.GatewayIPAddr, want.m.GatewayIPAddr},
	} {
		if !ips[0].Equal(ips[1]) {
			t.Errorf("packet %d: %s is %s, dnsmasq's %s", i, name, ips[0], ips[1])
		}
	}
	for _, code := range []uint8{51, 53, 54, 58, 59, 1, 28, 3, 175} {
		if ours, hers := string(m.Options[code]), string(want.m.Options[code]); hers != "" && ours != hers && !(code == 28 && ours == "") {
			t.Errorf("packet %d: option %d is %q, dnsmasq's %q", i, code, ours, hers)
		}
	}
	if hers := want.m.ClassIdentifier(); hers != "" && strings.TrimRight(hers, "\x00") != m.ClassIdentifier() {
		t.Errorf("packet %d: vendor class %q, dnsmasq's %q", i, m.ClassIdentifier(), hers)
	}
	compareFiles(t, i, m, want.m)
}

// compareFiles maps dnsmasq's file names of the lab to ours. dnsmasq's proxy sent iPXE a PXE menu to choose the file from; we name
// the file, which iPXE takes without asking port 4011.
func compareFiles(t *testing.T, i int, ours, hers *dhcpv4.DHCPv4) {
	t.Helper()
	file := hers.BootFileName
	if file == "" {
		file = hers.BootFileNameOption()
	}
	if strings.Contains(string(hers.Options[43]), "lab.ipxe") {
		file = "lab.ipxe"
	}
	want := map[string]string{
		"snponly.efi": "ltsp/snponly.efi", "http://192.168.67.1/snponly.efi": "http://192.168.67.1/boot/loader/snponly.efi",
	}[file]
	switch {
	case file == "lab.ipxe" && !strings.HasPrefix(ours.BootFileName, script+"&arch="):
		t.Errorf("packet %d: iPXE gets %q", i, ours.BootFileName)
	case file == "" && ours.ClassIdentifier() == "PXEClient" && strings.HasPrefix(ours.BootFileName, script): // iPXE (EFI) in proxy mode
	case file != "lab.ipxe" && ours.BootFileName != want:
		t.Errorf("packet %d: file %q, want %q as dnsmasq's %q", i, ours.BootFileName, want, file)
	}
	if hers.BootFileName != "" && ours.ServerHostName != hers.ServerHostName {
		t.Errorf("packet %d: sname %q, dnsmasq's %q", i, ours.ServerHostName, hers.ServerHostName)
	}
}

// FuzzHandle gives the policy any bytes on both ports in both modes.
func FuzzHandle(f *testing.F) {
	for _, name := range pcapFiles(f) {
		for _, c := range mustPcap(f, name) {
			for _, port := range []uint16{serverPort, pxePort} {
				f.Add(c.payload, port == pxePort, strings.Contains(name, "proxy"))
			}
		}
	}
	f.Add(client(dhcpv4.MessageTypeDecline, requested("192.168.67.23")).ToBytes(), false, false)
	f.Add(client(dhcpv4.MessageTypeRequest, dhcpv4.WithGatewayIP(ip("192.168.67.9")), generic(82, 5, 4, 192, 168, 67, 0)).ToBytes(), false, false)
	f.Fuzz(func(t *testing.T, data []byte, pxe, proxy bool) {
		mode, port := Authoritative, uint16(serverPort)
		if proxy {
			mode = Proxy
		}
		if pxe {
			port = pxePort
		}
		b := newBench(t, mode)
		for range 2 { // the second time the client is known
			out := b.hear(data, datagram{port: port, src: netip.MustParseAddrPort("192.168.67.40:68"), dst: netip.MustParseAddr("192.168.67.1")})
			if out.reply == nil {
				continue
			}
			m := out.reply.msg
			y := ip4(m.YourIPAddr)
			if (out.drop != dropNone) || (proxy && (y.IsValid() || len(out.records) > 0)) {
				t.Errorf("%+v", out)
			}
			if y.IsValid() && (y.Less(b.settings.Subnets[0].RangeStart) || b.settings.Subnets[0].RangeEnd.Less(y)) {
				t.Errorf("address %s outside the range", y)
			}
			if !out.reply.to.addr.IsValid() || len(m.ToBytes()) > maxMessage {
				t.Errorf("to %s, %d bytes", out.reply.to.addr, len(m.ToBytes()))
			}
		}
	})
}
