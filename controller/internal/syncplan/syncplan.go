// Package syncplan decides how a version comes to a satellite: by a delta from a version that it has, by the chunks that it lacks, or whole. It is
// pure: bytes, rates and what is ready go in, a decision with its reason comes out.
//
// A way's time is that of its slowest part, because the parts run side by side: bytes over the line, or content through the encoder. The
// quickest way wins; among ways that are about as quick the one with fewer bytes does, because the line is the school's only one.
package syncplan

import (
	"fmt"
	"slices"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// Assumptions where nothing was measured.
const (
	DefaultLink       = 1250 << 10 // bytes a second: a DSL line of 10 Mbit/s
	DefaultRecompress = 6 << 20    // bytes a second: one slow core
	DefaultMaking     = 3 * time.Minute
)

// about is how much slower a way may be and still count as equally quick: this, or a tenth.
const about = 5 * time.Second

// retry is how soon a satellite asks again for a delta that is being made.
const retry = 10 * time.Second

// Readiness says how far a delta is.
type Readiness int

// States of a delta.
const (
	Possible   Readiness = iota // nobody has asked for it
	Queued                      // it will be made
	Making                      // it is being made
	Ready                       // it can be fetched
	Impossible                  // it can't be made; Delta.Why says why
)

// Delta is a delta that could be taken.
type Delta struct {
	Base      manifest.ID
	BaseName  string // for people
	Readiness Readiness
	Bytes     uint64 // of the delta file, an estimate unless it is ready
	Raw       uint64 // content to recompress
	Begun     bool   // the satellite has a part of it already
	Why       string
}

// Input is all that a decision depends on. Rates are in bytes a second, 0 if not known or not limited.
type Input struct {
	Policy                fleet.SyncMethod // empty means auto
	Link, Cap, Recompress uint64
	Whole, Chunks         uint64 // bytes on the wire
	Deltas                []Delta
	Now                   time.Time
}

// Decision is a plan, and which delta must be made for it.
type Decision struct {
	Plan fleet.SyncPlan
	// Make is the base of the delta that is wanted and that nobody has asked for yet; zero if none.
	Make manifest.ID
}

// choice is a way that can be taken, now or after a while.
type choice struct {
	fleet.SyncOption
	wait  bool // not ready yet
	make  bool // nobody has asked for it
	begun bool
	cpu   bool // recompression takes longer than the line
	name  string
}

// Decide makes the plan.
func Decide(in Input) Decision {
	in = in.assume()
	var all []choice
	for _, d := range in.Deltas {
		all = append(all, in.delta(d))
	}
	all = append(all, in.plain(fleet.SyncChunks, in.Chunks), in.plain(fleet.SyncWhole, in.Whole))
	best := pick(all)
	d := Decision{Plan: fleet.SyncPlan{
		Method: best.Method, WireBytes: best.WireBytes, Expected: best.Expected, Base: best.Base, Made: in.Now, Reason: in.reason(best, all),
	}}
	for _, c := range all {
		d.Plan.Options = append(d.Plan.Options, c.SyncOption)
	}
	if best.wait {
		d.Plan.Method, d.Plan.RetryAfter = fleet.SyncWait, fleet.Duration(retry)
	}
	if best.make {
		d.Make = best.Base
	}
	return d
}

func (in Input) assume() Input {
	if in.Link == 0 {
		in.Link = DefaultLink
	}
	if in.Cap > 0 {
		in.Link = min(in.Link, in.Cap)
	}
	if in.Recompress == 0 {
		in.Recompress = DefaultRecompress
	}
	if in.Policy == "" {
		in.Policy = fleet.SyncAuto
	}
	return in
}

func seconds(bytes, rate uint64) time.Duration {
	return time.Duration(float64(bytes) / float64(rate) * float64(time.Second))
}

func (in Input) plain(method fleet.SyncMethod, bytes uint64) choice {
	c := choice{SyncOption: fleet.SyncOption{Method: method, WireBytes: bytes, Expected: fleet.Duration(seconds(bytes, in.Link))}}
	if in.Policy != fleet.SyncAuto && in.Policy != method && (in.Policy != fleet.SyncDelta || method != fleet.SyncChunks || in.anyDelta()) {
		c.Unavailable = fmt.Sprintf("the site's policy is %q", in.Policy)
	}
	return c
}

// anyDelta tells whether a policy of deltas can be followed at all; without a base chunks are the next best.
func (in Input) anyDelta() bool {
	return slices.ContainsFunc(in.Deltas, func(d Delta) bool { return d.Readiness != Impossible })
}

func (in Input) delta(d Delta) choice {
	line, cpu := seconds(d.Bytes, in.Link), seconds(d.Raw, in.Recompress)
	expected := max(line, cpu)
	c := choice{
		SyncOption: fleet.SyncOption{Method: fleet.SyncDelta, Base: d.Base, WireBytes: d.Bytes}, name: d.BaseName, begun: d.Begun, cpu: cpu > line,
		wait: d.Readiness != Ready, make: d.Readiness == Possible,
	}
	switch {
	case d.Readiness == Impossible:
		c.Unavailable = d.Why
	case in.Policy != fleet.SyncAuto && in.Policy != fleet.SyncDelta:
		c.Unavailable = fmt.Sprintf("the site's policy is %q", in.Policy)
	}
	if c.wait {
		expected += DefaultMaking
	}
	c.Expected = fleet.Duration(expected)
	return c
}

// pick returns the quickest, or of those that are about as quick the one with the fewest bytes. What was begun goes on.
func pick(all []choice) choice {
	var open []choice
	for _, c := range all {
		if c.Unavailable != "" {
			continue
		}
		if c.begun && !c.wait {
			return c
		}
		open = append(open, c)
	}
	if len(open) == 0 { // a policy that nothing can follow: the version must arrive none the less
		return all[len(all)-2]
	}
	quickest := slices.MinFunc(open, func(a, b choice) int { return int(min(max(a.Expected-b.Expected, -1), 1)) })
	limit := quickest.Expected + max(fleet.Duration(about), quickest.Expected/10)
	best := quickest
	for _, c := range open {
		if c.Expected <= limit && c.WireBytes < best.WireBytes {
			best = c
		}
	}
	return best
}

func (in Input) reason(best choice, all []choice) string {
	pace := "at " + rateText(in.Link)
	if best.cpu {
		pace = fmt.Sprintf("recompressing %s a second", bytesText(in.Recompress))
	}
	what := fmt.Sprintf("%s in about %s %s", bytesText(best.WireBytes), round(time.Duration(best.Expected)), pace)
	switch {
	case best.Method == fleet.SyncDelta && best.begun:
		return fmt.Sprintf("delta from %s, which was begun: %s", best.name, what)
	case best.Method == fleet.SyncDelta && best.wait:
		return fmt.Sprintf("the delta from %s is being made; estimated %s", best.name, what)
	case best.Method == fleet.SyncDelta:
		return fmt.Sprintf("delta from %s: %s, chunks would be %s", best.name, what, bytesText(in.Chunks))
	case in.Policy == best.Method:
		return fmt.Sprintf("%s by policy: %s", best.Method, what)
	}
	for _, c := range all {
		if c.Method == fleet.SyncDelta && c.Unavailable == "" {
			return fmt.Sprintf("%s: %s; the delta from %s (%s) would take %s", best.Method, what, c.name, bytesText(c.WireBytes), round(time.Duration(c.Expected)))
		}
	}
	for _, c := range all {
		if c.Method == fleet.SyncDelta {
			return fmt.Sprintf("%s: %s; no delta from %s: %s", best.Method, what, c.name, c.Unavailable)
		}
	}
	return fmt.Sprintf("%s: %s; the satellite has no version that a delta could begin at", best.Method, what)
}

func round(d time.Duration) time.Duration {
	if d > time.Minute {
		return d.Round(time.Second)
	}
	return d.Round(100 * time.Millisecond)
}

func bytesText(n uint64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.0f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d bytes", n)
}

func rateText(n uint64) string { return fmt.Sprintf("%.1f Mbit/s", float64(n)*8/1e6) }
