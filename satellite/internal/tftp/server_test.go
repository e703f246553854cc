package tftp

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// waitIdle waits until the server has noticed that all transfers have ended, which clients know a little earlier.
func (l *lab) waitIdle(t *testing.T) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for testutil.ToFloat64(l.metrics.transfers) > 0 {
		select {
		case <-deadline:
			t.Fatal("transfers do not end")
		case <-tick.C:
		}
	}
}

func TestRead(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	for _, tt := range []struct {
		name    string
		blksize int
		want    []byte
	}{
		{"small", 0, []byte("hello")},
		{"big", 0, content(300_000)},
		{"big", 1428, content(300_000)},
		{"blocks", 0, content(1024)}, // whole blocks: an empty one ends it
		{"blocks", 1024, content(1024)},
	} {
		got, size, err := l.get(t, tt.name, tt.blksize)
		if err != nil || !bytes.Equal(got, tt.want) {
			t.Errorf("%s with blksize %d: %d bytes, %v", tt.name, tt.blksize, len(got), err)
		}
		if size != int64(len(tt.want)) {
			t.Errorf("%s: tsize %d, want %d", tt.name, size, len(tt.want))
		}
		if local := <-l.opened; local != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("%s: asked at %s", tt.name, local)
		}
	}
	l.stop()
	if d, c := l.delivered.Load(), l.closed.Load(); d != 5 || c != 5 {
		t.Errorf("%d delivered, %d closed, want 5 of each", d, c)
	}
	if n := testutil.ToFloat64(l.metrics.requests.WithLabelValues("sent")); n != 5 {
		t.Errorf("%v counted as sent", n)
	}
	if n := testutil.ToFloat64(l.metrics.sent); n != 5+2*300_000+2*1024 {
		t.Errorf("%v bytes counted", n)
	}
}

func TestErrorsTellNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	for name, want := range map[string]string{"missing": "file not found", "../../etc/passwd": "file not found", "secret": "this satellite cannot read the file"} {
		_, _, err := l.get(t, name, 0)
		if err == nil || !strings.HasSuffix(strings.TrimRight(err.Error(), "\x00"), want) || strings.Contains(err.Error(), "/var") {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
	l.stop()
	if log := l.log.String(); strings.Count(log, "level=ERROR") != 1 || strings.Contains(log, "level=WARN") {
		t.Errorf("log:\n%s", log)
	}
}

// raw sends packets from a socket of its own.
type raw struct {
	*net.UDPConn
	t *testing.T
}

func newRaw(t *testing.T) *raw {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &raw{c, t}
}

func (r *raw) send(to *net.UDPAddr, op uint16, words ...string) {
	r.t.Helper()
	p := binary.BigEndian.AppendUint16(nil, op)
	for _, w := range words {
		p = append(append(p, w...), 0)
	}
	if _, err := r.WriteToUDP(p, to); err != nil {
		r.t.Fatal(err)
	}
}

// recv returns the opcode, the next field and the rest of the next packet.
func (r *raw) recv() (op, number uint16, text string, from *net.UDPAddr) {
	r.t.Helper()
	buf := make([]byte, 2048)
	if err := r.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	n, from, err := r.ReadFromUDP(buf)
	if err != nil || n < 4 {
		r.t.Fatalf("packet of %d bytes: %v", n, err)
	}
	return binary.BigEndian.Uint16(buf), binary.BigEndian.Uint16(buf[2:]), strings.TrimRight(string(buf[4:n]), "\x00"), from
}

func TestWriteIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	r := newRaw(t)
	r.send(l.addr, 2, "small", "octet")
	op, code, text, _ := r.recv()
	if op != 5 || code != 2 || !strings.HasPrefix(text, "access violation") {
		t.Errorf("packet %d, code %d, %q: want error 2", op, code, text)
	}
	l.stop()
	if n := testutil.ToFloat64(l.metrics.requests.WithLabelValues("write")); n != 1 {
		t.Errorf("%v writes counted", n)
	}
}

