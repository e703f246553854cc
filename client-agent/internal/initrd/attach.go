package initrd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/dmverity"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/keeper"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nbdclient"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nbdlink"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootprep"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rundir"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

const (
	// attachTimeout bounds the search for a satellite.
	attachTimeout = 90 * time.Second
	// attachHeadStart is how long the preferred satellite may take before the next one is tried as well. It is long enough for a whole
	// classroom to start at once.
	attachHeadStart = time.Second
	attachPause     = 500 * time.Millisecond

	readAheadKB = 128
	// maxRequest is the largest request that the kernel makes by default, in bytes.
	maxRequest = 1280 << 10
)

// attach connects the block device to a satellite and starts the keeper.
func (b *boot) attach(ctx context.Context) error {
	link, err := nbdlink.Open()
	if err != nil {
		return err
	}
	defer link.Close()
	// Before the connection, so that its end cannot be missed.
	monitor, err := link.OpenMonitor()
	if err != nil {
		return err
	}
	defer monitor.Close()
	targets := nbdTargets(b.cfg)
	r, err := b.findSatellite(ctx, targets)
	if err != nil {
		return err
	}
	defer r.File.Close()
	if b.device, err = nbdDevice(b.cfg, r.Info); err != nil {
		return err
	}
	if err := link.Connect(b.device, r.File); err != nil {
		return err
	}
	b.current, b.root = r.Target.Addr, b.device.Path()
	b.tuneQueue(filepath.Base(b.root), r.Info)
	b.log.Info("image attached", "satellite", b.current, "export", b.cfg.Export)
	return b.startKeeper(targets, monitor)
}

// findSatellite tries all satellites until one exports the image.
func (b *boot) findSatellite(ctx context.Context, targets []nbdclient.Target) (nbdclient.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	told := false
	for {
		r, err := nbdclient.Race(ctx, targets, attachHeadStart, nbdclient.Open)
		if err == nil {
			return r, nil
		}
		if !told {
			told = true
			b.log.Warn("no satellite exports the image yet, still trying", "err", err)
		}
		select {
		case <-time.After(attachPause):
		case <-ctx.Done():
			return nbdclient.Result{}, fmt.Errorf("no satellite exports %s: %w", b.cfg.Export, err)
		}
	}
}

func nbdTargets(cfg *agentproto.BootConfig) []nbdclient.Target {
	list := make([]nbdclient.Target, len(cfg.Satellites))
	for i, s := range cfg.Satellites {
		addr := net.JoinHostPort(s.Addr, strconv.Itoa(int(s.NBDPort)))
		list[i] = nbdclient.Target{Addr: addr, Export: cfg.Export, SizeBytes: cfg.SizeBytes}
	}
	return list
}

func nbdDevice(cfg *agentproto.BootConfig, info nbdclient.Info) (nbdlink.Device, error) {
	block, err := info.BlockSize()
	if err != nil {
		return nbdlink.Device{}, err
	}
	d := nbdlink.Device{
		SizeBytes: cfg.SizeBytes, BlockSize: block, Flags: info.Flags, Backend: cfg.Digest,
		Timeout: time.Duration(cfg.NBDTimeout), DeadTimeout: time.Duration(cfg.DeadTimeout),
	}
	if d.Timeout == 0 {
		d.Timeout = agentproto.DefaultNBDTimeout
	}
	if d.DeadTimeout == 0 {
		d.DeadTimeout = agentproto.DefaultDeadTimeout
	}
	return d, nil
}

// tuneQueue sets read-ahead, and the request size if the server wants smaller ones than the kernel makes. It is not worth a failed boot.
func (b *boot) tuneQueue(device string, info nbdclient.Info) {
	if err := nbdlink.SetQueue(sysPath, device, "read_ahead_kb", readAheadKB); err != nil {
		b.log.Warn("read-ahead not set", "err", err)
	}
	if info.MaxBlock > 0 && info.MaxBlock < maxRequest {
		if err := nbdlink.SetQueue(sysPath, device, "max_sectors_kb", int(info.MaxBlock>>10)); err != nil {
			b.log.Warn("request size not set", "err", err)
		}
	}
}

// startKeeper puts the agent where it outlives the initrd and runs the keeper from there.
func (b *boot) startKeeper(targets []nbdclient.Target, monitor *nbdlink.Monitor) error {
	if err := os.MkdirAll(rundir.Dir, 0o755); err != nil {
		return err
	}
	agent := filepath.Join(rundir.Dir, rundir.Agent)
	if err := copyFile("/proc/self/exe", agent, 0o755); err != nil {
		return err
	}
	err := copyFile(agentproto.BootConfigPath, filepath.Join(rundir.Dir, rundir.BootConfig), 0o600)
	if err != nil {
		return err
	}
	b.keeper, err = keeper.Start(agent, keeper.Settings{Device: b.device, Targets: targets, Current: b.current}, monitor)
	if err != nil {
		return err
	}
	b.log.Debug("keeper runs", "pid", b.keeper)
	return nil
}

func copyFile(from, to string, mode os.FileMode) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("copy %s: %w", to, err)
	}
	return nil
}

// verityPrefetch is the kernel's setting of how far hash blocks are read ahead, in bytes (drivers/md/dm-verity-target.c).
const verityPrefetch = "/sys/module/dm_verity/parameters/prefetch_cluster"

// mapVerity puts the block device behind a check of every block against the digest.
func (b *boot) mapVerity(context.Context) error {
	if !b.cfg.Verity {
		b.log.Warn("the image is not verified: the boot configuration says so")
		return nil
	}
	control, err := dmverity.OpenControl()
	if err != nil {
		return err
	}
	defer control.Close()
	// By default the target reads hash blocks ahead in clusters that cover 32 MiB of data each. A version that has not arrived in whole would
	// have to fetch all of that before the first block can be checked.
	if err := os.WriteFile(verityPrefetch, []byte("0"), 0); err != nil {
		b.log.Warn("the hash tree is read ahead; a version that is still arriving boots slower", "err", err)
	}
	b.root, err = dmverity.Create(control, rootprep.RootDevice, dmverity.Table{Device: b.root, DataBytes: b.cfg.DataBytes, Root: b.cfg.Digest})
	if err != nil {
		return err
	}
	b.tuneQueue(filepath.Base(b.root), nbdclient.Info{})
	return nil
}

// blameVerity explains a failed mount if the reason is that bytes do not match the digest.
func (b *boot) blameVerity(cause error) error {
	if !b.cfg.Verity {
		return cause
	}
	control, err := dmverity.OpenControl()
	if err != nil {
		return cause
	}
	defer control.Close()
	if bad, err := dmverity.Corrupted(control, rootprep.RootDevice); err != nil || !bad {
		return cause
	}
	return fmt.Errorf("the bytes that %s sends are not those of image digest %s: %w", b.current, b.cfg.Digest, cause)
}
