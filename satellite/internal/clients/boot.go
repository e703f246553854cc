package clients

import (
	"cmp"
	"slices"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// maxSteps bounds each source's part of a timeline.
const maxSteps = 32

// stepMoment is a step that the satellite saw.
type stepMoment struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// boot is the record of one boot. Its zero value is "none seen".
type boot struct {
	Start  time.Time         `json:"start"` // first packet
	Steps  []stepMoment      `json:"steps,omitempty"`
	Agent  []agentproto.Step `json:"agent,omitempty"`
	Kernel time.Time         `json:"kernel"` // least upper bound of the kernel's start; zero if no report told its uptime
	Last   time.Time         `json:"last"`   // of the satellite's sightings
	// Witnessed tells that the satellite saw the boot from its first packet, not only the agent that came out of it.
	Witnessed bool `json:"witnessed"`
	Healthy   bool `json:"healthy"` // it has been healthy once
}

func (b *boot) moment(name string) (time.Time, bool) {
	for _, s := range b.Steps {
		if s.Name == name {
			return s.At, true
		}
	}
	return time.Time{}, false
}

func (b *boot) has(names ...string) bool {
	return slices.ContainsFunc(b.Steps, func(s stepMoment) bool { return slices.Contains(names, s.Name) })
}

// begins tells whether a step is the first of a new boot. agent tells whether the agent was heard in this one.
func (b *boot) begins(s Sighting, now time.Time, agent bool, quiet time.Duration) bool {
	if b.Start.IsZero() {
		return true
	}
	idle := now.Sub(b.Last) > quiet
	switch s.Step {
	case StepDiscover:
		return idle || agent || b.has(StepScript)
	case StepScript:
		at, before := b.moment(StepScript)
		return !s.Again && (agent || b.has(StepKernel, StepConfig, StepInitrd) || before && now.Sub(at) > quiet)
	}
	return false
}

// name gives DHCP between loader and script the name of iPXE's steps.
func (b *boot) name(step string) string {
	if !b.has(StepLoader) || b.has(StepScript) {
		return step
	}
	switch step {
	case StepDiscover:
		return StepIPXEDiscover
	case StepOffer:
		return StepIPXEOffer
	case StepAck:
		return StepIPXEAck
	}
	return step
}

// add records the first occurrence of a step and tells whether it was one.
func (b *boot) add(step string, now time.Time) bool {
	b.Last = now
	step = b.name(step)
	if len(b.Steps) >= maxSteps || b.has(step) {
		return false
	}
	b.Steps = append(b.Steps, stepMoment{step, now})
	return true
}

// sameKernelSlack is how much earlier than the boot's first packet a kernel may seem to have started before it must be an older one.
const sameKernelSlack = 5 * time.Second

// align takes the uptime that a report told at the moment it arrived.
func (b *boot) align(uptime time.Duration, arrived time.Time) {
	if uptime <= 0 {
		return
	}
	started := arrived.Add(-uptime)
	if started.Before(b.Start.Add(-sameKernelSlack)) {
		return // an older kernel still reports
	}
	if b.Kernel.IsZero() || started.Before(b.Kernel) {
		b.Kernel = started
	}
}

// kernelStart is the best estimate of the kernel's start on the satellite's clock.
func (b *boot) kernelStart() time.Time {
	lower := b.Start
	for _, name := range []string{StepKernel, StepConfig, StepInitrd} {
		if at, ok := b.moment(name); ok && at.After(lower) {
			lower = at
		}
	}
	if b.Kernel.After(lower) {
		return b.Kernel
	}
	return lower
}

// timeline merges both sources.
func (b *boot) timeline() []Step {
	out := make([]Step, 0, len(b.Steps)+len(b.Agent))
	for _, s := range b.Steps {
		out = append(out, Step{s.Name, s.At.Sub(b.Start), FromSatellite})
	}
	shift := b.kernelStart().Sub(b.Start)
	for _, s := range b.Agent {
		out = append(out, Step{s.Name, shift + time.Duration(s.At), FromClient})
	}
	slices.SortStableFunc(out, func(x, y Step) int { return cmp.Compare(x.At, y.At) })
	return out
}
