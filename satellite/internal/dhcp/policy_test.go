package dhcp

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

// bench is a policy with a table and a clock, and one interface eth0 with 192.168.67.1/24.
type bench struct {
	t        testing.TB
	now      time.Time
	table    *lease.Table
	settings Settings
	policy   policy
}

func newBench(t testing.TB, mode Mode, change ...func(*Settings)) *bench {
	t.Helper()
	b := &bench{t: t, now: time.Date(2026, 9, 1, 8, 0, 0, 0, time.UTC)}
	clock := func() time.Time { return b.now }
	b.settings = Settings{
		Interfaces: []Interface{{Name: "eth0", Index: 2, Addr: netip.MustParsePrefix("192.168.67.1/24")}},
		Subnets: []Subnet{{
			Name: "room", Prefix: netip.MustParsePrefix("192.168.67.0/24"), Mode: mode,
			RangeStart: netip.MustParseAddr("192.168.67.20"), RangeEnd: netip.MustParseAddr("192.168.67.250"),
			Gateway: netip.MustParseAddr("192.168.67.1"), DNS: []netip.Addr{netip.MustParseAddr("192.168.67.1")}, Domain: "school.example",
		}},
	}
	for _, f := range change {
		f(&b.settings)
	}
	var err error
	if b.settings, err = b.settings.check(); err != nil {
		t.Fatal(err)
	}
	b.table = lease.New(lease.Config{Now: clock})
	if err := b.table.SetSubnets(b.settings.leaseSubnets()); err != nil {
		t.Fatal(err)
	}
	b.policy = policy{leases: b.table, boot: NewLoaders(LoaderConfig{Now: clock})}
	return b
}

// say gives the policy a packet as if it came by broadcast to a port of eth0.
func (b *bench) say(m *dhcpv4.DHCPv4, port uint16) outcome {
	return b.hear(m.ToBytes(), datagram{port: port, src: netip.MustParseAddrPort("0.0.0.0:68"), dst: broadcastAddr()})
}

func (b *bench) hear(data []byte, d datagram) outcome {
	b.t.Helper()
	r, why := parse(data)
	if why != dropNone {
		return outcome{drop: why}
	}
	d.in, d.at = b.settings.Interfaces[0], b.now
	out := b.policy.handle(d, r, &b.settings)
	if out.reply != nil { // what the client sees is what it reads from the wire
		m, err := dhcpv4.FromBytes(marshal(out.reply.msg, r))
		if err != nil {
			b.t.Fatal(err)
		}
		out.reply.msg = m
	}
	return out
}

// client makes a message of a plain DHCP client.
func client(kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithHwAddr(net.HardwareAddr{0x52, 0x54, 0, 0x67, 0, 0x10}), dhcpv4.WithMessageType(kind),
	}, mods...)...)
	if err != nil {
		panic(err)
	}
	return m
}

func generic(code uint8, v ...byte) dhcpv4.Modifier {
	return dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(code), v)
}

func pxe(arch byte) []dhcpv4.Modifier {
	return []dhcpv4.Modifier{generic(60, []byte("PXEClient:Arch:00000:UNDI:002001")...), generic(93, 0, arch)}
}

func httpBoot(arch byte) []dhcpv4.Modifier {
	return []dhcpv4.Modifier{generic(60, []byte("HTTPClient:Arch:00016:UNDI:003000")...), generic(93, 0, arch)}
}

// ipxe is an iPXE with features on an architecture.
func ipxe(arch byte, features ...byte) []dhcpv4.Modifier {
	opt := []byte{0xb1, 5, 1, 0x1a, 0xf4, 0x10, 0}
	for _, f := range features {
		opt = append(opt, f, 1, 1)
	}
	return append(pxe(arch), generic(77, []byte("iPXE")...), generic(175, opt...))
}

func ip(s string) net.IP { return net.ParseIP(s).To4() }

func requested(s string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip(s)))
}

