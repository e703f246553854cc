package local

import (
	"cmp"
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

// Various returns the step 55-various.
func Various() step.Step {
	return step.Step{Name: "55-various", Main: "various_main", Functions: []step.Function{
		{Name: "remove_crash_files", Do: removeCrashFiles},
		{Name: "link_sshfs", Needs: []string{step.InputFiles}, Live: true, Do: sshfs},
		{Name: "remove_gpt_generator", Do: removeGPTGenerator},
		{Name: "config_cups_server", Needs: []string{"CUPS_SERVER", "SERVER"}, Live: true, Do: cups},
		{Name: "config_epoptes", Needs: []string{"IGNORE_EPOPTES", step.InputFiles}, Live: true, Do: epoptes},
		{Name: "config_fstab", Needs: []string{"FSTAB_*"}, Do: fstab},
		{Name: "config_crypttab", Do: crypttab},
		{Name: "config_gnome_software", Do: gnomeSoftware},
		{Name: "config_locale", Needs: []string{"LANG", "LANGUAGE"}, Do: locale},
		{Name: "config_logs", Do: logs},
		{Name: "config_machine_id", Do: machineID},
		{Name: "config_motd", Do: motd},
		{Name: "config_userns", Needs: []string{"KEEP_SYSTEM_SERVICES"}, Live: true, Do: userNamespaces},
		{Name: "config_remoteapps", Needs: []string{"REMOTEAPPS", "REMOTEAPPS_*", "SSH_SERVER", "SSH_OPTIONS", "SERVER", step.InputFiles}, Live: true, Do: remoteApps},
	}}
}

func removeCrashFiles(c *step.Context) error {
	for _, p := range c.Root.Glob("/var/crash/*") {
		if err := c.Root.RemoveAll(p); err != nil {
			return err
		}
	}
	return nil
}

// sshfs offers the policy's own sshfs program to images without one.
func sshfs(c *step.Context) error {
	const command = "/usr/bin/sshfs"
	machine, err := machineName()
	if err != nil {
		return err
	}
	ours := "/etc/ltsp/bin/sshfs-" + machine
	mine := strings.HasPrefix(c.Root.Readlink(command), "/etc/ltsp/bin/")
	switch {
	case c.Root.IsProgram(ours) && (mine || !c.Root.HasCommand("sshfs")):
		return c.Link(ours, command)
	case mine:
		return c.Restore(command)
	}
	return nil
}

func machineName() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(u.Machine[:]), nil
}

// removeGPTGenerator keeps systemd from mounting partitions of local disks for what their types say.
func removeGPTGenerator(c *step.Context) error {
	return c.Root.Remove("/lib/systemd/system-generators/systemd-gpt-auto-generator")
}

const cupsClient = "/etc/cups/client.conf"

// cupsUnits serve printers of this PC.
var cupsUnits = []string{"cups.service", "cups.path", "cups.socket", "cups-browsed.service"}

// cups has programs print on a server; then the PC's own service is of no use.
func cups(c *step.Context) error {
	server := cmp.Or(c.Values["CUPS_SERVER"], c.Values["SERVER"])
	var err error
	switch {
	case !c.Root.IsDir("/etc/cups"):
		return nil
	case server == "ignore" || server == "":
		err = c.Restore(cupsClient)
	default:
		err = c.Generate(cupsClient, "ServerName "+server+"\n")
	}
	if err != nil {
		return err
	}
	return maskCups(c, server != "ignore" && server != "" && server != "localhost")
}

func maskCups(c *step.Context, mask bool) error {
	for _, unit := range cupsUnits {
		link := "/etc/systemd/system/" + unit
		var err error
		if mask {
			err = c.Link("/dev/null", link)
		} else {
			err = c.Restore(link)
		}
		if err != nil {
			return err
		}
	}
	if !c.Live {
		return nil
	}
	if err := c.System.Systemctl(c.Ctx, "daemon-reload"); err != nil {
		return err
	}
	verb := "start"
	if mask {
		verb = "stop"
	}
	var errs []error
	for _, unit := range cupsUnits {
		if c.Root.Exists("/lib/systemd/system/" + unit) {
			errs = append(errs, c.System.Systemctl(c.Ctx, verb, unit))
		}
	}
	return errors.Join(errs...)
}

// epoptes trusts the certificate that the policy has for the teacher's PC.
func epoptes(c *step.Context) error {
	const link = "/etc/epoptes/server.crt"
	if c.Values["IGNORE_EPOPTES"] == "1" || !c.Root.IsFile("/etc/ltsp/epoptes.crt") {
		return c.Restore(link)
	}
	return c.Link("../ltsp/epoptes.crt", link)
}

var nfsLine = regexp.MustCompile(`(?m)^server(:.*\bnfs.*)`)

