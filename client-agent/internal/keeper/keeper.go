// Package keeper is the process that keeps the root connection alive: when the kernel tells that it has died, another satellite's socket takes its
// place before anybody gets an I/O error. It outlives the root switch, so it must not need the root file system: its memory is locked, its
// binary and its state file lie on tmpfs, and it opens everything else before the switch.
package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nbdclient"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nbdlink"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rundir"
)

// Times of a search for a satellite.
const (
	// headStart is how long a satellite that does not answer holds up the next one.
	headStart = 100 * time.Millisecond
	// roundPause is the least time from the beginning of one round over all satellites to the next; up to half of it is added at random.
	roundPause = 200 * time.Millisecond
	// tellEvery is how often a search that goes on is logged.
	tellEvery = 30 * time.Second
)

// Config is what the keeper works with. All fields but Log are required.
type Config struct {
	Device nbdlink.Device
	// Targets are the satellites in order of preference.
	Targets []nbdclient.Target
	// Current is the address of the one in use.
	Current string
	// WaitDead blocks until a connection of the device has died.
	WaitDead func() error
	// Open makes a checked connection; Reconfigure hands it to the kernel.
	Open        nbdclient.Opener
	Reconfigure func(nbdlink.Device, *os.File) error
	// Save publishes the state.
	Save func(rundir.KeeperState) error
	Log  *slog.Logger
}

type keeper struct {
	cfg   Config
	state rundir.KeeperState
}

// Run keeps the connection until ctx ends or events can no longer be received, which is the returned error. It publishes the
// state first. Ending ctx does not end WaitDead: the caller closes what that waits on.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	k := &keeper{cfg: cfg, state: rundir.KeeperState{PID: os.Getpid(), Satellite: cfg.Current, Connected: true, Since: time.Now()}}
	k.save()
	for {
		if err := cfg.WaitDead(); err != nil {
			return fmt.Errorf("watch the root connection: %w", err)
		}
		if err := k.reconnect(ctx); err != nil {
			return err
		}
	}
}

// reconnect tries until the kernel has a new connection or ctx ends.
func (k *keeper) reconnect(ctx context.Context) error {
	died := time.Now()
	k.state.Connected, k.state.Since = false, died
	k.save()
	k.cfg.Log.Warn("root connection lost", "satellite", k.state.Satellite)
	told := died
	for {
		round := time.Now()
		target, err := k.round(ctx)
		if err == nil {
			k.state.Satellite, k.state.Connected, k.state.Error = target.Addr, true, ""
			k.state.Reconnects++
			k.state.Since = time.Now()
			k.save()
			k.cfg.Log.Info("root connection is back", "satellite", target.Addr, "took", time.Since(died).Round(time.Millisecond))
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if now := time.Now(); k.state.Error == "" || now.Sub(told) >= tellEvery {
			told = now
			k.state.Error = err.Error()
			k.save()
			k.cfg.Log.Error("no satellite can be reached, the PC waits", "since", now.Sub(died).Round(time.Second), "err", err)
		}
		sleep(ctx, roundPause+rand.N(roundPause/2)-time.Since(round))
	}
}

func (k *keeper) save() {
	if err := k.cfg.Save(k.state); err != nil {
		k.cfg.Log.Warn("state not saved", "err", err)
	}
}

// round races the satellites once, the last used one in front, and hands the winner's socket to the kernel.
func (k *keeper) round(ctx context.Context) (nbdclient.Target, error) {
	w, err := nbdclient.Race(ctx, order(k.cfg.Targets, k.state.Satellite), headStart, k.cfg.Open)
	if err != nil {
		return nbdclient.Target{}, err
	}
	defer w.File.Close() // the kernel has its own reference
	if err := k.cfg.Reconfigure(k.cfg.Device, w.File); err != nil {
		return nbdclient.Target{}, err
	}
	return w.Target, nil
}

// order puts the target with the last used address in front of the others: most often only its daemon was restarted.
func order(targets []nbdclient.Target, last string) []nbdclient.Target {
	list := make([]nbdclient.Target, 0, len(targets))
	for _, first := range []bool{true, false} {
		for _, t := range targets {
			if (t.Addr == last) == first {
				list = append(list, t)
			}
		}
	}
	return list
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
