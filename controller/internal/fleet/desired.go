package fleet

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// SiteView is all from which a site's desired state is made.
type SiteView struct {
	Site       Site
	Subnets    []Subnet
	Clients    []Client
	Satellites []Satellite         // of the site, revoked ones too, in any order
	Addresses  map[string][]string // by satellite, as last reported
	GossipKey  []byte
	Policies   []PolicyVersion // present versions of all levels that apply somewhere at the site, in any order
	Library    Library
}

// DesiredState is all that a satellite needs to serve its site. Revision is the link room's to fill.
type DesiredState struct {
	Revision  uint64           `json:"-"`
	Site      string           `json:"site"`
	Versions  []DesiredVersion `json:"versions"`
	Subnets   []Subnet         `json:"subnets"`
	Clients   []Client         `json:"clients"`
	GossipKey []byte           `json:"gossip_key"`
	Peers     []Peer           `json:"peers"`
	Boot      BootPolicy       `json:"boot"`
	Transfer  Transfer         `json:"transfer,omitzero"`
	Policies  []PolicyLayer    `json:"policies,omitempty"` // organisation, site, rooms
	LoginHost LoginHost        `json:"login_host,omitzero"`
	Commands  []CommandKind    `json:"commands"` // that the site allows
}

// DesiredVersion is a version that the site's satellites shall hold.
type DesiredVersion struct {
	Image    string        `json:"image"`
	Number   uint64        `json:"number"`
	ID       manifest.ID   `json:"id"`
	Kind     manifest.Kind `json:"kind"`
	Channels []string      `json:"channels"`
}

// Peer is a satellite of the site.
type Peer struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"`
}

// Compose says what a site needs. The result depends on the view's content only, not on the order of its lists.
func Compose(v SiteView) DesiredState {
	d := DesiredState{
		Site: v.Site.Name, Boot: v.Site.Boot, Transfer: v.Site.Transfer, GossipKey: v.GossipKey, Policies: layers(v.Policies),
		LoginHost: v.Site.LoginHost, Commands: v.Site.commands(),
	}
	if d.Boot.Boot == "" && len(v.Site.Images) > 0 {
		d.Boot.Boot = v.Site.Images[0]
	}
	d.Peers = v.peers()
	d.Subnets = slices.Clone(v.Subnets)
	slices.SortFunc(d.Subnets, func(a, b Subnet) int { return cmp.Compare(a.Name, b.Name) })
	for i := range d.Subnets {
		d.Subnets[i].Satellite = owner(d.Subnets[i].Satellite, d.Peers)
	}
	d.Clients = slices.Clone(v.Clients)
	slices.SortFunc(d.Clients, func(a, b Client) int { return cmp.Compare(a.MAC, b.MAC) })
	d.Versions = v.versions()
	return d
}

// owner is the configured satellite if it is in good standing, else the first enrolled.
func owner(configured string, peers []Peer) string {
	if slices.ContainsFunc(peers, func(p Peer) bool { return p.Name == configured }) {
		return configured
	}
	if len(peers) > 0 {
		return peers[0].Name
	}
	return ""
}

// peers lists the satellites in good standing, the first enrolled first.
func (v *SiteView) peers() []Peer {
	sats := slices.DeleteFunc(slices.Clone(v.Satellites), func(s Satellite) bool { return s.Revoked })
	slices.SortFunc(sats, func(a, b Satellite) int {
		return cmp.Or(a.Enrolled.Compare(b.Enrolled), cmp.Compare(a.Name, b.Name))
	})
	peers := make([]Peer, len(sats))
	for i, s := range sats {
		addresses := slices.Clone(v.Addresses[s.Name])
		slices.Sort(addresses)
		peers[i] = Peer{Name: s.Name, Addresses: addresses}
	}
	return peers
}

// References lists all that a site refers to, without the boot loaders, which every site has.
func (v *SiteView) References() []Reference {
	texts := append(slices.Clone(v.Site.Images), v.Site.Boot.Boot)
	for _, s := range v.Subnets {
		texts = append(texts, s.Boot)
	}
	for _, c := range v.Clients {
		texts = append(texts, c.Boot)
	}
	var refs []Reference
	for _, text := range texts {
		if r, err := ParseReference(text); err == nil { // empty means none; all others were checked on their way in
			refs = append(refs, r)
		}
	}
	return refs
}

func (v *SiteView) versions() []DesiredVersion {
	refs := append(v.References(), Reference{Image: BootloadersImage, Channel: DefaultChannel})
	seen := make(map[string]bool)
	var out []DesiredVersion
	for _, r := range refs {
		version, ok := r.resolve(v.Library)
		if !ok || seen[version.Name()] {
			continue
		}
		seen[version.Name()] = true
		var channels []string
		if image, ok := v.Library.Image(version.Image); ok {
			channels = image.ChannelsAt(version.Number)
		}
		out = append(out, DesiredVersion{Image: version.Image, Number: version.Number, ID: version.ID, Kind: version.Kind, Channels: channels})
	}
	slices.SortFunc(out, func(a, b DesiredVersion) int {
		return cmp.Or(cmp.Compare(a.Image, b.Image), cmp.Compare(a.Number, b.Number))
	})
	return out
}

// Sum is a hash over everything but the revision: equal sums mean that a satellite need not be told again.
func (d *DesiredState) Sum() (Hash, error) {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(d); err != nil {
		return Hash{}, fmt.Errorf("hash the desired state of site %s: %w", d.Site, err)
	}
	return sha256.Sum256(b.Bytes()), nil
}
