package dhcp4

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

var (
	testMAC = net.HardwareAddr{0x52, 0x54, 0, 0x67, 0, 0x10}
	server  = netip.MustParseAddr("192.168.67.1")
	client  = netip.MustParseAddr("192.168.67.20")
)

// TestEncodeReadByAnother lets an independent codec read our request.
func TestEncodeReadByAnother(t *testing.T) {
	t.Parallel()
	p := NewRequest(Request, 0x01020304, testMAC)
	p.Broadcast, p.ClientIP = true, client
	p.Options[OptRequestedIP] = client.AsSlice()
	p.Options[200] = bytes.Repeat([]byte("x"), 300)
	got, err := dhcpv4.FromBytes(p.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if got.OpCode != dhcpv4.OpcodeBootRequest || got.TransactionID != (dhcpv4.TransactionID{1, 2, 3, 4}) || !got.IsBroadcast() ||
		!got.ClientIPAddr.Equal(client.AsSlice()) || got.ClientHWAddr.String() != testMAC.String() ||
		got.MessageType() != dhcpv4.MessageTypeRequest || !got.RequestedIPAddress().Equal(client.AsSlice()) {
		t.Errorf("read as %s", got.Summary())
	}
	if id := got.Options.Get(dhcpv4.OptionClientIdentifier); !bytes.Equal(id, append([]byte{1}, testMAC...)) {
		t.Errorf("client identifier %x", id)
	}
	if n := len(got.Options.Get(dhcpv4.GenericOptionCode(200))); n != 300 {
		t.Errorf("the long option has %d bytes", n)
	}
	if n := len(NewRequest(Discover, 1, testMAC).Encode()); n < 300 {
		t.Errorf("a request of %d bytes would be dropped by old relays", n)
	}
}

// TestParseWrittenByAnother reads a reply of an independent codec.
func TestParseWrittenByAnother(t *testing.T) {
	t.Parallel()
	reply, err := dhcpv4.New(
		dhcpv4.WithReply(&dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, TransactionID: dhcpv4.TransactionID{1, 2, 3, 4}, ClientHWAddr: testMAC}),
		dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithYourIP(client.AsSlice()), dhcpv4.WithLeaseTime(3600),
		dhcpv4.WithServerIP(server.AsSlice()), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server.AsSlice())),
		dhcpv4.WithNetmask(net.CIDRMask(20, 32)), dhcpv4.WithRouter(server.AsSlice()),
		dhcpv4.WithDNS(server.AsSlice(), net.IPv4(9, 9, 9, 9)))
	if err != nil {
		t.Fatal(err)
	}
	reply.HWType = 1
	p, err := Parse(reply.ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	if !p.Answers(0x01020304, testMAC) || p.Answers(1, testMAC) || p.Answers(0x01020304, net.HardwareAddr{1, 2, 3, 4, 5, 6}) || p.Type() != Ack {
		t.Errorf("got %+v", p)
	}
	want := Offered{Client: netip.PrefixFrom(client, 20), Gateway: server, Server: server, Lease: time.Hour,
		DNS: []netip.Addr{server, netip.MustParseAddr("9.9.9.9")}}
	if diff := cmp.Diff(want, offered(p), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestParseOverload(t *testing.T) {
	t.Parallel()
	p := Packet{reply: true, MAC: testMAC, Options: map[byte][]byte{OptMessageType: {Ack}, optOverload: {3}}}
	b := p.Encode()
	copy(b[fileStart:], []byte{OptRouter, 4, 10, 0, 0, 1, optEnd})
	copy(b[snameStart:], []byte{OptDomain, 3, 'l', 'a', 'n', optEnd})
	got, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if got.Addr(OptRouter) != netip.MustParseAddr("10.0.0.1") || string(got.Options[OptDomain]) != "lan" {
		t.Errorf("got %+v", got)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	whole := NewRequest(Discover, 1, testMAC).Encode()
	tests := map[string][]byte{
		"empty":          nil,
		"BOOTP header":   whole[:239],
		"cookie":         append(append([]byte(nil), whole[:236]...), 1, 2, 3, 4),
		"token ring":     append([]byte{1, 6}, whole[2:]...),
		"cut in option":  append(append([]byte(nil), whole[:240]...), 53, 2, 1),
		"cut in length":  append(append([]byte(nil), whole[:240]...), 53),
		"cut overloaded": overloadedCut(whole),
	}
	for name, b := range tests {
		if p, err := Parse(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %+v, %v", name, p, err)
		}
	}
}

func overloadedCut(whole []byte) []byte {
	b := append(append([]byte(nil), whole[:240]...), optOverload, 1, 1, optEnd)
	for i := fileStart; i < fileEnd; i++ {
		b[i] = 0
	}
	b[fileEnd-1] = OptRouter
	return b
}

func TestDuration(t *testing.T) {
	t.Parallel()
	p := Packet{Options: map[byte][]byte{OptLeaseTime: {0, 0, 0x0e, 0x10}, OptT1: {255, 255, 255, 255}, OptT2: {1}}}
	if d, ok := p.Duration(OptLeaseTime); d != time.Hour || !ok {
		t.Errorf("got %v, %v", d, ok)
	}
	if d, ok := p.Duration(OptT1); d != Infinite || !ok {
		t.Errorf("got %v, %v", d, ok)
	}
	if d, ok := p.Duration(OptT2); ok {
		t.Errorf("got %v", d)
	}
}

// lan is a Conn to servers that answer by a function; answers are there at once.
type lan struct {
	answer func(Packet) []Packet
	inbox  [][]byte
	sent   []Packet
}

func (l *lan) Send(b []byte, _ netip.Addr) error {
	p, err := Parse(b)
	if err != nil {
		return err
	}
	l.sent = append(l.sent, p)
	for _, reply := range l.answer(p) {
		reply.reply, reply.XID, reply.MAC = true, p.XID, p.MAC
		l.inbox = append(l.inbox, reply.Encode())
	}
	return nil
}

func (l *lan) Receive(deadline time.Time) ([]byte, error) {
	if len(l.inbox) == 0 {
		time.Sleep(time.Until(deadline)) // inside the bubble
		return nil, os.ErrDeadlineExceeded
	}
	b := l.inbox[0]
	l.inbox = l.inbox[1:]
	return b, nil
}

func answer(kind byte, yours netip.Addr, options map[byte][]byte) Packet {
	o := map[byte][]byte{OptMessageType: {kind}, OptServerID: server.AsSlice(), OptMask: {255, 255, 255, 0},
		OptLeaseTime: binary.BigEndian.AppendUint32(nil, 60)}
	maps.Copy(o, options)
	return Packet{YourIP: yours, Options: o}
}

func TestAcquire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		discovers := 0
		l := &lan{}
		l.answer = func(p Packet) []Packet {
			switch p.Type() {
			case Discover:
				if discovers++; discovers < 3 {
					return []Packet{answer(Offer, netip.Addr{}, nil)} // only a proxy is awake
				}
				return []Packet{answer(Offer, netip.Addr{}, nil), answer(Offer, client, nil)}
			case Request:
				return []Packet{answer(Ack, client, map[byte][]byte{OptServerID: {10, 0, 0, 9}}), answer(Ack, client, nil)}
			}
			return nil
		}
		start := time.Now()
		got, err := Acquire(t.Context(), l, testMAC)
		if err != nil {
			t.Fatal(err)
		}
		if got.Client != netip.PrefixFrom(client, 24) || got.Server != server || got.Lease != time.Minute {
			t.Errorf("got %+v", got)
		}
		if waited := time.Since(start); waited != 3*time.Second {
			t.Errorf("waited %v, want 1 s and 2 s", waited)
		}
		request := l.sent[len(l.sent)-1]
		if request.Addr(OptRequestedIP) != client || request.Addr(OptServerID) != server || !request.Broadcast || request.ClientIP.IsValid() {
			t.Errorf("requested by %+v", request)
		}
	})
}

