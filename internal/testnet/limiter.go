package testnet

import (
	"context"
	"sync"
	"time"
)

// limiter is a token bucket in bytes that hands out places in a queue: each caller learns when its bytes may go. One limiter
// serves all connections of one direction, as one line does.
type limiter struct {
	mu   sync.Mutex
	rate int64     // bytes per second; 0: unlimited
	free time.Time // when the line will have sent everything that was let in
}

func (l *limiter) setRate(bytesPerSecond int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate = max(bytesPerSecond, 0)
	l.free = time.Time{}
}

// piece is how many bytes to send at once so that the line looks smooth: about 50 ms of it, within sensible sizes.
func (l *limiter) piece(size int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate == 0 {
		return size
	}
	return min(size, max(int(min(l.rate/20, int64(size))), 512))
}

// wait blocks until n bytes may be sent or ctx is over.
func (l *limiter) wait(ctx context.Context, n int) error {
	l.mu.Lock()
	if l.rate == 0 {
		l.mu.Unlock()
		return ctx.Err()
	}
	now := time.Now()
	if l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
	delay := l.free.Sub(now)
	l.mu.Unlock()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
