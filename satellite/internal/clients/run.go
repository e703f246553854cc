package clients

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// bucket is the registry's place in the store.
const bucket = "clients"

// Run looks for clients that fell silent and saves changes until ctx ends; then it saves once more and returns nil.
func (r *Registry) Run(ctx context.Context) error {
	sweep := time.NewTicker(max(r.cfg.ReportInterval/2, time.Second))
	defer sweep.Stop()
	save := time.NewTicker(r.cfg.SaveInterval)
	defer save.Stop()
	for {
		select {
		case <-ctx.Done():
			r.save()
			return nil
		case <-sweep.C:
			r.Sweep()
		case <-save.C:
			r.save()
		}
	}
}

// Sweep makes clients that fell silent lost. Run calls it.
func (r *Registry) Sweep() {
	now := r.cfg.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.clients {
		if reason := r.silentLocked(c, now); reason != "" {
			r.log.Info("client is lost", "client", c.MAC, "addr", c.Addr, "before", c.State, "err", reason)
			c.State, c.Reasons = Lost, []string{reason}
			c.unsaved = true
			r.changedLocked(c, now)
		}
	}
}

// silentLocked returns why a client counts as lost from now on, or nothing.
func (r *Registry) silentLocked(c *client, now time.Time) string {
	if c.State == Lost || c.State == Failed {
		return ""
	}
	if !c.lastReport.IsZero() {
		if quiet := now.Sub(c.lastReport); quiet > r.cfg.LostAfter {
			return fmt.Sprintf("no report since %s", c.lastReport.UTC().Format(time.RFC3339))
		}
		return ""
	}
	if quiet := now.Sub(c.boot.Last); !c.boot.Start.IsZero() && quiet > r.cfg.BootTimeout {
		last := "its first packet"
		if n := len(c.boot.Steps); n > 0 {
			last = c.boot.Steps[n-1].Name
		}
		return fmt.Sprintf("the boot showed no sign of life after %s", last)
	}
	return ""
}

// record is a client in the store.
type record struct {
	Snapshot Snapshot  `json:"snapshot"`
	Boot     boot      `json:"boot"`
	Tokens   []string  `json:"tokens,omitempty"`
	Report   time.Time `json:"last_report"`
	Known    bool      `json:"known"`
	Place    place     `json:"place"`
}

// load reads the store. The time without a satellite does not count as silence.
func (r *Registry) load() error {
	if r.cfg.Store == nil {
		return nil
	}
	now := r.cfg.Now()
	err := r.cfg.Store.ForEach(bucket, func(key, value []byte) error {
		var rec record
		if err := json.Unmarshal(value, &rec); err != nil || rec.Snapshot.MAC != string(key) || len(r.clients) >= r.cfg.MaxClients {
			r.removed = append(r.removed, string(key))
			return nil
		}
		c := &client{Snapshot: rec.Snapshot, boot: rec.Boot, tokens: rec.Tokens, lastReport: rec.Report, known: rec.Known, place: rec.Place, saved: true}
		c.Timeline = nil
		if !c.lastReport.IsZero() {
			c.lastReport = now
		}
		if !slices.Contains(states(), c.State) {
			c.State = Lost
		}
		r.clients[c.MAC] = c
		if c.Addr.IsValid() {
			r.byAddr[c.Addr] = c.MAC
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("load clients: %w", err)
	}
	r.MarkAll()
	return nil
}

// save writes what has changed. An error is logged and the next save tries again.
func (r *Registry) save() {
	if r.cfg.Store == nil {
		return
	}
	changed, removed := r.takeUnsaved()
	var errs []error
	for mac, value := range changed {
		if err := r.cfg.Store.Put(bucket, []byte(mac), value); err != nil {
			errs = append(errs, err)
			r.markUnsaved(mac)
		}
	}
	for _, mac := range removed {
		if err := r.cfg.Store.Delete(bucket, []byte(mac)); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		r.log.Warn("clients were not saved", "count", len(errs), "err", errors.Join(errs[:min(len(errs), 3)]...))
	}
}

func (r *Registry) takeUnsaved() (changed map[string][]byte, removed []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed = make(map[string][]byte)
	for mac, c := range r.clients {
		if !c.unsaved {
			continue
		}
		c.unsaved, c.saved = false, true
		value, err := json.Marshal(record{c.Snapshot, c.boot, c.tokens, c.lastReport, c.known, c.place})
		if err != nil {
			r.log.Error("client cannot be encoded", "client", mac, "err", err)
			continue
		}
		changed[mac] = value
	}
	for _, mac := range r.removed {
		if _, back := r.clients[mac]; !back {
			removed = append(removed, mac)
		}
	}
	r.removed = nil
	return changed, removed
}

func (r *Registry) markUnsaved(mac string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.clients[mac]; c != nil {
		c.unsaved = true
	}
}
