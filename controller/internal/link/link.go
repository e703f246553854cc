// Package link knows the satellites that are connected now: it tells each what its site needs as soon as that changes, and keeps what they
// reported last; it passes commands to clients on and waits for the answers. It speaks plain types; the stream itself is the api room's.
//
// Metrics: ltsp_controller_satellites_connected, ltsp_controller_states_sent_total, ltsp_controller_reports_dropped_total,
// ltsp_controller_commands_sent_total, ltsp_controller_commands_outstanding.
package link

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
)

// Defaults of Config.
const (
	DefaultFlushInterval = 2 * time.Second
	DefaultCoalesce      = 100 * time.Millisecond
	DefaultForget        = 90 * 24 * time.Hour
)

// Errors that end sessions.
var (
	// ErrSuperseded ends a session when the satellite opens another: the old connection is dead, the satellite just knew it first.
	ErrSuperseded = errors.New("the satellite has connected again")
	// ErrClosing ends all sessions when the controller stops.
	ErrClosing = errors.New("the controller is stopping")
)

// Config holds what a registry works with.
type Config struct {
	Store *store.Store
	// FlushInterval is how long a report may be in memory only; 0 means DefaultFlushInterval.
	FlushInterval time.Duration
	// Coalesce is how long a change waits for others before the site is told; 0 means DefaultCoalesce.
	Coalesce time.Duration
	// Forget is the age at which reports of clients that nobody configured are dropped; 0 means DefaultForget.
	Forget  time.Duration
	Now     func() time.Time
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Registry is safe for concurrent use.
type Registry struct {
	cfg     Config
	metrics *metrics
	planner planner

	mu           sync.Mutex
	closed       bool
	sessions     map[string]*Session // by satellite
	statuses     map[string]fleet.Status
	reports      map[string]fleet.ClientReport // by SITE/MAC
	perSite      map[string]int                // number of reports
	dirtyStatus  map[string]bool
	dirtyReports map[string]bool
	events       map[string]*eventLog // by site
	goneEvents   map[string]bool      // sites whose events shall go from the store
	commands     map[string]*tally    // that have no answer yet, by ID
}

// New reads the last reports from the store and begins to watch it.
func New(ctx context.Context, cfg Config) (*Registry, error) {
	if cfg.Store == nil {
		return nil, errors.New("link: want a store")
	}
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{{&cfg.FlushInterval, DefaultFlushInterval}, {&cfg.Coalesce, DefaultCoalesce}, {&cfg.Forget, DefaultForget}} {
		if *d.value < 0 {
			return nil, errors.New("link: a time is negative")
		}
		if *d.value == 0 {
			*d.value = d.fallback
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Registry{
		cfg: cfg, sessions: map[string]*Session{}, statuses: map[string]fleet.Status{}, reports: map[string]fleet.ClientReport{},
		perSite: map[string]int{}, dirtyStatus: map[string]bool{}, dirtyReports: map[string]bool{},
		events: map[string]*eventLog{}, goneEvents: map[string]bool{}, commands: map[string]*tally{},
	}
	r.planner = planner{store: cfg.Store, plans: map[string]fleet.DesiredState{}}
	r.metrics = newMetrics(cfg.Metrics, r.connected, r.outstanding)
	if err := r.load(ctx); err != nil {
		return nil, err
	}
	cfg.Store.Observe(r.observe)
	return r, nil
}

func (r *Registry) load(ctx context.Context) error {
	return r.cfg.Store.View(ctx, func(tx *store.Tx) error {
		statuses, err := tx.Statuses().List("")
		if err != nil {
			return err
		}
		for _, s := range statuses {
			r.statuses[s.Satellite] = s
		}
		reports, err := tx.ClientReports().List("")
		if err != nil {
			return err
		}
		for _, c := range reports {
			r.reports[c.Key()] = c
			r.perSite[c.Site]++
		}
		return r.loadEvents(tx)
	})
}

// observe is called by the store after each transaction. It must not block.
func (r *Registry) observe(c store.Commit) {
	if !c.Audited {
		return
	}
	everywhere := c.Has(store.KindImage) || c.Has(store.KindVersion) || slices.Contains(c.Sites, "")
	r.planner.invalidate(everywhere, c.Sites)
	r.wake(everywhere, c.Sites)
}

func (r *Registry) wake(everywhere bool, sites []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sessions {
		if everywhere || slices.Contains(sites, s.site) {
			s.poke()
		}
	}
}

func (r *Registry) connected() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return float64(len(r.sessions))
}

// Desired returns what a site needs now. fleet.ErrNotFound if there is no such site.
func (r *Registry) Desired(ctx context.Context, site string) (fleet.DesiredState, error) {
	return r.planner.desired(ctx, site)
}

// Connected tells whether a satellite has a session.
func (r *Registry) Connected(satellite string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sessions[satellite] != nil
}

// Status returns what a satellite reported last, or false if it was never here.
func (r *Registry) Status(satellite string) (fleet.Status, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.statuses[satellite]
	return s, ok
}

// Reports returns the last reports of the clients of a site, of all sites if it is empty.
func (r *Registry) Reports(site string) []fleet.ClientReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []fleet.ClientReport
	for _, c := range r.reports {
		if site == "" || c.Site == site {
			list = append(list, c)
		}
	}
	return list
}

// CountReports returns how many clients of a site have reported.
func (r *Registry) CountReports(site string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.perSite[site]
}

// ForgetSatellite drops what a deleted satellite reported.
func (r *Registry) ForgetSatellite(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.statuses, name)
	r.dirtyStatus[name] = true
}

