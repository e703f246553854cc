package initrd

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// stage is one step of the boot. Its name appears in the boot timeline and in failure reports.
type stage struct {
	name   string
	advice string // what somebody in front of the PC or the administrator can do if it fails
	// limit ends a stage that hangs. The stage's own waits are shorter and give better reasons.
	limit time.Duration
	run   func(context.Context) error
}

// failure is a stage that went wrong.
type failure struct {
	stage  string
	advice string
	err    error
}

func (f *failure) message() *agentproto.Failure {
	return &agentproto.Failure{Stage: f.stage, Error: clip(f.err.Error(), 4096), Advice: f.advice}
}

func clip(s string, n int) string { return s[:min(len(s), n)] }

// runStages runs the stages in order and calls done behind each with its name. It stops at the first failure; a panic is one.
func runStages(ctx context.Context, log *slog.Logger, stages []stage, done func(name string)) *failure {
	for _, s := range stages {
		log.Debug("stage begins", "stage", s.name)
		if err := runStage(ctx, s); err != nil {
			return &failure{stage: s.name, advice: s.advice, err: err}
		}
		done(s.name)
	}
	return nil
}

// runStage waits for the stage, but not longer than its limit: a system call that hangs cannot be ended, only left behind.
func runStage(ctx context.Context, s stage) error {
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	result := make(chan error, 1)
	go func() {
		defer func() {
			if v := recover(); v != nil {
				result <- fmt.Errorf("internal error: %v\n%s", v, clip(string(debug.Stack()), 2048))
			}
		}()
		result <- s.run(ctx)
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
	}
	// It may just be ending by itself, with a reason.
	select {
	case err := <-result:
		return err
	case <-time.After(grace):
		return fmt.Errorf("nothing happened for %v", s.limit)
	}
}

// grace is how long a stage whose time is over may take to give a reason.
const grace = 2 * time.Second
