package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/console"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nbdclient"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nbdlink"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rundir"
)

// Argv0 is the keeper's first argument. systemd spares processes whose name begins with "@" when it ends all others at shutdown (systemd,
// ROOT_STORAGE_DAEMONS.md).
const Argv0 = "@ltsp-keeper"

// Descriptors that the keeper process inherits behind the standard ones.
const (
	fdMonitor  = 3 // socket that hears the nbd driver
	fdSettings = 4 // pipe with Settings as JSON
	fdReady    = 5 // pipe that takes one byte when everything is open
)

// readyTimeout bounds the start of the keeper process.
const readyTimeout = 15 * time.Second

// maxSettings bounds the settings in bytes.
const maxSettings = 1 << 20

// Settings is what the keeper process is told.
type Settings struct {
	Device  nbdlink.Device     `json:"device"`
	Targets []nbdclient.Target `json:"targets"`
	Current string             `json:"current"`
}

// Start runs the keeper process from the binary at path and returns when it has opened all it needs, so that the root may be switched. The
// monitor was opened before the device was connected; the process takes over what it has heard since.
func Start(path string, s Settings, monitor *nbdlink.Monitor) (pid int, err error) {
	settings, settingsEnd, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("start keeper: %w", err)
	}
	defer settings.Close()
	defer settingsEnd.Close()
	ready, readyEnd, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("start keeper: %w", err)
	}
	defer ready.Close()
	defer readyEnd.Close()
	out, err := logFile()
	if err != nil {
		return 0, fmt.Errorf("start keeper: %w", err)
	}
	defer out.Close()
	p, err := os.StartProcess(path, []string{Argv0}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{},
		Files: []*os.File{nil, out, out, monitor.File(), settings, readyEnd},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("start keeper: %w", err)
	}
	settings.Close()
	readyEnd.Close()
	if err := handOver(s, settingsEnd, ready); err != nil {
		return 0, errors.Join(fmt.Errorf("start keeper: %w", err), p.Kill())
	}
	return p.Pid, nil
}

// handOver sends the settings and waits for the ready byte.
func handOver(s Settings, settings io.WriteCloser, ready *os.File) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if _, err := settings.Write(data); err != nil {
		return err
	}
	if err := settings.Close(); err != nil {
		return err
	}
	if err := ready.SetReadDeadline(time.Now().Add(readyTimeout)); err != nil {
		return err
	}
	var b [1]byte
	if _, err := io.ReadFull(ready, b[:]); err != nil {
		return fmt.Errorf("it did not get ready: %w", err)
	}
	return nil
}

// logFile is the kernel's log: it needs no file system and survives the root switch.
func logFile() (*os.File, error) { return os.OpenFile("/dev/kmsg", os.O_WRONLY, 0) }

// Main is the keeper process. It returns only when it can no longer do its work.
func Main() error {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	log := console.NewLogger(console.Config{Writer: os.Stderr, Prefix: "ltsp-keeper", Kernel: true})
	cfg, err := prepare(log)
	if err != nil {
		return err
	}
	if err := stayInMemory(log); err != nil {
		log.Warn("memory is not locked", "err", err)
	}
	ready := os.NewFile(fdReady, "ready")
	if _, err := ready.Write([]byte{1}); err != nil {
		return fmt.Errorf("tell that the keeper is ready: %w", err)
	}
	ready.Close()
	return Run(context.Background(), cfg)
}

// prepare opens everything that a path is needed for.
func prepare(log *slog.Logger) (Config, error) {
	var s Settings
	in := os.NewFile(fdSettings, "settings")
	defer in.Close()
	data, err := io.ReadAll(io.LimitReader(in, maxSettings))
	if err != nil {
		return Config{}, fmt.Errorf("read settings: %w", err)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return Config{}, fmt.Errorf("read settings: %w", err)
	}
	dir, err := os.OpenRoot(rundir.Dir)
	if err != nil {
		return Config{}, err
	}
	link, err := nbdlink.Open()
	if err != nil {
		return Config{}, err
	}
	if err := syscall.SetNonblock(fdMonitor, true); err != nil {
		return Config{}, fmt.Errorf("take over monitor: %w", err)
	}
	monitor := nbdlink.NewMonitor(os.NewFile(fdMonitor, "monitor"))
	return Config{
		Device: s.Device, Targets: s.Targets, Current: s.Current, Log: log,
		WaitDead:    func() error { return monitor.WaitDead(s.Device.Index) },
		Open:        nbdclient.Open,
		Reconfigure: link.Reconfigure,
		Save:        func(state rundir.KeeperState) error { return rundir.Write(dir, rundir.Keeper, state) },
	}, nil
}
