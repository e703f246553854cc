package bootmenu

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// Request is what a client told when it asked for its script, and what its connection shows.
type Request struct {
	MAC      string // as ParseMAC returns it; empty if the client did not tell
	UUID     string // SMBIOS, lower case, or empty
	Arch     string // iPXE's ${buildarch}: i386, x86_64, arm32, arm64; or empty
	Platform string // iPXE's ${platform}: pcbios, efi; or empty
	Again    bool   // the script itself asks again, the client has not been restarted
	TFTP     bool   // the client came by TFTP: its iPXE may have no HTTP, so its script uses TFTP too
	Boot     string // IMAGE:CHANNEL or IMAGE@NUMBER that was picked from the menu; or empty
	// Client and Local are the two ends of the connection; either may be the zero Addr when unknown.
	Client netip.Addr
	Local  netip.Addr
}

// Choice is the decision for one client.
type Choice struct {
	// Version is nil if nothing can boot; Problem then says why, for the screen.
	Version *Version
	Problem string
	// Wanted is what the policy names, Source which part of it: "menu", "client pin", "client channel", "ltsp.conf", "subnet NAME" or "site default".
	Wanted config.Boot
	Source string
	// Note tells why the version is not the wanted one, or which entry was passed over; empty if all is as it should be.
	Note string
	// Client and Subnet are the entries that apply, or nil.
	Client *config.Client
	Subnet *config.Subnet
	// Conf is what ltsp.conf says.
	Conf Conf
	// Progress is the wanted version when it is on its way, else nil.
	Progress *Version
}

// Choose decides what the client boots.
func (m *Menu) Choose(r Request) Choice {
	c := Choice{Client: m.clients[r.MAC], Subnet: m.subnet(r), Conf: m.conf(r)}
	if r.MAC == "" {
		c.Client = nil
	}
	m.resolve(r, &c)
	if c.Source == "" {
		c.Problem = "no image is assigned to this PC, its subnet or its site"
		return c
	}
	v, note := m.pick(c.Wanted, goArch(r.Arch))
	c.Note = join(c.Note, note)
	c.Version = v
	if v != nil && v.ID == m.wantedID(c.Wanted) {
		return c
	}
	c.Progress = m.onItsWay(c.Wanted)
	if v == nil {
		c.Problem = m.problem(c.Wanted, r.Arch)
	}
	return c
}

// Sources of a choice that are no entries of the fleet.
const (
	sourceMenu = "menu"
	sourceConf = "ltsp.conf"
)

// resolve finds the first usable reference: what was picked from the menu, the client's entry, ltsp.conf, the subnet's entry, the site's.
func (m *Menu) resolve(r Request, c *Choice) {
	if ref, ok := m.chosen(r, c); ok {
		c.Wanted, c.Source = ref, sourceMenu
		return
	}
	type level struct{ ref, source string }
	var levels []level
	if c.Client != nil {
		levels = append(levels, level{c.Client.Boot, "client"})
	}
	if c.Conf.Problem != "" {
		c.Note = join(c.Note, "ltsp.conf has an error, what it says about booting may not count")
	}
	if ref, ok := m.fromConf(c); ok {
		levels = append(levels, level{ref.String(), sourceConf})
	}
	if c.Subnet != nil {
		levels = append(levels, level{c.Subnet.Boot, "subnet " + c.Subnet.Name})
	}
	levels = append(levels, level{m.state.Desired.Boot.Boot, "site default"})
	for _, l := range levels {
		if l.ref == "" {
			continue
		}
		ref, err := config.ParseBoot(l.ref)
		if err != nil {
			c.Note = join(c.Note, fmt.Sprintf("the entry of the %s is unusable and was passed over", l.source))
			continue
		}
		c.Wanted, c.Source = ref, l.source
		if l.source == "client" && ref.Number != 0 {
			c.Source = "client pin"
		} else if l.source == "client" {
			c.Source = "client channel"
		}
		return
	}
}

func (m *Menu) subnet(r Request) *config.Subnet {
	for _, addr := range []netip.Addr{r.Client, r.Local} {
		addr = addr.Unmap()
		for i := range m.state.Desired.Subnets {
			if s := &m.state.Desired.Subnets[i]; addr.IsValid() && s.CIDR.Contains(addr) {
				return s
			}
		}
	}
	return nil
}

// wantedID returns the ID of the version that ref names, zero if it is unknown here.
func (m *Menu) wantedID(ref config.Boot) manifest.ID {
	v, _ := m.state.Desired.Find(ref)
	return v.ID
}

// pick returns the version to boot for ref and, if it is a substitute, why. The wanted version may still be arriving, a substitute is complete. arch is in
// GOARCH notation; empty fits all.
func (m *Menu) pick(ref config.Boot, arch string) (*Version, string) {
	is := func(v *Version) bool {
		return v.Kind == manifest.Image && v.Image == ref.Image && (arch == "" || v.Arch == "" || v.Arch == arch)
	}
	fits := func(v *Version) bool { return v.Verified && is(v) }
	want, known := m.state.Desired.Find(ref)
	if v := m.find(func(v *Version) bool { return known && v.ID == want.ID && m.ready(v) && is(v) }); v != nil {
		return v, ""
	}
	why := fmt.Sprintf("%s is not known at this site", ref)
	if known {
		why = fmt.Sprintf("version %d (%s) is not complete at this satellite yet", want.Number, ref)
	}
	if v := m.find(func(v *Version) bool { return v.ID == m.state.Served[ref.String()] && fits(v) }); v != nil {
		return v, fmt.Sprintf("%s, so version %d, which was served last, is used", why, v.Number)
	}
	if v := m.find(fits); v != nil {
		return v, fmt.Sprintf("%s, so version %d, the newest complete one, is used", why, v.Number)
	}
	return nil, ""
}

// find returns the newest version that fits, or nil.
func (m *Menu) find(fits func(*Version) bool) *Version {
	var best *Version
	for i := range m.state.Versions {
		if v := &m.state.Versions[i]; fits(v) && (best == nil || newer(v, best)) {
			best = v
		}
	}
	return best
}

func (m *Menu) onItsWay(ref config.Boot) *Version {
	id := m.wantedID(ref)
	return m.find(func(v *Version) bool { return !m.ready(v) && !id.IsZero() && v.ID == id })
}

func (m *Menu) problem(ref config.Boot, arch string) string {
	ofImage := func(v *Version) bool { return v.Image == ref.Image && v.Kind == manifest.Image }
	switch {
	case m.find(func(v *Version) bool { return ofImage(v) && m.ready(v) }) != nil:
		return fmt.Sprintf("image %s is not made for this PC's processor (%s)", ref.Image, arch)
	case slices.ContainsFunc(m.state.Desired.Versions, func(v config.Version) bool { return v.Image == ref.Image }):
		return fmt.Sprintf("image %s is not ready at this satellite yet", ref.Image)
	default:
		return fmt.Sprintf("image %s is not assigned to this site", ref.Image)
	}
}

// goArch turns iPXE's ${buildarch} into GOARCH. A BIOS boots a 32-bit iPXE on 64-bit PCs too, so i386 counts as amd64. What is unknown
// becomes empty and restricts nothing.
func goArch(buildarch string) string {
	switch buildarch {
	case "i386", "x86_64":
		return "amd64"
	case "arm64":
		return "arm64"
	case "arm32":
		return "arm"
	}
	return ""
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; " + b
}
