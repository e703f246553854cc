package testimage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// excludedPaths are not unpacked (dpkg(1), --path-exclude): nobody reads manuals in a test.
var excludedPaths = []string{"/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/lintian/*", "/usr/share/bug/*"}

// setupScript turns the fresh root, $1, into a test client. mmdebstrap runs it as its last step.
const setupScript = `#!/bin/sh
set -eu
root=$1
units=$root/etc/systemd/system

# Log root in on the serial console. This is what makes the root fit for tests only.
sed -i 's/^root:[^:]*:/root::/' "$root/etc/shadow"
mkdir -p "$units/serial-getty@ttyS0.service.d"
cat >"$units/serial-getty@ttyS0.service.d/autologin.conf" <<'EOT'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200,57600,38400,9600 %I vt220
EOT

# Nothing is mounted but what the boot brings, and no clock-driven work disturbs a measurement.
: >"$root/etc/fstab"
: >"$root/etc/machine-id"
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer systemd-tmpfiles-clean.timer; do
    ln -sf /dev/null "$units/$unit"
done
# Without D-Bus this one starts consoles on tty2 to tty6.
[ -e "$root/usr/bin/dbus-daemon" ] || ln -sf /dev/null "$units/getty-static.service"

# What only the build needed, and what mmdebstrap took over from the machine that builds.
rm -f "$root/etc/hostname" "$root/etc/resolv.conf"
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*.log "$root"/var/log/apt
`

// debootstrap makes the root and moves it to result when it is complete.
func (c Config) debootstrap(ctx context.Context, codename, result string) error {
	sources, err := debianSources(c.AptDir, codename)
	if err != nil {
		return err
	}
	work, err := workDir(result)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }() // what stays is removed by the next builder
	list, err := writeSources(work, sources)
	if err != nil {
		return err
	}
	script := filepath.Join(work, "setup")
	if err := os.WriteFile(script, []byte(setupScript), 0o755); err != nil {
		return err
	}
	options, err := aptOptions(ctx, c.AptDir)
	if err != nil {
		return err
	}
	output := filepath.Join(work, "root.tar")
	cmd := exec.CommandContext(ctx, "mmdebstrap", c.debootstrapArgs(script, options, codename, output, list)...)
	// The kernel's hook makes no initrd then; a netboot client never reads the distribution's.
	cmd.Env = append(os.Environ(), "INITRD=No", "TMPDIR="+work, "LC_ALL=C.UTF-8")
	// In namespaces of its own nothing of it survives its end, however it ends: no process, and no mount below work, which
	// is removed afterwards.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Cloneflags: syscall.CLONE_NEWPID}
	if err := c.run(cmd); err != nil {
		return err
	}
	return publish(output, result)
}

func (c Config) debootstrapArgs(script string, aptOptions []string, codename, output, sources string) []string {
	args := []string{"--mode=root", "--variant=minbase", "--include=" + strings.Join(c.packages(), ","), "--customize-hook=" + script}
	for _, path := range excludedPaths {
		args = append(args, "--dpkgopt=path-exclude="+path)
	}
	args = append(args, "--dpkgopt=path-include=/usr/share/doc/*/copyright", "--dpkgopt=force-unsafe-io", "--aptopt=APT::Sandbox::User \"root\"")
	for _, option := range aptOptions {
		args = append(args, "--aptopt="+option)
	}
	return append(args, codename, output, sources)
}

// run runs cmd in a process group that ends with its context or this process, passes its messages on and puts the last ones into the error.
func (c Config) run(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // sent at the end of the thread that forks, so this goroutine keeps it
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute // mmdebstrap unmounts and removes its tree when it is told to end
	messages, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	last := make(chan []string, 1)
	go func() { last <- c.follow(messages) }()
	err := cmd.Run()
	_ = write.Close() // of a pipe in memory, never fails
	lines := <-last
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, strings.Join(lines, "\n"))
	}
	return nil
}

// progress begins the lines of mmdebstrap that tell a person how far it is.
const progress = "I: "

// follow logs progress lines and returns the last lines of everything.
func (c Config) follow(messages io.Reader) []string {
	const keep = 30
	var last []string
	lines := bufio.NewReader(messages)
	for {
		line, err := lines.ReadString('\n')
		line = strings.TrimSpace(line)
		if text, found := strings.CutPrefix(line, progress); found && !strings.Contains(text, "/") {
			c.Log("  %s", text) // those with a path are about mmdebstrap's own files
		}
		if line != "" {
			last = append(last, line)
		}
		if len(last) > keep {
			last = last[1:]
		}
		if err != nil {
			return last
		}
	}
}

// aptOptions returns the settings of this machine that decide how packages are fetched: proxies, retries, checks of dates,
// and where passwords are. mmdebstrap's apt does not read the machine's configuration by itself.
func aptOptions(ctx context.Context, aptDir string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "apt-config", "dump", "--empty=no").Output()
	if err != nil {
		return nil, fmt.Errorf("apt-config dump: %w", err)
	}
	options := fetchOptions(string(out))
	// apt-config reads /etc/apt whatever aptDir says; passwords belong to the archives in aptDir.
	if entries, err := os.ReadDir(filepath.Join(aptDir, "auth.conf.d")); err == nil && len(entries) > 0 {
		options = append(options, fmt.Sprintf("Dir::Etc::netrcparts %q;", filepath.Join(aptDir, "auth.conf.d")))
	}
	if _, err := os.Stat(filepath.Join(aptDir, "auth.conf")); err == nil {
		options = append(options, fmt.Sprintf("Dir::Etc::netrc %q;", filepath.Join(aptDir, "auth.conf")))
	}
	return options, nil
}

// fetchOptions picks lines of `apt-config dump`, which are `Name "value";`.
func fetchOptions(dump string) []string {
	prefixes := []string{"Acquire::http::", "Acquire::https::", "Acquire::ftp::", "Acquire::Retries ", "Acquire::ForceIPv", "Acquire::Check-", "Acquire::Allow", "Acquire::By-Hash "}
	var options []string
	for line := range strings.Lines(dump) {
		line = strings.TrimSpace(line)
		for _, prefix := range prefixes {
			if strings.HasPrefix(line, prefix) {
				options = append(options, line)
				break
			}
		}
	}
	return options
}

// publish syncs a finished file and gives it its name in the cache.
func publish(from, to string) error {
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	err = errors.Join(file.Sync(), file.Close())
	if err != nil {
		return err
	}
	return os.Rename(from, to)
}
