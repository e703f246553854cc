package link

import (
	"slices"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
)

// maxSkew is how far a satellite's clock may be ahead before its events are given our time.
const maxSkew = 5 * time.Minute

// eventLog is the last events of a site. It is guarded by Registry.mu.
type eventLog struct {
	list   []fleet.ClientEvent // at most fleet.MaxClientEvents, the newest last
	stored uint64              // sequence of the newest that is in the store
}

func (l *eventLog) last() uint64 {
	if n := len(l.list); n > 0 {
		return l.list[n-1].Sequence
	}
	return l.stored
}

func (l *eventLog) add(e fleet.ClientEvent) {
	e.Sequence = l.last() + 1
	if len(l.list) >= fleet.MaxClientEvents {
		l.list = slices.Delete(l.list, 0, len(l.list)-fleet.MaxClientEvents+1)
	}
	l.list = append(l.list, e)
}

// unstored returns copies of the events that the store does not have.
func (l *eventLog) unstored() []fleet.ClientEvent {
	i := len(l.list)
	for i > 0 && l.list[i-1].Sequence > l.stored {
		i--
	}
	return slices.Clone(l.list[i:])
}

// MaxEvents is how many events one message may hold.
const MaxEvents = 500

// Events keeps what happened on clients of the satellite. Events of MAC addresses that are none are dropped.
func (s *Session) Events(events []fleet.ClientEvent) {
	r := s.registry
	now := r.cfg.Now().UTC()
	dropped := max(0, len(events)-MaxEvents)
	r.mu.Lock()
	defer r.mu.Unlock()
	log := r.eventLogLocked(s.site)
	for _, e := range events[:len(events)-dropped] {
		mac, err := fleet.ParseMAC(string(e.MAC))
		if err != nil {
			dropped++
			continue
		}
		e.Bound()
		e.Site, e.MAC = s.site, mac
		if e.Time.IsZero() || e.Time.After(now.Add(maxSkew)) {
			e.Time = now
		}
		log.add(e)
	}
	r.metrics.dropped.Add(float64(dropped))
}

func (r *Registry) eventLogLocked(site string) *eventLog {
	log := r.events[site]
	if log == nil {
		log = &eventLog{}
		r.events[site] = log
	}
	return log
}

// Events returns the last events of a site, of all sites if it is empty, the newest first.
func (r *Registry) Events(site string) []fleet.ClientEvent {
	r.mu.Lock()
	var list []fleet.ClientEvent
	for name, log := range r.events {
		if site == "" || name == site {
			list = append(list, log.list...)
		}
	}
	r.mu.Unlock()
	slices.SortStableFunc(list, func(a, b fleet.ClientEvent) int { return b.Time.Compare(a.Time) })
	return list
}

func (r *Registry) loadEvents(tx *store.Tx) error {
	events, err := tx.ClientEvents()
	for _, e := range events {
		log := r.eventLogLocked(e.Site)
		log.list = append(log.list, e)
		log.stored = e.Sequence
	}
	return err
}
