package link

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// Session is one connected satellite. Next belongs to one goroutine, the other methods may be used from several.
type Session struct {
	registry  *Registry
	satellite string
	site      string
	wake      chan struct{}
	queued    chan struct{} // there may be something in queue
	done      chan struct{} // closed by end

	queue []fleet.Command // that were not sent yet, at most maxOutstanding; guarded by registry.mu

	sent   bool
	last   uint64           // revision returned by Next last
	settle <-chan time.Time // when a change has waited long enough for others; nil if there is none

	once  sync.Once
	cause error // why it ended; readable once done is closed
}

// Open begins a session of a satellite and ends the one it had before.
func (r *Registry) Open(satellite, site, build string) (*Session, error) {
	s := &Session{registry: r, satellite: satellite, site: site, wake: make(chan struct{}, 1), queued: make(chan struct{}, 1), done: make(chan struct{})}
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, ErrClosing
	}
	old := r.sessions[satellite]
	r.sessions[satellite] = s
	status := r.statuses[satellite]
	status.Satellite, status.Received = satellite, r.cfg.Now().UTC()
	status.Build = build
	r.statuses[satellite] = status
	r.dirtyStatus[satellite] = true
	r.mu.Unlock()
	if old != nil {
		old.end(ErrSuperseded)
	}
	r.cfg.Log.Info("satellite connected", "site", site, "satellite", satellite, "build", build)
	return s, nil
}

func (s *Session) poke() { notify(s.wake) }

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (s *Session) end(cause error) {
	s.once.Do(func() {
		s.cause = cause
		close(s.done)
		s.registry.abandon(s)
	})
}

// ended tells whether end has begun.
func (s *Session) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// Close ends the session and notes when the satellite was seen last.
func (s *Session) Close() {
	s.end(context.Canceled)
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sessions[s.satellite] != s {
		return
	}
	delete(r.sessions, s.satellite)
	if status, ok := r.statuses[s.satellite]; ok {
		status.Received = r.cfg.Now().UTC()
		r.statuses[s.satellite] = status
		r.dirtyStatus[s.satellite] = true
	}
	r.cfg.Log.Info("satellite disconnected", "site", s.site, "satellite", s.satellite)
}

// Message is what a satellite is told: one of both is set.
type Message struct {
	Desired *fleet.DesiredState
	Command *fleet.Command
}

// Next blocks until there is a command, or the site needs something else than Next returned last; the first time it returns what the site needs at
// once. Changes that follow each other closely are one. It returns ErrSuperseded, ErrClosing or ctx's error when the session is over.
func (s *Session) Next(ctx context.Context) (Message, error) {
	for {
		if s.sent {
			if c, err := s.wait(ctx); err != nil || c != nil {
				return Message{Command: c}, err
			}
		}
		d, err := s.registry.Desired(ctx, s.site)
		if err != nil {
			return Message{}, err
		}
		if s.sent && d.Revision == s.last {
			continue
		}
		s.sent, s.last = true, d.Revision
		s.registry.metrics.sent.Inc()
		return Message{Desired: &d}, nil
	}
}

// changed tells whether there is a change that Next has not looked at, and forgets it.
func (s *Session) changed() bool {
	changed := s.settle != nil
	s.settle = nil
	select {
	case <-s.wake:
		return true
	default:
		return changed
	}
}

// wait returns a command as soon as there is one, or nil when something has changed and the time for others to join it is over; a command does not let
// it wait.
func (s *Session) wait(ctx context.Context) (*fleet.Command, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.done:
			return nil, s.cause
		case <-s.settle:
			s.settle = nil
			return nil, nil
		case <-s.wake:
			if s.settle == nil {
				s.settle = time.After(s.registry.cfg.Coalesce)
			}
		case <-s.queued:
			// What has changed goes first: the command may have become possible by it.
			if s.changed() {
				notify(s.queued)
				return nil, nil
			}
			if c := s.unqueue(); c != nil {
				return c, nil
			}
		}
	}
}

// Status keeps what the satellite reported about itself.
func (s *Session) Status(status fleet.Status) {
	status.Bound()
	r := s.registry
	status.Satellite, status.Received, status.Reported = s.satellite, r.cfg.Now().UTC(), true
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sessions[s.satellite] != s {
		return
	}
	r.statuses[s.satellite] = status
	r.dirtyStatus[s.satellite] = true
}

// MaxReports is how many client reports one message may hold.
const MaxReports = 500

// Clients keeps what clients reported to the satellite. Reports of MAC addresses that are none are dropped, and so are those that a site
// has no room for.
func (s *Session) Clients(reports []fleet.ClientReport) {
	r := s.registry
	dropped := max(0, len(reports)-MaxReports)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range reports[:len(reports)-dropped] {
		c.Bound()
		c.Site, c.Satellite, c.Received = s.site, s.satellite, r.cfg.Now().UTC()
		mac, err := fleet.ParseMAC(string(c.MAC))
		old, known := r.reports[s.site+"/"+string(mac)]
		if err != nil || !known && r.perSite[s.site] >= fleet.MaxClients {
			dropped++
			continue
		}
		if known && c.Time.Before(old.Time) && old.Satellite != c.Satellite {
			continue // another satellite of the site has heard of the client since
		}
		c.MAC = mac
		if !known {
			r.perSite[s.site]++
		}
		r.reports[c.Key()] = c
		r.dirtyReports[c.Key()] = true
	}
	r.metrics.dropped.Add(float64(dropped))
}

