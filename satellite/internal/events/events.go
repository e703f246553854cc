// Package events holds what happened on clients (agentproto.Event) until the controller has it. What a client can cause is bounded: events per client and
// minute, and events in all; what is more is dropped, the newest first. Nothing survives a restart. Only the satellite's wiring imports it.
//
//	ltsp_satellite_events_waiting          events that wait for the controller
//	ltsp_satellite_events_dropped_total    events dropped, by the limit: rate, full
package events

import (
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Limits.
const (
	PerMinute   = 30   // events of one client
	MaxWaiting  = 5000 // events in all
	MaxBatch    = 500  // that Pending returns
	maxClients  = 8192 // whose rate is known at once
	maxClockGap = time.Hour
)

// Event is what happened on a client.
type Event struct {
	MAC        string
	Time       time.Time
	Kind, Text string
}

// Queue is safe for concurrent use. It does not block.
type Queue struct {
	now     func() time.Time
	notify  chan struct{}
	dropped *prometheus.CounterVec

	mu      sync.Mutex
	waiting []Event
	rates   map[string]*rate
}

// rate counts one client's events in the minute that began at since.
type rate struct {
	since time.Time
	n     int
}

// New returns an empty queue. A nil now is time.Now, a nil reg registers no metrics.
func New(now func() time.Time, reg prometheus.Registerer) (*Queue, error) {
	if now == nil {
		now = time.Now
	}
	q := &Queue{now: now, notify: make(chan struct{}, 1), rates: make(map[string]*rate), dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "ltsp_satellite_events_dropped_total", Help: "Events dropped by the limit.",
	}, []string{"limit"})}
	for _, l := range []string{"rate", "full"} {
		q.dropped.WithLabelValues(l)
	}
	if reg == nil {
		return q, nil
	}
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ltsp_satellite_events_waiting", Help: "Events that wait for the controller."}, func() float64 {
		q.mu.Lock()
		defer q.mu.Unlock()
		return float64(len(q.waiting))
	})
	for _, c := range []prometheus.Collector{waiting, q.dropped} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of events: %w", err)
		}
	}
	return q, nil
}

// Add takes an event of a client. A time that is far from this machine's is replaced: clocks of PCs may be wrong.
func (q *Queue) Add(mac string, e agentproto.Event) {
	now := q.now()
	out := Event{MAC: mac, Time: e.Time, Kind: e.Kind, Text: clean(e.Text)}
	if gap := now.Sub(e.Time); gap > maxClockGap || gap < -maxClockGap {
		out.Time = now
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case !q.allowLocked(mac, now):
		q.dropped.WithLabelValues("rate").Inc()
		return
	case len(q.waiting) >= MaxWaiting:
		q.dropped.WithLabelValues("full").Inc()
		return
	}
	q.waiting = append(q.waiting, out)
	select {
	case q.notify <- struct{}{}:
	default:
	}
}

func (q *Queue) allowLocked(mac string, now time.Time) bool {
	r := q.rates[mac]
	if r == nil {
		if len(q.rates) >= maxClients {
			clear(q.rates) // some clients may say a little more, none can fill the memory
		}
		r = &rate{since: now}
		q.rates[mac] = r
	}
	if now.Sub(r.since) >= time.Minute || now.Before(r.since) {
		*r = rate{since: now}
	}
	r.n++
	return r.n <= PerMinute
}

// clean makes one line of a text that ends up on terminals.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	return strings.ToValidUTF8(s[:min(len(s), agentproto.MaxEventText)], "")
}

// Notify returns a channel that gets a value when there is something new. It is for one reader.
func (q *Queue) Notify() <-chan struct{} { return q.notify }

// Pending returns the oldest events, at most MaxBatch. They stay until Sent.
func (q *Queue) Pending() []Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.waiting), MaxBatch)
	return q.waiting[:n:n]
}

// Sent takes the n oldest away.
func (q *Queue) Sent(n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = q.waiting[min(max(n, 0), len(q.waiting)):]
	if len(q.waiting) == 0 {
		q.waiting = nil
	}
}