// TestSizeOnly is what OVMF does first: it asks for the size and aborts.
func TestSizeOnly(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	r := newRaw(t)
	r.send(l.addr, 1, "big", "octet", "tsize", "0", "blksize", "1468", "windowsize", "4")
	op, _, _, from := r.recv()
	if op != 6 {
		t.Fatalf("packet %d, want an OACK", op)
	}
	r.send(from, 5, "\x00\x08aborted")
	l.stop()
	if n := testutil.ToFloat64(l.metrics.requests.WithLabelValues("aborted")); n != 1 || l.delivered.Load() != 0 || l.closed.Load() != 1 {
		t.Errorf("%v aborted, %d delivered, %d closed", n, l.delivered.Load(), l.closed.Load())
	}
	if strings.Contains(l.log.String(), "level=WARN") || strings.Contains(l.log.String(), "level=ERROR") {
		t.Errorf("a normal abort is no event:\n%s", l.log)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*Config)
		result string
	}{
		{"total", func(c *Config) { c.MaxTransfers = 2 }, "busy"},
		{"per address", func(c *Config) { c.MaxPerAddress = 2 }, "address_busy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, tt.change)
			results := make(chan error, 2)
			for range 2 {
				go func() { _, _, err := l.get(t, "gated", 0); results <- err }()
			}
			<-l.opened
			<-l.opened
			_, _, err := l.get(t, "small", 0)
			if err == nil || !strings.Contains(err.Error(), "too many transfers") {
				t.Errorf("beyond the limit: %v", err)
			}
			if n := testutil.ToFloat64(l.metrics.transfers); n != 2 {
				t.Errorf("%v transfers under way", n)
			}
			close(l.gate)
			for range 2 {
				if err := <-results; err != nil {
					t.Error(err)
				}
			}
			l.waitIdle(t)
			if got, _, err := l.get(t, "small", 0); err != nil || string(got) != "hello" {
				t.Errorf("after the others had ended: %q, %v", got, err)
			}
			if n := testutil.ToFloat64(l.metrics.requests.WithLabelValues(tt.result)); n != 1 {
				t.Errorf("%v counted as %s", n, tt.result)
			}
		})
	}
}

func TestMalformedPackets(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	r := newRaw(t)
	long := strings.Repeat("0", 480) + "512"
	packets := [][]string{{}, {"x"}, {"big", "octet", "blksize", long, "tsize", "0"}, {"small"}, {strings.Repeat("a", 500), "octet"}, {"\xff\x01", "mail", "blksize"}}
	for _, op := range []uint16{0, 1, 2, 3, 4, 5, 6, 99} {
		for _, p := range packets {
			r.send(l.addr, op, p...)
		}
	}
	if got, _, err := l.get(t, "small", 0); err != nil || string(got) != "hello" {
		t.Errorf("after malformed packets: %q, %v", got, err)
	}
}

// TestOverlongOption would end the program without the guard in transfer.
func TestOverlongOption(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	r := newRaw(t)
	// 2 octets, "big", "", "tsize", "0", "blksize" and zeros fill the library's request buffer of 516 octets.
	value := strings.Repeat("0", 516-2-4-1-6-2-8-3) + "512"
	r.send(l.addr, 1, "big", "", "tsize", "0", "blksize", value[:len(value)-1]+"2")
	if got, _, err := l.get(t, "small", 0); err != nil || string(got) != "hello" {
		t.Errorf("after the request: %q, %v", got, err)
	}
	l.stop()
	if log := l.log.String(); !strings.Contains(log, "options that the library cannot answer") {
		t.Errorf("the request was answered: is the guard still needed?\n%s", log)
	}
}

func TestShutdownCutsTransfers(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *Config) { c.Retries = 1; c.Timeout = 50 * time.Millisecond })
	r := newRaw(t)
	r.send(l.addr, 1, "big", "octet")
	if op, block, _, _ := r.recv(); op != 3 || block != 1 {
		t.Fatalf("packet %d %d, want the first block", op, block)
	}
	l.stop() // returns although the client never answers
	if l.closed.Load() != 1 {
		t.Error("the file is still open")
	}
}

// TestClassroom lets many clients load at once from one address each that the limit allows.
func TestClassroom(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *Config) { c.MaxPerAddress = 100; c.Timeout = 2 * time.Second })
	want := content(300_000)
	var wg sync.WaitGroup
	for range 60 {
		wg.Go(func() {
			if got, _, err := l.get(t, "big", 1428); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
}

func TestMetricsAreThoseOfTheDocumentation(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	if _, err := New(Config{Open: func(string, netip.Addr, netip.Addr) (File, error) { return nil, io.EOF }, Metrics: reg}); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, f := range families {
		got[f.GetName()] = len(f.GetMetric())
	}
	want := map[string]int{"ltsp_satellite_tftp_transfers": 1, "ltsp_satellite_tftp_requests_total": len(results()), "ltsp_satellite_tftp_sent_bytes_total": 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	if _, err := New(Config{}); err == nil {
		t.Error("a server without files was accepted")
	}
}
