package dhcp

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

func TestParseRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		m    []byte
		want drop
	}{
		"empty":       {nil, dropMalformed},
		"no cookie":   {make([]byte, 300), dropMalformed},
		"reply":       {client(dhcpv4.MessageTypeDiscover, func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootReply }).ToBytes(), dropNoRequest},
		"offer":       {client(dhcpv4.MessageTypeOffer).ToBytes(), dropNoRequest},
		"bootp":       {client(dhcpv4.MessageTypeDiscover, func(m *dhcpv4.DHCPv4) { m.DeleteOption(dhcpv4.OptionDHCPMessageType) }).ToBytes(), dropNoRequest},
		"nobody":      {client(dhcpv4.MessageTypeDiscover, dhcpv4.WithHwAddr(make([]byte, 6))).ToBytes(), dropNoClient},
		"group":       {client(dhcpv4.MessageTypeDiscover, dhcpv4.WithHwAddr([]byte{255, 255, 255, 255, 255, 255})).ToBytes(), dropNoClient},
		"token ring":  {client(dhcpv4.MessageTypeDiscover, func(m *dhcpv4.DHCPv4) { m.HWType = iana.HWTypeIEEE802 }).ToBytes(), dropNoClient},
		"long ID":     {client(dhcpv4.MessageTypeDiscover, generic(61, make([]byte, 300)...)).ToBytes(), dropMalformed},
		"long option": {client(dhcpv4.MessageTypeDiscover, generic(82, make([]byte, 300)...)).ToBytes(), dropMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			if _, got := parse(tc.m); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
	byID := client(dhcpv4.MessageTypeDiscover, dhcpv4.WithHwAddr(nil), generic(61, 0, 1, 2))
	if out := newBench(t, Authoritative).say(byID, 67); out.reply == nil || out.reply.to.addr.Addr() != broadcastAddr() {
		t.Errorf("client with an identifier only: %+v", out)
	}
}

func TestRepliesFitTheClient(t *testing.T) {
	b := newBench(t, Authoritative, func(s *Settings) {
		s.Subnets[0].DNS = slices.Repeat([]netip.Addr{netip.MustParseAddr("10.0.0.1")}, maxServers)
		s.Subnets[0].Domain = "a.very.long.domain.name.of.a.school.that.could.not.decide.on.a.shorter.one.example"
	})
	mods := append(ipxe(0, 19, 39, 33, 24), generic(61, make([]byte, 60)...), generic(97, make([]byte, 17)...), generic(82, make([]byte, 60)...))
	for _, msz := range []int{0, 300, 576, 1500, 65280} {
		with := mods
		if msz > 0 {
			with = append(slices.Clip(with), generic(57, byte(msz>>8), byte(msz)))
		}
		m := client(dhcpv4.MessageTypeDiscover, with...)
		out := b.say(m, 67)
		r, _ := parse(m.ToBytes())
		n := len(marshal(out.reply.msg, r))
		limit := min(max(msz-28, minMessage), maxMessage)
		if n > limit || n < 300 {
			t.Errorf("client takes %d: reply has %d bytes", msz, n)
		}
		if out.reply.msg.BootFileName == "" || len(out.reply.msg.Options[82]) != 60 || len(out.reply.msg.DNS()) != maxServers {
			t.Errorf("client takes %d: something needed was dropped", msz)
		}
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for name, f := range map[string]func(*Settings){
		"mode":            func(s *Settings) { s.Subnets[0].Mode = "auto" },
		"gateway":         func(s *Settings) { s.Subnets[0].Gateway = netip.MustParseAddr("10.0.0.1") },
		"DNS":             func(s *Settings) { s.Subnets[0].DNS = []netip.Addr{netip.MustParseAddr("fd00::1")} },
		"many DNS":        func(s *Settings) { s.Subnets[0].DNS = make([]netip.Addr, maxServers+1) },
		"lease time":      func(s *Settings) { s.Subnets[0].LeaseTime = 1 << 62 },
		"long domain":     func(s *Settings) { s.Subnets[0].Domain = string(make([]byte, 300)) },
		"no name":         func(s *Settings) { s.Interfaces[0].Name = "" },
		"no address":      func(s *Settings) { s.Interfaces[0].Addr = netip.Prefix{} },
		"interface twice": func(s *Settings) { s.Interfaces = append(s.Interfaces, s.Interfaces[0]) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newBench(t, Authoritative).settings
			f(&s)
			if _, err := s.check(); err == nil {
				t.Error("accepted")
			}
		})
	}
}
