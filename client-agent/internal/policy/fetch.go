package policy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Stream is a Source that must be closed.
type Stream interface {
	Source
	io.Closer
}

// Opener opens a fetch stream to a satellite.
type Opener func(context.Context, agentproto.Satellite) (Stream, error)

const (
	// openTimeout bounds the opening of a stream, so that a satellite that hangs leaves time for the others.
	openTimeout = 15 * time.Second
	// fetchTimeout bounds what comes then. It is for large trees and a class that starts at once: a satellite that is silent meanwhile is the stream's matter.
	fetchTimeout = 3 * time.Minute
	// roundPause is the time between two rounds of FetchPatiently.
	roundPause = time.Second
)

// FetchFrom is Fetch from the first of the satellites that gives a whole state.
func (s *Store) FetchFrom(ctx context.Context, satellites []agentproto.Satellite, open Opener) (string, error) {
	var errs []error
	for _, sat := range satellites {
		sum, err := s.try(ctx, sat, open)
		if err == nil {
			return sum, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", sat.Addr, err))
		if ctx.Err() != nil {
			break
		}
	}
	return "", errors.Join(errs...)
}

func (s *Store) try(ctx context.Context, sat agentproto.Satellite, open Opener) (string, error) {
	opening, stop := context.WithTimeout(ctx, openTimeout)
	stream, err := open(opening, sat)
	stop()
	if err != nil {
		return "", err
	}
	defer stream.Close()
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	return s.Fetch(ctx, stream)
}

// FetchPatiently is FetchFrom, again and again until patience is over: in a classroom that is switched on at once a satellite may be busy, or just be starting. What
// has begun to arrive by then may go on. Final tells of errors that another try does not mend; when all satellites have one it gives up. The error is that of the
// last round.
func (s *Store) FetchPatiently(ctx context.Context, patience time.Duration, satellites []agentproto.Satellite, open Opener, final func(error) bool) (string, error) {
	end := time.Now().Add(patience)
	for {
		hopeless := true
		watch := func(ctx context.Context, sat agentproto.Satellite) (Stream, error) {
			ctx, cancel := context.WithDeadline(ctx, end)
			defer cancel()
			stream, err := open(ctx, sat)
			hopeless = hopeless && err != nil && final(err)
			return stream, err
		}
		sum, err := s.FetchFrom(ctx, satellites, watch)
		if err == nil || hopeless || time.Until(end) < roundPause {
			return sum, err
		}
		timer := time.NewTimer(roundPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return "", err
		}
	}
}
