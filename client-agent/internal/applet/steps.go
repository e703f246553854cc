package applet

import (
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step/bottom"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step/local"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step/network"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step/seat"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step/services"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step/users"
)

// steps lists the steps of an applet in the order of their names, as they run.
func steps(applet string) []step.Step {
	if applet == InitrdBottom {
		return []step.Step{bottom.Step()}
	}
	return []step.Step{
		network.Step(),
		users.Step(),
		local.Cron(),
		seat.DisplayManager(),
		seat.Multiseat(),
		local.Polkit(),
		local.Snap(),
		local.Swap(),
		local.Systemd(),
		local.Various(),
		local.Xorg(),
		services.Step(),
	}
}
