package local

import (
	"regexp"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

// Polkit returns the step 55-polkit.
func Polkit() step.Step {
	return step.Step{Name: "55-polkit", Main: "polkit_main", Functions: []step.Function{{Name: "deny_suspend", Do: denySuspend}}}
}

const loginPolicy = "/usr/share/polkit-1/actions/org.freedesktop.login1.policy"

var (
	sleepAction = regexp.MustCompile(`(?s)<action id="org\.freedesktop\.login1\.(?:suspend|hibernate).*?</action>`)
	allow       = regexp.MustCompile(`(<allow[^>]*>)[^<]*<`)
)

// denySuspend denies suspend and hibernate: the connection to the root would not survive.
func denySuspend(c *step.Context) error {
	return c.Edit(loginPolicy, func(old string) string {
		return sleepAction.ReplaceAllStringFunc(old, func(action string) string { return allow.ReplaceAllString(action, "${1}no<") })
	})
}

// Systemd returns the step 55-systemd.
func Systemd() step.Step {
	return step.Step{Name: "55-systemd", Main: "systemd_main", Functions: []step.Function{
		{Name: "config_console_log", Do: consoleLog},
		{Name: "config_tmpfiles", Do: tmpfiles},
		{Name: "config_journal", Do: journal},
		{Name: "config_timeouts", Do: timeouts},
	}}
}

// consoleLog leaves the kernel's log level as the command line has it when messages go to the network.
func consoleLog(c *step.Context) error {
	for word := range strings.FieldsSeq(c.Facts.CommandLine) {
		if word == "netconsole" || strings.HasPrefix(word, "netconsole=") {
			return c.Root.Remove("/etc/sysctl.d/10-console-messages.conf")
		}
	}
	return nil
}

var aclLine = regexp.MustCompile(`(?m)^[aA]`)

// tmpfiles takes out the access lists: the writable layer does not have them.
func tmpfiles(c *step.Context) error {
	return c.Edit("/usr/lib/tmpfiles.d/systemd.conf", func(old string) string { return aclLine.ReplaceAllString(old, "# $0") })
}

// journal keeps the journal in memory, and little of it. A drop-in wins over the file, wherever the distribution has that.
func journal(c *step.Context) error {
	return c.Generate("/etc/systemd/journald.conf.d/ltsp.conf", generated+"[Journal]\nStorage=volatile\nRuntimeMaxUse=1M\nForwardToSyslog=no\n")
}

// timeouts shorten a shutdown in which something hangs.
func timeouts(c *step.Context) error {
	for _, p := range []string{"/etc/systemd/system.conf.d/ltsp.conf", "/etc/systemd/user.conf.d/ltsp.conf"} {
		if err := c.Generate(p, generated+"[Manager]\nDefaultTimeoutStopSec=10s\n"); err != nil {
			return err
		}
	}
	return nil
}
