package bootmenu

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// Conf is what ltsp.conf says about booting one client. The zero Conf says nothing.
type Conf struct {
	// DefaultImage is an image, IMAGE:CHANNEL or IMAGE@NUMBER, or an item of the menu: "disk", "exit", "config" or "shell".
	DefaultImage     string
	KernelParameters string
	// Hostname counts where the fleet has no name for the client.
	Hostname string
	// MenuTimeout is in milliseconds: 0 waits for ever, -1 shows no menu; nil: not set.
	MenuTimeout *int
	// Titles are menu texts by the image's name in upper case, with _ for what is no letter or digit, with or without _IMG.
	Titles map[string]string
	// Problem tells what of the configuration can't be followed; empty if nothing.
	Problem string
}

// defaultTimeout is LTSP's, in milliseconds.
const defaultTimeout = 5000

// maxMenuImages bounds the menu to what fits on a screen.
const maxMenuImages = 16

// Items of the menu that are no images.
const (
	itemDisk   = "disk"
	itemExit   = "exit"
	itemConfig = "config"
	itemShell  = "shell"
)

// menuTimeout returns the time that the menu waits and whether there is a menu: only where ltsp.conf asks for one.
func (c *Conf) menuTimeout() (ms int, shown bool) {
	switch {
	case c.MenuTimeout != nil:
		return *c.MenuTimeout, *c.MenuTimeout >= 0
	case len(c.Titles) > 0:
		return defaultTimeout, true
	}
	return 0, false
}

// title is the menu's text for an image.
func (c *Conf) title(image string) string {
	key := strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(image))
	for _, k := range []string{key + "_IMG", key} {
		if t := strings.TrimLeft(printable(c.Titles[k]), "- "); t != "" { // a command takes what begins with - for an option
			return t
		}
	}
	return image
}

// conf returns what ltsp.conf says about a client.
func (m *Menu) conf(r Request) Conf {
	if m.state.Conf == nil {
		return Conf{}
	}
	return m.state.Conf(r.MAC, r.Client.Unmap())
}

// item tells whether a default is an item that is no image, and that this site's PCs may use.
func (m *Menu) item(name string) bool {
	return slices.Contains([]string{itemDisk, itemExit, itemConfig}, name) || name == itemShell && m.state.Desired.Boot.Shell
}

// images returns a reference for each image of the site, in the order of their names: to the channel that clients without an entry get, else to any.
func (m *Menu) images() []config.Boot {
	var out []config.Boot
	for _, v := range m.state.Desired.Versions {
		if v.Kind != manifest.Image || slices.ContainsFunc(out, func(b config.Boot) bool { return b.Image == v.Image }) {
			continue
		}
		out = append(out, m.reference(v))
	}
	slices.SortFunc(out, func(a, b config.Boot) int { return strings.Compare(a.Image, b.Image) })
	return out[:min(len(out), maxMenuImages)]
}

func (m *Menu) reference(v config.Version) config.Boot {
	for _, ref := range []string{m.state.Desired.Boot.Boot, v.Image} {
		if b, err := config.ParseBoot(ref); err == nil && b.Image == v.Image {
			if _, ok := m.state.Desired.Find(b); ok {
				return b
			}
		}
	}
	if len(v.Channels) > 0 {
		return config.Boot{Image: v.Image, Channel: v.Channels[0]}
	}
	return config.Boot{Image: v.Image, Number: v.Number}
}

// fromConf resolves DEFAULT_IMAGE. An unchanged ltsp.conf may name an image of LTSP's that this site does not have; then what follows in the order counts.
func (m *Menu) fromConf(c *Choice) (config.Boot, bool) {
	text := strings.TrimSuffix(c.Conf.DefaultImage, ".img")
	if text == "" || m.item(text) {
		return config.Boot{}, false
	}
	ref, err := config.ParseBoot(text)
	if err == nil && text == ref.Image { // without a channel
		if i := slices.IndexFunc(m.state.Desired.Versions, func(v config.Version) bool { return v.Kind == manifest.Image && v.Image == text }); i >= 0 {
			return m.reference(m.state.Desired.Versions[i]), true
		}
	}
	if _, ok := m.state.Desired.Find(ref); err == nil && ok {
		return ref, true
	}
	c.Note = join(c.Note, fmt.Sprintf("DEFAULT_IMAGE of ltsp.conf, %.60q, is no image of this site and was passed over", text))
	return config.Boot{}, false
}

