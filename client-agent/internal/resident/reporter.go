package resident

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/uplink"
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
	// Done is closed when the stream has ended by itself, Err says why then.
	Done() <-chan struct{}
	Err() error
	Peer() string
	Close() error
}

// Reporter keeps a report stream to one of the satellites.
type Reporter struct {
	Satellites []agentproto.Satellite
	// Dial opens a stream, hello included.
	Dial func(context.Context, agentproto.Satellite) (Session, agentproto.Ack, error)
	// Report returns the present state with the whole timeline. Changed receives when it should be sent at once.
	Report  func() agentproto.Report
	Changed <-chan struct{}
	// Outbox has other lines that are sent as soon as there are any.
	Outbox *Outbox
	// Policy hears of the policy that a satellite says the client should have, each time it does. It must not block.
	Policy func(sat agentproto.Satellite, sum string)
	Log    *slog.Logger
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
	s, first, err := r.Dial(ctx, sat)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	r.Log.Info("reporting", "satellite", s.Peer())
	r.hear(sat, first)
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
		r.hear(sat, ack)
		if err := r.await(ctx, sat, s, interval(ack)); err != nil {
			return sent, err
		}
	}
}

// await sends the lines of the outbox until the next report is due. It returns an error when the stream is of no more use.
func (r *Reporter) await(ctx context.Context, sat agentproto.Satellite, s Session, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return nil
		case <-r.Changed:
			return nil
		case <-r.Outbox.ready:
			if err := r.flush(ctx, sat, s); err != nil {
				return err
			}
		case <-s.Done():
			return s.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// flush sends what is in the outbox. A line that the satellite refuses is dropped: no other one would take it, and all lines behind it would wait.
func (r *Reporter) flush(ctx context.Context, sat agentproto.Satellite, s Session) error {
	for {
		m, ok := r.Outbox.take()
		if !ok {
			return nil
		}
		ack, err := s.Send(ctx, m)
		r.Outbox.settle(m, err != nil && !errors.Is(err, uplink.ErrRefused) && !errors.Is(err, agentproto.ErrLineTooLong))
		if err != nil {
			return err
		}
		r.hear(sat, ack)
	}
}

func (r *Reporter) hear(sat agentproto.Satellite, ack agentproto.Ack) {
	if ack.Policy != "" {
		r.Policy(sat, ack.Policy)
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
