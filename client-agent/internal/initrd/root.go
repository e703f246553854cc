package initrd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootprep"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rundir"
)

const defaultOverlayPercent = 50

// mountRoot mounts the image with a writable layer and makes it this PC's.
func (b *boot) mountRoot(context.Context) error {
	percent := b.cfg.OverlaySizePercent
	if percent == 0 {
		percent = defaultOverlayPercent
	}
	if err := (mount{b.root, lower, "squashfs", unix.MS_RDONLY | unix.MS_NODEV, ""}).do(); err != nil {
		return b.blameVerity(err)
	}
	if err := (mount{"ltsp-overlay", upper, "tmpfs", 0, fmt.Sprintf("mode=0755,size=%d%%", percent)}).do(); err != nil {
		return err
	}
	for _, dir := range []string{"up", "work"} {
		if err := os.Mkdir(filepath.Join(upper, dir), 0o755); err != nil {
			return fmt.Errorf("prepare writable layer: %w", err)
		}
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s/up,workdir=%s/work", lower, upper, upper)
	if err := (mount{"ltsp-root", newRoot, "overlay", 0, layers}).do(); err != nil {
		return b.blameVerity(err)
	}
	b.hostname = rootprep.Hostname(b.addr, b.names...)
	if err := unix.Sethostname([]byte(b.hostname)); err != nil {
		b.log.Warn("host name not set", "err", err)
	}
	return rootprep.Prepare("/run")
}

// initCandidates are the programs that become process 1, the first that is there.
func (b *boot) initCandidates() []string {
	list := []string{"/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd"}
	if init, ok := b.args.Get("init"); ok && filepath.IsAbs(init) {
		return append([]string{init}, list...)
	}
	return list
}

// prepareSwitch does what may fail before the point of no return.
func (b *boot) prepareSwitch(context.Context) error {
	if _, err := rootdir.Root(newRoot).FindInit(b.initCandidates()...); err != nil {
		return b.blameVerity(err)
	}
	for _, dir := range switchMounts {
		if err := os.MkdirAll(filepath.Join(newRoot, dir), 0o755); err != nil {
			return err
		}
	}
	if err := b.events.Close(); err != nil {
		b.log.Warn("uevent socket", "err", err)
	}
	return nil
}

// saveState tells the resident agent what happened here.
func (b *boot) saveState() error {
	dir, err := os.OpenRoot(rundir.Dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := rundir.Write(dir, rundir.Facts, b.facts()); err != nil {
		return err
	}
	hello := b.hello()
	return rundir.Write(dir, rundir.Boot, rundir.BootState{
		MAC: hello.MAC, UUID: hello.UUID, NIC: b.nic.Name, Addr: b.addr.String(), Hostname: b.hostname,
		DHCPServer: b.dhcpServer, Timeline: b.timeline, NoPolicy: b.noPolicy, InRAM: b.inRAM,
	})
}

// switchMounts move to the new root as they are.
var switchMounts = []string{"/proc", "/sys", "/dev", "/run"}

// becomeInit replaces this process by the image's init. It returns only on failure, and then nothing of the initrd may be left.
func (b *boot) becomeInit(context.Context) error {
	init, err := rootdir.Root(newRoot).FindInit(b.initCandidates()...)
	if err != nil {
		return err
	}
	if err := b.saveState(); err != nil {
		return err
	}
	b.log.Info("root is ready", "hostname", b.hostname, "init", init, "took", Uptime().Round(time.Millisecond))
	old, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open initrd: %w", err)
	}
	for _, dir := range switchMounts {
		if err := unix.Mount(dir, filepath.Join(newRoot, dir), "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s to the new root: %w", dir, err)
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	// The initrd's files are memory. Its directories stay where mounts hang on them.
	if err := removeTree(old); err != nil {
		b.log.Warn("initrd not removed from memory", "err", err)
	}
	if err := unix.Close(old); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the new root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	err = unix.Exec(init, append([]string{init}, b.initArgs...), os.Environ())
	return fmt.Errorf("start %s: %w", init, err)
}

// removeTree removes what lies in the directory fd, without crossing into other file systems. Directories that are not empty because of a mount
// point stay. It is told by descriptor so that it works on a root that is about to be hidden.
func removeTree(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	return removeEntries(fd, st.Dev)
}

func removeEntries(fd int, dev uint64) error {
	dup, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(dup), "directory")
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	var list []error
	for _, name := range names {
		list = append(list, removeEntry(fd, dev, name))
	}
	return errors.Join(list...)
}

func removeEntry(fd int, dev uint64, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if st.Dev != dev {
		return nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if err := unix.Unlinkat(fd, name, 0); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer unix.Close(sub)
	if err := removeEntries(sub, dev); err != nil {
		return fmt.Errorf("%s/%w", name, err)
	}
	err = unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
	if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