// Trace adds what clients of the satellite read while they booted to the version's trace. A version that does not exist has none.
func (s *Session) Trace(ctx context.Context, version manifest.ID, boots uint32, ranges []fleet.TraceRange) error {
	return s.registry.cfg.Store.Record(ctx, func(tx *store.Tx) error {
		if _, ok, err := tx.VersionByID(version); err != nil || !ok {
			return err
		}
		trace, _, err := tx.Traces().Find(version.String())
		if err != nil {
			return err
		}
		trace.Version = version
		if !trace.Merge(boots, ranges) {
			return nil
		}
		return tx.Traces().Put(version.String(), trace)
	})
}

// Flush writes the reports that came since the last time, in one transaction. Nothing is lost if it fails.
func (r *Registry) Flush(ctx context.Context) error {
	r.mu.Lock()
	statuses, reports, gone := r.dirtyStatus, r.dirtyReports, r.goneEvents
	b := batch{statuses: map[string]*fleet.Status{}, reports: map[string]*fleet.ClientReport{}, goneEvents: gone}
	for _, log := range r.events {
		b.events = append(b.events, log.unstored()...)
	}
	if len(statuses)+len(reports)+len(gone)+len(b.events) == 0 {
		r.mu.Unlock()
		return nil
	}
	r.dirtyStatus, r.dirtyReports, r.goneEvents = map[string]bool{}, map[string]bool{}, map[string]bool{}
	for name := range statuses {
		b.statuses[name] = find(r.statuses, name)
	}
	for key := range reports {
		b.reports[key] = find(r.reports, key)
	}
	r.mu.Unlock()
	if err := r.cfg.Store.Record(ctx, b.write); err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		for name := range statuses {
			r.dirtyStatus[name] = true
		}
		for key := range reports {
			r.dirtyReports[key] = true
		}
		for site := range gone {
			r.goneEvents[site] = true
		}
		return err
	}
	r.noteStored(b.events)
	if len(b.moved) > 0 {
		r.planner.invalidate(false, b.moved)
		r.wake(false, b.moved)
	}
	return nil
}

func find[T any](m map[string]T, key string) *T {
	if v, ok := m[key]; ok {
		return &v
	}
	return nil
}

// batch is what one Flush writes; nil means that the record goes.
type batch struct {
	statuses map[string]*fleet.Status
	reports  map[string]*fleet.ClientReport
	// events come after those of goneEvents have gone, in the order of their sequence within a site.
	events     []fleet.ClientEvent
	goneEvents map[string]bool
	moved      []string // sites of satellites whose addresses have changed: their peers must know
}

func (b *batch) write(tx *store.Tx) error {
	b.moved = nil
	if err := b.writeEvents(tx); err != nil {
		return err
	}
	for name, status := range b.statuses {
		if err := b.writeStatus(tx, name, status); err != nil {
			return err
		}
	}
	for key, report := range b.reports {
		if report == nil {
			if err := tx.ClientReports().Delete(key); err != nil {
				return err
			}
			continue
		}
		if err := tx.ClientReports().Put(key, *report); err != nil {
			return err
		}
	}
	return nil
}

func (b *batch) writeEvents(tx *store.Tx) error {
	for site := range b.goneEvents {
		if err := tx.DeleteClientEvents(site); err != nil {
			return err
		}
	}
	for i, e := range b.events {
		newest := i+1 == len(b.events) || b.events[i+1].Site != e.Site
		if err := tx.PutClientEvent(e, newest); err != nil {
			return err
		}
	}
	return nil
}

// noteStored notes that events are in the store. A log that is not the one they come from (its site was deleted meanwhile) is new: it begins at 1.
func (r *Registry) noteStored(events []fleet.ClientEvent) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range events {
		if log := r.events[e.Site]; log != nil && !r.goneEvents[e.Site] {
			log.stored = e.Sequence
		}
	}
}

func (b *batch) writeStatus(tx *store.Tx, name string, status *fleet.Status) error {
	if status == nil {
		return tx.Statuses().Delete(name)
	}
	old, _, err := tx.Statuses().Find(name)
	if err != nil {
		return err
	}
	if !slices.Equal(slices.Sorted(slices.Values(old.Addresses)), slices.Sorted(slices.Values(status.Addresses))) {
		if s, ok, err := tx.Satellites().Find(name); err != nil {
			return err
		} else if ok {
			b.moved = append(b.moved, s.Site)
		}
	}
	return tx.Statuses().Put(name, *status)
}
