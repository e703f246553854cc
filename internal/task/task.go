// Package task runs a daemon's parts together: the first that fails ends all, and the end of the context ends all in order. Every part
// of the project may import it.
package task

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"
)

// A Task is one long-running part of a daemon. Run blocks until ctx ends (then it drains and returns nil) or the part cannot go on.
type Task struct {
	Name string
	Run  func(ctx context.Context) error
}

// Run runs all tasks and returns when all have returned: nil if ctx ended and none failed, else the first failure. A task that returns
// nil before ctx ends is a failure too: daemons' parts do not just stop. log may be nil.
func Run(ctx context.Context, log *slog.Logger, tasks ...Task) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, t := range tasks {
		g.Go(func() error {
			log.Debug("task starts", "task", t.Name)
			err := t.Run(gctx)
			if gctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
				return nil
			}
			if err == nil {
				err = errors.New("it ended by itself")
			}
			return fmt.Errorf("%s: %w", t.Name, err)
		})
	}
	return g.Wait()
}
