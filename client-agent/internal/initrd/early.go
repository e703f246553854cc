package initrd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/cmdline"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/uevent"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/buildinfo"
	"github.com/ltsp-fleet/ltsp-fleet/internal/hw"
)

// Uptime is the time since the kernel started, sleep included.
func Uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0 // the clock exists since Linux 2.6.39
	}
	return time.Duration(t.Nano())
}

type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

// kernelMounts are what the agent itself needs, and what the image's init will take over.
var kernelMounts = []mount{
	{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	// Not noexec: keeper and resident run from here.
	{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=20%,nr_inodes=800k"},
}

// errNoInitrd protects whatever else "/" may be: the agent will empty it.
var errNoInitrd = errors.New("the root directory is no initrd: the agent is started as process 1 by the kernel only")

// inInitrd tells whether a file system type, as statfs(2) gives it, can be that of the kernel's initial root.
func inInitrd(kind int64) bool { return kind == unix.RAMFS_MAGIC || kind == unix.TMPFS_MAGIC }

// start makes the agent's surroundings and reads what it is to do.
func (b *boot) start(context.Context) error {
	var root unix.Statfs_t
	if err := unix.Statfs("/", &root); err != nil {
		return err
	}
	if !inInitrd(int64(root.Type)) {
		return errNoInitrd
	}
	for _, m := range kernelMounts {
		if err := m.do(); err != nil {
			return err
		}
	}
	if err := openConsole(); err != nil {
		b.log.Warn("no console", "err", err)
	}
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return fmt.Errorf("read kernel command line: %w", err)
	}
	b.commandLine = strings.TrimSpace(string(text))
	b.args = cmdline.Parse(b.commandLine)
	if b.args.Has("quiet") {
		b.level.Set(slog.LevelWarn)
	}
	if b.release, err = release(); err != nil {
		return err
	}
	b.log.Info("netboot begins", "version", buildinfo.Version(), "kernel", b.release)
	if b.events, err = uevent.Listen(); err != nil {
		return err
	}
	if b.cfg, err = readConfig(agentproto.BootConfigPath); err != nil {
		return err
	}
	return b.setClock()
}

func (m mount) do() error {
	if err := os.MkdirAll(m.target, 0o755); err != nil {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	// EBUSY: the kernel mounts devtmpfs by itself where it is built so.
	if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	return nil
}

// openConsole makes /dev/console the standard files: an initrd without that node starts init without any.
func openConsole() error {
	fd, err := unix.Open("/dev/console", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("open /dev/console: %w", err)
	}
	for std := range 3 {
		if fd == std {
			continue
		}
		if err := unix.Dup3(fd, std, 0); err != nil {
			return fmt.Errorf("open /dev/console: %w", err)
		}
	}
	if fd > 2 {
		return unix.Close(fd)
	}
	return nil
}

func release() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("read kernel release: %w", err)
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

func readConfig(path string) (*agentproto.BootConfig, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read boot configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, agentproto.MaxBootConfig+1))
	if err != nil {
		return nil, fmt.Errorf("read boot configuration: %w", err)
	}
	return agentproto.ParseBootConfig(data)
}

// setClock starts the clock of a PC whose battery is dead, or that has none.
func (b *boot) setClock() error {
	if !clockIsBehind(time.Now(), b.cfg.Now) {
		return nil
	}
	t := unix.NsecToTimeval(b.cfg.Now.UnixNano())
	if err := unix.Settimeofday(&t); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	b.log.Info("clock was behind and has been set by the satellite's", "time", b.cfg.Now.UTC().Format(time.DateTime))
	return nil
}

// clockIsBehind tells whether the PC's clock shows a time before the boot configuration was made. A clock that is ahead is left alone: it
// may be in local time, and who is right cannot be known.
func clockIsBehind(system, made time.Time) bool {
	return !made.IsZero() && system.Before(made.Add(-time.Minute))
}

// helloFor says who we are. What cannot be read is left out.
func helloFor(cfg *agentproto.BootConfig, mac net.HardwareAddr) agentproto.Hello {
	uuid, err := hw.UUID(os.DirFS("/"))
	if err != nil {
		uuid = ""
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		id = nil
	}
	return agentproto.Hello{
		Version: agentproto.Version, MAC: macOf(mac), UUID: uuid, Token: cfg.Token,
		Agent: buildinfo.Version(), BootID: strings.TrimSpace(string(id)),
	}
}
