// Package services is the step 56-services: units that a diskless client does not need are disabled or masked. What systemctl would do is done by the links
// themselves, without starting it dozens of times.
package services

import (
	"errors"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

// Step returns the step.
func Step() step.Step {
	return step.Step{Name: "56-services", Main: "services_main", Functions: []step.Function{
		{Name: "disable_session_services", Needs: []string{"DISABLE_SESSION_SERVICES", "KEEP_SESSION_SERVICES"}, Live: true, Do: disableSession},
		{Name: "disable_system_services", Needs: []string{"DISABLE_SYSTEM_SERVICES", "KEEP_SYSTEM_SERVICES"}, Live: true, Do: disableSystem},
		{Name: "mask_session_services", Needs: []string{"MASK_SESSION_SERVICES", "KEEP_SESSION_SERVICES"}, Live: true, Do: maskSession},
		{Name: "mask_system_services", Needs: []string{"MASK_SYSTEM_SERVICES", "KEEP_SYSTEM_SERVICES"}, Live: true, Do: maskSystem},
	}}
}

// Units that LTSP disables on clients.
var (
	disabled = strings.Fields(`alsa-restore alsa-state alsa-utils anydesk apparmor apt-daily apt-daily.timer apt-daily-upgrade apt-daily-upgrade.timer dhcpcd dnsmasq
		epoptes fwupd-refresh.timer grub-common logrotate.timer man-db.timer ModemManager motd-news motd-news.timer nbd-server nfs-kernel-server nfs-server packagekit
		packagekit-offline-update rsyslog ssh systemd-random-seed systemd-rfkill teamviewerd unattended-upgrades ureadahead ureadahead-stop x2goserver xrdp xrdp-sesman`)
	// disabledWithoutNFS are those that only NFS needs.
	disabledWithoutNFS = strings.Fields(`auth-rpcgss-module nfs-blkmap nfs-common nfs-idmapd nfs-mountd nfs-utils portmap rpcbind rpc-gssd rpc-statd-notify rpc-statd
		rpc-svcgssd`)
	masked        = []string{"apt-daily", "apt-daily-upgrade", "rsyslog"}
	maskedSession = []string{"gnome-software-service", "update-notifier"}
)

// words reads a value of names, several a line, with comments.
func words(text string) []string {
	var list []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		list = append(list, strings.Fields(line)...)
	}
	return list
}

// without returns the names that are not kept, each once.
func without(kept string, names ...[]string) []string {
	keep := strings.Fields(kept)
	var list []string
	for _, name := range slices.Concat(names...) {
		if !slices.Contains(keep, name) && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

// usable leaves out what cannot be the name of a unit, and tells.
func usable(c *step.Context, variable string, names []string) []string {
	return slices.DeleteFunc(names, func(name string) bool {
		if isUnitName(name) {
			return false
		}
		c.Remark("%s: %q cannot be the name of a unit", variable, name)
		return true
	})
}

// isUnitName follows systemd.unit(5).
func isUnitName(s string) bool {
	return s != "" && len(s) < 256 && s[0] != '.' && s[0] != '-' && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(`:-_.\@`, c)
	})
}

func disableSession(c *step.Context) error {
	names := usable(c, "DISABLE_SESSION_SERVICES", without(c.Values["KEEP_SESSION_SERVICES"], words(c.Values["DISABLE_SESSION_SERVICES"])))
	return disable(c, user, names)
}

func disableSystem(c *step.Context) error {
	lists := [][]string{disabled}
	table, err := c.Root.ReadFile("/etc/fstab")
	if err != nil || !strings.Contains(string(table), "nfs") {
		lists = append(lists, disabledWithoutNFS)
	}
	lists = append(lists, words(c.Values["DISABLE_SYSTEM_SERVICES"]))
	names := usable(c, "DISABLE_SYSTEM_SERVICES", without(c.Values["KEEP_SYSTEM_SERVICES"], lists...))
	return disable(c, system, names)
}

