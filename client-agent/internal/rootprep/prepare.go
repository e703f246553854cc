// Package rootprep makes the mounted root file system that of this PC before init starts: names, resolver, units, and configuration that keeps
// network managers away from the NIC that the root hangs on. Everything goes into the overlay or into /run; the image is not changed.
package rootprep

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rootdir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rundir"
)

// Config describes the PC to the root.
type Config struct {
	// Root is the mounted root file system; Run is the directory that becomes its /run.
	Root string
	Run  string

	Hostname string
	Domain   string
	MAC      net.HardwareAddr
	NIC      string
	DNS      []netip.Addr
}

const (
	unitName = "ltsp-agent.service"
	unitFile = "/run/systemd/system/" + unitName
	unitWant = "/run/systemd/system/multi-user.target.wants/" + unitName
)

// unit starts the resident agent as soon as the boot target is known, so that it can tell what a boot that hangs is waiting for. Without
// default dependencies it must ask for its end at shutdown itself.
const unit = `[Unit]
Description=LTSP Fleet client agent
Documentation=https://github.com/ltsp-fleet/ltsp-fleet
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target

[Service]
ExecStart=` + rundir.Dir + "/" + rundir.Agent + ` resident
Restart=always
RestartSec=5
OOMScoreAdjust=-900
NoNewPrivileges=yes
`

type preparation struct {
	cfg           Config
	root, run     rootdir.Root
	wroteResolver bool
}

// Prepare writes everything. It may be called once per boot.
func Prepare(cfg Config) error {
	p := &preparation{cfg: cfg, root: rootdir.Root(cfg.Root), run: rootdir.Root(cfg.Run)}
	for _, step := range []func() error{p.names, p.disks, p.resolver, p.leaveNICAlone, p.agentUnit} {
		if err := step(); err != nil {
			return fmt.Errorf("prepare the root: %w", err)
		}
	}
	return nil
}

func (p *preparation) names() error {
	if err := p.write("/etc/hostname", p.cfg.Hostname+"\n"); err != nil {
		return err
	}
	hosts, err := p.root.ReadFile("/etc/hosts")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := p.write("/etc/hosts", editHosts(string(hosts), p.cfg.Hostname, p.cfg.Domain)); err != nil {
		return err
	}
	id := MachineID(p.cfg.MAC) + "\n"
	if err := p.write("/etc/machine-id", id); err != nil {
		return err
	}
	// Usually a link to the one above; an image may have a copy.
	return p.edit("/var/lib/dbus/machine-id", func(string) string { return id })
}

func (p *preparation) disks() error {
	if err := p.edit("/etc/fstab", editFstab); err != nil {
		return err
	}
	return p.edit("/etc/crypttab", editCrypttab)
}

func (p *preparation) agentUnit() error {
	if err := p.write(unitFile, unit); err != nil {
		return err
	}
	return p.run.Symlink("../"+unitName, strings.TrimPrefix(unitWant, "/run"))
}

// edit rewrites a regular file if the image has it; links are left alone.
func (p *preparation) edit(path string, change func(string) string) error {
	if !p.root.Exists(path) || p.root.Readlink(path) != "" {
		return nil
	}
	old, err := p.root.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if text := change(string(old)); text != string(old) {
		return p.write(path, text)
	}
	return nil
}

// write puts a file where the running system will see it at path.
func (p *preparation) write(path, text string) error {
	if rest, ok := strings.CutPrefix(path, "/run/"); ok {
		return p.run.WriteFile(rest, text)
	}
	return p.root.WriteFile(path, text)
}