// chosen resolves what a person has picked from the menu. It counts only if the menu offers it: a request can say anything.
func (m *Menu) chosen(r Request, c *Choice) (config.Boot, bool) {
	if _, shown := c.Conf.menuTimeout(); !shown || r.Boot == "" {
		return config.Boot{}, false
	}
	ref, err := config.ParseBoot(r.Boot)
	return ref, err == nil && slices.Contains(m.images(), ref)
}

// hostname is the name that the client shall take: the fleet's, else ltsp.conf's, else none.
func hostname(c Choice) string {
	if c.Client != nil && agentproto.IsHostname(c.Client.Name) {
		return c.Client.Name
	}
	if agentproto.IsHostname(c.Conf.Hostname) {
		return c.Conf.Hostname
	}
	return ""
}

// Labels of the menu's items are their names behind this, which no label of the boot has.
const itemLabel = "do-"

// menu renders the choice between images and other things to do, with the items, keys and defaults of LTSP's. It falls through to the client's own image: what to
// do for it follows.
func (m *Menu) menu(w *script, r Request, c Choice, list []server) {
	timeout, shown := c.Conf.menuTimeout()
	first := "image"
	if m.item(c.Conf.DefaultImage) && c.Source != "client pin" && c.Source != "client channel" {
		first = c.Conf.DefaultImage
	}
	if r.TFTP || c.Source == sourceMenu || !shown && first == "image" {
		return
	}
	w.line("set menu-timeout %d", max(timeout, 0))
	if !shown {
		w.line("goto " + itemLabel + first)
	}
	w.line(":menu")
	// An iPXE without menus goes on as if there were none.
	w.line("menu LTSP Fleet: site %s || goto "+itemLabel+"image", printable(m.siteName()))
	w.line("item --gap Boot an image from the network:")
	others := m.menuImages(w, c)
	w.line("item --gap Other things to do:")
	w.line("item --key c " + itemLabel + "config Enter the configuration of iPXE")
	if m.state.Desired.Boot.Shell {
		w.line("item --key s " + itemLabel + "shell Drop to the shell of iPXE")
	}
	w.line("item --key d " + itemLabel + "disk Boot from the first local disk")
	w.line("item --key x " + itemLabel + "exit Leave iPXE and go on with the firmware")
	w.line("choose --timeout ${menu-timeout} --default "+itemLabel+"%s choice || goto cancel", first)
	w.line("set menu-timeout 0")
	w.line("goto ${choice}")
	w.line(":cancel")
	w.line("set menu-timeout 0")
	w.line("goto menu")
	for i, ref := range others {
		w.line(":"+itemLabel+"image%d", i+1)
		m.ask(w, r, list, "&boot="+ref.String())
		w.line("goto menu")
	}
	for _, item := range []struct{ name, command string }{{itemConfig, "config"}, {itemShell, "shell"}, {itemDisk, "sanboot --no-describe --drive 0x80"}} {
		if m.item(item.name) {
			w.line(":" + itemLabel + item.name)
			w.line(item.command + " ||")
			w.line("goto menu")
		}
	}
	w.line(":" + itemLabel + itemExit)
	w.line("exit")
	w.line(":" + itemLabel + "image")
}

// menuImages writes the items of the images, with the keys 1 to 9, and returns those that need a script of their own.
func (m *Menu) menuImages(w *script, c Choice) (others []config.Boot) {
	images := m.images()
	if own := func(b config.Boot) bool { return b.Image == c.Wanted.Image }; len(images) == maxMenuImages && !slices.ContainsFunc(images, own) {
		images[len(images)-1] = c.Wanted // what happens when nobody chooses must be an item
	}
	for i, ref := range images {
		label := "image"
		if ref.Image != c.Wanted.Image {
			others = append(others, ref)
			label = fmt.Sprintf("image%d", len(others))
		}
		key := ""
		if i < 9 {
			key = fmt.Sprintf("--key %d ", i+1)
		}
		w.line("item %s%s%s %s", key, itemLabel, label, c.Conf.title(ref.Image))
	}
	return others
}
