// Package rootprep puts the agent itself into a root before init starts: the unit of the resident agent, and what udev needs to know of the root's devices, in
// /run. What the root becomes besides is policy, and done by package applet.
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

// RootDevice is the device-mapper name of the verified root.
const RootDevice = "ltsp-root"

const rulesFile = "/udev/rules.d/10-ltsp-root.rules"

// rules keep udev from looking for signatures on the root's devices (systemd's 60-persistent-storage.rules, lvm2's 10-dm.rules), as its blkid does at many places,
// the end among them. There the hash tree lies, and 128 KiB of it are proven by 16 MiB of the image: of a version that is still arriving they would have to be
// fetched first.
const rules = `SUBSYSTEM=="block", KERNEL=="nbd0", ENV{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}="1"
SUBSYSTEM=="block", ATTR{dm/name}=="` + RootDevice + `", ENV{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}="1", ENV{DM_UDEV_DISABLE_OTHER_RULES_FLAG}="1"
`

// Prepare writes all to the directory that becomes /run.
func Prepare(run rootdir.Root) error {
	for name, text := range map[string]string{unitFile: unit, rulesFile: rules} {
		if err := run.WriteFile(name, text); err != nil {
			return fmt.Errorf("prepare the root: %w", err)
		}
	}
	if err := run.Symlink("../"+unitName, unitWant); err != nil {
		return fmt.Errorf("prepare the root: %w", err)
	}
	return nil
}
