package local

import (
	"path"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

// Snap returns the step 55-snap.
func Snap() step.Step {
	return step.Step{Name: "55-snap", Main: "snap_main", Functions: []step.Function{
		{Name: "hold_snaps", Do: holdSnaps},
		{Name: "symlink_snaps", Needs: []string{"SYMLINK_SNAPS"}, Do: symlinkSnaps},
	}}
}

// holdTime is how long snapd may not update anything; it allows no more than 60 days.
const holdTime = 60 * 24 * time.Hour

func holdSnaps(c *step.Context) error {
	if !c.Root.HasCommand("snap") {
		return nil
	}
	const name = "snapd.hold.service"
	text := generated + `[Unit]
Description=Hold updates of snaps
After=snapd.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/snap set core refresh.hold='` + time.Now().Add(holdTime).UTC().Format(time.RFC3339) + `'

[Install]
WantedBy=snapd.service
`
	if err := c.Generate("/lib/systemd/system/"+name, text); err != nil {
		return err
	}
	return c.Link("../"+name, "/lib/systemd/system/snapd.service.wants/"+name)
}

// symlinkSnaps saves snapd from copying seed snaps into the writable layer.
func symlinkSnaps(c *step.Context) error {
	if !c.Root.HasCommand("snap") || c.Values["SYMLINK_SNAPS"] == "0" {
		return nil
	}
	for _, seed := range c.Root.Glob("/var/lib/snapd/seed/snaps/*.snap") {
		to := "/var/lib/snapd/snaps/" + path.Base(seed)
		if !c.Root.IsFile(seed) || c.Root.IsFile(to) {
			continue
		}
		if err := c.Link(seed, to); err != nil {
			return err
		}
	}
	return nil
}

// Swap returns the step 55-swap.
func Swap() step.Step {
	return step.Step{Name: "55-swap", Main: "swap_main", Functions: []step.Function{{Name: "local_swap", Needs: []string{"LOCAL_SWAP"}, Do: localSwap}}}
}

const (
	swapRules = "/run/udev/rules.d/99-ltsp-swap.rules"
	swapUnit  = "/run/systemd/system/ltsp-swap@.service"
)

// localSwap has udev start a unit for each swap partition of a local disk, whenever the disk's driver is there. Disks that belong to a RAID are left alone, and
// so is what a sector of a memory card would wear out.
func localSwap(c *step.Context) error {
	if c.Values["LOCAL_SWAP"] == "0" {
		return nil
	}
	rules := generated + `ACTION=="add|change", SUBSYSTEM=="block", ENV{DEVTYPE}=="partition", KERNEL=="[hsv]d[a-z]*|nvme*", IMPORT{parent}="ID_FS_USAGE", ` +
		`ENV{ID_FS_USAGE}!="raid", ENV{ID_FS_TYPE}=="swap", ENV{ID_FS_VERSION}!="TuxOnIce", TAG+="systemd", ENV{SYSTEMD_WANTS}+="ltsp-swap@$kernel.service"
`
	unit := generated + `[Unit]
Description=Swap on /dev/%I
DefaultDependencies=no
Conflicts=umount.target
Before=umount.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/sbin/swapon /dev/%I
ExecStop=-/sbin/swapoff /dev/%I
`
	if err := c.Generate(swapRules, rules); err != nil {
		return err
	}
	return c.Generate(swapUnit, unit)
}
