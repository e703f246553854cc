package chunksync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// defaultRetry is when the controller is asked again that said "wait" and not for how long; longestHold is how long nothing is asked at all.
const (
	defaultRetry = 30 * time.Second
	longestHold  = 10 * time.Minute
)

// heldError is no failure: the transfer may not begin or go on yet.
type heldError struct {
	reason string
	again  time.Duration // until it should be tried again
}

func (e *heldError) Error() string { return "waiting: " + e.reason }

// errWindow is the cause for which a context ends when the time window closes.
var errWindow = errors.New("the time window closes")

// hold notes that a version has to wait.
func (s *Syncer) hold(e *entry, held *heldError) {
	s.set(e, func(e *entry) {
		e.err, e.failures = held, 0
		if e.state != Serving {
			e.state = Waiting
		}
		e.next = time.Now().Add(min(held.again, longestHold))
	})
}

// windowClosed tells, by an error, that nothing may be fetched that nobody waits for.
func (s *Syncer) windowClosed() error {
	s.mu.Lock()
	w := s.policy.Window
	s.mu.Unlock()
	if open, change := w.Open(s.cfg.Now().Local()); !open {
		return &heldError{reason: fmt.Sprintf("transfers are allowed at %s", w), again: change}
	}
	return nil
}

// whileOpen returns a context that ends when the time window closes.
func (s *Syncer) whileOpen(ctx context.Context) (context.Context, func()) {
	s.mu.Lock()
	w := s.policy.Window
	s.mu.Unlock()
	_, change := w.Open(s.cfg.Now().Local())
	if change == 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, change, errWindow)
}

// whyEnded turns the end of whileOpen's context into a heldError.
func (s *Syncer) whyEnded(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errWindow) {
		if closed := s.windowClosed(); closed != nil {
			return closed
		}
	}
	return err
}

// way decides how a version comes: as the controller plans, or without it as it was begun.
func (s *Syncer) way(ctx context.Context, e *entry, v config.Version) (config.Plan, error) {
	if v.Kind != manifest.Image || s.cfg.Planner == nil {
		return config.Plan{}, nil
	}
	_, begun, pending := s.cfg.Store.Pending(v.ID)
	q := s.question(e, v, begun)
	plan, err := s.cfg.Planner.PlanSync(ctx, q)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return plan, ctx.Err()
	case errors.Is(err, ErrGone):
		return plan, fmt.Errorf("%w: %w", errSource, err)
	case begun != nil && q.Failure == "":
		plan = config.Plan{Method: config.ByDelta, Base: begun.Base, Delta: *begun, WireBytes: uint64(begun.Size), Made: s.cfg.Now(),
			Reason: "begun before; the controller can't be asked now"}
	case begun == nil && pending == nil:
		plan = config.Plan{Method: config.ByChunks, Made: s.cfg.Now(), Reason: "chunks have come before; the controller can't be asked now"}
	default:
		return plan, fmt.Errorf("%w: %w", errSource, err)
	}
	if plan.Method == config.ByDelta {
		plan = s.checked(e, plan)
	}
	s.set(e, func(e *entry) {
		e.plan = plan
		e.course.plan(plan, q.LinkRate)
	})
	if plan.Method != config.ByDelta && e.fill == nil {
		s.log.Info("plan for a version", "image", v.Image, "number", v.Number, "method", plan.Method, "reason", plan.Reason, "wire_bytes", plan.WireBytes)
	}
	return plan, nil
}

// checked replaces a delta that can't be used here.
func (s *Syncer) checked(e *entry, plan config.Plan) config.Plan {
	chunks := func(why string) config.Plan {
		return config.Plan{Method: config.ByChunks, Made: s.cfg.Now(), Reason: why, Options: plan.Options}
	}
	if e.refused[plan.Delta.SHA256] {
		return chunks("the delta did not make this version: " + e.failure)
	}
	if info, ok := s.cfg.Store.Find(plan.Delta.Base); !ok || !info.Verified {
		return chunks("the version that the delta begins at is not here")
	}
	return plan
}

// question is what the controller needs to know.
func (s *Syncer) question(e *entry, v config.Version, begun *config.Delta) config.PlanQuestion {
	q := config.PlanQuestion{Version: v.ID, RecompressRate: s.cfg.Recompress()}
	for _, info := range s.cfg.Store.List() {
		if info.Verified && info.Manifest.Kind == manifest.Image {
			q.Have = append(q.Have, info.ID)
		}
	}
	// Versions of the same image first: the list is cut at the other end.
	slices.SortStableFunc(q.Have, func(a, b manifest.ID) int { return s.sameImage(b, v.Image) - s.sameImage(a, v.Image) })
	if begun != nil {
		q.Begun = begun.SHA256
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q.LinkRate, q.Failure = s.link.bytesPerSecond(), e.failure
	return q
}

func (s *Syncer) sameImage(id manifest.ID, image string) int {
	if info, ok := s.cfg.Store.Find(id); ok && info.Manifest.Name == image {
		return 1
	}
	return 0
}

// pace measures a transfer of chunks until the returned function is called.
func (s *Syncer) pace(e *entry) (stop func()) {
	start, before := time.Now(), s.fetchedBytes(e)
	look := time.NewTicker(lookPeriod)
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-look.C:
				s.lookBehind(e, progress{fetched: s.fetchedBytes(e) - before, time: time.Since(start), missing: true})
			case <-done:
				return
			}
		}
	}()
	return func() {
		look.Stop()
		close(done)
		<-ended
		s.mu.Lock()
		defer s.mu.Unlock()
		s.link.add(e.fetched-before, time.Since(start))
	}
}
