package clients

import (
	"slices"
	"time"
)

// MaxPending is how many snapshots one call of Pending returns at most.
const MaxPending = 500

// changedLocked puts the client into the queue of changes. What should survive a restart is marked as unsaved by the caller: most reports are
// not worth a write.
func (r *Registry) changedLocked(c *client, now time.Time) {
	c.Changed = now
	if !c.queued {
		c.queued = true
		r.enqueueLocked(c.MAC)
	}
	r.wake()
}

// enqueueLocked also bounds the queue: clients that had to make room leave their entries behind.
func (r *Registry) enqueueLocked(mac string) {
	if len(r.queue) >= 2*r.cfg.MaxClients {
		seen := make(map[string]bool, len(r.clients))
		r.queue = slices.DeleteFunc(r.queue, func(m string) bool {
			c := r.clients[m]
			gone := c == nil || !c.queued || seen[m]
			seen[m] = true
			return gone
		})
	}
	r.queue = append(r.queue, mac)
}

func (r *Registry) wake() {
	select {
	case r.notify <- struct{}{}:
	default:
	}
}

// Notify returns a channel that gets a value when Pending has something to return. It is for one reader.
func (r *Registry) Notify() <-chan struct{} { return r.notify }

// Pending returns the clients that have changed since they were returned last, those that wait for longest first, at most MaxPending. Changes
// of one client in between are one entry. If more are left, Notify's channel gets another value.
func (r *Registry) Pending() []Snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Snapshot
	for len(r.queue) > 0 && len(out) < MaxPending {
		c := r.clients[r.queue[0]]
		r.queue = r.queue[1:]
		if c != nil && c.queued {
			c.queued = false
			out = append(out, c.snapshot())
		}
	}
	if len(r.queue) > 0 {
		r.wake()
	}
	return out
}

// MarkAll makes Pending return every client again: for a new connection to the controller, which may have missed some.
func (r *Registry) MarkAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for mac, c := range r.clients {
		if !c.queued {
			c.queued = true
			r.enqueueLocked(mac)
		}
	}
	if len(r.queue) > 0 {
		r.wake()
	}
}
