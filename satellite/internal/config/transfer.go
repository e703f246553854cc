package config

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// Method is a way in which a version comes over the WAN.
type Method string

// Methods.
const (
	ByDelta  Method = "delta"  // a delta from a version that is here
	ByChunks Method = "chunks" // chunks that no version here has
	Whole    Method = "whole"  // all chunks
	Wait     Method = "wait"   // nothing yet
)

// Plan is the controller's decision how a version comes, and what it was made of.
type Plan struct {
	Method Method
	Reason string // one line for people
	// WireBytes and Expected are what it should cost; zero: not known.
	WireBytes uint64
	Expected  time.Duration
	Base      manifest.ID // with ByDelta
	Options   []PlanOption
	Retry     time.Duration // with Wait: ask again after this
	Made      time.Time
	Delta     Delta // with ByDelta
}

// PlanOption is one way that was weighed.
type PlanOption struct {
	Method      Method
	Base        manifest.ID
	WireBytes   uint64
	Expected    time.Duration
	Unavailable string // why it can't be taken; empty if it can
}

// Delta describes a delta file. It is stored as JSON: renaming a field is a migration.
type Delta struct {
	Base       manifest.ID // version that it begins at
	SHA256     [32]byte    // of the whole file: its name when parts of it are asked for
	Size       int64
	IndexBytes int64    // length of the index at its start
	First      []uint32 // groups that clients will want first; the others follow in their own order
}

// MaxDeltaBytes is the longest delta file that is taken.
const MaxDeltaBytes = 1 << 40

// Validate reports what makes no sense.
func (d *Delta) Validate() error {
	if d.Base.IsZero() || d.SHA256 == [32]byte{} {
		return errors.New("delta without a base or a name")
	}
	if d.IndexBytes <= 0 || d.Size < d.IndexBytes || d.Size > MaxDeltaBytes {
		return fmt.Errorf("delta of %d bytes with an index of %d", d.Size, d.IndexBytes)
	}
	return nil
}

// PlanQuestion is what the controller is asked before a transfer begins.
type PlanQuestion struct {
	Version manifest.ID
	Have    []manifest.ID // versions that are complete and proven here
	// LinkRate and RecompressRate are bytes a second as measured here; 0: not known.
	LinkRate, RecompressRate uint64
	Begun                    [32]byte // delta file that was begun; zero: none
	Failure                  string   // why the last attempt ended; empty: there was none, or it succeeded
}

// Transfer bounds what the site takes over its WAN line. The zero Transfer sets no bounds.
type Transfer struct {
	// BytesPerSecond for all satellites of the site together, 0: no cap. The controller keeps it; here it explains why a transfer is slow.
	BytesPerSecond uint64
	// Window is when bytes that no client waits for may come.
	Window Window
	// LazyWait is how long a client's read waits for bytes that have not arrived; zero: DefaultLazyWait.
	LazyWait time.Duration
	// CompleteOnly keeps clients from versions that are still arriving.
	CompleteOnly bool
}

// DefaultLazyWait is shorter than clients wait for an answer before they try another satellite.
const DefaultLazyWait = 20 * time.Second

// Wait returns LazyWait or its default.
func (t Transfer) Wait() time.Duration {
	if t.LazyWait <= 0 {
		return DefaultLazyWait
	}
	return t.LazyWait
}

// Window is a part of the day in local time, to the minute. It may span midnight. The zero Window is the whole day.
type Window struct {
	Start, End time.Duration // since midnight, below 24 hours
}

// ParseWindow reads "22:00-06:00"; an empty text is the whole day.
func ParseWindow(s string) (Window, error) {
	if s == "" {
		return Window{}, nil
	}
	from, to, ok := strings.Cut(s, "-")
	start, err1 := time.Parse("15:04", from)
	end, err2 := time.Parse("15:04", to)
	if !ok || err1 != nil || err2 != nil {
		return Window{}, fmt.Errorf("time window %q: want HH:MM-HH:MM", s)
	}
	w := Window{sinceMidnight(start), sinceMidnight(end)}
	if w.Start == w.End {
		return Window{}, fmt.Errorf("time window %q is empty", s)
	}
	return w, nil
}

// String returns the form that ParseWindow reads.
func (w Window) String() string {
	if w == (Window{}) {
		return ""
	}
	at := func(d time.Duration) string { return fmt.Sprintf("%02d:%02d", int(d.Hours()), int(d.Minutes())%60) }
	return at(w.Start) + "-" + at(w.End)
}

func sinceMidnight(t time.Time) time.Duration {
	h, m, s := t.Clock()
	return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second
}

// Open tells whether t, in its own location, lies in the window, and how long it is until that changes; 0: it never does. Clocks that
// are put forward or back make the second answer an hour wrong twice a year.
func (w Window) Open(t time.Time) (open bool, change time.Duration) {
	if w == (Window{}) {
		return true, 0
	}
	now := sinceMidnight(t)
	if w.Start < w.End {
		open = now >= w.Start && now < w.End
	} else {
		open = now >= w.Start || now < w.End
	}
	next := w.Start
	if open {
		next = w.End
	}
	if change = next - now; change <= 0 {
		change += 24 * time.Hour
	}
	return open, change
}
