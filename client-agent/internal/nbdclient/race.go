package nbdclient

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"
)

// AttemptTimeout bounds one connection with its negotiation in a Race.
const AttemptTimeout = 3 * time.Second

// Opener makes a checked connection, as Open does.
type Opener func(context.Context, Target) (*os.File, Info, error)

// Result is an open connection to one of several targets. The receiver closes File.
type Result struct {
	Target Target
	File   *os.File
	Info   Info
}

// Race opens the targets one after the other, the next when one has failed or headStart has passed, and returns the first that succeeds; the
// others are closed. It returns when all attempts have ended. The error names what each target said.
func Race(ctx context.Context, targets []Target, headStart time.Duration, open Opener) (Result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := race{ctx: ctx, open: open, waiting: targets, results: make(chan outcome)}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for r.running > 0 || r.winner.File == nil && len(r.waiting) > 0 {
		select {
		case <-timer.C:
		case o := <-r.results:
			r.running--
			if r.take(o) {
				cancel()
			}
		}
		if r.winner.File == nil && len(r.waiting) > 0 {
			r.start()
			timer.Reset(headStart)
		}
	}
	if r.winner.File == nil {
		return Result{}, errors.New(strings.Join(r.failed, "; "))
	}
	return r.winner, nil
}

type outcome struct {
	Result
	err error
}

type race struct {
	ctx     context.Context
	open    Opener
	waiting []Target
	running int
	results chan outcome
	winner  Result
	failed  []string
}

func (r *race) start() {
	t := r.waiting[0]
	r.waiting = r.waiting[1:]
	r.running++
	go func() {
		ctx, cancel := context.WithTimeout(r.ctx, AttemptTimeout)
		defer cancel()
		file, info, err := r.open(ctx, t)
		r.results <- outcome{Result{t, file, info}, err}
	}()
}

// take notes one outcome and tells whether it has won.
func (r *race) take(o outcome) bool {
	switch {
	case o.err != nil:
		r.failed = append(r.failed, o.err.Error())
	case r.winner.File != nil:
		o.File.Close()
	default:
		r.winner = o.Result
		return true
	}
	return false
}
