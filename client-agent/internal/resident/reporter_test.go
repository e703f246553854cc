package resident

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/uplink"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// stream plays a satellite's end of a report stream.
type stream struct {
	name string
	send func(agentproto.Message) (agentproto.Ack, error)
	done chan struct{} // nil: it does not end by itself
}

func (s *stream) Send(_ context.Context, m agentproto.Message) (agentproto.Ack, error) {
	return s.send(m)
}
func (s *stream) Done() <-chan struct{} { return s.done }
func (s *stream) Err() error            { return errors.New("ended") }
func (s *stream) Peer() string          { return s.name }
func (s *stream) Close() error          { return nil }

// ignore is a Reporter.Policy.
func ignore(agentproto.Satellite, string) {}

var quiet = slog.New(slog.DiscardHandler)

func TestReporterInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got []string
		begin := time.Now()
		changed := make(chan struct{}, 1)
		var steps atomic.Int32
		steps.Store(1)
		next := []time.Duration{0, time.Hour, time.Nanosecond, 7 * time.Second, 7 * time.Second, 7 * time.Second}
		s := &stream{send: func(m agentproto.Message) (agentproto.Ack, error) {
			got = append(got, fmt.Sprintf("%v %d", time.Since(begin), len(m.Report.Timeline)))
			ack := agentproto.Ack{Next: agentproto.Duration(next[0])}
			next = next[1:]
			return ack, nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		r := &Reporter{
			Satellites: []agentproto.Satellite{{Addr: "a"}}, Changed: changed, Outbox: NewOutbox(), Policy: ignore, Log: quiet,
			Dial: func(context.Context, agentproto.Satellite) (Session, agentproto.Ack, error) {
				return s, agentproto.Ack{}, nil
			},
			Report: func() agentproto.Report { return agentproto.Report{Timeline: make([]agentproto.Step, steps.Load())} },
		}
		go func() { defer close(done); r.Run(ctx) }()
		time.Sleep(319 * time.Second) // default 10 s, at most 5 min, at least 1 s, then 7 s
		steps.Store(2)
		changed <- struct{}{}
		time.Sleep(5 * time.Second)
		cancel()
		<-done
		want := []string{"0s 1", "10s 0", "5m10s 0", "5m11s 0", "5m18s 0", "5m19s 2"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestReporterBacksOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var mu sync.Mutex // guards what follows
		var dials []string
		var when []time.Duration
		up := ""
		refuse := errors.New("refused")
		r := &Reporter{
			Satellites: []agentproto.Satellite{{Addr: "a"}, {Addr: "b"}}, Outbox: NewOutbox(), Policy: ignore, Log: quiet,
			Dial: func(_ context.Context, sat agentproto.Satellite) (Session, agentproto.Ack, error) {
				mu.Lock()
				defer mu.Unlock()
				dials = append(dials, sat.Addr)
				when = append(when, time.Since(begin))
				if sat.Addr != up {
					return nil, agentproto.Ack{}, refuse
				}
				return &stream{send: func(m agentproto.Message) (agentproto.Ack, error) {
					if m.Report.Timeline == nil {
						return agentproto.Ack{}, errors.New("reset")
					}
					return agentproto.Ack{}, nil // every new stream gets the timeline
				}}, agentproto.Ack{}, nil
			},
			Report: func() agentproto.Report { return agentproto.Report{Timeline: make([]agentproto.Step, 1)} },
		}
		go r.Run(t.Context()) // ends with the test: the bubble waits for it
		time.Sleep(10 * time.Minute)
		mu.Lock()
		if !strings.HasPrefix(strings.Join(dials, ""), "abababab") {
			t.Errorf("dialled %v", dials)
		}
		if n := len(dials); n < 14 || n > 30 {
			t.Errorf("%d dials in 10 minutes: %v", n, when)
		}
		for i := 1; i < len(when); i++ {
			if gap := when[i] - when[i-1]; gap < firstBackoff/2 || gap > maxBackoff {
				t.Errorf("gap %v", gap)
			}
		}
		up = "b"
		dials, when = nil, nil
		mu.Unlock()
		time.Sleep(10 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if n := len(dials); n < 20 { // a stream that worked resets the wait
			t.Errorf("%d dials: %v", n, when)
		}
	})
}

// TestReporterTellsLines has lines sent between two reports, on the next stream where the first breaks, and drops what is refused.
func TestReporterTellsLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		outbox := NewOutbox()
		var got []string
		broken := false
		send := func(m agentproto.Message) (agentproto.Ack, error) {
			what := "report"
			if m.Result != nil {
				what = m.Result.ID
			}
			got = append(got, fmt.Sprintf("%v %s", time.Since(begin).Truncate(time.Second), what))
			switch {
			case what == "refused":
				return agentproto.Ack{}, fmt.Errorf("%w: no", uplink.ErrRefused)
			case what == "lost" && !broken:
				broken = true
				return agentproto.Ack{}, errors.New("reset")
			}
			return agentproto.Ack{Next: agentproto.Duration(time.Minute)}, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		r := &Reporter{
			Satellites: []agentproto.Satellite{{Addr: "a"}}, Outbox: outbox, Policy: ignore, Log: quiet,
			Dial: func(context.Context, agentproto.Satellite) (Session, agentproto.Ack, error) {
				return &stream{send: send}, agentproto.Ack{}, nil
			},
			Report: func() agentproto.Report { return agentproto.Report{} },
		}
		go func() { defer close(done); r.Run(ctx) }()
		for _, id := range []string{"first", "refused", "lost", "last"} {
			time.Sleep(10 * time.Second)
			outbox.Add(agentproto.Message{Result: &agentproto.Result{ID: id}})
		}
		time.Sleep(10 * time.Second)
		if !outbox.empty() {
			t.Error("lines are left")
		}
		cancel()
		<-done
		// A stream that ended is opened again within a second.
		want := []string{"0s report", "10s first", "20s refused", "20s report", "30s lost", "30s report", "30s lost", "40s last"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// TestReporterHearsOfPolicy hears the satellite's word in each answer, and notices an end between two reports.
func TestReporterHearsOfPolicy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got []string
		ended := make(chan struct{})
		dials := 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		r := &Reporter{
			Satellites: []agentproto.Satellite{{Addr: "a"}, {Addr: "b"}}, Outbox: NewOutbox(), Log: quiet,
			Policy: func(sat agentproto.Satellite, sum string) { got = append(got, sat.Addr+sum) },
			Dial: func(context.Context, agentproto.Satellite) (Session, agentproto.Ack, error) {
				dials++
				s := &stream{send: func(agentproto.Message) (agentproto.Ack, error) { return agentproto.Ack{Policy: "2"}, nil }}
				if dials == 1 {
					s.done = ended
				}
				return s, agentproto.Ack{Policy: "1"}, nil
			},
			Report: func() agentproto.Report { return agentproto.Report{} },
		}
		go func() { defer close(done); r.Run(ctx) }()
		time.Sleep(time.Second)
		close(ended)
		time.Sleep(2 * time.Second)
		cancel()
		<-done
		if diff := cmp.Diff([]string{"a1", "a2", "b1", "b2"}, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOutboxIsBounded(t *testing.T) {
	t.Parallel()
	o := NewOutbox()
	result := func(id string) agentproto.Message { return agentproto.Message{Result: &agentproto.Result{ID: id}} }
	o.Add(result("0"))
	for range 2 * maxLines {
		o.Add(event("policy", "x"))
	}
	first, _ := o.take()
	if first.Result == nil || first.Result.ID != "0" {
		t.Errorf("an event drove out a result: %+v", first)
	}
	for i := range 2 * maxLines {
		o.Add(result(fmt.Sprint(i)))
	}
	o.settle(first, true)
	m, _ := o.take()
	if m.Result == nil || m.Result.ID != "0" {
		t.Errorf("first %+v", m)
	}
	n := 1
	for {
		m, ok := o.take()
		if !ok {
			break
		}
		if m.Event != nil {
			t.Error("an event has stayed where results went")
		}
		n++
	}
	if n != maxLines {
		t.Errorf("%d lines", n)
	}
}