func serverID(s string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(ip(s)))
}

// lease takes the client of m from DISCOVER to ACK and returns its address.
func (b *bench) lease(mods ...dhcpv4.Modifier) string {
	b.t.Helper()
	offer := b.say(client(dhcpv4.MessageTypeDiscover, mods...), 67)
	if offer.reply == nil || offer.reply.msg.MessageType() != dhcpv4.MessageTypeOffer {
		b.t.Fatalf("no offer: %+v", offer)
	}
	a := offer.reply.msg.YourIPAddr.String()
	ack := b.say(client(dhcpv4.MessageTypeRequest, append(mods, requested(a), serverID("192.168.67.1"))...), 67)
	if ack.reply == nil || ack.reply.msg.MessageType() != dhcpv4.MessageTypeAck || ack.reply.msg.YourIPAddr.String() != a {
		b.t.Fatalf("offered %s, then %+v", a, ack)
	}
	if len(ack.records) != 1 || ack.records[0].Addr.String() != a || ack.records[0].State != lease.Bound {
		b.t.Fatalf("records of the ACK: %+v", ack.records)
	}
	return a
}

func TestAuthoritativeOffer(t *testing.T) {
	b := newBench(t, Authoritative, func(s *Settings) {
		s.Subnets[0].NTP = []netip.Addr{netip.MustParseAddr("192.168.67.9")}
		s.Reservations = []lease.Reservation{{MAC: lease.MAC{0x52, 0x54, 0, 0x67, 0, 0x10}, Addr: netip.MustParseAddr("192.168.67.7"), Hostname: "pc7"}}
	})
	out := b.say(client(dhcpv4.MessageTypeDiscover, generic(61, 1, 2, 3), generic(55, 1, 3, 6, 12, 15, 28, 42)), 67)
	if out.reply == nil || len(out.records) != 0 {
		t.Fatalf("%+v", out)
	}
	m := out.reply.msg
	want := dhcpv4.Options{
		1: {255, 255, 255, 0}, 3: {192, 168, 67, 1}, 6: {192, 168, 67, 1}, 12: []byte("pc7"), 15: []byte("school.example"),
		28: {192, 168, 67, 255}, 42: {192, 168, 67, 9}, 51: {0, 0, 168, 192}, 53: {2}, 54: {192, 168, 67, 1}, 58: {0, 0, 84, 96},
		59: {0, 0, 147, 168}, 61: {1, 2, 3},
	}
	if d := cmp.Diff(want, m.Options); d != "" {
		t.Errorf("options (-want +got):\n%s", d)
	}
	if m.OpCode != dhcpv4.OpcodeBootReply || !m.YourIPAddr.Equal(ip("192.168.67.7")) || !m.ServerIPAddr.Equal(net.IPv4zero) || m.BootFileName != "" {
		t.Errorf("header: %s", m.Summary())
	}
}

func TestOnlyAskedForOptionsAreSent(t *testing.T) {
	b := newBench(t, Authoritative)
	m := b.say(client(dhcpv4.MessageTypeDiscover, generic(55, 1, 3)), 67).reply.msg
	for _, code := range []uint8{6, 15, 28} {
		if _, ok := m.Options[code]; ok {
			t.Errorf("option %d was not asked for", code)
		}
	}
}

