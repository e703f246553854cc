package satellite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/bootmenu"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/chunksync"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/gossip"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/state"
)

// How often the director looks at things that nobody tells of: interfaces, and the progress that a waiting PC's screen shows.
const (
	interfacePeriod = 5 * time.Second
	progressPeriod  = 2 * time.Second
)

// director makes the rooms do what the desired state says. All is done by one goroutine; take, poke and the getters are safe for
// concurrent use.
type director struct {
	sat     *Satellite
	log     *slog.Logger
	changed chan struct{}

	mu      sync.Mutex
	desired *config.Desired // nil before the first
	subnets map[string]subnetState
	links   []config.Link

	// Of the goroutine.
	ifaces []config.Interface
	served map[string]manifest.ID
	dhcp   dhcpState
}

// subnetState is how a subnet is served here.
type subnetState struct {
	state string
	iface string
}

// newDirector reads what was in force before the last end.
func newDirector(s *Satellite) (*director, error) {
	d := &director{sat: s, log: s.room("director"), changed: make(chan struct{}, 1), subnets: make(map[string]subnetState)}
	var err error
	if d.desired, err = s.db.Desired(); err != nil && !errors.Is(err, state.ErrNotFound) {
		return nil, err
	}
	switch {
	case errors.Is(err, state.ErrNotFound):
		d.desired = nil
	case d.desired.Site != s.id.Site():
		d.log.Warn("the state on the disk is another site's, it is not used", "site", d.desired.Site)
		d.desired = nil
	}
	d.served, err = s.db.Served()
	return d, err
}

// take stores a desired state and has it applied. A disk that can't take it is a problem, but no reason to ignore the controller.
func (d *director) take(desired *config.Desired) {
	err := d.sat.db.SetDesired(desired)
	text := ""
	if err != nil {
		d.log.Error("desired state not stored", "err", err)
		text = fmt.Sprintf("the desired state is in force but can't be stored: %v", err)
	}
	d.sat.board.Set("state", text)
	d.mu.Lock()
	d.desired = desired
	d.mu.Unlock()
	d.log.Info("desired state received", "revision", desired.Revision, "versions", len(desired.Versions), "subnets", len(desired.Subnets))
	d.poke()
}

// poke has everything applied again, soon.
func (d *director) poke() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

func (d *director) online(is bool) {
	if is {
		d.sat.sync.Kick()
		d.sat.policies.Kick()
	}
}

func (d *director) current() *config.Desired {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.desired
}

func (d *director) revision() uint64 {
	if cur := d.current(); cur != nil {
		return cur.Revision
	}
	return 0
}

// currentLinks returns the subnets that this machine is attached to.
func (d *director) currentLinks() []config.Link {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.links
}

// linkOf returns the link in whose subnet an address lies, or false.
func (d *director) linkOf(addr netip.Addr) (config.Link, bool) {
	for _, l := range d.currentLinks() {
		if addr.IsValid() && l.Subnet.CIDR.Contains(addr.Unmap()) {
			return l, true
		}
	}
	return config.Link{}, false
}

func (d *director) run(ctx context.Context) error {
	look := time.NewTicker(interfacePeriod)
	defer look.Stop()
	progress := time.NewTicker(progressPeriod)
	defer progress.Stop()
	for {
		d.apply()
		if !d.idle(ctx, look.C, progress.C) {
			return ctx.Err()
		}
	}
}

// idle waits until there is something to apply; false: ctx has ended.
func (d *director) idle(ctx context.Context, look, progress <-chan time.Time) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-d.changed:
			return true
		case <-look:
			if now, err := interfaces(); err == nil && !reflect.DeepEqual(now, d.ifaces) {
				return true
			}
		case <-progress:
			if d.fetching() {
				d.showMenu()
			}
		}
	}
}

func (d *director) fetching() bool {
	return slices.ContainsFunc(d.sat.sync.Status(), func(s chunksync.Status) bool { return s.State != chunksync.Verified })
}

// apply is the list of what a desired state means, in order.
func (d *director) apply() {
	desired := d.current()
	if desired == nil {
		return
	}
	ifaces, err := interfaces()
	if err != nil {
		d.log.Warn("interfaces can't be listed", "err", err)
		return
	}
	d.ifaces = ifaces
	links, missing := config.Match(desired.Subnets, ifaces, d.sat.cfg.Local.Interfaces)
	d.mu.Lock()
	d.links = links
	d.mu.Unlock()
	d.sat.policies.Want(desired)
	d.sat.bootconf.Check()
	d.sat.accounts.SetHost(desired.Login)
	d.sat.sync.SetPolicy(desired.Transfer)
	d.wantVersions(desired)
	d.sat.registry.SetTokenKey(desired.GossipKey)
	d.showMenu()
	d.serve(links)
	d.serveDHCP(desired, links, missing)
	d.joinSite(desired, links)
	d.sat.up.StatusChanged()
}

