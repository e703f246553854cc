package dhcp

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

// fakeLog is a lease log that takes a while and can be told to fail.
type fakeLog struct {
	mu      sync.Mutex
	records []lease.Record
	appends int
	err     error
	delay   time.Duration
}

func (l *fakeLog) Append(_ context.Context, rs []lease.Record) error {
	time.Sleep(l.delay) // in a bubble
	l.mu.Lock()
	defer l.mu.Unlock()
	l.appends++
	if l.err == nil {
		l.records = append(l.records, rs...)
	}
	return l.err
}

func (l *fakeLog) Load(f func(lease.Record) error) error {
	for _, r := range l.records {
		if err := f(r); err != nil {
			return err
		}
	}
	return nil
}

// fakeWire keeps what was sent and knows strangers.
type fakeWire struct {
	mu        sync.Mutex
	sent      []*dhcpv4.DHCPv4
	to        []destination
	strangers map[netip.Addr]bool
	probes    int
	err       error
}

func (w *fakeWire) send(_ uint16, to destination, msg []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	m, err := dhcpv4.FromBytes(msg)
	w.sent, w.to = append(w.sent, m), append(w.to, to)
	return err
}

func (w *fakeWire) probe(addr netip.Addr, _ lease.MAC) (bool, error) {
	time.Sleep(probeTime)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.probes++
	return w.strangers[addr], nil
}

// last waits until all is still and gives the newest reply, nil if there was none since.
func (w *fakeWire) last() *dhcpv4.DHCPv4 {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sent) == 0 {
		return nil
	}
	m := w.sent[len(w.sent)-1]
	w.sent = nil
	return m
}

// count waits until all is still and says how much was sent since the last look.
func (w *fakeWire) count() int {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sent)
}

// station is a server without sockets.
type station struct {
	*Server
	t    *testing.T
	log  *fakeLog
	wire *fakeWire
	reg  *prometheus.Registry
	logs *strings.Builder

	mu     sync.Mutex
	events []Event
}

// newStation must be called in a bubble; the server ends with the test.
func newStation(t *testing.T, change ...func(*Config)) *station {
	t.Helper()
	st := &station{t: t, log: &fakeLog{}, wire: &fakeWire{strangers: map[netip.Addr]bool{}}, reg: prometheus.NewRegistry(), logs: &strings.Builder{}}
	settings := newBench(t, Authoritative, func(s *Settings) { s.Subnets[0].RangeEnd = netip.MustParseAddr("192.168.67.22") }).settings
	settings.Interfaces = nil // no sockets
	cfg := Config{
		Settings: settings, Log: st.log, Registerer: st.reg, Logger: slog.New(slog.NewTextHandler(st.logs, nil)),
		OnEvent: func(e Event) {
			st.mu.Lock()
			defer st.mu.Unlock()
			st.events = append(st.events, e)
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if st.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	end := make(chan error)
	go func() { end <- st.Run(t.Context()) }()
	<-st.Ready()
	t.Cleanup(func() {
		if err := <-end; err != nil {
			t.Error(err)
		}
		if n := st.inFlight.Load(); n != 0 {
			t.Errorf("%d still in flight after the end", n)
		}
	})
	return st
}

func (st *station) say(m *dhcpv4.DHCPv4) {
	eth0 := Interface{Name: "eth0", Index: 2, Addr: netip.MustParsePrefix("192.168.67.1/24")}
	d := datagram{port: serverPort, in: eth0, src: netip.MustParseAddrPort("0.0.0.0:68"), dst: broadcastAddr(), at: time.Now()}
	st.receive(st.wire, m.ToBytes(), d)
}

func from(n byte) dhcpv4.Modifier { return dhcpv4.WithHwAddr([]byte{2, 0, 0, 0, 0, n}) }

func selecting(n byte, addr string) *dhcpv4.DHCPv4 {
	return client(dhcpv4.MessageTypeRequest, from(n), requested(addr), serverID("192.168.67.1"))
}

func TestAckWaitsForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStation(t)
		st.log.delay = time.Second
		st.say(client(dhcpv4.MessageTypeDiscover, from(1)))
		offer := st.wire.last()
		if offer == nil || offer.MessageType() != dhcpv4.MessageTypeOffer {
			t.Fatal("no offer at once")
		}
		st.say(selecting(1, offer.YourIPAddr.String()))
		if m := st.wire.last(); m != nil {
			t.Fatalf("%s before the lease was durable", m.MessageType())
		}
		time.Sleep(time.Second)
		if m := st.wire.last(); m == nil || m.MessageType() != dhcpv4.MessageTypeAck {
			t.Fatalf("got %v", m)
		}
		var kinds []string
		for _, e := range st.events {
			kinds = append(kinds, string(e.Kind))
		}
		if got := strings.Join(kinds, " "); got != "discover offer ack" {
			t.Errorf("events: %s", got)
		}
		if ls := st.Leases(); len(ls) != 1 || ls[0].State != lease.Bound {
			t.Errorf("leases: %+v", ls)
		}
	})
}

func TestNoAckWithoutDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStation(t)
		st.log.err = errors.New("no space left")
		st.say(client(dhcpv4.MessageTypeDiscover, from(1)))
		addr := st.wire.last().YourIPAddr.String()
		st.say(selecting(1, addr))
		if m := st.wire.last(); m != nil {
			t.Fatalf("%s although nothing is durable", m.MessageType())
		}
		if !strings.Contains(st.logs.String(), "no space left") {
			t.Error("nobody was told")
		}
		if n := testutil.ToFloat64(st.metrics.commitErrors); n != 1 {
			t.Errorf("%g commit errors counted", n)
		}
		st.log.mu.Lock()
		st.log.err = nil
		st.log.mu.Unlock()
		st.say(selecting(1, addr)) // the client repeats itself
		if m := st.wire.last(); m == nil || m.MessageType() != dhcpv4.MessageTypeAck {
			t.Errorf("after the disk has recovered: %v", m)
		}
	})
}

func TestCrowdSharesFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStation(t, func(c *Config) { c.Settings.Subnets[0].RangeEnd = netip.MustParseAddr("192.168.67.250") })
		st.log.delay = 10 * time.Millisecond
		for n := range byte(200) {
			st.say(client(dhcpv4.MessageTypeDiscover, from(n)))
		}
		synctest.Wait()
		st.wire.mu.Lock()
		offers := st.wire.sent
		st.wire.sent = nil
		st.wire.mu.Unlock()
		for _, o := range offers {
			st.say(selecting(o.ClientHWAddr[5], o.YourIPAddr.String()))
		}
		time.Sleep(time.Second)
		if acks := st.wire.count(); len(offers) != 200 || acks != 200 || st.log.appends > 4 {
			t.Errorf("%d offers, %d acks, %d flushes", len(offers), acks, st.log.appends)
		}
	})
}

func TestInFlightIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStation(t, func(c *Config) { c.Limits.InFlight = 2 })
		st.log.delay = time.Second
		for n := range byte(3) {
			st.say(client(dhcpv4.MessageTypeRequest, from(n), dhcpv4.WithClientIP([]byte{192, 168, 67, 20 + n})))
		}
		time.Sleep(5 * time.Second)
		if st.wire.count() != 2 || testutil.ToFloat64(st.metrics.dropped.WithLabelValues("busy")) != 1 {
			t.Errorf("%d acks", st.wire.count())
		}
	})
}

func TestOneClientCantFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStation(t, func(c *Config) { c.Limits.Burst, c.Limits.PerSecond = 3, 1 })
		for range 10 {
			st.say(client(dhcpv4.MessageTypeDiscover, from(1)))
		}
		st.say(client(dhcpv4.MessageTypeDiscover, from(2)))
		synctest.Wait()
		if n := st.wire.count(); n != 4 {
			t.Errorf("%d offers, want 3 to the one and 1 to the other", n)
		}
		time.Sleep(2 * time.Second)
		st.say(client(dhcpv4.MessageTypeDiscover, from(1)))
		synctest.Wait()
		if st.wire.count() != 5 {
			t.Error("the client is not heard again after a while")
		}
	})
}

func TestLimiterForgets(t *testing.T) {
	l := newLimiter(1, 1, 10)
	now := time.Unix(0, 0)
	for n := range 1000 {
		l.allow(lease.MAC{byte(n >> 8), byte(n)}, now)
	}
	if len(l.new)+len(l.old) > 20 {
		t.Errorf("remembers %d clients", len(l.new)+len(l.old))
	}
}

