package chunksync

import (
	"fmt"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// lookPeriod is how often a transfer is compared with its plan.
const lookPeriod = 5 * time.Second

// A transfer is behind when it takes a quarter longer than planned, and more than graceTime.
const graceTime = 10 * time.Second

// rate is a measured speed: a moving average in which the newest transfer counts a third.
type rate struct{ perSecond float64 }

// leastBytes is how much a transfer must bring to say something of the line.
const leastBytes = 256 << 10

func (r *rate) add(bytes uint64, d time.Duration) {
	if bytes < leastBytes || d <= 0 {
		return
	}
	now := float64(bytes) / d.Seconds()
	if r.perSecond == 0 {
		r.perSecond = now
	}
	r.perSecond += (now - r.perSecond) / 3
}

func (r *rate) bytesPerSecond() uint64 { return uint64(r.perSecond) }

// course is how one transfer goes.
type course struct {
	started, finished time.Time
	expected          time.Duration
	wire              uint64 // bytes that were planned
	assumed           uint64 // bytes a second that were planned
	behind            string
}

func (c *course) begin(now time.Time) {
	if c.started.IsZero() || !c.finished.IsZero() {
		c.started, c.finished = now, time.Time{}
	}
}

func (c *course) finish(now time.Time) {
	if c.finished.IsZero() && !c.started.IsZero() {
		c.finished = now
	}
}

// plan takes over a new plan. Its time counts from now on, unless it is the old one.
func (c *course) plan(p config.Plan, linkRate uint64) {
	c.expected, c.wire, c.assumed, c.behind = p.Expected, p.WireBytes, linkRate, ""
	if c.assumed == 0 && p.Expected > 0 {
		c.assumed = uint64(float64(p.WireBytes) / p.Expected.Seconds())
	}
}

// progress is how far a transfer is.
type progress struct {
	fetched uint64
	time    time.Duration // that the plan speaks of: without closed windows
	line    time.Duration // of it during which the line was used; 0: all of it
	missing bool          // something has still to come
	trouble error         // of the line
	limit   uint64        // bytes a second that the policy allows; 0: no limit
}

// late says what makes a transfer slower than planned; empty if it is not.
func (c *course) late(p progress) string {
	over := p.time - c.expected
	if c.expected <= 0 || over <= graceTime || over*4 <= c.expected {
		return ""
	}
	head := fmt.Sprintf("%s behind the plan of %s: ", over.Round(time.Second), c.expected.Round(time.Second))
	line := p.line
	if line <= 0 {
		line = p.time
	}
	got := uint64(float64(p.fetched) / line.Seconds())
	switch {
	case p.trouble != nil:
		return head + fmt.Sprintf("the line fails: %v", p.trouble)
	case !p.missing:
		return head + "everything has arrived, this machine is slower in rebuilding than planned"
	case p.limit > 0 && got*5 >= p.limit*4:
		return head + fmt.Sprintf("the site's cap is %s a second", bytesText(p.limit))
	case got*5 < c.assumed*4:
		return head + fmt.Sprintf("the line gives %s a second where %s were planned", bytesText(got), bytesText(c.assumed))
	case c.wire > 0 && p.fetched*4 > c.wire*5:
		return head + fmt.Sprintf("%s came where %s were planned", bytesText(p.fetched), bytesText(c.wire))
	default:
		return head + "something else used the line or this machine"
	}
}

func bytesText(n uint64) string {
	switch {
	case n >= 10_000_000:
		return fmt.Sprintf("%d MB", n/1_000_000)
	case n >= 10_000:
		return fmt.Sprintf("%d kB", n/1000)
	}
	return fmt.Sprintf("%d bytes", n)
}

// lookBehind compares a transfer with its plan and tells when it falls behind.
func (s *Syncer) lookBehind(e *entry, p progress) {
	s.mu.Lock()
	p.limit = s.policy.BytesPerSecond
	before := e.course.behind
	if text := e.course.late(p); text != "" {
		e.course.behind = text
	}
	after, v := e.course.behind, e.version
	s.mu.Unlock()
	if before == "" && after != "" {
		s.metrics.behind.Inc()
		s.log.Warn("a transfer is slower than planned", "image", v.Image, "number", v.Number, "version", v.ID, "reason", after)
		s.notify()
	}
}
