package dhcp

import (
	"sync"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

// A limiter is a token bucket for each client. It remembers at most twice max clients: when a generation is full, the older
// one is forgotten, which at worst gives a client a full bucket again.
type limiter struct {
	burst, perSecond float64
	max              int

	mu       sync.Mutex
	new, old map[lease.MAC]bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newLimiter(burst, perSecond float64, max int) *limiter {
	return &limiter{burst: burst, perSecond: perSecond, max: max, new: make(map[lease.MAC]bucket)}
}

// allow takes one token of m's bucket and reports whether there was one. Clients without an Ethernet address share one bucket.
func (l *limiter) allow(m lease.MAC, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.new[m]
	if !ok {
		if b, ok = l.old[m]; !ok {
			b = bucket{l.burst, now}
		}
		if len(l.new) >= l.max {
			l.old, l.new = l.new, make(map[lease.MAC]bucket)
		}
	}
	b.tokens = min(l.burst, b.tokens+max(0, now.Sub(b.at).Seconds())*l.perSecond)
	b.at = now
	allowed := b.tokens >= 1
	if allowed {
		b.tokens--
	}
	l.new[m] = b
	return allowed
}
