package bootmenu

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/pki"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// Default ports of a satellite's services.
const (
	DefaultHTTPPort   = 80
	DefaultNBDPort    = 10809
	DefaultReportPort = 7443
)

// Version is a version as this satellite has it on its disk.
type Version struct {
	Image     string
	Number    uint64
	ID        manifest.ID
	Kind      manifest.Kind
	Arch      string // amd64, arm64; empty means any
	Digest    [32]byte
	DataBytes uint64   // of the disk: the padded squashfs
	SizeBytes uint64   // of the disk: with the dm-verity tree
	Artifacts []string // names of the artifacts that are on the disk
	// Verified tells that every byte was checked, Serving that clients can boot it although its disk is still arriving. The others are listed for
	// their progress.
	Verified   bool
	Serving    bool
	BytesDone  uint64
	BytesTotal uint64
}

// Ports are the ports of all satellites of the site; zero means the default.
type Ports struct {
	HTTP, NBD, Report uint16
}

// State is what decisions are made from.
type State struct {
	// Desired may be nil: no configuration has been received yet. It must not change afterwards.
	Desired *config.Desired
	// Satellite is this satellite's name.
	Satellite string
	Versions  []Version
	// Served names the version that each IMAGE:CHANNEL served last; it may be nil.
	Served map[string]manifest.ID
	// TrustAnchor is the CA certificate in PEM, which goes into every boot configuration.
	TrustAnchor string
	Ports       Ports
	// Conf tells what ltsp.conf says about booting a client; it must be safe for concurrent use. nil: nothing.
	Conf func(mac string, client netip.Addr) Conf
}

// Menu is a State that has been checked. It never changes and is safe for concurrent use.
type Menu struct {
	state   State
	clients map[string]*config.Client
}

// New prepares s for decisions. It fails only without a usable name of the satellite: entries of single clients, subnets and versions
// that are unusable are passed over, so that one bad entry never stops a site.
func New(s State) (*Menu, error) {
	if s.Desired == nil {
		s.Desired = new(config.Desired)
	}
	if err := pki.CheckName(s.Satellite); err != nil {
		return nil, fmt.Errorf("satellite: %w", err)
	}
	s.Versions = slices.DeleteFunc(slices.Clone(s.Versions), func(v Version) bool { return !v.usable() })
	setPorts(&s.Ports)
	m := &Menu{state: s, clients: make(map[string]*config.Client, len(s.Desired.Clients))}
	for i := range s.Desired.Clients {
		c := &s.Desired.Clients[i]
		if mac, err := ParseMAC(c.MAC); err == nil {
			m.clients[mac] = c
		}
	}
	return m, nil
}

func setPorts(p *Ports) {
	if p.HTTP == 0 {
		p.HTTP = DefaultHTTPPort
	}
	if p.NBD == 0 {
		p.NBD = DefaultNBDPort
	}
	if p.Report == 0 {
		p.Report = DefaultReportPort
	}
}

// ready tells whether clients may get v; only when it is complete if the site wants that.
func (m *Menu) ready(v *Version) bool {
	return v.Verified || v.Serving && !m.state.Desired.Transfer.CompleteOnly
}

// usable tells whether v has what clients need, if it is given to them.
func (v *Version) usable() bool {
	if manifest.CheckName(v.Image) != nil || v.ID.IsZero() {
		return false
	}
	if !v.Verified && !v.Serving || v.Kind != manifest.Image {
		return true
	}
	return v.DataBytes > 0 && v.SizeBytes >= v.DataBytes && v.has(manifest.Kernel) && v.has(manifest.InitrdFull)
}

// String returns IMAGE@NUMBER.
func (v *Version) String() string { return fmt.Sprintf("%s@%d", v.Image, v.Number) }

func (v *Version) has(artifact string) bool { return slices.Contains(v.Artifacts, artifact) }

// ExportName is the NBD export of the version.
func (v *Version) ExportName() string { return manifest.ExportName(v.Image, v.Digest) }

// Site returns the name of the site; it is empty before the first configuration.
func (m *Menu) Site() string { return m.state.Desired.Site }

// Revision returns the revision of the desired state, 0 before the first.
func (m *Menu) Revision() uint64 { return m.state.Desired.Revision }

// Satellite returns this satellite's name.
func (m *Menu) Satellite() string { return m.state.Satellite }

// Versions returns all versions known. The caller must not change them.
func (m *Menu) Versions() []Version { return m.state.Versions }

// Ready returns the version of that ID if clients may get it, or false.
func (m *Menu) Ready(id manifest.ID) (Version, bool) {
	for i := range m.state.Versions {
		if v := &m.state.Versions[i]; v.ID == id && m.ready(v) {
			return *v, true
		}
	}
	return Version{}, false
}

// Current returns the version of an image that a client without an entry of its own would boot: the one of the site's channel if the
// site's default is that image, else of the channel "stable", with the same substitutes as Choose. False if none is ready.
func (m *Menu) Current(image string) (Version, bool) {
	ref := config.Boot{Image: image, Channel: config.DefaultChannel}
	if def, err := config.ParseBoot(m.state.Desired.Boot.Boot); err == nil && def.Image == image {
		ref = def
	}
	v, _ := m.pick(ref, "")
	if v == nil || v.Kind != manifest.Image {
		return Version{}, false
	}
	return *v, true
}

// Loader returns the verified version that holds the boot loader of that file name: of the newest set of boot loaders that
// the site wants, else of the newest that is here. False if there is none.
func (m *Menu) Loader(file string) (Version, bool) {
	var best *Version
	bestWanted := false
	for i := range m.state.Versions {
		v := &m.state.Versions[i]
		if v.Kind != manifest.Bootloaders || !v.Verified || !v.has(file) {
			continue
		}
		wanted := m.wants(v.ID)
		if best == nil || wanted && !bestWanted || wanted == bestWanted && newer(v, best) {
			best, bestWanted = v, wanted
		}
	}
	if best == nil {
		return Version{}, false
	}
	return *best, true
}

func (m *Menu) wants(id manifest.ID) bool {
	return slices.ContainsFunc(m.state.Desired.Versions, func(v config.Version) bool { return v.ID == id && len(v.Channels) > 0 })
}

// newer orders versions by number; names break ties so that the order of the list plays no part.
func newer(a, b *Version) bool {
	if a.Number != b.Number {
		return a.Number > b.Number
	}
	return strings.Compare(a.ID.String(), b.ID.String()) > 0
}
