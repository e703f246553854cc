package reports

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

const (
	pc    = "52:54:00:67:00:10"
	token = "00112233445566778899aabbccddeeff"
)

func TestStream(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	a := l.dial()
	for _, m := range []agentproto.Message{hello(pc, token), report("starting"), report("healthy"), {Failure: &agentproto.Failure{Stage: "nbd"}}} {
		ack := a.say(m)
		if next := time.Duration(ack.Next); ack.Error != "" || next < 8*time.Second || next > 12*time.Second {
			t.Errorf("answer %+v", ack)
		}
	}
	a.conn.Close()
	l.stop()
	want := []string{"hello " + pc + " from 127.0.0.1", "report " + pc + " starting", "report " + pc + " healthy", "failure " + pc + " nbd"}
	if diff := cmp.Diff(want, l.registry.seen); diff != "" {
		t.Errorf("registry (-want +got):\n%s", diff)
	}
	if n := testutil.ToFloat64(l.metrics.connections); n != 0 || len(l.streams) != 0 || len(l.addrs) != 0 {
		t.Errorf("%v connections, %d streams left", n, len(l.streams))
	}
	if strings.Contains(l.log.String(), token) {
		t.Errorf("the log holds the token:\n%s", l.log)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		lines []agentproto.Message // the last is refused
		raw   string               // sent instead of lines
		why   string
	}{
		{"wrong token", []agentproto.Message{hello(pc, strings.Repeat("f", 32))}, "", "token"},
		{"malformed token", []agentproto.Message{hello(pc, "x")}, "", "token is not 32"},
		{"bad MAC", []agentproto.Message{hello("x", token)}, "", "mac"},
		{"report before hello", []agentproto.Message{report("healthy")}, "", "first line must be a hello"},
		{"second hello", []agentproto.Message{hello(pc, token), hello(pc, token)}, "", "want a report"},
		{"fetch on a report stream", []agentproto.Message{hello(pc, token), {Fetch: &agentproto.Fetch{Name: agentproto.PolicyName}}}, "", "want a report"},
		{"unusable result", []agentproto.Message{hello(pc, token), {Result: &agentproto.Result{ID: "x"}}}, "", "result id"},
		{"unusable event", []agentproto.Message{hello(pc, token), {Event: &agentproto.Event{Kind: "policy"}}}, "", "event with"},
		{"fetch stream with a wrong token", []agentproto.Message{fetchHello(pc, strings.Repeat("f", 32))}, "", "address is not"},
		{"report on a fetch stream", []agentproto.Message{fetchHello(pc, token), report("healthy")}, "", "want a fetch"},
		{"fetch of a path", []agentproto.Message{fetchHello(pc, token), {Fetch: &agentproto.Fetch{Name: "../state.db"}}}, "", "fetch of"},
		{"ack from an agent", []agentproto.Message{hello(pc, token), {Ack: &agentproto.Ack{}}}, "", "want a report"},
		{"unusable report", []agentproto.Message{hello(pc, token), report("odd")}, "", "unusable report"},
		{"no JSON", nil, "GET / HTTP/1.1\r\n\r\n", "bad message"},
		{"two fields", nil, `{"hello":{},"report":{}}` + "\n", "bad message"},
		{"too long", nil, strings.Repeat("x", 3*agentproto.MaxLine), "longer than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, nil)
			a := l.dial()
			var ack agentproto.Ack
			for _, m := range tt.lines {
				if ack.Error != "" {
					t.Fatalf("refused too early: %s", ack.Error)
				}
				ack = a.say(m)
			}
			if tt.raw != "" {
				if _, err := io.WriteString(a.conn, tt.raw); err != nil {
					t.Fatal(err)
				}
				ack = a.ack()
			}
			if !strings.Contains(ack.Error, tt.why) {
				t.Errorf("answer %q, want %q", ack.Error, tt.why)
			}
			a.over()
		})
	}
}

func TestTooManyLines(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *Config) { c.MaxLines = 5 })
	a := l.dial()
	a.say(hello(pc, token))
	for range 4 {
		if ack := a.say(report("healthy")); ack.Error != "" {
			t.Fatal(ack.Error)
		}
	}
	if ack := a.say(report("healthy")); !strings.Contains(ack.Error, "more than 5 lines in 10s") {
		t.Errorf("answer %q", ack.Error)
	}
	a.over()
}

