package bootmenu

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// Names under which iPXE keeps the downloads; the kernel of a PC with EFI finds its initrds by them.
const (
	kernelName = "kernel"
	configName = "client.img"
	initrdName = "initrd.img"
)

// Paths that scripts ask for. TFTP knows no queries: there the MAC is part of the path.
const (
	ScriptPath     = "/boot.ipxe"
	ClientCPIOPath = "/boot/client.cpio"
	VersionPath    = "/boot/v/"      // then the version ID, "/" and the artifact
	TFTPScriptPath = "/boot/script/" // then the MAC with hyphens, and AgainSuffix if the script itself asks
	TFTPClientPath = "/boot/client/" // then the MAC with hyphens and CPIOSuffix
	AgainSuffix    = "/again"
	CPIOSuffix     = ".cpio"
)

// retrySeconds is how long a script waits before it asks for a new one.
const retrySeconds = 10

// settingsQuery is the query by which iPXE tells who it is. netX is the network card that iPXE opened last: the one it boots from.
const settingsQuery = "mac=${netX/mac}&uuid=${uuid}&arch=${buildarch}&platform=${platform}"

// Hello renders the script for a client that has not told its MAC: it makes iPXE ask again with its settings, by TFTP only where HTTP fails.
// local is this satellite's address as the client sees it; if it is not valid, iPXE's next-server is asked.
func (m *Menu) Hello(local netip.Addr) []byte {
	host, plain := "${next-server}", "${next-server}"
	if local = local.Unmap(); local.IsValid() && !local.IsUnspecified() {
		host, plain = m.host(local), bracket(local)
	} else if m.state.Ports.HTTP != DefaultHTTPPort {
		host += ":" + strconv.Itoa(int(m.state.Ports.HTTP))
	}
	var w script
	w.line("#!ipxe")
	w.line(":again")
	w.line("chain --replace --autofree http://%s%s?%s ||", host, ScriptPath, settingsQuery)
	w.line("chain --replace --autofree tftp://%s%s${netX/mac:hexhyp} ||", plain, TFTPScriptPath)
	w.line("echo Could not fetch the boot script from %s. This PC tries again in %d seconds.", host, retrySeconds)
	w.line("sleep %d ||", retrySeconds)
	w.line("goto again")
	return w.Bytes()
}

// Script decides what the client boots and renders its script.
func (m *Menu) Script(r Request) ([]byte, Choice) {
	c := m.Choose(r)
	list := m.servers(r, c.Subnet)
	var w script
	w.line("#!ipxe")
	if len(list) == 0 {
		c.Version, c.Problem = nil, "no satellite of the site has an address"
		list = []server{{name: m.state.Satellite}}
	}
	m.menu(&w, r, c, list)
	if c.Version == nil {
		m.notReady(&w, r, c, list)
	} else {
		m.boot(&w, r, c, list)
	}
	return w.Bytes(), c
}

type script struct{ bytes.Buffer }

func (w *script) line(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }

// screenColumns is the width at which iPXE's text console would break words.
const screenColumns = 79

