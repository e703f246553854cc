package dhcprenew

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/dhcp4"
)

var (
	testMAC = net.HardwareAddr{0x52, 0x54, 0, 0x67, 0, 0x10}
	server  = netip.MustParseAddr("192.168.67.1")
	client  = netip.MustParseAddr("192.168.67.20")
	start   = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
)

func seconds(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

func ack(term uint32, options map[byte][]byte) dhcp4.Packet {
	p := dhcp4.Packet{YourIP: client, Options: map[byte][]byte{
		dhcp4.OptMessageType: {dhcp4.Ack}, dhcp4.OptServerID: server.AsSlice(), dhcp4.OptLeaseTime: seconds(term)}}
	maps.Copy(p.Options, options)
	return p
}

func nak() dhcp4.Packet {
	return dhcp4.Packet{Options: map[byte][]byte{dhcp4.OptMessageType: {dhcp4.Nak}, dhcp4.OptServerID: server.AsSlice()}}
}

// asked lists the requests that a machine makes when nobody answers, as "time mode".
func asked(m *Machine, now time.Time, n int) []string {
	var list []string
	for range n {
		at, ok := m.Next()
		if !ok {
			return append(list, "never")
		}
		if at.After(now) {
			now = at
		}
		mode, to := m.Ask(now)
		word := "rebind"
		if mode == Renew {
			word = "renew " + to.String()
		}
		list = append(list, now.Sub(start).String()+" "+word)
	}
	return list
}

func TestFirstRequests(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		server netip.Addr
		want   []string
	}{
		{"server known", server, []string{"0s renew 192.168.67.1", "4s renew 192.168.67.1", "12s rebind", "28s rebind", "1m0s rebind", "2m0s rebind", "3m0s rebind"}},
		{"server unknown", netip.Addr{}, []string{"0s rebind", "4s rebind", "12s rebind", "28s rebind", "1m0s rebind", "2m0s rebind"}},
	}
	for _, tt := range tests {
		m := NewMachine(client, tt.server, nil)
		if diff := cmp.Diff(tt.want, asked(m, start, len(tt.want))); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
		if p := m.Problem(start.Add(time.Hour)); p != "" || m.Lease() != nil {
			t.Errorf("%s: a lease that nobody confirmed is a problem: %s", tt.name, p)
		}
	}
}

