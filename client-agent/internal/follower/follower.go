// Package follower keeps a running client's policy that which its satellite names: it fetches the state and has it applied, one at a time, the newest
// only, and again until it has worked.
package follower

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Times between tries. They double and vary by a half downwards.
const (
	firstPause = time.Second
	// maxFetchPause is the longest wait for a satellite, maxApplyPause that after a state that could not be applied: most likely its text is at fault,
	// and a newer one ends the wait.
	maxFetchPause = 30 * time.Second
	maxApplyPause = 10 * time.Minute
)

// ErrApply is wrapped by the error of a state that was fetched and could not be put in force.
var ErrApply = errors.New("apply the policy")

// Outcome is what came of applying a state.
type Outcome struct {
	// Pending says what of it needs a reboot, Errors what could not be done; a short line each.
	Pending, Errors []string
}

// Config is what a Follower works with. All fields are required.
type Config struct {
	// Fetch brings the client's state from a satellite, or from another one, and returns its digest.
	Fetch func(ctx context.Context, from agentproto.Satellite) (string, error)
	// Apply puts a state that was fetched in force. On error the one from before is in force still.
	Apply func(ctx context.Context, sum string) (Outcome, error)
	// Initial is the report of what is in force at the start; nil if nothing is. Problem says why then, if it should not be so.
	Initial *agentproto.PolicyReport
	Problem string
	// Changed is called when Report or Problem give something else, with the news for people; empty where there is none. It must not block.
	Changed func(news string)
	Log     *slog.Logger
}

// target is what a satellite has named.
type target struct {
	sat   agentproto.Satellite
	sum   string
	since time.Time
}

// Follower follows. It is safe for concurrent use.
type Follower struct {
	cfg  Config
	wake chan struct{}

	mu      sync.Mutex
	want    target // sum is empty when nothing is to do
	report  *agentproto.PolicyReport
	problem string
	failure string // why want is not in force
}

// New returns a Follower. Run starts it.
func New(cfg Config) *Follower {
	return &Follower{cfg: cfg, wake: make(chan struct{}, 1), report: cfg.Initial, problem: cfg.Problem}
}

// Want tells what a satellite has named. It does not block.
func (f *Follower) Want(sat agentproto.Satellite, sum string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.report != nil && f.report.State == sum:
		f.want = target{} // what was under way is no longer wanted
		f.failure = ""
		return
	case f.want.sum == sum:
		f.want.sat = sat
		return
	}
	f.want = target{sat: sat, sum: sum, since: time.Now()}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Report returns what is in force, nil if nothing is. What could not be put in force is in its Errors.
func (f *Follower) Report() *agentproto.PolicyReport {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.report == nil && f.failure == "" {
		return nil
	}
	var r agentproto.PolicyReport
	if f.report != nil {
		r = *f.report
	}
	if f.failure != "" {
		r.Errors = append([]string{f.failure}, r.Errors...)
		r.Errors = r.Errors[:min(len(r.Errors), maxLines)]
	}
	return &r
}

// Problem says why a client that should have a policy has none; empty if it has one.
func (f *Follower) Problem() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.problem
}

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		t, ok := f.target()
		if !ok {
			pause = firstPause
			select {
			case <-f.wake:
			case <-ctx.Done():
			}
			continue
		}
		err := f.follow(ctx, t)
		if err == nil || ctx.Err() != nil {
			continue
		}
		f.failed(t, err)
		if f.await(ctx, pause-rand.N(pause/2)) {
			pause = firstPause
			continue
		}
		pause = min(2*pause, longest(err))
	}
}

func longest(err error) time.Duration {
	if errors.Is(err, ErrApply) {
		return maxApplyPause
	}
	return maxFetchPause
}

// await waits, and returns true if something else is wanted meanwhile.
func (f *Follower) await(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-f.wake:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

func (f *Follower) target() (target, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.want, f.want.sum != ""
}

// follow brings what is wanted and puts it in force. A satellite may give a newer state than it has named; that is as good.
func (f *Follower) follow(ctx context.Context, t target) error {
	sum, err := f.cfg.Fetch(ctx, t.sat)
	if err != nil {
		return err
	}
	if f.inForce(sum) {
		f.settle(t, nil)
		return nil
	}
	out, err := f.cfg.Apply(ctx, sum)
	if err != nil {
		return fmt.Errorf("%w %.8s: %w", ErrApply, sum, err)
	}
	took := time.Since(t.since)
	f.cfg.Log.Info("policy is in force", "state", sum, "took", took.Round(time.Millisecond), "pending", len(out.Pending), "errors", len(out.Errors))
	f.settle(t, &agentproto.PolicyReport{
		State: sum, Pending: clip(out.Pending), Errors: clip(out.Errors), Took: agentproto.Duration(took.Round(time.Millisecond)),
	})
	return nil
}

func (f *Follower) inForce(sum string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.report != nil && f.report.State == sum
}

// settle ends the work for a target; what was named meanwhile stays.
func (f *Follower) settle(t target, report *agentproto.PolicyReport) {
	f.mu.Lock()
	if report != nil {
		f.report = report
	}
	f.problem, f.failure = "", ""
	if f.want.sum == t.sum || f.report != nil && f.want.sum == f.report.State {
		f.want = target{}
	}
	f.mu.Unlock()
	news := ""
	if report != nil && len(report.Errors) > 0 {
		news = fmt.Sprintf("policy %.8s: %s", report.State, report.Errors[0])
	}
	f.cfg.Changed(news)
}

// failed notes why a target is not in force, once.
func (f *Follower) failed(t target, err error) {
	text := line(err.Error())
	f.mu.Lock()
	known := f.failure == text
	if f.want.sum == t.sum {
		f.failure = text
	}
	f.mu.Unlock()
	if known {
		return
	}
	f.cfg.Log.Warn("the policy that a satellite names is not in force", "state", t.sum, "err", err)
	news := ""
	if errors.Is(err, ErrApply) {
		news = text
	}
	f.cfg.Changed(news)
}
