// Package resident is the agent on the running client: it judges the client's state, reports it to a satellite, follows the client's policy, carries out
// commands and keeps the lease of its address. It runs from tmpfs and goes on reporting when the root connection is down.
package resident

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/dhcprenew"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/follower"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rundir"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Times of the agent's own observations. What costs a process is done rarely.
const (
	watchEvery    = 2 * time.Second  // files and counters
	askStarting   = 10 * time.Second // systemd, while it starts and says when it has finished
	askBlindly    = 3 * time.Second  // systemd, while it starts and does not say
	askRunning    = 30 * time.Second // systemd, later
	awaitRetry    = 2 * time.Second  // systemd may not listen yet when it starts us
	awaitTries    = 5
	maxTimeline   = 64
	reasonMaxLen  = 300
	reasonsMaxLen = 64
)

// Config is what an Agent works with. All fields are required.
type Config struct {
	Boot  *agentproto.BootConfig
	State rundir.BootState

	// Uptime is the time since the kernel started.
	Uptime func() time.Duration
	// Kernel is the kernel's release.
	Kernel string
	// Proc is /proc. Sys is the path of /sys, Root that of the root directory.
	Proc      fs.FS
	Sys, Root string
	// Keeper reads the keeper's state and tells whether its process is there.
	Keeper    func() (*rundir.KeeperState, bool)
	Systemctl Systemctl
	// Renew keeps the lease until ctx ends.
	Renew func(ctx context.Context, mac net.HardwareAddr, addr, server netip.Addr, changed func(dhcprenew.Status))
	// Link reads the boot NIC's state.
	Link func() agentproto.Link
	// Dial opens a report stream and returns the answer to its hello. Incoming gets what the satellite says unasked.
	Dial func(ctx context.Context, sat agentproto.Satellite, incoming func(agentproto.Message)) (Session, agentproto.Ack, error)
	// Policy is how the policy is followed; Changed and Log are set here. SavePolicy keeps the report for another life of the agent.
	Policy     follower.Config
	SavePolicy func(agentproto.PolicyReport)
	// Command carries out a command; a non-nil then ends the PC when the result has been told.
	Command func(context.Context, agentproto.Command) (result agentproto.Result, then func() error)
	// Sessions are who is there. Events takes what other programs have left, at most limit.
	Sessions func() []agentproto.Session
	Events   func(limit int) []agentproto.Event
	// Console is told about the states healthy and degraded, one line each.
	Console io.Writer
	Log     *slog.Logger
}

// Agent is the resident agent.
type Agent struct {
	cfg      Config
	changed  chan struct{} // a report is due
	outbox   *Outbox
	follower *follower.Follower
	work     sync.WaitGroup // commands
	slots    chan struct{}  // has one token for each of them

	mu       sync.Mutex
	system   System
	lease    dhcprenew.Status
	keeper   *rundir.KeeperState
	overlay  agentproto.Fill
	state    string
	reasons  []string
	timeline []agentproto.Step
	sessions []agentproto.Session
	commands []string // IDs of those seen last
}

// New returns an Agent. Run starts it.
func New(cfg Config) *Agent {
	a := &Agent{cfg: cfg, changed: make(chan struct{}, 1), state: Starting, outbox: NewOutbox(), slots: make(chan struct{}, maxCommands)}
	a.follower = a.newFollower()
	a.timeline = append(a.timeline, cfg.State.Timeline[:min(len(cfg.State.Timeline), maxTimeline)]...)
	a.mark("agent-up", cfg.Uptime())
	return a
}

// Run works until ctx ends.
func (a *Agent) Run(ctx context.Context) {
	var wg sync.WaitGroup
	booted := make(chan bool, 1)
	// Commands and reports outlive ctx by a moment: when the PC is told to restart, that it does so is still to be said.
	reporting, stop := context.WithCancel(context.WithoutCancel(ctx))
	reporter := &Reporter{
		Satellites: a.cfg.Boot.Satellites, Report: a.report, Changed: a.changed, Outbox: a.outbox, Policy: a.follower.Want, Log: a.cfg.Log,
		Dial: func(ctx context.Context, sat agentproto.Satellite) (Session, agentproto.Ack, error) {
			return a.cfg.Dial(ctx, sat, func(m agentproto.Message) { a.hear(reporting, sat, m) })
		},
	}
	wg.Go(func() { a.awaitBoot(ctx, booted) })
	wg.Go(func() { a.askSystemd(ctx, booted) })
	wg.Go(func() { a.watch(ctx) })
	wg.Go(func() { a.renew(ctx) })
	wg.Go(func() { a.follower.Run(ctx) })
	wg.Go(func() { reporter.Run(reporting) })
	<-ctx.Done()
	a.finish()
	stop()
	wg.Wait()
	a.work.Wait()
}