// ForgetClient drops what a client reported, at all sites.
func (r *Registry) ForgetClient(mac fleet.MAC) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, c := range r.reports {
		if c.MAC == mac {
			r.dropReportLocked(key, c.Site)
		}
	}
}

// ForgetSite drops what the clients of a deleted site reported, and their events.
func (r *Registry) ForgetSite(site string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.events[site] != nil {
		delete(r.events, site)
		r.goneEvents[site] = true
	}
	for key, c := range r.reports {
		if c.Site == site {
			r.dropReportLocked(key, site)
		}
	}
}

func (r *Registry) dropReportLocked(key, site string) {
	delete(r.reports, key)
	r.dirtyReports[key] = true
	if r.perSite[site]--; r.perSite[site] <= 0 {
		delete(r.perSite, site)
	}
}

// Run writes reports to the store until ctx ends; then it ends all sessions and writes what is left.
func (r *Registry) Run(ctx context.Context) error {
	flush := time.NewTicker(r.cfg.FlushInterval)
	defer flush.Stop()
	sweep := time.NewTicker(time.Hour)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			r.close()
			return r.Flush(context.WithoutCancel(ctx))
		case <-sweep.C:
			r.forgetOld(ctx)
		case <-flush.C:
			if err := r.Flush(ctx); err != nil && ctx.Err() == nil {
				r.cfg.Log.Error("reports could not be stored; they stay in memory", "err", err)
			}
		}
	}
}

func (r *Registry) close() {
	r.mu.Lock()
	sessions := slices.Collect(maps.Values(r.sessions))
	r.closed = true
	r.mu.Unlock()
	for _, s := range sessions {
		s.end(ErrClosing)
	}
}

// forgetOld drops old reports of clients that nobody configured.
func (r *Registry) forgetOld(ctx context.Context) {
	configured := make(map[fleet.MAC]bool)
	err := r.cfg.Store.View(ctx, func(tx *store.Tx) error {
		clients, err := tx.Clients("")
		for _, c := range clients {
			configured[c.MAC] = true
		}
		return err
	})
	if err != nil {
		r.cfg.Log.Error("old reports could not be dropped", "err", err)
		return
	}
	cutoff := r.cfg.Now().Add(-r.cfg.Forget)
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, c := range r.reports {
		if !configured[c.MAC] && c.Received.Before(cutoff) {
			r.dropReportLocked(key, c.Site)
		}
	}
}