// TestProbe gives an address that a stranger has taken since its lease ended.
func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStation(t, func(c *Config) { c.Settings.Subnets[0].LeaseTime = time.Hour })
		taken := map[string]bool{}
		for n := range byte(3) {
			st.say(client(dhcpv4.MessageTypeDiscover, from(n)))
			a := st.wire.last().YourIPAddr.String()
			st.say(selecting(n, a))
			st.wire.last()
			taken[a] = true
			time.Sleep(time.Minute)
		}
		st.say(client(dhcpv4.MessageTypeDiscover, from(9)))
		if m := st.wire.last(); m != nil || testutil.ToFloat64(st.metrics.full) != 1 {
			t.Fatal("range is not full")
		}
		if st.wire.probes != 0 {
			t.Error("fresh addresses were probed")
		}
		time.Sleep(3 * time.Hour)
		oldest := st.Leases()
		first := oldest[0].Addr
		for _, l := range oldest {
			if l.Expires.Before(oldest[0].Expires) {
				first, oldest[0].Expires = l.Addr, l.Expires
			}
		}
		st.wire.strangers[first] = true
		st.say(client(dhcpv4.MessageTypeDiscover, from(9)))
		if m := st.wire.last(); m != nil {
			t.Fatal("offered before the probe was over")
		}
		st.say(client(dhcpv4.MessageTypeDiscover, from(2))) // somebody with an address of old
		if m := st.wire.last(); m == nil {
			t.Fatal("one client's probe delays another")
		}
		time.Sleep(2 * probeTime)
		m := st.wire.last()
		if m == nil || m.YourIPAddr.String() == first.String() || st.wire.probes != 2 {
			t.Fatalf("offer %v after %d probes, stranger at %s", m, st.wire.probes, first)
		}
		if n := testutil.ToFloat64(st.metrics.conflicts); n != 1 {
			t.Errorf("%g conflicts counted", n)
		}
	})
}

func TestRestartKeepsLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStation(t)
		st.say(client(dhcpv4.MessageTypeDiscover, from(1)))
		addr := st.wire.last().YourIPAddr.String()
		st.say(selecting(1, addr))
		st.wire.last()
		again := newStation(t, func(c *Config) { c.Log = st.log })
		again.say(client(dhcpv4.MessageTypeRequest, from(1), requested(addr))) // INIT-REBOOT
		if m := again.wire.last(); m == nil || m.MessageType() != dhcpv4.MessageTypeAck {
			t.Errorf("got %v", m)
		}
		again.say(client(dhcpv4.MessageTypeDiscover, from(2), requested(addr)))
		if m := again.wire.last(); m == nil || m.YourIPAddr.String() == addr {
			t.Errorf("leased address offered to another: %v", m)
		}
	})
}

func TestSetConfigWhileRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStation(t)
		s := *st.settings.Load()
		s.Subnets = []Subnet{s.Subnets[0]}
		s.Subnets[0].Mode = Off
		if err := st.SetConfig(s); err != nil {
			t.Fatal(err)
		}
		st.say(client(dhcpv4.MessageTypeDiscover, from(1)))
		if m := st.wire.last(); m != nil {
			t.Error("answer in a subnet that is off")
		}
		s.Subnets[0].Mode = "nonsense"
		if err := st.SetConfig(s); err == nil {
			t.Error("nonsense accepted")
		}
		s.Subnets[0].Mode = Authoritative
		s.Interfaces = []Interface{{Name: "gone0", Index: 1 << 30, Addr: netip.MustParsePrefix("192.168.67.1/24")}}
		if err := st.SetConfig(s); err != nil {
			t.Fatal(err)
		}
		st.say(client(dhcpv4.MessageTypeDiscover, from(1)))
		if m := st.wire.last(); m == nil {
			t.Error("no answer after switching on")
		}
		time.Sleep(10 * retryTime)
		if n := strings.Count(st.logs.String(), "interface not served"); n != 1 {
			t.Errorf("a missing interface was reported %d times", n)
		}
		s.Interfaces = nil
		if err := st.SetConfig(s); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSendErrorsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := newStation(t)
		st.wire.err = errors.New("network is down")
		st.say(client(dhcpv4.MessageTypeDiscover, from(1)))
		if m := st.wire.last(); m != nil || testutil.ToFloat64(st.metrics.sendErrors) != 1 {
			t.Error("not counted")
		}
	})
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("a server without lease log")
	}
	bad := &fakeLog{records: []lease.Record{{}}}
	if _, err := New(Config{Log: bad}); err == nil {
		t.Error("a damaged lease log was ignored")
	}
	reg := prometheus.NewRegistry()
	for n := range 2 {
		_, err := New(Config{Log: &fakeLog{}, Registerer: reg})
		if (err != nil) != (n == 1) {
			t.Errorf("server %d with one registry: %v", n, err)
		}
	}
	if _, err := New(Config{Log: &fakeLog{}, Settings: Settings{Reservations: []lease.Reservation{{}}}}); err == nil {
		t.Error("an empty reservation was accepted")
	}
}