func TestRequestStates(t *testing.T) {
	const ours, other = "192.168.67.1", "192.168.67.2"
	for name, tc := range map[string]struct {
		known bool // the client has a lease
		mods  func(a string) []dhcpv4.Modifier
		want  dhcpv4.MessageType // MessageTypeNone: silence
		drop  drop
	}{
		"selecting":               {true, func(a string) []dhcpv4.Modifier { return []dhcpv4.Modifier{requested(a), serverID(ours)} }, dhcpv4.MessageTypeAck, ""},
		"selecting wrong address": {true, func(string) []dhcpv4.Modifier { return []dhcpv4.Modifier{requested("192.168.67.3"), serverID(ours)} }, dhcpv4.MessageTypeNak, ""},
		"selecting by ciaddr":     {true, func(a string) []dhcpv4.Modifier { return []dhcpv4.Modifier{dhcpv4.WithClientIP(ip(a)), serverID(ours)} }, dhcpv4.MessageTypeAck, ""},
		"selecting another":       {true, func(a string) []dhcpv4.Modifier { return []dhcpv4.Modifier{requested(a), serverID(other)} }, 0, dropOtherServer},
		"init-reboot":             {true, func(a string) []dhcpv4.Modifier { return []dhcpv4.Modifier{requested(a)} }, dhcpv4.MessageTypeAck, ""},
		"init-reboot unknown":     {false, func(string) []dhcpv4.Modifier { return []dhcpv4.Modifier{requested("192.168.67.30")} }, 0, dropSilent},
		"init-reboot other net":   {false, func(string) []dhcpv4.Modifier { return []dhcpv4.Modifier{requested("10.1.1.1")} }, dhcpv4.MessageTypeNak, ""},
		"renewing":                {true, func(a string) []dhcpv4.Modifier { return []dhcpv4.Modifier{dhcpv4.WithClientIP(ip(a))} }, dhcpv4.MessageTypeAck, ""},
		"renewing unknown":        {false, func(string) []dhcpv4.Modifier { return []dhcpv4.Modifier{dhcpv4.WithClientIP(ip("192.168.67.30"))} }, dhcpv4.MessageTypeAck, ""},
		"renewing gateway":        {false, func(string) []dhcpv4.Modifier { return []dhcpv4.Modifier{dhcpv4.WithClientIP(ip(ours))} }, 0, dropSilent},
		"rebinding other net":     {false, func(string) []dhcpv4.Modifier { return []dhcpv4.Modifier{dhcpv4.WithClientIP(ip("10.1.1.1"))} }, dhcpv4.MessageTypeNak, ""},
		"empty":                   {true, func(string) []dhcpv4.Modifier { return nil }, 0, dropMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Authoritative)
			a := "none"
			if tc.known {
				a = b.lease()
			}
			out := b.say(client(dhcpv4.MessageTypeRequest, tc.mods(a)...), 67)
			if out.drop != tc.drop || (out.reply == nil) != (tc.want == 0) {
				t.Fatalf("got %+v", out)
			}
			if out.reply == nil {
				return
			}
			if k := out.reply.msg.MessageType(); k != tc.want {
				t.Errorf("got %s", k)
			}
			if out.reply.msg.MessageType() == dhcpv4.MessageTypeNak && (out.reply.to.addr.Addr() != broadcastAddr() || len(out.records) > 0) {
				t.Errorf("NAK goes to %s with %d records", out.reply.to.addr, len(out.records))
			}
		})
	}
}

func TestReleaseAndDecline(t *testing.T) {
	b := newBench(t, Authoritative)
	a := b.lease()
	if out := b.say(client(dhcpv4.MessageTypeRelease, dhcpv4.WithClientIP(ip(a)), serverID("192.168.67.2")), 67); out.drop != dropOtherServer {
		t.Errorf("release for another server: %+v", out)
	}
	out := b.say(client(dhcpv4.MessageTypeRelease, dhcpv4.WithClientIP(ip(a)), serverID("192.168.67.1")), 67)
	if out.reply != nil || len(out.records) != 1 || out.records[0].State != lease.Released {
		t.Errorf("release: %+v", out)
	}
	a = b.lease()
	out = b.say(client(dhcpv4.MessageTypeDecline, requested(a), serverID("192.168.67.1")), 67)
	if out.reply != nil || len(out.records) != 1 || out.records[0].State != lease.Declined {
		t.Errorf("decline: %+v", out)
	}
	if again := b.lease(); again == a {
		t.Error("declined address was given again")
	}
}

