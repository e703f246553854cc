package resident

import (
	"fmt"
	"strings"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rundir"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// States of a Report.
const (
	Starting = "starting"
	Healthy  = "healthy"
	Degraded = "degraded"
)

const (
	// overlayFull is the share of the writable layer above which a client is degraded, in percent.
	overlayFull = 90
	maxFailed   = 32
	maxJobs     = 5
)

// Facts is what the state of a client is judged by.
type Facts struct {
	System System
	// Keeper is nil if its state cannot be read; KeeperRuns tells whether its process is there.
	Keeper     *rundir.KeeperState
	KeeperRuns bool
	// InRAM tells that there is no root connection, because the image is in memory.
	InRAM   bool
	Overlay agentproto.Fill
	// LeaseProblem is empty if the address is ours.
	LeaseProblem string
	// NoPolicy says why the client has no policy; empty if it has one.
	NoPolicy string
	Now      time.Time
}

// System is what systemd says of itself.
type System struct {
	// State is the word of systemctl is-system-running, empty if systemd has not answered yet.
	State  string
	Jobs   []string // what it still starts
	Failed []string // failed units
	Err    string   // why systemd cannot be asked
}

// Judge returns the state of a client and the reasons why it is not healthy. A client that starts may have reasons too: what it waits for.
func Judge(f Facts) (state string, reasons []string) {
	reasons = append(reasons, connectionReasons(f)...)
	if f.Overlay.SizeBytes > 0 { // a share of RAM, so that the product cannot overflow
		if percent := f.Overlay.UsedBytes * 100 / f.Overlay.SizeBytes; percent > overlayFull {
			reasons = append(reasons, fmt.Sprintf("the writable layer is %d %% full", percent))
		}
	}
	if f.LeaseProblem != "" {
		reasons = append(reasons, f.LeaseProblem)
	}
	if f.NoPolicy != "" {
		reasons = append(reasons, f.NoPolicy)
	}
	if isStarting(f.System.State) {
		if f.System.Err != "" {
			reasons = append(reasons, "systemd does not answer: "+f.System.Err)
		}
		if len(f.System.Jobs) > 0 {
			reasons = append(reasons, "waiting for "+shorten(f.System.Jobs))
		}
		return Starting, reasons
	}
	switch f.System.State {
	case "running", "stopping":
	case "degraded":
		if len(f.System.Failed) == 0 {
			reasons = append(reasons, "systemd is degraded")
		}
	default:
		reasons = append(reasons, "systemd is in state "+f.System.State)
	}
	for _, unit := range f.System.Failed[:min(len(f.System.Failed), maxFailed)] {
		reasons = append(reasons, "failed unit "+unit)
	}
	if len(reasons) > 0 {
		return Degraded, reasons
	}
	return Healthy, nil
}

// isStarting tells whether a word of systemctl is-system-running says that the boot is going on.
func isStarting(word string) bool { return word == "" || word == "initializing" || word == "starting" }

func connectionReasons(f Facts) []string {
	switch {
	case f.InRAM:
		return nil
	case f.Keeper == nil || !f.KeeperRuns:
		return []string{"the keeper of the root connection does not run: the PC stops when its satellite does"}
	case !f.Keeper.Connected:
		text := "no connection to a satellite for " + f.Now.Sub(f.Keeper.Since).Round(time.Second).String()
		if f.Keeper.Error != "" {
			text += ": " + f.Keeper.Error
		}
		return []string{text}
	}
	return nil
}

func shorten(words []string) string {
	if more := len(words) - maxJobs; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(words[:maxJobs], ", "), more)
	}
	return strings.Join(words, ", ")
}
