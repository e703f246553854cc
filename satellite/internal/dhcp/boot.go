package dhcp

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"sync"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/lease"
)

// Boot decides what a client boots. It is called on the policy goroutine for each offer and each acknowledgement: it must not
// block and must be safe for concurrent use. A boot path (iPXE, GRUB, a signed kernel image) is an implementation of it.
type Boot interface {
	Loader(BootRequest) BootReply
}

// A BootRequest is what is known about the client that asks.
type BootRequest struct {
	MAC  lease.MAC
	UUID string // see Event.UUID
	Arch Arch
	// HTTP says that the firmware wants a URL (UEFI HTTP boot).
	HTTP bool
	// IPXE says that iPXE asks, whose Features are known then.
	IPXE      bool
	Features  Features
	UserClass string
	// Server is this satellite's address in the client's subnet.
	Server netip.Addr
	Subnet string
	// Proxy says that the address comes from somebody else.
	Proxy bool
	// Transaction is the DHCP transaction: all requests of one round have the same.
	Transaction [4]byte
}

// A BootReply is the boot answer.
type BootReply struct {
	// File is a TFTP path or a URL; empty: nothing to boot.
	File string
	// NextServer is the TFTP server; the zero value is this satellite.
	NextServer netip.Addr
	// Detail says why there is no File or what is special about it; for logs and events.
	Detail string
}

// LoaderConfig sets the names of the boot files; zero values are the defaults.
type LoaderConfig struct {
	// BIOS and EFI64 are TFTP paths. Defaults ltsp/undionly.kpxe and ltsp/snponly.efi; ltsp/ipxe.efi suits firmware without SNP.
	BIOS, EFI64 string
	// ARM64 has no default: without it ARM clients get no answer.
	ARM64 string
	// TFTPScript is for an iPXE without HTTP. Default ltsp/ltsp.ipxe.
	TFTPScript string
	// HTTPPort is where the satellite serves loaders and scripts. Default 80.
	HTTPPort uint16
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Loaders is the boot path by iPXE: firmware gets an iPXE for its architecture, iPXE gets its script.
type Loaders struct {
	cfg   LoaderConfig
	guard loopGuard
}

// NewLoaders makes the boot path by iPXE.
func NewLoaders(cfg LoaderConfig) *Loaders {
	cfg.BIOS = cmp.Or(cfg.BIOS, "ltsp/undionly.kpxe")
	cfg.EFI64 = cmp.Or(cfg.EFI64, "ltsp/snponly.efi")
	cfg.TFTPScript = cmp.Or(cfg.TFTPScript, "ltsp/ltsp.ipxe")
	cfg.HTTPPort = cmp.Or(cfg.HTTPPort, 80)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Loaders{cfg: cfg, guard: loopGuard{seen: make(map[lease.MAC]chainload)}}
}

// Loader is Boot's.
func (l *Loaders) Loader(r BootRequest) BootReply {
	if !r.IPXE {
		return l.firmware(r)
	}
	runs := r.Features.Has(FeatureMenu) && (r.Features.Has(FeaturePXE, FeatureBzImage) || r.Features.Has(FeatureEFI))
	switch {
	case runs && r.Features.Has(FeatureHTTP):
		return BootReply{File: l.scriptURL(r)}
	case runs:
		return BootReply{File: l.cfg.TFTPScript, Detail: "iPXE without HTTP"}
	}
	if l.guard.loops(r, l.cfg.Now()) {
		return BootReply{File: l.cfg.TFTPScript, Detail: "iPXE without the needed features comes again and again"}
	}
	reply := l.firmware(r)
	reply.Detail = cmp.Or(reply.Detail, "iPXE without the needed features")
	return reply
}

// firmware gives the loader by architecture.
func (l *Loaders) firmware(r BootRequest) BootReply {
	var file string
	switch r.Arch {
	case ArchBIOS:
		file = l.cfg.BIOS
	case ArchEFI64, ArchEFIBC, ArchEFI32HTTP, ArchEFI64HTTP: // 15 is IANA's IA32, but x86-64 firmware has been seen to send it
		file = l.cfg.EFI64
	case ArchARM64, ArchARM64HTTP:
		file = l.cfg.ARM64
	}
	if file == "" {
		return BootReply{Detail: fmt.Sprintf("no boot loader for architecture %s", r.Arch)}
	}
	if r.HTTP {
		file = l.base(r.Server) + "/boot/loader/" + url.PathEscape(path.Base(file))
	}
	return BootReply{File: file}
}

func (l *Loaders) base(server netip.Addr) string {
	if l.cfg.HTTPPort == 80 {
		return "http://" + server.String()
	}
	return "http://" + netip.AddrPortFrom(server, l.cfg.HTTPPort).String()
}

// scriptURL names the client in the URL itself: iPXE expands ${mac} in scripts, not in the file name that DHCP gives it.
func (l *Loaders) scriptURL(r BootRequest) string {
	arch, platform := "x86_64", "efi"
	switch {
	case r.Arch == ArchARM64 || r.Arch == ArchARM64HTTP:
		arch = "arm64"
	case r.Arch == ArchBIOS || r.Features.Has(FeaturePXE) && !r.Features.Has(FeatureEFI):
		arch, platform = "i386", "pcbios" // what iPXE itself calls every BIOS PC
	case r.Arch == ArchEFI32:
		arch = "i386"
	}
	u := l.base(r.Server) + "/boot.ipxe?mac=" + r.MAC.String()
	if r.UUID != "" {
		u += "&uuid=" + r.UUID
	}
	return u + "&arch=" + arch + "&platform=" + platform
}

// A loopGuard notices an iPXE that loads our iPXE and is as poor as before.
type loopGuard struct {
	mu   sync.Mutex
	seen map[lease.MAC]chainload
}

type chainload struct {
	transaction [4]byte
	rounds      int
	last        time.Time
}

// A client that has been given a loader maxRounds times, each within loopTime of the one before, is in a loop.
const (
	maxRounds  = 2
	loopTime   = 3 * time.Minute
	maxGuarded = 1024
)

// loops counts the rounds of a client and reports whether there were too many. Beyond maxGuarded clients the guard forgets all:
// a loop is then noticed later.
func (g *loopGuard) loops(r BootRequest, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.seen[r.MAC]
	if now.Sub(c.last) > loopTime {
		c = chainload{}
	}
	if c.rounds == 0 || c.transaction != r.Transaction {
		c.rounds++
	}
	c.transaction, c.last = r.Transaction, now
	if len(g.seen) >= maxGuarded {
		clear(g.seen)
	}
	g.seen[r.MAC] = c
	return c.rounds > maxRounds
}
