package follower

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// world is the satellites and the client of a test: both take a second for what they do.
type world struct {
	mu       sync.Mutex
	begin    time.Time
	state    string // what satellites give
	fetchErr error
	applyErr error
	outcome  Outcome
	log      []string
	news     []string
}

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *world) note(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf("%v ", time.Since(w.begin))+fmt.Sprintf(format, args...))
}

func (w *world) fetch(_ context.Context, sat agentproto.Satellite) (string, error) {
	time.Sleep(time.Second)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fetchErr != nil {
		return "", w.fetchErr
	}
	w.note("fetch %s from %s", w.state, sat.Addr)
	return w.state, nil
}

func (w *world) apply(_ context.Context, sum string) (Outcome, error) {
	time.Sleep(time.Second)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.applyErr != nil {
		w.note("refuse %s", sum)
		return Outcome{}, w.applyErr
	}
	w.note("apply %s", sum)
	return w.outcome, nil
}

// run runs a follower until script returns.
func run(t *testing.T, w *world, cfg Config, script func(*Follower)) {
	t.Helper()
	w.begin = time.Now()
	cfg.Fetch, cfg.Apply, cfg.Log = w.fetch, w.apply, slog.New(slog.DiscardHandler)
	cfg.Changed = func(news string) { w.set(func() { w.news = append(w.news, news) }) }
	f := New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	script(f)
	cancel()
	<-done
}

var a = agentproto.Satellite{Addr: "a"}

func TestFollow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{state: "1", outcome: Outcome{Pending: []string{"FSTAB_HOME needs a reboot"}, Errors: []string{"cups:\nno"}}}
		run(t, w, Config{Problem: "none was there"}, func(f *Follower) {
			if f.Report() != nil || f.Problem() != "none was there" {
				t.Errorf("at first %+v, %q", f.Report(), f.Problem())
			}
			f.Want(a, "1")
			time.Sleep(time.Minute)
			want := &agentproto.PolicyReport{State: "1", Pending: w.outcome.Pending, Errors: []string{"cups: no"}, Took: agentproto.Duration(2 * time.Second)}
			if diff := cmp.Diff(want, f.Report()); diff != "" || f.Problem() != "" {
				t.Error(diff, f.Problem())
			}
			f.Want(a, "1") // as each acknowledgement says
			time.Sleep(time.Minute)
		})
		if diff := cmp.Diff([]string{"1s fetch 1 from a", "2s apply 1"}, w.log); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"policy 1: cups: no"}, w.news); diff != "" {
			t.Error(diff)
		}
	})
}

// TestNewestOnly names four states while the first is applied.
func TestNewestOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{state: "1"}
		run(t, w, Config{}, func(f *Follower) {
			f.Want(a, "1")
			time.Sleep(1500 * time.Millisecond)
			w.set(func() { w.state = "4" })
			for _, s := range []string{"2", "3", "4"} {
				f.Want(a, s)
			}
			time.Sleep(time.Minute)
			if r := f.Report(); r.State != "4" || r.Took != agentproto.Duration(2500*time.Millisecond) {
				t.Errorf("got %+v", r)
			}
		})
		if diff := cmp.Diff([]string{"1s fetch 1 from a", "2s apply 1", "3s fetch 4 from a", "4s apply 4"}, w.log); diff != "" {
			t.Error(diff)
		}
	})
}

// TestSatelliteIsAhead names a state that the satellite has replaced meanwhile.
func TestSatelliteIsAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{state: "2"}
		run(t, w, Config{Initial: &agentproto.PolicyReport{State: "0"}}, func(f *Follower) {
			f.Want(a, "1")
			time.Sleep(time.Minute)
			f.Want(a, "2")
			time.Sleep(time.Minute)
			f.Want(a, "3") // and one that has fallen behind
			time.Sleep(time.Minute)
			if r := f.Report(); r.State != "2" {
				t.Errorf("got %+v", r)
			}
		})
		if diff := cmp.Diff([]string{"1s fetch 2 from a", "2s apply 2", "2m1s fetch 2 from a"}, w.log); diff != "" {
			t.Error(diff)
		}
	})
}

func TestRetry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{state: "1", fetchErr: errors.New("away")}
		run(t, w, Config{Initial: &agentproto.PolicyReport{State: "0", Errors: []string{"old"}}}, func(f *Follower) {
			f.Want(a, "1")
			time.Sleep(time.Hour)
			if diff := cmp.Diff([]string{"away", "old"}, f.Report().Errors); diff != "" {
				t.Error(diff)
			}
			begin := time.Now()
			w.set(func() { w.fetchErr = nil })
			time.Sleep(maxFetchPause + 3*time.Second)
			if r := f.Report(); r.State != "1" || len(r.Errors) != 0 {
				t.Errorf("%v later: %+v", time.Since(begin), r)
			}

			w.set(func() { w.state, w.applyErr, w.log = "2", errors.New("syntax error"), nil })
			f.Want(a, "2")
			time.Sleep(time.Hour)
			if r := f.Report(); r.State != "1" || len(r.Errors) != 1 || !strings.Contains(r.Errors[0], "apply the policy 2: syntax error") {
				t.Errorf("got %+v", r)
			}
			if n := len(w.log); n < 10 || n > 60 {
				t.Errorf("%d tries in an hour", n/2)
			}
			w.set(func() { w.state, w.applyErr = "3", nil })
			f.Want(a, "3") // ends the wait
			time.Sleep(2*time.Second + time.Millisecond)
			if r := f.Report(); r.State != "3" || len(r.Errors) != 0 {
				t.Errorf("got %+v", r)
			}
		})
		if diff := cmp.Diff([]string{"", "", "apply the policy 2: syntax error", ""}, w.news); diff != "" {
			t.Error(diff)
		}
	})
}

// TestTakenBack names a state that cannot be applied, then the old one again.
func TestTakenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{state: "2", applyErr: errors.New("syntax error")}
		run(t, w, Config{Initial: &agentproto.PolicyReport{State: "1"}}, func(f *Follower) {
			f.Want(a, "2")
			time.Sleep(time.Minute)
			f.Want(a, "1")
			time.Sleep(time.Minute) // a try may have been under way
			w.set(func() { w.log = nil })
			time.Sleep(time.Hour)
			if r := f.Report(); r.State != "1" || len(r.Errors) != 0 {
				t.Errorf("got %+v", r)
			}
		})
		if len(w.log) != 0 {
			t.Errorf("still tried: %v", w.log)
		}
	})
}

func TestReportFitsALine(t *testing.T) {
	t.Parallel()
	long := make([]string, 100)
	for i := range long {
		long[i] = strings.Repeat("\x01ü", 500)
	}
	got := clip(long)
	if len(got) != maxLines || len(got[0]) > maxLine || strings.ContainsRune(got[0], 1) {
		t.Errorf("%d lines, the first has %d bytes", len(got), len(got[0]))
	}
}
