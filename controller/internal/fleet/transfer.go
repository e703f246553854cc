package fleet

import (
	"strings"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// SyncMethod is a way in which a version comes to a satellite.
type SyncMethod string

// Ways. Auto is a policy, Wait a decision; the others are both.
const (
	SyncAuto   SyncMethod = "auto"   // the cheapest
	SyncDelta  SyncMethod = "delta"  // a delta from a version that the satellite has
	SyncChunks SyncMethod = "chunks" // the chunks that it finds in no version that it has
	SyncWhole  SyncMethod = "whole"  // all chunks
	SyncWait   SyncMethod = "wait"   // nothing yet
)

// Transfer bounds what a site takes over its WAN line. The zero Transfer bounds nothing.
type Transfer struct {
	BytesPerSecond uint64     `json:"bytes_per_second,omitempty"` // all satellites of the site together; 0: no cap
	Window         string     `json:"window,omitempty"`           // "22:00-06:00" in the satellite's local time; empty: always
	Method         SyncMethod `json:"method,omitempty"`           // empty means auto
	LazyWait       Duration   `json:"lazy_wait,omitempty"`        // how long a client's read waits for bytes that have not arrived; 0: the satellite's default
	CompleteOnly   bool       `json:"complete_only,omitempty"`    // clients get a version only when it is complete
}

// Bounds of Transfer.
const (
	minBytesPerSecond = 8 << 10
	maxLazyWait       = 10 * time.Minute
)

func (t *Transfer) check(what string) error {
	if t.BytesPerSecond > 0 && t.BytesPerSecond < minBytesPerSecond {
		return invalid("%s: bandwidth cap of %d bytes a second: want at least %d, or 0 for none", what, t.BytesPerSecond, minBytesPerSecond)
	}
	if err := checkWindow(t.Window); err != nil {
		return invalid("%s: %v", what, err)
	}
	switch t.Method {
	case "", SyncAuto, SyncDelta, SyncChunks, SyncWhole:
	default:
		return invalid("%s: transfer method %q: want auto, delta, chunks or whole", what, t.Method)
	}
	if t.LazyWait < 0 || time.Duration(t.LazyWait) > maxLazyWait {
		return invalid("%s: lazy wait %s: want 0 (default) to %s", what, t.LazyWait, maxLazyWait)
	}
	return nil
}

// checkWindow accepts "HH:MM-HH:MM" with different ends, or nothing.
func checkWindow(s string) error {
	if s == "" {
		return nil
	}
	from, to, ok := strings.Cut(s, "-")
	a, errA := time.Parse("15:04", from)
	b, errB := time.Parse("15:04", to)
	if !ok || errA != nil || errB != nil || a.Equal(b) {
		return invalid("time window %q: want HH:MM-HH:MM, such as 22:00-06:00", s)
	}
	return nil
}

// SyncPlan is the decision how a version comes to a satellite, and what it was made of.
type SyncPlan struct {
	Method     SyncMethod   `json:"method"`
	Reason     string       `json:"reason"`                // for people
	WireBytes  uint64       `json:"wire_bytes"`            // over the WAN
	Expected   Duration     `json:"expected"`              // until the version is complete
	Base       manifest.ID  `json:"base,omitzero"`         // version that a delta begins at
	Options    []SyncOption `json:"options"`               // all that was weighed
	RetryAfter Duration     `json:"retry_after,omitempty"` // with Wait: ask again then
	Made       time.Time    `json:"made,omitzero"`
}

// SyncOption is one way that was weighed.
type SyncOption struct {
	Method      SyncMethod  `json:"method"`
	Base        manifest.ID `json:"base,omitzero"`
	WireBytes   uint64      `json:"wire_bytes"`
	Expected    Duration    `json:"expected"`
	Unavailable string      `json:"unavailable,omitempty"` // why it can't be taken; empty if it can
}

// maxSyncOptions bounds the options of a plan that a satellite tells.
const maxSyncOptions = 70

// bound cuts a plan that a satellite told to what is sensible to keep.
func (p *SyncPlan) bound() {
	if p == nil {
		return
	}
	clean(&p.Reason)
	p.Options = head(p.Options, maxSyncOptions)
	for i := range p.Options {
		clean(&p.Options[i].Unavailable)
	}
}
