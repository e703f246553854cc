package resident

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Times of the report stream.
const (
	// defaultNext is the interval while the satellite has not named one; what it names is kept between minNext and maxNext.
	defaultNext = 10 * time.Second
	minNext     = time.Second
	maxNext     = 5 * time.Minute
	// The wait before another try doubles from firstBackoff to maxBackoff; it varies by a half downwards.
	firstBackoff = time.Second
	maxBackoff   = time.Minute
)

// Session is an open report stream; uplink.Session is one.
type Session interface {
	Send(context.Context, agentproto.Message) (agentproto.Ack, error)
	Peer() string
	Close() error
}

// Reporter keeps a report stream to one of the satellites.
type Reporter struct {
	Satellites []agentproto.Satellite
	// Dial opens a stream, hello included.
	Dial func(context.Context, agentproto.Satellite) (Session, error)
	// Report returns the present state with the whole timeline. Changed receives when it should be sent at once.
	Report  func() agentproto.Report
	Changed <-chan struct{}
	Log     *slog.Logger
}

// Run reports until ctx ends.
func (r *Reporter) Run(ctx context.Context) {
	backoff := firstBackoff
	told := "" // the last error, so that one that stays is not told again and again
	for i := 0; ctx.Err() == nil; i++ {
		sent, err := r.stream(ctx, r.Satellites[i%len(r.Satellites)])
		if ctx.Err() != nil {
			return
		}
		if sent > 0 {
			backoff, told = firstBackoff, ""
		}
		if err.Error() != told {
			told = err.Error()
			r.Log.Warn("report stream ended", "err", err)
		}
		if !pause(ctx, backoff-rand.N(backoff/2)) {
			return
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// stream reports to one satellite until that fails. Sent is the number of reports that were acknowledged.
func (r *Reporter) stream(ctx context.Context, sat agentproto.Satellite) (sent int, err error) {
	s, err := r.Dial(ctx, sat)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	r.Log.Info("reporting", "satellite", s.Peer())
	steps := -1 // of the timeline that this satellite has
	for {
		report := r.Report()
		if len(report.Timeline) == steps {
			report.Timeline = nil
		} else {
			steps = len(report.Timeline)
		}
		ack, err := s.Send(ctx, agentproto.Message{Report: &report})
		if err != nil {
			return sent, err
		}
		sent++
		if !r.await(ctx, interval(ack)) {
			return sent, ctx.Err()
		}
	}
}

// await returns when the next report is due, false if ctx ended.
func (r *Reporter) await(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Changed:
		return true
	case <-ctx.Done():
		return false
	}
}

func interval(ack agentproto.Ack) time.Duration {
	if ack.Next <= 0 {
		return defaultNext
	}
	return min(max(time.Duration(ack.Next), minNext), maxNext)
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