// disable takes back what was disabled and no longer is, and disables the names.
func disable(c *step.Context, m manager, names []string) error {
	note := "disabled " + m.name
	var errs []error
	for _, unit := range c.Memory.Notes[note] {
		if base := strings.TrimSuffix(unit, ".service"); !slices.Contains(names, unit) && !slices.Contains(names, base) {
			errs = append(errs, m.enableAgain(c, unit))
		}
	}
	t := m.load(c.Root)
	var units []string
	for _, name := range names {
		unit, known := t.find(c.Root, m, name)
		if !known {
			continue
		}
		units = append(units, unit)
	}
	gone, err := m.disable(c, t, units)
	errs = append(errs, err)
	c.Memory.Notes[note] = units
	if c.Live && m.name == system.name {
		errs = append(errs, stop(c, gone))
	}
	return errors.Join(errs...)
}

func maskSession(c *step.Context) error {
	names := usable(c, "MASK_SESSION_SERVICES", without(c.Values["KEEP_SESSION_SERVICES"], maskedSession, words(c.Values["MASK_SESSION_SERVICES"])))
	var units []string
	t := user.load(c.Root)
	for _, name := range names {
		if unit, known := t.find(c.Root, user, name); known {
			units = append(units, unit)
		}
	}
	errs := []error{mask(c, user, units)}
	var entries []string
	for _, name := range names {
		for _, dir := range []string{"/etc/xdg/autostart/", "/usr/share/upstart/xdg/autostart/"} {
			entries = append(entries, dir+name+".desktop")
		}
	}
	errs = append(errs, hide(c, entries))
	return errors.Join(errs...)
}

// hide removes files, and brings back those that it removed before and should not have now.
func hide(c *step.Context, paths []string) error {
	const note = "hidden autostart"
	for _, p := range c.Memory.Notes[note] {
		if !slices.Contains(paths, p) {
			if err := c.Restore(p); err != nil {
				return err
			}
		}
	}
	var hidden []string
	for _, p := range paths {
		done, err := c.Hide(p)
		if err != nil {
			return err
		}
		if done || slices.Contains(c.Memory.Notes[note], p) {
			hidden = append(hidden, p)
		}
	}
	c.Memory.Notes[note] = hidden
	return nil
}

func maskSystem(c *step.Context) error {
	names := usable(c, "MASK_SYSTEM_SERVICES", without(c.Values["KEEP_SYSTEM_SERVICES"], masked, words(c.Values["MASK_SYSTEM_SERVICES"])))
	units := make([]string, len(names))
	for i, name := range names {
		units[i] = withSuffix(name)
	}
	return mask(c, system, units)
}

// mask makes the units unstartable, and takes back what was masked and no longer is.
func mask(c *step.Context, m manager, units []string) error {
	note := "masked " + m.name
	var errs []error
	for _, unit := range c.Memory.Notes[note] {
		if !slices.Contains(units, unit) {
			errs = append(errs, c.Restore(m.etc+"/"+unit))
		}
	}
	var fresh []string
	for _, unit := range units {
		link := m.etc + "/" + unit
		if c.Root.Readlink(link) == "/dev/null" {
			continue
		}
		if _, err := c.Root.Lstat(link); err == nil && c.Root.Readlink(link) == "" {
			c.Remark("%s is a file of the image's own and cannot be masked", link)
			continue
		}
		errs = append(errs, c.Link("/dev/null", link))
		fresh = append(fresh, unit)
	}
	c.Memory.Notes[note] = units
	if c.Live && m.name == system.name {
		errs = append(errs, stop(c, fresh))
	}
	return errors.Join(errs...)
}

// stop ends units that run although they are disabled now. One that systemd does not know does not run.
func stop(c *step.Context, units []string) error {
	if err := c.System.Systemctl(c.Ctx, "daemon-reload"); err != nil || len(units) == 0 {
		return err
	}
	if err := c.System.Systemctl(c.Ctx, append([]string{"stop", "--no-block"}, units...)...); err != nil {
		c.Remark("not all of %s were stopped: %v", strings.Join(units, " "), err)
	}
	return nil
}

func withSuffix(name string) string {
	for _, suffix := range []string{".service", ".socket", ".timer", ".path", ".target", ".mount", ".automount", ".swap", ".slice", ".scope", ".device"} {
		if strings.HasSuffix(name, suffix) {
			return name
		}
	}
	return name + ".service"
}
