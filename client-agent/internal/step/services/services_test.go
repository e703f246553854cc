package services

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/testtree"
)

// calls notes what would be asked of a service manager.
type calls struct {
	step.None
	list []string
}

func (c *calls) Systemctl(_ context.Context, args ...string) error {
	c.list = append(c.list, strings.Join(args, " "))
	return nil
}

func newContext(t *testing.T, root string, values step.Values) *step.Context {
	t.Helper()
	r := rootdir.Root(root)
	return &step.Context{Ctx: t.Context(), Root: r, Values: values, System: &calls{}, Memory: step.NewMemory(r, "/run/ltsp/applet", nil)}
}

func doAll(t *testing.T, c *step.Context) {
	t.Helper()
	for _, f := range Step().Functions {
		if err := f.Do(c); err != nil {
			t.Errorf("%s: %v", f.Name, err)
		}
	}
}

// image has units in the ways that distributions enable them.
var image = map[string]string{
	"etc/fstab":                          "",
	"etc/os-release":                     "ID=test\n",
	"usr/lib/systemd/system/ssh.service": "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\nAlias=sshd.service\n",
	"etc/systemd/system/sshd.service":    "-> /usr/lib/systemd/system/ssh.service",
	"etc/systemd/system/multi-user.target.wants/ssh.service":        "-> /usr/lib/systemd/system/ssh.service",
	"usr/lib/systemd/system/rsyslog.service":                        "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\nAlias=syslog.service\n",
	"etc/systemd/system/syslog.service":                             "-> /usr/lib/systemd/system/rsyslog.service",
	"etc/systemd/system/multi-user.target.wants/rsyslog.service":    "-> /usr/lib/systemd/system/rsyslog.service",
	"usr/lib/systemd/system/avahi.service":                          "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\nAlso=avahi.socket\nAlias=dbus-avahi.service\n",
	"usr/lib/systemd/system/avahi.socket":                           "[Socket]\nListenStream=/x\n[Install]\nWantedBy=sockets.target\n",
	"etc/systemd/system/dbus-avahi.service":                         "-> /usr/lib/systemd/system/avahi.service",
	"etc/systemd/system/multi-user.target.wants/avahi.service":      "-> /usr/lib/systemd/system/avahi.service",
	"etc/systemd/system/sockets.target.wants/avahi.socket":          "-> /usr/lib/systemd/system/avahi.socket",
	"usr/lib/systemd/system/man-db.timer":                           "[Timer]\nOnCalendar=daily\n[Install]\nWantedBy=timers.target\n",
	"etc/systemd/system/timers.target.wants/man-db.timer":           "-> /usr/lib/systemd/system/man-db.timer",
	"usr/lib/systemd/system/keep.service":                           "[Service]\nExecStart=/bin/true\n[Install]\nRequiredBy=graphical.target\n",
	"etc/systemd/system/graphical.target.requires/keep.service":     "-> /usr/lib/systemd/system/keep.service",
	"usr/lib/systemd/system/static.service":                         "[Service]\nExecStart=/bin/true\n",
	"usr/lib/systemd/system/multi-user.target.wants/static.service": "-> ../static.service",
	"usr/lib/systemd/system/getty@.service":                         "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=getty.target\nDefaultInstance=tty1\n",
	"etc/systemd/system/getty.target.wants/getty@tty1.service":      "-> /usr/lib/systemd/system/getty@.service",
	"usr/lib/systemd/system/rpcbind.service":                        "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n",
	"etc/systemd/system/multi-user.target.wants/rpcbind.service":    "-> /usr/lib/systemd/system/rpcbind.service",
	"etc/systemd/system/own.service":                                "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n",
	"etc/systemd/system/multi-user.target.wants/own.service":        "-> ../own.service",
	"usr/lib/systemd/user/sync.service":                             "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=default.target\n",
	"etc/systemd/user/default.target.wants/sync.service":            "-> /usr/lib/systemd/user/sync.service",
	"etc/xdg/autostart/update-notifier.desktop":                     "[Desktop Entry]\n",
}

// links are what is left in /etc/systemd.
func links(t *testing.T, root string) []string {
	t.Helper()
	var list []string
	for name, content := range testtree.Show(t, root) {
		if strings.HasPrefix(name, "etc/systemd/") && strings.HasPrefix(content, "-> ") {
			list = append(list, fmt.Sprintf("%s %s", name, content))
		}
	}
	slices.Sort(list)
	return list
}