// fstab replaces the image's table: its disks belong to the machine that it was made from.
func fstab(c *step.Context) error {
	text := generated + family(c, "FSTAB_")
	const small, mount = "/usr/lib/klibc/bin/nfsmount", "/usr/sbin/mount.nfs"
	if !c.Root.IsFile(mount) && c.Root.IsProgram(small) {
		if err := c.Link(small, mount); err != nil {
			return err
		}
		// It knows addresses only.
		text = nfsLine.ReplaceAllString(text, strings.ReplaceAll(c.Values["SERVER"], "$", "$$")+"${1}")
	}
	return c.Generate("/etc/fstab", text)
}

// crypttab comments everything out, for the same reason.
func crypttab(c *step.Context) error {
	return c.Edit("/etc/crypttab", func(old string) string {
		var out strings.Builder
		for line := range strings.Lines(old) {
			if f := strings.Fields(line); len(f) > 0 && f[0][0] != '#' {
				out.WriteString("# not on a diskless client: ")
			}
			out.WriteString(line)
		}
		return out.String()
	})
}

func gnomeSoftware(c *step.Context) error {
	return c.Edit("/usr/share/gnome-shell/search-providers/org.gnome.Software-search-provider.ini", func(old string) string {
		return strings.TrimRight(old, "\n") + "\nDefaultDisabled=true\n"
	})
}

// locale says what language the system speaks if the image does not.
func locale(c *step.Context) error {
	const file = "/etc/default/locale"
	old, err := c.Original(file)
	if err != nil || !c.Root.Exists(file) || strings.Contains(old, "LANG") {
		return err
	}
	text := generated + "LANG=" + cmp.Or(c.Values["LANG"], "C.UTF-8") + "\n"
	if language := c.Values["LANGUAGE"]; language != "" {
		text += "LANGUAGE=" + language + "\n"
	}
	return c.Append(file, text)
}

// oldLog matches what log rotation has left.
var oldLog = regexp.MustCompile(`\.([1-9]|gz|old)$`)

// logs removes the logs of the machine that the image was made from.
func logs(c *step.Context) error {
	entries, err := c.Root.ReadDir("/var/log")
	if err != nil {
		return ignoreMissing(err)
	}
	for _, e := range entries {
		p := "/var/log/" + e.Name()
		switch {
		case oldLog.MatchString(e.Name()):
			err = c.Root.RemoveAll(p)
		case e.IsDir():
			err = emptyDir(c, p)
		case e.Type().IsRegular():
			err = emptyIfBig(c, p, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func emptyDir(c *step.Context, dir string) error {
	entries, err := c.Root.ReadDir(dir)
	if err != nil {
		return ignoreMissing(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err := c.Root.RemoveAll(path.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func emptyIfBig(c *step.Context, p string, e os.DirEntry) error {
	info, err := e.Info()
	if err != nil || info.Size() <= 1024 {
		return ignoreMissing(err)
	}
	return c.Root.Truncate(p)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// MachineID is the PC's /etc/machine-id, the same at each boot: the MAC address and zeros.
func MachineID(mac net.HardwareAddr) string {
	digits := hex.EncodeToString(mac)
	return (digits + strings.Repeat("0", 32))[:32]
}

func machineID(c *step.Context) error {
	if err := c.Generate("/etc/machine-id", MachineID(c.Facts.MAC)+"\n"); err != nil {
		return err
	}
	const dbus = "/var/lib/dbus/machine-id"
	if _, err := c.Root.Lstat(dbus); err != nil {
		return ignoreMissing(err)
	}
	return c.Link("/etc/machine-id", dbus)
}

var motdScript = regexp.MustCompile(`^[1-9][0-8]`)

// motd removes the parts of the greeting that take time; its beginning and end stay.
func motd(c *step.Context) error {
	entries, err := c.Root.ReadDir("/etc/update-motd.d")
	if err != nil {
		return ignoreMissing(err)
	}
	for _, e := range entries {
		if motdScript.MatchString(e.Name()) {
			if err := c.Root.RemoveAll("/etc/update-motd.d/" + e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// userNamespaces lets browsers have their sandbox: without AppArmor's profiles, which are not loaded, Ubuntu's kernel denies it to all programs.
func userNamespaces(c *step.Context) error {
	if slices.Contains(c.Values.Words("KEEP_SYSTEM_SERVICES"), "apparmor") {
		return nil
	}
	return c.Generate("/etc/sysctl.d/99-ltsp-userns.conf", generated+"-kernel.apparmor_restrict_unprivileged_userns = 0\n")
}

func remoteApps(c *step.Context) error {
	if c.RemoteApps == nil {
		if apps := c.Values["REMOTEAPPS"]; apps != "" {
			c.Remark("REMOTEAPPS %q: nothing here registers remote applications", apps)
		}
		return nil
	}
	return c.RemoteApps.Register(c.Ctx, c.Root, c.Values)
}
