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
	// tryTimeout bounds the fetch from one satellite, so that one that hangs leaves time for the others.
	tryTimeout = 15 * time.Second
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
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	stream, err := open(ctx, sat)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	return s.Fetch(ctx, stream)
}

// FetchPatiently is FetchFrom, again and again until ctx ends: in a classroom that is switched on at once a satellite may be busy, or just be starting.
// Final tells of errors that another try does not mend; when all satellites have one it gives up. The error is that of the last round.
func (s *Store) FetchPatiently(ctx context.Context, satellites []agentproto.Satellite, open Opener, final func(error) bool) (string, error) {
	for {
		hopeless := true
		watch := func(ctx context.Context, sat agentproto.Satellite) (Stream, error) {
			stream, err := open(ctx, sat)
			hopeless = hopeless && err != nil && final(err)
			return stream, err
		}
		sum, err := s.FetchFrom(ctx, satellites, watch)
		if err == nil || hopeless {
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