func TestListsAndTakingBack(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, image)
	before := links(t, root)
	c := newContext(t, root, step.Values{
		"KEEP_SYSTEM_SERVICES": "ssh man-db.timer", "DISABLE_SYSTEM_SERVICES": "keep # by the school\nown ../x", "MASK_SYSTEM_SERVICES": "avahi",
		"DISABLE_SESSION_SERVICES": "sync", "KEEP_SESSION_SERVICES": "",
	})
	doAll(t, c)
	after := links(t, root)
	for _, gone := range []string{"keep.service", "wants/own.service", "rpcbind", "wants/rsyslog", "sync.service", "syslog.service -> /usr"} {
		if slices.ContainsFunc(after, func(s string) bool { return strings.Contains(s, gone) }) {
			t.Errorf("%s is still enabled: %q", gone, after)
		}
	}
	for _, there := range []string{"wants/ssh.service", "man-db.timer", "rsyslog.service -> /dev/null", "avahi.service -> /dev/null"} {
		if !slices.ContainsFunc(after, func(s string) bool { return strings.Contains(s, there) }) {
			t.Errorf("%s is not there: %q", there, after)
		}
	}
	if len(c.Remarks) != 1 || !strings.Contains(c.Remarks[0], "../x") {
		t.Errorf("remarks: %q", c.Remarks)
	}
	if _, err := os.Stat(filepath.Join(root, "etc/xdg/autostart/update-notifier.desktop")); err == nil {
		t.Error("update-notifier starts")
	}
	// Everything is kept: all is as it was.
	c.Live = true
	c.Values = step.Values{"KEEP_SYSTEM_SERVICES": "ssh man-db.timer rsyslog apt-daily apt-daily-upgrade rpcbind", "KEEP_SESSION_SERVICES": "update-notifier"}
	doAll(t, c)
	if diff := cmp.Diff(before, links(t, root)); diff != "" {
		t.Errorf("(-image +now):\n%s", diff)
	}
	if _, err := os.Stat(filepath.Join(root, "etc/xdg/autostart/update-notifier.desktop")); err != nil {
		t.Error(err)
	}
}

func TestRunningUnitsAreStopped(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, image)
	c := newContext(t, root, step.Values{"KEEP_SYSTEM_SERVICES": strings.Join(disabled, " ") + " " + strings.Join(disabledWithoutNFS, " ") + " apt-daily apt-daily-upgrade"})
	c.Live = true
	doAll(t, c)
	c.Values["DISABLE_SYSTEM_SERVICES"], c.Values["MASK_SYSTEM_SERVICES"] = "keep", "avahi"
	system := &calls{}
	c.System = system
	doAll(t, c)
	if diff := cmp.Diff([]string{"daemon-reload", "stop --no-block keep.service", "daemon-reload", "stop --no-block avahi.service"}, system.list); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestNFSServicesStayWithNFS(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, image)
	testtree.Put(t, root, "etc/fstab", "server:/home /home nfs defaults 0 0\n")
	doAll(t, newContext(t, root, step.Values{}))
	if !rootdir.Root(root).Exists("/etc/systemd/system/multi-user.target.wants/rpcbind.service") {
		t.Error("rpcbind is disabled although there is NFS")
	}
}

func TestScriptsOfSystemV(t *testing.T) {
	t.Parallel()
	root := testtree.New(t, map[string]string{
		"etc/init.d/x2goserver": "#!/bin/sh\n", "etc/rc2.d/S03x2goserver": "-> ../init.d/x2goserver", "etc/rc0.d/K01x2goserver": "-> ../init.d/x2goserver", "etc/rc2.d/S01other": "-> ../init.d/other",
	})
	doAll(t, newContext(t, root, step.Values{}))
	got := testtree.Show(t, root)
	if got["etc/rc2.d/K97x2goserver"] != "-> ../init.d/x2goserver" || got["etc/rc2.d/S03x2goserver"] != "" || got["etc/rc2.d/S01other"] == "" {
		t.Errorf("got %v", got)
	}
}

func FuzzParseInstall(f *testing.F) {
	f.Add("[Unit]\nAlias=x\n[Install]\nAlias=a.service \\\n b.service\nAlso = c.socket\n#Also=d\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, names := range parseInstall(text) {
			for _, n := range names {
				if !isUnitName(n) {
					t.Errorf("%q", n)
				}
			}
		}
	})
}