// echo prints a text, in as many lines as the screen needs.
func (w *script) echo(format string, args ...any) {
	var line string
	for word := range strings.FieldsSeq(printable(fmt.Sprintf(format, args...))) {
		word = strings.TrimLeft(word, "-") // echo has options
		if line != "" && len(line)+1+len(word) > screenColumns {
			w.line("echo %s", line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	w.line("echo %s", line)
}

// notReady waits and asks again: the other satellites first, since one of them may have what is missing here.
func (m *Menu) notReady(w *script, r Request, c Choice, list []server) {
	w.line("echo")
	w.echo("LTSP Fleet: satellite %s of site %s", m.state.Satellite, m.siteName())
	w.echo("Nothing to boot yet: %s.", c.Problem)
	if p := c.Progress; p != nil && p.BytesTotal > 0 {
		done := min(p.BytesDone, p.BytesTotal)
		w.echo("Version %d: %d of %d MB are here (%d %%).", p.Number, done/1e6, p.BytesTotal/1e6, percent(done, p.BytesTotal))
	}
	if c.Note != "" {
		w.echo("Note: %s.", c.Note)
	}
	w.line(":again")
	w.echo("This PC asks again every %d seconds.", retrySeconds)
	w.line("sleep %d ||", retrySeconds)
	m.askAgain(w, r, slices.Concat(list[1:], list[:1]))
	w.line("goto again")
}

func percent(done, total uint64) uint64 { return uint64(float64(done) / float64(total) * 100) }

// boot fetches kernel, boot configuration and initrd, in this order, and starts the kernel. The variable "step" names what is to be fetched, the
// labels sat0, sat1, ... set from whom: a step that fails goes on to the next satellite and is taken up there.
func (m *Menu) boot(w *script, r Request, c Choice, list []server) {
	v := c.Version
	w.line("echo")
	w.echo("LTSP Fleet: image %s, version %d (%s), for %s", v.Image, v.Number, c.Source, clientName(c))
	params, note := m.kernelParameters(c)
	if note = join(c.Note, note); note != "" {
		w.echo("Note: %s.", note)
	}
	w.line("set step kernel")
	for i, s := range list {
		next := "failed"
		if i+1 < len(list) {
			next = "sat" + strconv.Itoa(i+1)
		}
		w.line(":sat%d", i)
		w.line("set sat %s", s.name)
		w.line("set addr %s", s.addr)
		w.line("set url %s", m.base(r, s))
		w.line("set next %s", next)
		w.line("echo Loading from satellite ${sat} at ${addr}")
		w.line("goto ${step}")
	}
	files := "${url}" + VersionPath + v.ID.String() + "/"
	w.step("kernel", "the kernel", "config", fmt.Sprintf("kernel --name %s %s %s", kernelName, files+manifest.Kernel, kernelLine(c, params)))
	w.step("config", "the boot configuration", "initrd", fmt.Sprintf("initrd --name %s ${url}%s", configName, m.configPath(r, c)))
	w.step("initrd", "the initrd", "start", fmt.Sprintf("initrd --name %s %s", initrdName, files+m.initrd(v)))
	w.line(":start")
	w.line("set what the start of the kernel")
	w.line("boot ||")
	w.line("goto failed")
	m.failed(w, r, list)
}

// step renders one download: on success it goes on to done, else to the next satellite.
func (w *script) step(name, what, done, command string) {
	w.line(":%s", name)
	w.line("set step %s", name)
	w.line("set what %s", what)
	w.line("%s && goto %s ||", command, done)
	w.line("echo Satellite ${sat} did not deliver ${what}.")
	w.line("goto ${next}")
}

func (m *Menu) failed(w *script, r Request, list []server) {
	w.line(":failed")
	w.line("echo")
	w.line("echo This PC could not boot: ${what} failed at each satellite of the site.")
	w.echo("What to do: see whether the satellite is switched on and connected. iPXE explains the error above at the address that stands behind it.")
	if m.state.Desired.Boot.Shell {
		w.line("prompt --key s --timeout %d Press s for a shell. This PC tries again in %d seconds. && shell ||", retrySeconds*1000, retrySeconds)
	} else {
		w.echo("This PC tries again in %d seconds.", retrySeconds)
		w.line("sleep %d ||", retrySeconds)
	}
	w.line("imgfree ||")
	m.askAgain(w, r, list)
	w.line("set step kernel")
	w.line("goto sat0")
}

// askAgain asks the satellites for a new script; it falls through if none answers.
func (m *Menu) askAgain(w *script, r Request, list []server) {
	m.ask(w, r, list, "")
}

// ask asks the satellites for a new script, over HTTP with more in the query.
func (m *Menu) ask(w *script, r Request, list []server, more string) {
	path := ScriptPath + "?" + settingsQuery + "&again=1" + more
	if r.TFTP {
		path = TFTPScriptPath + "${netX/mac:hexhyp}" + AgainSuffix
	}
	for _, s := range list {
		w.line("chain --replace --autofree %s%s ||", m.base(r, s), path)
	}
}

// configPath is where the client finds its boot configuration: that of the image that it boots.
func (m *Menu) configPath(r Request, c Choice) string {
	if r.TFTP {
		return TFTPClientPath + "${netX/mac:hexhyp}" + CPIOSuffix
	}
	path := ClientCPIOPath + "?" + settingsQuery
	if c.Source == sourceMenu {
		path += "&boot=" + c.Wanted.String()
	}
	return path
}

// base is the part of a URL before the path.
func (m *Menu) base(r Request, s server) string {
	switch {
	case !s.addr.IsValid() && r.TFTP:
		return "tftp://${next-server}"
	case !s.addr.IsValid():
		return "http://${next-server}"
	case r.TFTP:
		return "tftp://" + bracket(s.addr)
	}
	return "http://" + m.host(s.addr)
}

// kernelLine is what the kernel finds on its command line: which initrds to take (EFI), the address that firmware got in the kernel's own notation
// (Documentation/admin-guide/nfs/nfsroot.rst: client:server:gateway:netmask:hostname), the network card, and the DNS and DHCP servers.
func kernelLine(c Choice, params string) string {
	line := []string{
		"initrd=" + configName, "initrd=" + initrdName,
		"ip=${netX/ip}:${addr}:${netX/gateway}:${netX/netmask}:" + hostname(c),
		"BOOTIF=01-${netX/mac:hexhyp}",
		"ltsp.dns=${netX/dns}", "ltsp.dhcp=${netX.dhcp/dhcp-server}",
	}
	if params != "" {
		line = append(line, params)
	}
	return strings.Join(line, " ")
}

// kernelParameters joins those of the site, of ltsp.conf and of the client, since the kernel takes the last of a kind; what breaks CheckKernelParameters is left out and noted.
func (m *Menu) kernelParameters(c Choice) (params, note string) {
	site := m.state.Desired.Boot.KernelParameters
	if CheckKernelParameters(site) != nil {
		site, note = "", "the site's kernel parameters are unusable and were left out"
	}
	conf := c.Conf.KernelParameters
	if CheckKernelParameters(conf) != nil {
		conf, note = "", join(note, "KERNEL_PARAMETERS of ltsp.conf are unusable and were left out")
	}
	var own string
	if c.Client != nil {
		own = c.Client.KernelParameters
	}
	if CheckKernelParameters(own) != nil {
		own, note = "", join(note, "this PC's kernel parameters are unusable and were left out")
	}
	return strings.Join(strings.Fields(site+" "+conf+" "+own), " "), note
}

// initrd returns the artifact that the policy asks for, or the full one where it is missing.
func (m *Menu) initrd(v *Version) string {
	if m.state.Desired.Boot.Initrd == "school" && v.has(manifest.InitrdSchool) {
		return manifest.InitrdSchool
	}
	return manifest.InitrdFull
}

func (m *Menu) siteName() string {
	if s := m.state.Desired.Site; s != "" {
		return s
	}
	return "(not configured yet)"
}

// host is the address with the HTTP port where that is not the usual one.
func (m *Menu) host(a netip.Addr) string {
	if m.state.Ports.HTTP == DefaultHTTPPort {
		return bracket(a)
	}
	return netip.AddrPortFrom(a, m.state.Ports.HTTP).String()
}

// bracket writes an address as URLs want it.
func bracket(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

func clientName(c Choice) string {
	if c.Client != nil && c.Client.Name != "" {
		return c.Client.Name
	}
	return "a PC without an entry of its own"
}