func TestInform(t *testing.T) {
	b := newBench(t, Authoritative)
	out := b.say(client(dhcpv4.MessageTypeInform, dhcpv4.WithClientIP(ip("192.168.67.5"))), 67)
	m := out.reply.msg
	if m.MessageType() != dhcpv4.MessageTypeAck || !m.YourIPAddr.Equal(net.IPv4zero) || m.Options.Has(dhcpv4.OptionIPAddressLeaseTime) {
		t.Errorf("%s", m.Summary())
	}
	if out.reply.to != (destination{addr: netip.MustParseAddrPort("192.168.67.5:68")}) || len(m.Router()) != 1 {
		t.Errorf("to %v", out.reply.to)
	}
}

func TestDestination(t *testing.T) {
	mac := lease.MAC{0x52, 0x54, 0, 0x67, 0, 0x10}
	relay := func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = ip("192.168.67.254") }
	for name, tc := range map[string]struct {
		mods []dhcpv4.Modifier
		want func(a string) destination
	}{
		"no flags": {nil, func(a string) destination {
			return destination{addr: netip.MustParseAddrPort(a + ":68"), frame: true, mac: mac}
		}},
		"broadcast flag": {[]dhcpv4.Modifier{dhcpv4.WithBroadcast(true)}, func(string) destination {
			return destination{addr: netip.MustParseAddrPort("255.255.255.255:68")}
		}},
		"relay": {[]dhcpv4.Modifier{relay, dhcpv4.WithBroadcast(true)}, func(string) destination {
			return destination{addr: netip.MustParseAddrPort("192.168.67.254:67")}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			out := newBench(t, Authoritative).say(client(dhcpv4.MessageTypeDiscover, tc.mods...), 67)
			if want := tc.want(out.reply.msg.YourIPAddr.String()); out.reply.to != want {
				t.Errorf("goes to %+v, want %+v", out.reply.to, want)
			}
		})
	}
	b := newBench(t, Authoritative)
	a := b.lease()
	out := b.say(client(dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(ip(a))), 67)
	if want := (destination{addr: netip.MustParseAddrPort(a + ":68")}); out.reply.to != want || !out.reply.msg.ClientIPAddr.Equal(ip(a)) {
		t.Errorf("renewal goes to %+v, ciaddr %s", out.reply.to, out.reply.msg.ClientIPAddr)
	}
}

func TestRelaySelectsTheSubnet(t *testing.T) {
	two := func(s *Settings) {
		s.Subnets = append(s.Subnets, Subnet{
			Name: "far", Prefix: netip.MustParsePrefix("10.9.0.0/16"), Mode: Authoritative,
			RangeStart: netip.MustParseAddr("10.9.1.0"), RangeEnd: netip.MustParseAddr("10.9.1.9"),
		})
	}
	circuit := []byte{1, 4, 'p', 'o', 'r', 't'}
	for name, tc := range map[string]struct {
		giaddr string
		info   []byte
		want   string // prefix of the address, empty: no answer
	}{
		"by giaddr":      {"10.9.0.1", circuit, "10.9.1."},
		"link selection": {"192.168.67.254", append([]byte{5, 4, 10, 9, 0, 0}, circuit...), "10.9.1."},
		"unknown":        {"172.16.0.1", circuit, ""},
		"unknown link":   {"10.9.0.1", []byte{5, 4, 172, 16, 0, 0}, ""},
		"broken info":    {"10.9.0.1", []byte{5, 9, 1}, "10.9.1."},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Authoritative, two)
			out := b.say(client(dhcpv4.MessageTypeDiscover, dhcpv4.WithGatewayIP(ip(tc.giaddr)), generic(82, tc.info...)), 67)
			if tc.want == "" {
				if out.drop != dropNoSubnet {
					t.Errorf("got %+v", out)
				}
				return
			}
			m := out.reply.msg
			if a := m.YourIPAddr.String(); a[:len(tc.want)] != tc.want || !m.GatewayIPAddr.Equal(ip(tc.giaddr)) {
				t.Errorf("address %s through %s", a, m.GatewayIPAddr)
			}
			if d := cmp.Diff(tc.info, m.Options[82]); d != "" {
				t.Errorf("option 82 is not echoed:\n%s", d)
			}
			if out.reply.to.addr != netip.AddrPortFrom(netip.MustParseAddr(tc.giaddr), 67) {
				t.Errorf("goes to %s", out.reply.to.addr)
			}
		})
	}
}