func TestAcquireEnds(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]func(Packet) []Packet{
		"silence": func(Packet) []Packet { return nil },
		"refusal": func(p Packet) []Packet {
			if p.Type() == Discover {
				return []Packet{answer(Offer, client, nil)}
			}
			return []Packet{answer(Nak, netip.Addr{}, nil)}
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			start := time.Now()
			l := &lan{answer: reply}
			_, err := Acquire(ctx, l, testMAC)
			if !errors.Is(err, ErrNoAnswer) && !errors.Is(err, ErrRefused) {
				t.Errorf("%s: got %v", name, err)
			}
			if took := time.Since(start); took > 21*time.Second || len(l.sent) > 10 {
				t.Errorf("%s: took %v and %d packets", name, took, len(l.sent))
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(NewRequest(Discover, 1, testMAC).Encode())
	f.Add(overloadedCut(NewRequest(Discover, 1, testMAC).Encode()))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Parse(b)
		if err != nil {
			return
		}
		p.Addrs(OptDNS)
		p.Duration(OptLeaseTime)
		offered(p)
		again, err := Parse(p.Encode())
		if err != nil && len(p.Options[optOverload]) == 0 {
			t.Fatalf("written packet is refused: %v", err)
		}
		if err == nil && len(p.Options[optOverload]) == 0 && again.Type() != p.Type() {
			t.Fatalf("type %d became %d", p.Type(), again.Type())
		}
	})
}
