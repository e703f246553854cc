package commands

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

func start(t *testing.T, cfg Config) (*Dispatcher, chan config.CommandResult) {
	t.Helper()
	results := make(chan config.CommandResult, 4)
	cfg.Results, cfg.Metrics = results, prometheus.NewRegistry()
	if cfg.Allowed == nil {
		cfg.Allowed = func(string) bool { return true }
	}
	if cfg.Wake == nil {
		cfg.Wake = func(context.Context, string) error { return nil }
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = d.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return d, results
}

func TestResults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		send := func(_ context.Context, mac string, c agentproto.Command) (agentproto.Result, error) {
			switch mac {
			case "absent":
				return agentproto.Result{}, fmt.Errorf("%w: no stream", ErrAbsent)
			case "mute":
				return agentproto.Result{}, context.DeadlineExceeded
			case "broken":
				return agentproto.Result{}, errors.New("connection ended")
			case "unwilling":
				return agentproto.Result{Error: "no such unit", Exit: 4}, nil
			}
			if c.ID != "id" || c.Kind != "run" || c.Args[0] != "a" || c.Text != "t" || c.Timeout != agentproto.Duration(time.Second) {
				t.Errorf("sent %+v", c)
			}
			return agentproto.Result{ID: c.ID, Output: "o", Exit: 3}, nil
		}
		wake := func(_ context.Context, mac string) error {
			if mac == "far" {
				return errors.New("no interface")
			}
			return nil
		}
		d, results := start(t, Config{Send: send, Wake: wake, Allowed: func(kind string) bool { return kind != "poweroff" }})
		for _, tt := range []struct {
			mac, kind, end string
			want           config.CommandResult
		}{
			{"here", "run", "ok", config.CommandResult{Output: "o", Exit: 3}},
			{"here", "poweroff", "refused", config.CommandResult{Error: `this site does not allow "poweroff"`}},
			{"here", "wake", "ok", config.CommandResult{}},
			{"far", "wake", "absent", config.CommandResult{Error: "no interface", NotHere: true}},
			{"absent", "run", "absent", config.CommandResult{Error: "the client is not here: no stream", NotHere: true}},
			{"mute", "run", "failed", config.CommandResult{Error: "the client did not answer in time"}},
			{"broken", "run", "failed", config.CommandResult{Error: "connection ended"}},
			{"unwilling", "run", "failed", config.CommandResult{Error: "no such unit", Exit: 4}},
		} {
			before := testutil.ToFloat64(d.results.WithLabelValues(tt.end))
			d.Handle(config.Command{ID: "id", MAC: tt.mac, Kind: tt.kind, Args: []string{"a"}, Text: "t", Timeout: time.Second})
			tt.want.ID, tt.want.MAC = "id", tt.mac
			if diff := cmp.Diff(tt.want, <-results); diff != "" {
				t.Errorf("%s of %s (-want +got):\n%s", tt.kind, tt.mac, diff)
			}
			if n := testutil.ToFloat64(d.results.WithLabelValues(tt.end)); n != before+1 {
				t.Errorf("%s of %s did not count as %s", tt.kind, tt.mac, tt.end)
			}
		}
	})
}

func TestCommandsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		d, results := start(t, Config{Send: func(ctx context.Context, _ string, c agentproto.Command) (agentproto.Result, error) {
			<-free
			return agentproto.Result{ID: c.ID}, ctx.Err()
		}})
		for range MaxRunning {
			d.Handle(config.Command{ID: "id", Kind: "reboot"})
		}
		synctest.Wait()
		d.Handle(config.Command{ID: "more", Kind: "reboot"})
		if r := <-results; r.ID != "more" || r.Error == "" {
			t.Errorf("one too many: %+v", r)
		}
		close(free)
		synctest.Wait()
		// Nobody takes the results: those without room are dropped, and all places are free again.
		if n := testutil.ToFloat64(d.unsent); n != MaxRunning-4 || len(d.places) != 0 {
			t.Errorf("%v results dropped, %d places taken", n, len(d.places))
		}
	})
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{}); err == nil {
		t.Error("a dispatcher that can do nothing was accepted")
	}
}
