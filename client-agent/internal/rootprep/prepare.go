// Package rootprep puts the agent itself into a root before init starts: the unit of the resident agent, in /run. What the root becomes besides is policy, and
// done by package applet.
package rootprep

import (
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rundir"
)

const (
	unitName = "ltsp-agent.service"
	unitFile = "/systemd/system/" + unitName
	unitWant = "/systemd/system/multi-user.target.wants/" + unitName
)

// unit starts the resident agent as soon as the boot target is known, so that it can tell what a boot that hangs is waiting for. Without
// default dependencies it must ask for its end at shutdown itself.
const unit = `[Unit]
Description=LTSP Fleet client agent
Documentation=https://github.com/ltsp-fleet/ltsp-fleet
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target

[Service]
ExecStart=` + rundir.Dir + "/" + rundir.Agent + ` resident
Restart=always
RestartSec=5
OOMScoreAdjust=-900
NoNewPrivileges=yes
`

// Prepare writes the unit to the directory that becomes /run.
func Prepare(run rootdir.Root) error {
	if err := run.WriteFile(unitFile, unit); err != nil {
		return fmt.Errorf("prepare the root: %w", err)
	}
	if err := run.Symlink("../"+unitName, unitWant); err != nil {
		return fmt.Errorf("prepare the root: %w", err)
	}
	return nil
}