func TestPhases(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		ack  dhcp4.Packet
		want []string
	}{
		{"an hour", ack(3600, nil), []string{"30m0s renew 192.168.67.1", "41m15s renew 192.168.67.1", "46m52.5s renew 192.168.67.1",
			"49m41.25s renew 192.168.67.1", "51m5.625s renew 192.168.67.1", "52m5.625s renew 192.168.67.1", "53m5.625s rebind",
			"56m32.8125s rebind", "58m16.40625s rebind", "59m16.40625s rebind", "1h0m16.40625s rebind", "1h5m16.40625s rebind"}},
		{"the server's times", ack(3600, map[byte][]byte{dhcp4.OptT1: seconds(60), dhcp4.OptT2: seconds(120)}),
			[]string{"1m0s renew 192.168.67.1", "2m0s rebind", "31m0s rebind"}},
		{"times that make no sense", ack(600, map[byte][]byte{dhcp4.OptT1: seconds(900), dhcp4.OptT2: seconds(700)}),
			[]string{"5m0s renew 192.168.67.1", "6m52.5s renew 192.168.67.1", "7m52.5s renew 192.168.67.1", "8m52.5s rebind"}},
		{"for ever", ack(1<<32-1, nil), []string{"never"}},
		{"another server answered", ack(600, map[byte][]byte{dhcp4.OptServerID: {10, 0, 0, 9}}), []string{"5m0s renew 10.0.0.9"}},
		{"short", ack(10, nil), []string{"5s renew 192.168.67.1", "1m5s rebind", "6m5s rebind"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := NewMachine(client, server, nil)
			m.Ask(start)
			if !m.Reply(start, tt.ack) {
				t.Fatal("the acknowledgement is refused")
			}
			if diff := cmp.Diff(tt.want, asked(m, start, len(tt.want))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestReply(t *testing.T) {
	t.Parallel()
	other := ack(600, nil)
	other.YourIP = netip.MustParseAddr("192.168.67.21")
	noTime := ack(600, nil)
	delete(noTime.Options, dhcp4.OptLeaseTime)
	offer := ack(600, map[byte][]byte{dhcp4.OptMessageType: {dhcp4.Offer}})
	tests := []struct {
		name    string
		reply   dhcp4.Packet
		used    bool
		problem string
	}{
		{"acknowledged", ack(600, nil), true, ""},
		{"another address", other, false, ""},
		{"no lease time", noTime, false, ""},
		{"lease of no time", ack(0, nil), false, ""},
		{"an offer", offer, false, ""},
		{"refused", nak(), true, "refuses to renew 192.168.67.20"},
	}
	for _, tt := range tests {
		m := NewMachine(client, server, nil)
		m.Ask(start)
		if got := m.Reply(start, tt.reply); got != tt.used {
			t.Errorf("%s: got %v", tt.name, got)
		}
		if got := m.Problem(start); got != tt.problem && (tt.problem == "" || !strings.Contains(got, tt.problem)) {
			t.Errorf("%s: problem %q", tt.name, got)
		}
	}
}

func TestRefusalHeals(t *testing.T) {
	t.Parallel()
	m := NewMachine(client, server, nil)
	m.Ask(start)
	m.Reply(start, nak())
	if diff := cmp.Diff([]string{"5m0s rebind", "10m0s rebind"}, asked(m, start, 2)); diff != "" {
		t.Error(diff)
	}
	now := start.Add(10 * time.Minute)
	m.Reply(now, ack(600, nil))
	if p := m.Problem(now); p != "" {
		t.Errorf("still a problem: %s", p)
	}
	if p := m.Problem(now.Add(600 * time.Second)); !strings.Contains(p, "has expired") {
		t.Errorf("expired lease: %q", p)
	}
}

// wire answers requests by a function, inside a bubble.
type wire struct {
	answer func(p dhcp4.Packet, to netip.Addr) (dhcp4.Packet, bool)
	inbox  [][]byte
	closed chan struct{}
}

func (w *wire) Send(b []byte, to netip.Addr) error {
	p, err := dhcp4.Parse(b)
	if err != nil {
		return err
	}
	if reply, ok := w.answer(p, to); ok {
		reply.XID, reply.MAC = p.XID, p.MAC
		b := reply.Encode()
		b[0] = 2 // BOOTREPLY
		w.inbox = append(w.inbox, []byte("noise"), b)
	}
	return nil
}

func (w *wire) Receive(deadline time.Time) ([]byte, error) {
	if len(w.inbox) > 0 {
		b := w.inbox[0]
		w.inbox = w.inbox[1:]
		return b, nil
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil, os.ErrDeadlineExceeded
	case <-w.closed:
		return nil, net.ErrClosed
	}
}

func (w *wire) Close() error {
	select {
	case <-w.closed:
	default:
		close(w.closed)
	}
	return nil
}

func TestRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got []string
		begin := time.Now()
		requests := 0
		answer := func(p dhcp4.Packet, to netip.Addr) (dhcp4.Packet, bool) {
			requests++
			if p.Type() != dhcp4.Request || p.ClientIP != client || len(p.Options[dhcp4.OptServerID]) > 0 || len(p.Options[dhcp4.OptRequestedIP]) > 0 {
				t.Errorf("request %+v to %v", p, to)
			}
			return ack(600, nil), time.Since(begin) < 7*time.Minute
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			Run(ctx, Config{MAC: testMAC, Addr: client, Server: server,
				Open: func(context.Context) (Conn, error) {
					if requests == 1 {
						requests++
						return nil, errors.New("port is in use")
					}
					return &wire{answer: answer, closed: make(chan struct{})}, nil
				},
				Changed: func(s Status) {
					if s.Lease != nil && s.Problem != "" {
						got = append(got, s.Problem)
					}
				}})
		}()
		time.Sleep(40 * time.Minute)
		cancel()
		<-done
		if len(got) == 0 || !strings.Contains(got[0], "has expired") {
			t.Errorf("problems told: %q", got)
		}
		if requests < 4 || requests > 20 {
			t.Errorf("%d requests in 40 minutes", requests)
		}
	})
}
