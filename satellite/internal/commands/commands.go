// Package commands carries out what the controller wants clients to do: most over the client's report stream, waking by a packet. It sees to it that only what the
// site allows is done, that a controller can't pile up work without bound, and that each command gets one result. Only the satellite's wiring imports it.
//
//	ltsp_satellite_commands_running           commands under way
//	ltsp_satellite_commands_total{result}     commands by their end: ok, failed, refused, absent, busy
//	ltsp_satellite_commands_unsent_total      results that could not be passed on
package commands

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// MaxRunning is how many commands are under way at once; further ones are answered with an error.
const MaxRunning = 1024

// ErrAbsent is wrapped by Config.Send's error if the client is not connected here.
var ErrAbsent = errors.New("the client is not here")

// Config configures a Dispatcher. Send, Wake, Allowed and Results are required.
type Config struct {
	// Send has a client carry a command out and returns its answer.
	Send func(ctx context.Context, mac string, c agentproto.Command) (agentproto.Result, error)
	// Wake sends a client the packet that switches it on.
	Wake func(ctx context.Context, mac string) error
	// Allowed tells whether the site allows a kind of command now.
	Allowed func(kind string) bool
	// Results gets each result. One that it does not take at once is dropped: the controller is away, so nobody waits for it.
	Results chan<- config.CommandResult
	Logger  *slog.Logger // nil discards
	Metrics prometheus.Registerer
}

// Dispatcher is safe for concurrent use.
type Dispatcher struct {
	cfg     Config
	queue   chan config.Command
	places  chan struct{}
	results *prometheus.CounterVec
	unsent  prometheus.Counter
}

// New returns a Dispatcher that does nothing until Run.
func New(cfg Config) (*Dispatcher, error) {
	if cfg.Send == nil || cfg.Wake == nil || cfg.Allowed == nil || cfg.Results == nil {
		return nil, errors.New("commands need somebody to send, wake, allow and take results")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Dispatcher{cfg: cfg, queue: make(chan config.Command, MaxRunning), places: make(chan struct{}, MaxRunning),
		results: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ltsp_satellite_commands_total", Help: "Commands by their end."}, []string{"result"}),
		unsent:  prometheus.NewCounter(prometheus.CounterOpts{Name: "ltsp_satellite_commands_unsent_total", Help: "Results that could not be passed on."})}
	for _, r := range []string{"ok", "failed", "refused", "absent", "busy"} {
		d.results.WithLabelValues(r)
	}
	if cfg.Metrics == nil {
		return d, nil
	}
	running := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "ltsp_satellite_commands_running", Help: "Commands under way."},
		func() float64 { return float64(len(d.places)) })
	for _, c := range []prometheus.Collector{d.results, d.unsent, running} {
		if err := cfg.Metrics.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics of commands: %w", err)
		}
	}
	return d, nil
}

// Handle takes a command. It does not block; the result comes to Config.Results.
func (d *Dispatcher) Handle(c config.Command) {
	select {
	case d.places <- struct{}{}:
		d.queue <- c // has as many places
	default:
		d.end(c, "busy", config.CommandResult{Error: "the satellite is busy with other commands"})
	}
}

// Run carries commands out until ctx ends and all have ended.
func (d *Dispatcher) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case c := <-d.queue:
			running.Go(func() {
				defer func() { <-d.places }()
				end, r := d.do(ctx, c)
				d.end(c, end, r)
			})
		}
	}
}

func (d *Dispatcher) do(ctx context.Context, c config.Command) (end string, r config.CommandResult) {
	if !d.cfg.Allowed(c.Kind) {
		return "refused", config.CommandResult{Error: fmt.Sprintf("this site does not allow %q", c.Kind)}
	}
	if c.Kind == config.CommandWake {
		if err := d.cfg.Wake(ctx, c.MAC); err != nil {
			return "absent", config.CommandResult{Error: err.Error(), NotHere: true} // another satellite may reach it
		}
		return "ok", r
	}
	answer, err := d.cfg.Send(ctx, c.MAC, agentproto.Command{ID: c.ID, Kind: c.Kind, Args: c.Args, Text: c.Text, Timeout: agentproto.Duration(c.Timeout)})
	switch {
	case errors.Is(err, ErrAbsent):
		return "absent", config.CommandResult{Error: err.Error(), NotHere: true}
	case errors.Is(err, context.DeadlineExceeded):
		return "failed", config.CommandResult{Error: "the client did not answer in time"}
	case err != nil:
		return "failed", config.CommandResult{Error: err.Error()}
	case answer.Error != "":
		end = "failed"
	default:
		end = "ok"
	}
	return end, config.CommandResult{Error: answer.Error, Output: answer.Output, Exit: answer.Exit}
}

func (d *Dispatcher) end(c config.Command, end string, r config.CommandResult) {
	r.ID, r.MAC = c.ID, c.MAC
	d.results.WithLabelValues(end).Inc()
	d.cfg.Logger.Info("command ended", "client", c.MAC, "kind", c.Kind, "id", c.ID, "result", end, "err", r.Error)
	select {
	case d.cfg.Results <- r:
	default:
		d.unsent.Inc()
	}
}
