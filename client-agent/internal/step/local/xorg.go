package local

import (
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

// Xorg returns the step 55-xorg-conf.
func Xorg() step.Step {
	return step.Step{Name: "55-xorg-conf", Main: "xorg_conf_main", Functions: []step.Function{
		{Name: "config_xorg", Needs: xVariables, Live: true, Do: xorg},
	}}
}

var xVariables = []string{"X_DRIVER", "X_HORIZSYNC", "X_VERTREFRESH", "X_PREFERREDMODE", "X_MODELINE", "X_VIRTUAL", "X_MODES"}

const xorgConf = "/etc/X11/xorg.conf"

// xorg makes an xorg.conf (xorg.conf(5)) of X_*; the X server reads it when it starts.
func xorg(c *step.Context) error {
	any := false
	for _, name := range xVariables {
		any = any || c.Values[name] != ""
	}
	if !any {
		return c.Restore(xorgConf)
	}
	return c.Generate(xorgConf, xorgText(c.Values))
}

func xorgText(v step.Values) string {
	var b strings.Builder
	b.WriteString(generated)
	line := func(indent, keyword, value string) {
		if value != "" {
			b.WriteString(indent + keyword + " " + value + "\n")
		}
	}
	quoted := func(s string) string {
		if s == "" {
			return ""
		}
		return `"` + s + `"`
	}
	b.WriteString("\nSection \"Device\"\n\tIdentifier \"device\"\n")
	line("\t", "Driver", quoted(v["X_DRIVER"]))
	b.WriteString("EndSection\n\nSection \"Monitor\"\n\tIdentifier \"monitor\"\n")
	line("\t", "HorizSync", v["X_HORIZSYNC"])
	line("\t", "VertRefresh", v["X_VERTREFRESH"])
	line("\t", `Option "PreferredMode"`, quoted(v["X_PREFERREDMODE"]))
	line("\t", "Modeline", v["X_MODELINE"])
	b.WriteString("EndSection\n\nSection \"Screen\"\n\tIdentifier \"screen\"\n\tDevice \"device\"\n\tMonitor \"monitor\"\n\tSubSection \"Display\"\n")
	line("\t\t", "Virtual", v["X_VIRTUAL"])
	line("\t\t", "Modes", v["X_MODES"])
	b.WriteString("\tEndSubSection\nEndSection\n")
	return b.String()
}