// awaitBoot sends true when systemd has finished starting, false if that cannot be awaited.
func (a *Agent) awaitBoot(ctx context.Context, booted chan<- bool) {
	for range awaitTries {
		word, err := AwaitBoot(ctx, a.cfg.Systemctl)
		if ctx.Err() != nil {
			return
		}
		if err == nil && !isStarting(word) {
			booted <- true
			return
		}
		a.cfg.Log.Debug("the end of the boot cannot be awaited", "state", word, "err", err)
		if !pause(ctx, awaitRetry) {
			return
		}
	}
	booted <- false
}

// askSystemd keeps a.system up to date. Each time costs processes on a PC that is busy starting, so it waits first.
func (a *Agent) askSystemd(ctx context.Context, booted <-chan bool) {
	starting, known := askStarting, false
	for {
		wait := askRunning
		if !known {
			wait = starting
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case ok := <-booted:
			timer.Stop()
			if booted = nil; !ok {
				starting = askBlindly
			}
		case <-ctx.Done():
			timer.Stop()
			return
		}
		system, started := Ask(ctx, a.cfg.Systemctl)
		if ctx.Err() != nil {
			return
		}
		known = !isStarting(a.noteSystem(system, started))
		a.judge()
	}
}

// noteSystem takes in an answer of systemd and returns the state that counts now: while systemd hangs, what it said last is the best we have.
func (a *Agent) noteSystem(system System, started time.Duration) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if system.State == "" {
		a.system.Err = system.Err
	} else {
		a.system = system
	}
	if started > 0 {
		a.markLocked("systemd", started)
	}
	return a.system.State
}

// watch judges what can change at any time and costs little to look at.
func (a *Agent) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		a.lookAround()
		a.judge()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// renew keeps the lease, if the address is one that DHCP knows.
func (a *Agent) renew(ctx context.Context) {
	mac, err := net.ParseMAC(a.cfg.State.MAC)
	if err != nil {
		a.cfg.Log.Error("lease not renewed", "err", err)
		return
	}
	addr, err := netip.ParsePrefix(a.cfg.State.Addr)
	if err != nil {
		a.cfg.Log.Error("lease not renewed", "err", err)
		return
	}
	server, err := netip.ParseAddr(a.cfg.State.DHCPServer)
	if err != nil {
		server = netip.Addr{} // not known: everyone is asked
	}
	a.cfg.Renew(ctx, mac, addr.Addr(), server, func(s dhcprenew.Status) {
		a.mu.Lock()
		a.lease = s
		a.mu.Unlock()
		a.judge()
	})
}

// judge takes in what can be read at once, and tells a new state.
func (a *Agent) judge() {
	keeper, runs := a.cfg.Keeper()
	overlay, err := fill(a.cfg.Root)
	if err != nil {
		a.cfg.Log.Warn("writable layer", "err", err)
	}
	now, noPolicy := time.Now(), a.follower.Problem()

	a.mu.Lock()
	defer a.mu.Unlock()
	a.overlay = overlay
	if keeper != nil && !a.cfg.State.InRAM {
		a.keeper = keeper
	}
	state, reasons := Judge(Facts{
		System: a.system, Keeper: keeper, KeeperRuns: runs, InRAM: a.cfg.State.InRAM, Overlay: overlay, LeaseProblem: a.lease.Problem, NoPolicy: noPolicy, Now: now,
	})
	reasons = clipReasons(reasons)
	if state == a.state && sameReasons(reasons, a.reasons) {
		return
	}
	previous := a.state
	a.state, a.reasons = state, reasons
	if state == Healthy {
		a.markLocked("healthy", a.cfg.Uptime())
	}
	a.reportSoon()
	if state != previous && state != Starting {
		a.announceLocked()
	}
}