func TestNewStreamEndsTheOlder(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	first, second := l.dial(), l.dial()
	first.say(hello(pc, token))
	second.say(hello(pc, token))
	first.over()
	if ack := second.say(report("healthy")); ack.Error != "" {
		t.Errorf("the new stream: %s", ack.Error)
	}
	l.stop()
	if n := testutil.ToFloat64(l.metrics.ended.WithLabelValues("replaced")); n != 1 {
		t.Errorf("%v replaced", n)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	for reason, change := range map[string]func(*Config){
		"total":   func(c *Config) { c.MaxConnections = 1 },
		"address": func(c *Config) { c.MaxPerAddress = 1 },
	} {
		l := newLab(t, change)
		a := l.dial()
		a.say(hello(pc, token))
		over, err := net.Dial("tcp", l.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := over.Read(make([]byte, 1)); err == nil {
			t.Error("a connection beyond the limit was taken")
		}
		over.Close()
		if n := testutil.ToFloat64(l.metrics.refused.WithLabelValues(reason)); n != 1 {
			t.Errorf("%v refused by %s", n, reason)
		}
		l.stop()
	}
}

func TestSilence(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, reason string
		talk         func(l *lab)
	}{
		{"no handshake", "handshake", func(l *lab) {
			c, err := net.Dial("tcp", l.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, _ = io.Copy(io.Discard, c)
		}},
		{"no hello", "silent", func(l *lab) {
			a := l.dial()
			if err := a.conn.Handshake(); err != nil {
				t.Error(err)
			}
			a.over()
		}},
		{"no report", "silent", func(l *lab) { a := l.dial(); a.say(hello(pc, token)); a.over() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, func(c *Config) { c.HandshakeTimeout = 2 * time.Second; c.Interval = 50 * time.Millisecond })
			tt.talk(l)
			l.stop()
			if n := testutil.ToFloat64(l.metrics.ended.WithLabelValues(tt.reason)); n != 1 {
				t.Errorf("%v ended as %s; log:\n%s", n, tt.reason, l.log)
			}
		})
	}
}

// TestSchool lets 200 agents report at once.
func TestSchool(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(c *Config) { c.MaxPerAddress = 300; c.HandshakeTimeout = time.Minute })
	var wg sync.WaitGroup
	for i := range 200 {
		a := l.dial()
		wg.Go(func() {
			if err := a.Write(hello(fmt.Sprintf("52:54:00:00:00:%02x", i), token)); err != nil {
				t.Error(err)
				return
			}
			for range 3 {
				if m, err := a.Read(); err != nil || m.Ack == nil || m.Ack.Error != "" {
					t.Errorf("answer %+v, %v", m, err)
					return
				}
				if err := a.Write(report("healthy")); err != nil {
					t.Error(err)
					return
				}
			}
			if _, err := a.Read(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := testutil.ToFloat64(l.metrics.connections); n != 200 {
		t.Errorf("%v connections", n)
	}
	l.stop()
	if n := testutil.ToFloat64(l.metrics.lines["report"]); n != 600 {
		t.Errorf("%v reports", n)
	}
}

func TestServeEndsWithItsListener(t *testing.T) {
	t.Parallel()
	holder, _ := certificate(t)
	s, err := New(Config{Registry: new(fakeRegistry), Certificate: holder})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := s.Serve(t.Context(), ln); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := New(Config{}); err == nil {
		t.Error("a server without a registry was accepted")
	}
}

func TestMetricsAreThoseOfTheDocumentation(t *testing.T) {
	t.Parallel()
	holder, _ := certificate(t)
	reg := prometheus.NewRegistry()
	if _, err := New(Config{Registry: new(fakeRegistry), Certificate: holder, Metrics: reg}); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		got = append(got, f.GetName())
	}
	want := []string{
		"ltsp_satellite_reports_commands_total", "ltsp_satellite_reports_connections", "ltsp_satellite_reports_ended_total", "ltsp_satellite_reports_fetched_bytes_total",
		"ltsp_satellite_reports_fetches_total", "ltsp_satellite_reports_fetching", "ltsp_satellite_reports_lines_total", "ltsp_satellite_reports_notices_total",
		"ltsp_satellite_reports_refused_total",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

// FuzzLines feeds a stream with arbitrary bytes after the handshake.
func FuzzLines(f *testing.F) {
	f.Add([]byte(`{"hello":{"version":1,"mac":"52:54:00:67:00:10","token":"00112233445566778899aabbccddeeff"}}` + "\n" + `{"report":{"state":"healthy"}}` + "\n"))
	f.Add([]byte(`{"failure":{"stage":"x"}}` + "\n"))
	f.Add([]byte("{\n"))
	f.Add([]byte(`{"hello":null}` + "\n\n"))
	f.Add([]byte(`{"hello":{"version":1,"mac":"52:54:00:67:00:10","token":"00112233445566778899aabbccddeeff","fetch":true}}` + "\n" + `{"fetch":{"name":"policy"}}` + "\n"))
	f.Add([]byte(`{"hello":{"version":1,"mac":"52:54:00:67:00:10","token":"00112233445566778899aabbccddeeff"}}` + "\n" + `{"result":{"id":"00112233445566778899aabbccddeeff"}}` + "\n" +
		`{"event":{"kind":"policy","text":"x"}}` + "\n"))
	holder, _ := certificate(f)
	s, err := New(Config{Registry: new(fakeRegistry), Certificate: holder, MaxLines: 1000, Interval: time.Hour})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s.streams, s.fetching = make(map[string]*stream), 0
		st := &stream{server: s, push: newPushes()}
		r := agentproto.NewReader(bytes.NewReader(data))
		for {
			m, err := r.Read()
			if err != nil {
				return
			}
			known := st.mac != ""
			reason, err := st.take(m)
			if (reason == "") != (err == nil) {
				t.Fatalf("reason %q with error %v", reason, err)
			}
			if err != nil {
				return
			}
			if !known && m.Hello == nil {
				t.Fatal("a line was taken before the hello")
			}
		}
	})
}
