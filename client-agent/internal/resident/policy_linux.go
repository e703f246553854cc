package resident

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/command"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/enforce"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/follower"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/policy"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rundir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/sessions"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/spool"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/uplink"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

const (
	// applyTimeout bounds bringing the client from one state to another.
	applyTimeout = 5 * time.Minute
	// syncTimeout is how long disks may take before the PC is ended hard.
	syncTimeout = 2 * time.Second
)

// levels is the policy on this machine.
type levels struct {
	dir   *os.Root // rundir.Dir
	store *policy.Store
	boot  *agentproto.BootConfig
	tls   *tls.Config
	hello agentproto.Hello
	facts step.Facts
	log   *slog.Logger
	// allowed are the kinds of command in the state in force; nil while there is none.
	allowed atomic.Pointer[[]string]
}

func openLevels(h *host, cfg *tls.Config, hello agentproto.Hello) (*levels, error) {
	store, err := policy.Open(filepath.Join(rundir.Dir, rundir.Policy))
	if err != nil {
		return nil, err
	}
	l := &levels{dir: h.dir, store: store, boot: h.boot, tls: cfg, hello: hello, log: h.log}
	if err := rundir.Read(h.dir, rundir.Facts, &l.facts); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return l, nil
}

// config is how the policy is followed, beginning with what the boot or an earlier life of the agent has put in force.
func (l *levels) config(noPolicy string) follower.Config {
	cfg := follower.Config{Fetch: l.fetch, Apply: l.apply, Problem: noPolicy}
	state, err := l.current()
	switch {
	case err != nil:
		l.log.Warn("the policy in force cannot be read", "err", err)
		cfg.Problem = "the policy in force cannot be read: " + err.Error()
		return cfg
	case state == nil:
		return cfg
	}
	l.allow(state)
	cfg.Problem = ""
	cfg.Initial = &agentproto.PolicyReport{State: state.Sum}
	var before agentproto.PolicyReport
	if err := rundir.Read(l.dir, rundir.Applied, &before); err == nil && before.State == state.Sum {
		cfg.Initial = &before
	}
	return cfg
}

// current loads the state in force, nil if there is none.
func (l *levels) current() (*policy.State, error) {
	sum, err := l.store.Current()
	if errors.Is(err, policy.ErrNone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return l.store.Load(sum)
}

func (l *levels) allow(state *policy.State) {
	kinds := slices.Clone(state.Commands)
	l.allowed.Store(&kinds)
}

// fetch asks the satellite that has named a state, then the others.
func (l *levels) fetch(ctx context.Context, from agentproto.Satellite) (string, error) {
	list := append([]agentproto.Satellite{from}, slices.DeleteFunc(slices.Clone(l.boot.Satellites), func(s agentproto.Satellite) bool { return s == from })...)
	return l.store.FetchFrom(ctx, list, func(ctx context.Context, sat agentproto.Satellite) (policy.Stream, error) {
		f, err := uplink.DialFetch(ctx, sat, l.tls, l.hello)
		if err != nil {
			return nil, err // not f: a nil *Fetcher is no nil Stream
		}
		return f, nil
	})
}

func (l *levels) apply(ctx context.Context, sum string) (follower.Outcome, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, applyTimeout, fmt.Errorf("it was not done after %v", applyTimeout))
	defer cancel()
	state, err := l.store.Load(sum)
	if err != nil {
		return follower.Outcome{}, err
	}
	before, err := l.current()
	if err != nil {
		l.log.Warn("the policy before cannot be read", "err", err)
	}
	out, err := enforce.Live(ctx, enforce.Config{Root: "/", Facts: l.facts, System: system{}, Log: l.log}, before, state)
	if err != nil {
		return follower.Outcome{}, err
	}
	l.allow(state)
	return follower.Outcome(out), l.store.Activate(sum)
}

func (l *levels) save(r agentproto.PolicyReport) {
	if err := rundir.Write(l.dir, rundir.Applied, r); err != nil {
		l.log.Warn("report of the policy not kept", "err", err)
	}
}

// commands makes what carries out commands.
func (l *levels) commands() *command.Runner {
	return command.New(command.Config{
		Allowed: func() ([]string, bool) {
			kinds := l.allowed.Load()
			if kinds == nil {
				return nil, false
			}
			return *kinds, true
		},
		Start:   command.Start,
		Logins:  func() []sessions.Login { return sessions.Logins("/run") },
		Desktop: func(login sessions.Login) (command.Desktop, error) { return command.FindDesktop("/proc", login) },
		Force:   force,
		Log:     l.log,
	})
}

// present lists who is there.
func present() []agentproto.Session {
	apps := spool.System.Sessions(func(uid int) string { return sessions.UserName("/run", uid) })
	return sessions.List(sessions.Logins("/run"), apps)
}

// system is the running client for steps.
type system struct{}

func (system) SetHostname(name string) error { return unix.Sethostname([]byte(name)) }

func (system) Systemctl(ctx context.Context, args ...string) error {
	exit, err := command.Start(ctx, command.Program{Paths: systemctlPaths, Args: args})
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("exit code %d: %.200s", exit.Code, exit.Output)
	}
	if err != nil {
		return fmt.Errorf("systemctl %v: %w", args, err)
	}
	return nil
}

// force ends the PC by the kernel alone.
func force(off bool) error {
	synced := make(chan struct{})
	go func() { // hangs where a disk does
		defer close(synced)
		unix.Sync()
	}()
	select {
	case <-synced:
	case <-time.After(syncTimeout):
	}
	if off {
		return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}
