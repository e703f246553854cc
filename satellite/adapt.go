package satellite

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/bootfiles"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/chunksync"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/clients"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/dhcp"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/nbd"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/tftp"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/upstream"
)

// link is the controller's client as the synchronisation wants it.
type link struct{ *upstream.Client }

// PlanSync implements chunksync.Planner.
func (l link) PlanSync(ctx context.Context, q config.PlanQuestion) (config.Plan, error) {
	plan, err := l.Client.PlanSync(ctx, q)
	return plan, gone(err)
}

// FetchDelta implements chunksync.Deltas.
func (l link) FetchDelta(ctx context.Context, id manifest.ID, d *config.Delta, off, length int64, urgent bool, sink func([]byte) error) error {
	return gone(l.Client.FetchDelta(ctx, id, d, off, length, urgent, sink))
}

// gone marks what the controller refuses for good.
func gone(err error) error {
	if errors.Is(err, upstream.ErrNotAssigned) {
		return fmt.Errorf("%w: %w", chunksync.ErrGone, err)
	}
	return err
}

// exports shows the images to the NBD server: the verified ones, and those that can be served while they arrive.
type exports struct {
	store  *imagestore.Store
	opened func()
}

// List implements nbd.Exports. Versions with one digest are one export.
func (e exports) List(context.Context) []nbd.ExportInfo {
	var out []nbd.ExportInfo
	seen := make(map[string]bool)
	for _, v := range e.store.List() {
		name := v.Manifest.ExportName()
		if !v.Verified && !v.Serving || v.DiskBytes == 0 || seen[name] {
			continue
		}
		seen[name] = true
		out = append(out, exportInfo(v))
	}
	return out
}

func exportInfo(v imagestore.Info) nbd.ExportInfo {
	return nbd.ExportInfo{Name: v.Manifest.ExportName(), Size: int64(v.DiskBytes),
		Description: fmt.Sprintf("%s version %d, %s", v.Manifest.Name, v.Manifest.Number, v.Manifest.OS)}
}

// Open implements nbd.Exports.
func (e exports) Open(_ context.Context, name string) (nbd.Export, error) {
	h, err := e.store.OpenExport(name)
	if errors.Is(err, imagestore.ErrUnknown) {
		return nil, fmt.Errorf("%w: %w", nbd.ErrUnknownExport, err)
	}
	if err != nil {
		return nil, err
	}
	e.opened()
	if h.Arriving() {
		return arrivingExport{export{h}, h}, nil
	}
	return export{h}, nil
}

// export is a handle as the NBD server wants it.
type export struct{ handle *imagestore.Handle }

// arrivingExport is a handle on a version that is still arriving.
type arrivingExport struct {
	export
	nbd.Waiter
}

// ReadAt implements nbd.Export.
func (x export) ReadAt(p []byte, off int64) (int, error) { return x.handle.ReadAt(p, off) }

// Close implements nbd.Export.
func (x export) Close() error { return x.handle.Close() }

// Info implements nbd.Export.
func (x export) Info() nbd.ExportInfo { return exportInfo(x.handle.Version()) }

// File implements nbd.FileExport: the export is the whole file.
func (x export) File() (*os.File, int64) { return x.handle.File(), 0 }

// bootStore gives kernels, initrds and boot loaders to bootfiles; never a root file system.
type bootStore struct{ store *imagestore.Store }

// OpenBootFile implements bootfiles.Store.
func (b bootStore) OpenBootFile(id manifest.ID, artifact string) (*os.File, error) {
	if artifact == manifest.Squashfs {
		return nil, fmt.Errorf("%q of version %s: %w", artifact, id, fs.ErrNotExist)
	}
	a, err := b.store.OpenArtifact(id, artifact)
	if errors.Is(err, imagestore.ErrUnknown) {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return nil, err
	}
	return a.File, nil
}

// tftpFiles gives the boot files to the TFTP server.
type tftpFiles struct{ tree *bootfiles.Tree }

func (t tftpFiles) open(name string, client, local netip.Addr) (tftp.File, error) {
	f, err := t.tree.Open(bootfiles.Request{Name: name, TFTP: true, Client: client, Local: local})
	if err != nil {
		if bootfiles.IsExpected(err) && !errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
		}
		return nil, err
	}
	return f, nil
}

