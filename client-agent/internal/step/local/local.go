// Package local holds the steps of "init" that make an installed system one that lives in memory and on one PC: cron, polkit, snap, swap, systemd, and the
// various small things.
package local

import (
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

// generated heads the files that the agent makes.
const generated = "# Made by ltsp-agent from ltsp.conf; the next boot makes it anew.\n"

// Cron returns the step 55-cron.
func Cron() step.Step {
	return step.Step{Name: "55-cron", Main: "cron_main", Functions: []step.Function{
		{Name: "config_crontab", Needs: []string{"CRONTAB_*"}, Live: true, Do: crontab},
		{Name: "remove_cronjobs", Do: removeCronJobs},
	}}
}

func crontab(c *step.Context) error {
	if !c.Root.IsDir("/etc/cron.d") {
		return nil
	}
	const path = "PATH=/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin\n"
	return c.Generate("/etc/cron.d/ltsp", generated+path+family(c, "CRONTAB_"))
}

// family is the text of a family's values, each on lines of its own.
func family(c *step.Context, prefix string) string {
	var b strings.Builder
	for _, value := range c.Values.Family(prefix) {
		b.WriteString(strings.TrimRight(value, "\n") + "\n")
	}
	return b.String()
}

// cronJobs are of no use on a PC that forgets everything, and load all PCs at the same minute.
var cronJobs = []string{
	"/etc/cron.d/popularity-contest",
	"/etc/cron.daily/apt", "/etc/cron.daily/apt-compat", "/etc/cron.daily/aptitude", "/etc/cron.daily/cracklib-runtime", "/etc/cron.daily/dpkg",
	"/etc/cron.daily/logrotate", "/etc/cron.daily/man-db", "/etc/cron.daily/mlocate", "/etc/cron.daily/passwd", "/etc/cron.daily/popularity-contest",
	"/etc/cron.daily/standard", "/etc/cron.daily/ubuntu-advantage-tools", "/etc/cron.daily/update-notifier-common",
	"/etc/cron.monthly/ieee-data",
	"/etc/cron.weekly/apt-xapian-index", "/etc/cron.weekly/man-db", "/etc/cron.weekly/update-notifier-common",
}

func removeCronJobs(c *step.Context) error { return removeAll(c, cronJobs) }

func removeAll(c *step.Context, paths []string) error {
	for _, p := range paths {
		if err := c.Root.Remove(p); err != nil {
			return err
		}
	}
	return nil
}
