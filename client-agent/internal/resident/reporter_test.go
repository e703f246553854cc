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

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// stream plays a satellite's end of a report stream.
type stream struct {
	name string
	send func(agentproto.Message) (agentproto.Ack, error)
}

func (s *stream) Send(_ context.Context, m agentproto.Message) (agentproto.Ack, error) {
	return s.send(m)
}
func (s *stream) Peer() string { return s.name }
func (s *stream) Close() error { return nil }

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
			Satellites: []agentproto.Satellite{{Addr: "a"}}, Changed: changed, Log: quiet,
			Dial:   func(context.Context, agentproto.Satellite) (Session, error) { return s, nil },
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
			Satellites: []agentproto.Satellite{{Addr: "a"}, {Addr: "b"}}, Log: quiet,
			Dial: func(_ context.Context, sat agentproto.Satellite) (Session, error) {
				mu.Lock()
				defer mu.Unlock()
				dials = append(dials, sat.Addr)
				when = append(when, time.Since(begin))
				if sat.Addr != up {
					return nil, refuse
				}
				return &stream{send: func(m agentproto.Message) (agentproto.Ack, error) {
					if m.Report.Timeline == nil {
						return agentproto.Ack{}, errors.New("reset")
					}
					return agentproto.Ack{}, nil // every new stream gets the timeline
				}}, nil
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
