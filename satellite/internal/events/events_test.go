package events

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// clock is a hand-wound clock.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

func newQueue(t *testing.T) (*Queue, *clock) {
	t.Helper()
	c := &clock{time.Unix(1_800_000_000, 0)}
	q, err := New(c.now, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return q, c
}

func TestEventsStayUntilSent(t *testing.T) {
	t.Parallel()
	q, c := newQueue(t)
	for i, at := range []time.Time{c.Time, c.Add(-time.Minute), {}, c.Add(48 * time.Hour)} {
		q.Add("pc1", agentproto.Event{Time: at, Kind: agentproto.EventPolicy, Text: fmt.Sprintf("%d\x1b", i)})
	}
	select {
	case <-q.Notify():
	default:
		t.Error("nobody was told")
	}
	for range 2 {
		p := q.Pending()
		if len(p) != 4 || p[3].Text != "3 " || !p[1].Time.Equal(c.Add(-time.Minute)) || !p[2].Time.Equal(c.Time) || !p[3].Time.Equal(c.Time) {
			t.Errorf("pending %+v", p)
		}
	}
	q.Sent(3)
	if p := q.Pending(); len(p) != 1 || p[0].Text != "3 " {
		t.Errorf("pending %+v", p)
	}
	q.Sent(99)
	q.Sent(-1)
	if p := q.Pending(); len(p) != 0 {
		t.Errorf("pending %+v", p)
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	q, c := newQueue(t)
	for range 3 * PerMinute {
		q.Add("loud", agentproto.Event{Kind: "policy", Text: "x"})
	}
	q.Add("quiet", agentproto.Event{Kind: "policy", Text: strings.Repeat("ü", agentproto.MaxEventText)})
	if p := q.Pending(); len(p) != PerMinute+1 || p[PerMinute].MAC != "quiet" || len(p[PerMinute].Text) > agentproto.MaxEventText {
		t.Errorf("%d events wait", len(p))
	}
	c.Time = c.Add(time.Minute)
	q.Add("loud", agentproto.Event{Kind: "policy", Text: "x"})
	if p := q.Pending(); len(p) != PerMinute+2 {
		t.Errorf("%d events wait after a minute", len(p))
	}
	for i := range 2 * MaxWaiting {
		q.Add(fmt.Sprint(i), agentproto.Event{Kind: "policy", Text: "x"})
	}
	if n := len(q.waiting); n != MaxWaiting || len(q.Pending()) != MaxBatch || len(q.rates) > maxClients {
		t.Errorf("%d events wait, %d clients are known", n, len(q.rates))
	}
	if q.Pending()[0].MAC != "loud" {
		t.Error("the oldest were dropped")
	}
	if rate, full := testutil.ToFloat64(q.dropped.WithLabelValues("rate")), testutil.ToFloat64(q.dropped.WithLabelValues("full")); rate != 2*PerMinute || full == 0 {
		t.Errorf("%v dropped by rate, %v because it is full", rate, full)
	}
}