// wantVersions tells the synchronisation what to hold: the desired versions, and those that clients still get in their stead.
func (d *director) wantVersions(desired *config.Desired) {
	served := maps.Clone(d.served)
	if served == nil {
		served = make(map[string]manifest.ID)
	}
	images := make(map[string]bool)
	for _, v := range desired.Versions {
		images[v.Image] = true
		info, ok := d.sat.store.Find(v.ID)
		if !ok || !info.Verified {
			continue
		}
		for _, ch := range v.Channels {
			served[config.Boot{Image: v.Image, Channel: ch}.String()] = v.ID
		}
	}
	for ref := range served {
		if b, err := config.ParseBoot(ref); err != nil || !images[b.Image] {
			delete(served, ref)
		}
	}
	if !maps.Equal(served, d.served) {
		d.served = served
		if err := d.sat.db.SetServed(served); err != nil {
			d.log.Error("served versions not stored", "err", err)
		}
	}
	d.sat.sync.Want(desired.Versions, slices.SortedFunc(maps.Values(served), func(a, b manifest.ID) int { return slices.Compare(a[:], b[:]) }))
}

// showMenu gives the boot menu the present versions.
func (d *director) showMenu() {
	desired := d.current()
	s := bootmenu.State{Desired: desired, Satellite: d.sat.id.Name(), Versions: d.menuVersions(), Served: maps.Clone(d.served),
		TrustAnchor: string(pki.EncodeCertificate(d.sat.id.CA().Raw)), Conf: d.sat.bootconf.Conf,
		Ports: bootmenu.Ports{HTTP: d.sat.cfg.Local.HTTPPort, NBD: d.sat.cfg.Local.NBDPort, Report: d.sat.cfg.Local.ReportPort}}
	menu, err := bootmenu.New(s)
	if err != nil {
		d.log.Error("boot menu can't be made", "err", err)
		return
	}
	d.sat.tree.SetMenu(menu)
}

func (d *director) menuVersions() []bootmenu.Version {
	var out []bootmenu.Version
	var exported []string
	have := make(map[manifest.ID]bool)
	status := make(map[manifest.ID]chunksync.Status)
	for _, st := range d.sat.sync.Status() {
		status[st.Version.ID] = st
	}
	for _, v := range d.sat.store.List() {
		if !v.Verified && !v.Serving {
			continue
		}
		have[v.ID] = true
		m := v.Manifest
		x := bootmenu.Version{Image: m.Name, Number: m.Number, ID: v.ID, Kind: m.Kind, Arch: m.Arch, Digest: m.Digest, DataBytes: v.DataBytes,
			SizeBytes: v.DiskBytes, Verified: v.Verified, Serving: v.Serving, BytesDone: m.TotalBytes(), BytesTotal: m.TotalBytes()}
		if !v.Verified {
			x.BytesDone = status[v.ID].Done
		}
		for _, a := range m.Artifacts {
			x.Artifacts = append(x.Artifacts, a.Name)
		}
		out = append(out, x)
		if v.DiskBytes > 0 {
			exported = append(exported, m.ExportName())
		}
	}
	d.sat.gossip.SetVersions(slices.Compact(slices.Sorted(slices.Values(exported))))
	for _, st := range d.sat.sync.Status() {
		if v := st.Version; !have[v.ID] {
			out = append(out, bootmenu.Version{Image: v.Image, Number: v.Number, ID: v.ID, Kind: v.Kind, BytesDone: st.Done, BytesTotal: st.Total})
		}
	}
	return out
}

// serve opens the ports on the addresses through which the site's subnets are reached.
func (d *director) serve(links []config.Link) {
	var addrs []netip.Addr
	for _, l := range links {
		if a := l.Address.Addr(); !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	d.sat.listeners.setAddrs(addrs)
}

// joinSite tells the gossip room where it is and who else should be there.
func (d *director) joinSite(desired *config.Desired, links []config.Link) {
	s := gossip.Settings{Site: desired.Site, Name: d.sat.id.Name(), Key: desired.GossipKey, Port: d.sat.cfg.Local.GossipPort}
	if len(links) > 0 {
		s.Advertise = links[0].Address.Addr()
	}
	subnets := desired.Prefixes()
	for _, p := range desired.Peers {
		if p.Name == s.Name {
			continue
		}
		if a, ok := peerAddress(p.Addresses, subnets); ok {
			s.Peers = append(s.Peers, netip.AddrPortFrom(a, s.Port))
		}
	}
	d.sat.gossip.SetSettings(s)
}

// peerAddress picks the IPv4 address of a peer that lies in a subnet of the site, else its first usable one.
func peerAddress(addrs, subnets []netip.Prefix) (netip.Addr, bool) {
	var first netip.Addr
	for _, p := range addrs {
		a := p.Addr().Unmap()
		if !a.Is4() {
			continue
		}
		if slices.ContainsFunc(subnets, func(s netip.Prefix) bool { return s.Contains(a) }) {
			return a, true
		}
		if a.IsGlobalUnicast() && !first.IsValid() {
			first = a
		}
	}
	return first, first.IsValid()
}

// compareSubnets orders by name.
func compareSubnets(a, b config.Subnet) int { return cmp.Compare(a.Name, b.Name) }
