package imagebuild

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
)

// DefaultExcludes are mksquashfs wildcard patterns, relative to the root of the source, of what does not belong into an image:
// what the kernel mounts, people's data, secrets of the machine that the source is, caches and state. The first half is what LTSP leaves
// out; the rest are files that change with every package run and would only make deltas larger.
func DefaultExcludes() []string {
	return []string{
		// mounted or made at boot
		"cdrom/*", "dev/*", "proc/*", "sys/*", "run/*", "tmp/*", "mnt/*", "media/*", "lost+found", "var/run/*", "var/lock/*", "var/tmp/*",
		// people's data
		"home/*", "root/*", "srv/*", "var/mail/*", "var/spool/mail/*",
		// the machine's own secrets and identity
		"etc/.git", "etc/.etckeeper", "etc/epoptes/server.key", "etc/mysql/debian.cnf", "etc/NetworkManager/system-connections/*",
		"etc/ssh/ssh_host_*", "etc/ssl/private/ssl-cert-snakeoil.key", "etc/ssl/certs/ssl-cert-snakeoil.pem", "var/lib/systemd/random-seed",
		"var/lib/systemd/credential.secret", "var/lib/dbus/machine-id", "var/lib/NetworkManager/*", "var/lib/dhcp/*", "var/lib/sudo/*",
		"etc/udev/rules.d/70-persistent-*", "etc/passwd-", "etc/shadow-", "etc/group-", "etc/gshadow-", "etc/subuid-", "etc/subgid-",
		// services' data
		"var/lib/mysql/*", "var/lib/lightdm/*", "var/lib/systemd/linger/*", "var/lib/systemd/coredump/*", "var/lib/ltsp-controller", "var/lib/ltsp-satellite",
		"var/spool/cron/crontabs/*", "var/spool/cups/*", "var/spool/squid/*", "var/spool/exim4/*", "var/spool/postfix/*",
		// caches, backups, swap
		"var/cache/apt/archives/*", "var/cache/apt/*.bin", "var/lib/apt/lists/*", "var/backups/*", "var/crash/*", "var/cache/ldconfig/aux-cache",
		"var/cache/man/*", "var/log/journal/*", "var/log/*.gz", "var/log/*.[0-9]", "var/log/*.old", "var/log/apt/*", "var/log/dpkg.log",
		"var/log/alternatives.log", "swapfile", "swap.img", "var/swap", "opt/ltsp*",
	}
}

// Excludes applies an admin's changes to the default list: lines to leave out of it and lines to add.
func Excludes(add, omit []string) []string {
	list := slices.DeleteFunc(DefaultExcludes(), func(p string) bool { return slices.Contains(omit, p) })
	return append(list, add...)
}

// ReadLines reads a list from a file: a pattern a line, without blank lines and comments.
func ReadLines(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read list: %w", err)
	}
	defer f.Close()
	var lines []string
	scan := bufio.NewScanner(f)
	for scan.Scan() {
		if line := strings.TrimSpace(scan.Text()); line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	return lines, scan.Err()
}
