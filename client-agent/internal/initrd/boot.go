// Package initrd is the agent as /init of the initrd: it loads drivers, attaches the image, prepares the root and becomes the image's init. A boot that
// fails says so on the console and to a satellite; it never ends in a kernel panic.
package initrd

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/cmdline"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/console"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/modules"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nbdlink"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/nic"
	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/uevent"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Paths in the initrd.
const (
	sysPath = "/sys"
	newRoot = "/newroot"
	lower   = "/ro"
	upper   = "/rw"
)

// boot is what the stages learn; each sets what the later ones need.
type boot struct {
	log      *slog.Logger
	level    slog.LevelVar // of log
	args     cmdline.Args
	initArgs []string
	release  string // of the kernel

	commandLine string // of the kernel, as it is
	timeline    []agentproto.Step

	cfg    *agentproto.BootConfig // start
	events *uevent.Listener       // start

	loader  *modules.Loader // modules
	scanner *modules.Scanner

	nic        nic.NIC // network
	addr       netip.Prefix
	dns        []netip.Addr
	domain     string
	names      []string // for the PC, best first
	dhcpServer string
	gateway    netip.Addr
	lease      time.Duration
	online     bool

	device  nbdlink.Device // nbd
	current string
	root    string // block device with the image: nbd or verity
	keeper  int    // its process

	hostname string // root

	noPolicy string // why there is none; empty if there is
	inRAM    bool   // the image is in memory, satellites are not needed for it
}

// Main boots the PC. It runs as process 1 and returns only if even rebooting is not possible.
func Main() {
	b := &boot{initArgs: os.Args[1:]}
	b.log = console.NewLogger(console.Config{Writer: os.Stdout, Prefix: "ltsp-agent", Level: &b.level})
	ctx := context.Background()
	b.mark("kernel", 0)
	b.done("agent")
	f := runStages(ctx, b.log, b.stages(), b.done)
	if f == nil {
		s := stage{name: "switch", advice: adviceImage, limit: time.Minute, run: b.becomeInit}
		f = &failure{stage: s.name, advice: s.advice, err: runStage(ctx, s)}
	}
	b.giveUp(ctx, f)
}

const (
	adviceInitrd = "publish the image again: its kernel and its initrd do not fit together"
	adviceCable  = "check the cable and the switch port, then restart the PC"
	adviceServer = "check that a satellite of this site is running and that the PC is in its network, then restart the PC"
	adviceImage  = "tell the administrator: the image may be damaged; the previous version can be made current again"
	adviceMemory = "restart the PC; if it happens again, give it more memory"
)

// stages lists the boot in order.
func (b *boot) stages() []stage {
	return []stage{
		{"start", "tell the administrator: the satellite sent no usable boot configuration", time.Minute, b.start},
		{"modules", adviceInitrd, 2 * time.Minute, b.loadModules},
		{"network", adviceCable, 4 * time.Minute, b.network},
		{"nbd", adviceServer, 3 * time.Minute, b.attach},
		{"verity", adviceImage, time.Minute, b.mapVerity},
		{"root", adviceImage, 2 * time.Minute, b.mountRoot},
		{"policy", advicePolicy, policyLimit, b.policy},
		{"switch", adviceMemory, time.Minute, b.prepareSwitch},
	}
}

// mark adds a step to the timeline.
func (b *boot) mark(name string, at time.Duration) {
	b.timeline = append(b.timeline, agentproto.Step{Name: name, At: agentproto.Duration(at)})
}

// done marks a stage as done now. "start" is no step of the timeline: it ends where "agent" began.
func (b *boot) done(name string) {
	if name != "start" {
		b.mark(name, Uptime().Round(time.Millisecond))
	}
}

// hello opens a report stream in this boot's name.
func (b *boot) hello() agentproto.Hello {
	return helloFor(b.cfg, b.nic.MAC)
}

// macOf returns the MAC address as text, also before a NIC was found.
func macOf(mac net.HardwareAddr) string {
	if mac == nil {
		return "00:00:00:00:00:00"
	}
	return mac.String()
}