// announceLocked tells the state on the console: a person may look for it, and so do boot tests.
func (a *Agent) announceLocked() {
	line := fmt.Sprintf("ltsp-agent: %s %s@%d satellite=%s uptime=%v", a.state, a.cfg.Boot.Image, a.cfg.Boot.Number,
		a.satelliteLocked(), a.cfg.Uptime().Round(time.Millisecond))
	if len(a.reasons) > 0 {
		line += " reasons: " + strings.Join(a.reasons, "; ")
	}
	// A login prompt may stand on the line already.
	if _, err := io.WriteString(a.cfg.Console, "\n"+line+"\n"); err != nil {
		a.cfg.Log.Warn("console", "err", err)
	}
	a.cfg.Log.Info("state has changed", "state", a.state, "reasons", strings.Join(a.reasons, "; "))
}

func (a *Agent) satelliteLocked() string {
	if a.cfg.State.InRAM {
		return "none" // it is not needed for the root
	}
	if a.keeper == nil {
		return "unknown"
	}
	host, _, err := net.SplitHostPort(a.keeper.Satellite)
	if err != nil {
		return a.keeper.Satellite
	}
	return host
}

// sameReasons compares reasons without the durations in them, which change all the time.
func sameReasons(x, y []string) bool {
	return slices.EqualFunc(x, y, func(a, b string) bool {
		return strings.Map(noDigit, a) == strings.Map(noDigit, b)
	})
}

func noDigit(r rune) rune {
	if r >= '0' && r <= '9' || r == 'm' || r == 's' || r == 'h' {
		return -1
	}
	return r
}

func clipReasons(reasons []string) []string {
	reasons = reasons[:min(len(reasons), reasonsMaxLen)]
	for i, r := range reasons {
		reasons[i] = strings.ToValidUTF8(r[:min(len(r), reasonMaxLen)], "")
	}
	return reasons
}

func (a *Agent) mark(name string, at time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.markLocked(name, at)
}

// markLocked adds a step, once, and keeps the timeline in the order of time.
func (a *Agent) markLocked(name string, at time.Duration) {
	if slices.ContainsFunc(a.timeline, func(s agentproto.Step) bool { return s.Name == name }) {
		return
	}
	a.timeline = append(a.timeline, agentproto.Step{Name: name, At: agentproto.Duration(at.Round(time.Millisecond))})
	slices.SortStableFunc(a.timeline, func(x, y agentproto.Step) int { return int(min(max(x.At-y.At, -1), 1)) })
}

// report is the present state.
func (a *Agent) report() agentproto.Report {
	mem, err := memory(a.cfg.Proc)
	if err != nil {
		a.cfg.Log.Warn("report", "err", err)
	}
	load1, err := load(a.cfg.Proc)
	if err != nil {
		a.cfg.Log.Warn("report", "err", err)
	}
	addr, _, _ := strings.Cut(a.cfg.State.Addr, "/")
	r := agentproto.Report{
		Image: a.cfg.Boot.Image, Number: a.cfg.Boot.Number, Digest: a.cfg.Boot.Digest, Hostname: a.cfg.State.Hostname, Kernel: a.cfg.Kernel,
		Addr: addr, Memory: mem, Load1: load1, Uptime: agentproto.Duration(a.cfg.Uptime().Round(time.Millisecond)), Link: a.cfg.Link(),
		Time: time.Now().UTC(), Policy: a.follower.Report(),
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	r.State, r.Reasons, r.Overlay = a.state, slices.Clone(a.reasons), a.overlay
	r.Timeline = slices.Clone(a.timeline)
	r.Sessions = slices.Clone(a.sessions[:min(len(a.sessions), agentproto.MaxSessions)])
	r.Failed = slices.Clone(a.system.Failed[:min(len(a.system.Failed), maxFailed)])
	if a.keeper != nil {
		r.NBD = agentproto.NBD{Satellite: a.keeper.Satellite, Connected: a.keeper.Connected, Reconnects: a.keeper.Reconnects}
	}
	if l := a.lease.Lease; l != nil {
		r.Lease = &agentproto.Lease{Server: l.Server.String(), Expires: l.Expires.UTC()}
	}
	return r
}
