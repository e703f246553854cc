package enroll

import (
	"errors"
	"net/netip"
	"sync"
	"time"
)

// ErrLimited refuses an attempt because too many failed before.
var ErrLimited = errors.New("too many refused attempts to enrol; try again in a minute")

// Limits of failed attempts: so many at once, and one more after each interval.
const (
	burstPerAddress    = 10
	intervalPerAddress = 6 * time.Second
	burstInAll         = 200
	intervalInAll      = 100 * time.Millisecond
	maxAddresses       = 4096
)

// Limiter slows down guessing. Only failed attempts count, so a whole classroom of satellites may enrol at once. Safe for concurrent use.
type Limiter struct {
	now func() time.Time

	mu     sync.Mutex
	all    bucket
	byAddr map[netip.Addr]*bucket
}

// bucket counts failures; each interval forgives one.
type bucket struct {
	failures int
	since    time.Time
}

func (b *bucket) forgive(now time.Time, interval time.Duration) {
	n := int(now.Sub(b.since) / interval)
	if n < 0 || n >= b.failures {
		b.failures, b.since = 0, now
		return
	}
	b.failures -= n
	b.since = b.since.Add(time.Duration(n) * interval)
}

// NewLimiter returns a limiter on the clock now.
func NewLimiter(now func() time.Time) *Limiter {
	return &Limiter{now: now, byAddr: make(map[netip.Addr]*bucket)}
}

// Allow tells by ErrLimited that addr, or all together, failed too often.
func (l *Limiter) Allow(addr netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.all.forgive(now, intervalInAll)
	if l.all.failures >= burstInAll {
		return ErrLimited
	}
	if b := l.byAddr[addr]; b != nil {
		b.forgive(now, intervalPerAddress)
		if b.failures >= burstPerAddress {
			return ErrLimited
		}
	}
	return nil
}

// Failed counts a failed attempt of addr.
func (l *Limiter) Failed(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	l.all.forgive(now, intervalInAll)
	l.all.failures++
	b := l.byAddr[addr]
	if b == nil {
		l.makeRoomLocked()
		b = &bucket{since: now}
		l.byAddr[addr] = b
	}
	b.forgive(now, intervalPerAddress)
	b.failures++
}

// makeRoomLocked forgets any one address when there are too many: the limit in all still holds.
func (l *Limiter) makeRoomLocked() {
	if len(l.byAddr) < maxAddresses {
		return
	}
	for addr := range l.byAddr {
		delete(l.byAddr, addr)
		return
	}
}