// sawDHCP makes steps of the boot timeline from what the DHCP server did.
func sawDHCP(registry *clients.Registry) func(dhcp.Event) {
	return func(e dhcp.Event) {
		saw := clients.Sighting{MAC: e.MAC.String(), Addr: e.Addr, UUID: e.UUID}
		if e.Kind == dhcp.EventNak || e.MAC.IsZero() {
			return
		}
		if e.Stage == dhcp.StageSystem {
			saw.Leased = e.Kind == dhcp.EventAck
			registry.Saw(saw) // its address is of interest, but it is no sign of a boot
			return
		}
		if e.Stage == dhcp.StageFirmware {
			saw.Firmware = firmware(e.Arch)
		}
		switch e.Kind {
		case dhcp.EventDiscover:
			saw.Step = clients.StepDiscover
		case dhcp.EventOffer, dhcp.EventProxyOffer:
			saw.Step = clients.StepOffer
		case dhcp.EventAck, dhcp.EventBootAck:
			saw.Step = clients.StepAck
			saw.Leased = e.Kind == dhcp.EventAck
		}
		registry.Saw(saw)
	}
}

// firmware names what a PC boots with.
func firmware(a dhcp.Arch) string {
	switch a {
	case dhcp.ArchNone:
		return ""
	case dhcp.ArchBIOS:
		return "BIOS"
	case dhcp.ArchEFI32HTTP, dhcp.ArchEFI64HTTP, dhcp.ArchARM64HTTP:
		return "UEFI HTTP"
	default:
		return "UEFI PXE"
	}
}

// clientFeed turns what the registry knows into reports to the controller.
type clientFeed struct {
	*clients.Registry
	satellite string
	wanted    func(mac string, addr netip.Addr) []byte // the policy that a client should have
}

// Pending implements upstream.ClientSource.
func (f clientFeed) Pending() []upstream.ClientReport {
	pending := f.Registry.Pending()
	out := make([]upstream.ClientReport, 0, len(pending))
	for i := range pending {
		r := clientReport(&pending[i], f.satellite)
		r.PolicyWanted = f.wanted(pending[i].MAC, pending[i].Addr)
		out = append(out, r)
	}
	return out
}

func clientReport(c *clients.Snapshot, satellite string) upstream.ClientReport {
	r := upstream.ClientReport{MAC: c.MAC, UUID: c.UUID, Time: c.Changed, State: string(c.State), Reasons: c.Reasons, Satellite: satellite,
		Firmware: c.Firmware, AgentBuild: c.Agent}
	if c.Addr.IsValid() {
		r.Address = c.Addr.String()
	}
	for _, s := range c.Timeline {
		r.Timeline = append(r.Timeline, upstream.BootStep{Name: s.Name, At: s.At, Source: s.Source})
	}
	if p := c.Report; p != nil {
		r.Image, r.Number, r.Hostname, r.Kernel = p.Image, p.Number, p.Hostname, p.Kernel
		if digest, err := hex.DecodeString(p.Digest); err == nil {
			r.Digest = digest
		}
		r.MemoryTotalBytes, r.MemoryAvailableBytes = p.Memory.TotalBytes, p.Memory.AvailableBytes
		r.OverlaySizeBytes, r.OverlayUsedBytes = p.Overlay.SizeBytes, p.Overlay.UsedBytes
		r.Load1, r.Uptime = p.Load1, time.Duration(p.Uptime)
		r.LinkName, r.LinkSpeedMbps = p.Link.Name, uint32(max(p.Link.SpeedMbps, 0))
		r.NBDConnected, r.NBDReconnects = p.NBD.Connected, p.NBD.Reconnects
		r.FailedUnits = p.Failed
		reportPolicy(&r, p)
	}
	return r
}

// reportPolicy adds what a client told of its policy and its users.
func reportPolicy(r *upstream.ClientReport, p *agentproto.Report) {
	if o := p.Policy; o != nil {
		if digest, err := hex.DecodeString(o.State); err == nil {
			r.Policy = digest
		}
		r.PolicyPending, r.PolicyErrors, r.PolicyTook = o.Pending, o.Errors, time.Duration(o.Took)
	}
	for _, s := range p.Sessions {
		r.Sessions = append(r.Sessions, upstream.ClientSession(s))
	}
}

// nbdWatch makes a step of the boot timeline of each new NBD connection. The NBD server tells who is connected when asked; exports tells when it
// is worth asking.
type nbdWatch struct {
	registry *clients.Registry
	opened   chan struct{}
}

// settle is how long after an export was opened its connection is listed for sure.
const settle = 20 * time.Millisecond

func (w *nbdWatch) poke() {
	select {
	case w.opened <- struct{}{}:
	default:
	}
}

func (w *nbdWatch) run(ctx context.Context, connections func() []nbd.ConnInfo) error {
	known := make(map[netip.AddrPort]bool)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.opened:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(settle):
		}
		now := make(map[netip.AddrPort]bool)
		for _, c := range connections() {
			if c.Export == "" {
				continue
			}
			now[c.Addr] = true
			if !known[c.Addr] {
				w.registry.Saw(clients.Sighting{Addr: c.Addr.Addr().Unmap(), Step: clients.StepNBD})
			}
		}
		known = now
	}
}