func TestUnicastRenewalFromARoutedSubnet(t *testing.T) {
	b := newBench(t, Authoritative, func(s *Settings) {
		s.Subnets = append(s.Subnets, Subnet{
			Name: "far", Prefix: netip.MustParsePrefix("10.9.0.0/16"), Mode: Authoritative,
			RangeStart: netip.MustParseAddr("10.9.1.0"), RangeEnd: netip.MustParseAddr("10.9.1.9"),
		})
	})
	m := client(dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(ip("10.9.1.4"))).ToBytes()
	out := b.hear(m, datagram{port: 67, src: netip.MustParseAddrPort("10.9.1.4:68"), dst: netip.MustParseAddr("192.168.67.1")})
	if out.reply == nil || out.reply.msg.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("by unicast: %+v", out)
	}
	out = b.hear(m, datagram{port: 67, src: netip.MustParseAddrPort("0.0.0.0:68"), dst: broadcastAddr()})
	if out.reply == nil || out.reply.msg.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("by broadcast from the wrong network: %+v", out)
	}
}

func TestOffAndUnknownSubnets(t *testing.T) {
	if out := newBench(t, Off).say(client(dhcpv4.MessageTypeDiscover), 67); out.drop != dropOff {
		t.Errorf("off: %+v", out)
	}
	b := newBench(t, Authoritative, func(s *Settings) { s.Interfaces[0].Addr = netip.MustParsePrefix("172.16.0.1/24") })
	if out := b.say(client(dhcpv4.MessageTypeDiscover), 67); out.drop != dropNoSubnet {
		t.Errorf("no subnet: %+v", out)
	}
}

func TestFullRangeIsSaid(t *testing.T) {
	b := newBench(t, Authoritative, func(s *Settings) { s.Subnets[0].RangeEnd = s.Subnets[0].RangeStart })
	b.lease()
	out := b.say(client(dhcpv4.MessageTypeDiscover, dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 1})), 67)
	if out.drop != dropFull || out.note == "" {
		t.Errorf("%+v", out)
	}
}

// TestNobodyElseIsFlooded forges client addresses that point to somebody else.
func TestNobodyElseIsFlooded(t *testing.T) {
	victim := dhcpv4.WithClientIP(ip("203.0.113.9"))
	b := newBench(t, Authoritative)
	for name, tc := range map[string]struct {
		m    *dhcpv4.DHCPv4
		port uint16
	}{
		"discover":  {client(dhcpv4.MessageTypeDiscover, victim), 67},
		"selecting": {client(dhcpv4.MessageTypeRequest, victim, requested("192.168.67.30"), serverID("192.168.67.1")), 67},
		"renewing":  {client(dhcpv4.MessageTypeRequest, victim), 67},
		"inform":    {client(dhcpv4.MessageTypeInform, victim), 67},
		"port 4011": {client(dhcpv4.MessageTypeRequest, append(pxe(7), victim)...), 4011},
	} {
		t.Run(name, func(t *testing.T) {
			out := b.hear(tc.m.ToBytes(), datagram{port: tc.port, src: netip.MustParseAddrPort("203.0.113.9:53"), dst: netip.MustParseAddr("192.168.67.1")})
			if out.reply != nil && out.reply.to.addr.Addr() == netip.MustParseAddr("203.0.113.9") {
				t.Errorf("%s goes to %s", out.reply.msg.MessageType(), out.reply.to.addr)
			}
		})
	}
}
