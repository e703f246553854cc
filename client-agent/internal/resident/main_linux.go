package resident

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/console"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/dhcp4"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/dhcprenew"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/keeper"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nic"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/rundir"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/spool"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/uplink"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/buildinfo"
)

const sysPath = "/sys"

// host gives an Agent its client.
type host struct {
	dir   *os.Root
	boot  *agentproto.BootConfig
	state rundir.BootState
	mac   net.HardwareAddr
	addr  netip.Prefix
	log   *slog.Logger
}

// Main runs the resident agent of this machine until it is told to end. Uptime is the time since the kernel started.
func Main(uptime func() time.Duration) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	h, err := openHost()
	if err != nil {
		return fmt.Errorf("read what the initrd left in %s: %w", rundir.Dir, err)
	}
	defer h.dir.Close()
	cfg, hello, err := h.identity()
	if err != nil {
		return err
	}
	levels, err := openLevels(h, cfg, hello)
	if err != nil {
		return fmt.Errorf("read the policy: %w", err)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	h.keepAddress()
	follow := levels.config(h.state.NoPolicy)
	New(Config{
		Boot: h.boot, State: h.state, Uptime: uptime, Kernel: strings.TrimSpace(string(release)),
		Proc: os.DirFS("/proc"), Sys: sysPath, Root: "/", Keeper: h.keeper, Systemctl: NewSystemctl(), Renew: h.renew, Link: h.link,
		Dial: func(ctx context.Context, sat agentproto.Satellite, incoming func(agentproto.Message)) (Session, agentproto.Ack, error) {
			return dialUplink(ctx, sat, cfg, hello, incoming)
		},
		Policy: follow, SavePolicy: levels.save, Command: levels.commands().Do, Sessions: present, Events: spool.System.TakeEvents,
		Console: new(consoleWriter), Log: h.log,
	}).Run(ctx)
	return nil
}

func openHost() (*host, error) {
	h := &host{log: console.NewLogger(console.Config{Writer: os.Stderr, Prefix: "ltsp-agent"})}
	var err error
	if h.dir, err = os.OpenRoot(rundir.Dir); err != nil {
		return nil, err
	}
	data, err := h.dir.ReadFile(rundir.BootConfig)
	if err != nil {
		return nil, err
	}
	if h.boot, err = agentproto.ParseBootConfig(data); err != nil {
		return nil, err
	}
	if err := rundir.Read(h.dir, rundir.Boot, &h.state); err != nil {
		return nil, err
	}
	if h.mac, err = net.ParseMAC(h.state.MAC); err != nil {
		return nil, err
	}
	if h.addr, err = netip.ParsePrefix(h.state.Addr); err != nil {
		return nil, err
	}
	return h, nil
}

// identity is whom the agent trusts and what it says of itself.
func (h *host) identity() (*tls.Config, agentproto.Hello, error) {
	cfg, err := uplink.TLSConfig(h.boot.TrustAnchor, h.boot.Site)
	if err != nil {
		return nil, agentproto.Hello{}, err
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, agentproto.Hello{}, err
	}
	return cfg, agentproto.Hello{
		Version: agentproto.Version, MAC: h.state.MAC, UUID: h.state.UUID, Token: h.boot.Token,
		Agent: buildinfo.Version(), BootID: strings.TrimSpace(string(id)),
	}, nil
}

func dialUplink(ctx context.Context, sat agentproto.Satellite, cfg *tls.Config, hello agentproto.Hello, incoming func(agentproto.Message)) (Session, agentproto.Ack, error) {
	s, err := uplink.Dial(ctx, sat, cfg, hello, incoming)
	if err != nil {
		return nil, agentproto.Ack{}, err // not s: a nil *Session is no nil Session
	}
	return s, s.First, nil
}

// nic finds the boot NIC by what udev cannot change.
func (h *host) nic() (nic.NIC, error) { return nic.Find(sysPath, h.mac, "") }

// keepAddress makes the address ours for ever, whatever a lease says: the root hangs on it.
func (h *host) keepAddress() {
	n, err := h.nic()
	if err != nil {
		h.log.Warn("address not made permanent", "err", err)
		return
	}
	route, err := nic.DialRoute()
	if err != nil {
		h.log.Warn("address not made permanent", "err", err)
		return
	}
	defer route.Close()
	if err := nic.SetAddress(route, n.Index, h.addr); err != nil {
		h.log.Warn("address not made permanent", "err", err)
	}
}

func (h *host) renew(ctx context.Context, mac net.HardwareAddr, addr, server netip.Addr, changed func(dhcprenew.Status)) {
	dhcprenew.Run(ctx, dhcprenew.Config{
		MAC: mac, Addr: addr, Server: server, Log: h.log,
		Open: func(ctx context.Context) (dhcprenew.Conn, error) {
			n, err := h.nic()
			if err != nil {
				return nil, err
			}
			sock, err := dhcp4.Listen(ctx, n.Name)
			if err != nil {
				return nil, err
			}
			return sock, nil
		},
		Changed: func(s dhcprenew.Status) {
			h.keepAddress()
			changed(s)
		},
	})
}

func (h *host) link() agentproto.Link {
	n, err := h.nic()
	if err != nil {
		return agentproto.Link{Name: h.state.NIC}
	}
	mbps, duplex := nic.Speed(sysPath, n.Name)
	return agentproto.Link{Name: n.Name, SpeedMbps: mbps, Duplex: duplex}
}

// keeper reads the keeper's state and looks whether the process of that number is a keeper.
func (h *host) keeper() (*rundir.KeeperState, bool) {
	var s rundir.KeeperState
	if err := rundir.Read(h.dir, rundir.Keeper, &s); err != nil {
		return nil, false
	}
	args, err := os.ReadFile("/proc/" + strconv.Itoa(s.PID) + "/cmdline")
	return &s, err == nil && strings.HasPrefix(string(args), keeper.Argv0)
}

// consoleWriter opens /dev/console for each line. Non-blocking: a serial line that nobody reads must not hold the agent up.
type consoleWriter struct{ mu sync.Mutex }

func (c *consoleWriter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fd, err := unix.Open("/dev/console", unix.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open console: %w", err)
	}
	defer unix.Close(fd)
	return unix.Write(fd, p)
}
