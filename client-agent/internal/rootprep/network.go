package rootprep

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Paths in the root. What starts with /run lies on the tmpfs that becomes /run.
const (
	resolvConf       = "/etc/resolv.conf"
	resolvedDropIn   = "/run/systemd/resolved.conf.d/ltsp.conf"
	networkdFile     = "/run/systemd/network/00-ltsp-boot.network"
	waitOnlineDropIn = "/run/systemd/system/systemd-networkd-wait-online.service.d/ltsp.conf"
	managerDir       = "/etc/NetworkManager"
	managerFile      = "/etc/NetworkManager/conf.d/zz-ltsp-boot.conf"
	interfacesFile   = "/etc/network/interfaces"
	dhcpcdFile       = "/etc/dhcpcd.conf"
)

// resolverPlan says how the resolver gets its servers.
type resolverPlan int

const (
	keepResolver  resolverPlan = iota // the image knows its servers
	writeResolver                     // a plain /etc/resolv.conf
	tellResolved                      // systemd-resolved will make the file that resolv.conf points to
)

// planResolver judges /etc/resolv.conf. Target is its text if it is a link; content is what it leads to, nil if that is not there.
func planResolver(target string, content []byte, hasResolved bool) resolverPlan {
	if content != nil {
		for line := range strings.Lines(string(content)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
				return keepResolver
			}
		}
		return writeResolver
	}
	if hasResolved && strings.Contains(target, "run/systemd/resolve/") {
		return tellResolved
	}
	return writeResolver
}

// plainResolver is the text of a resolv.conf (resolv.conf(5)). More than three servers are of no use to it.
func plainResolver(dns []netip.Addr, domain string) string {
	var b strings.Builder
	if domain != "" {
		fmt.Fprintf(&b, "search %s\n", domain)
	}
	for _, a := range dns[:min(3, len(dns))] {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	return b.String()
}

// resolvedConf is the text of a resolved.conf.d file (resolved.conf(5)).
func resolvedConf(dns []netip.Addr, domain string) string {
	words := make([]string, len(dns))
	for i, a := range dns {
		words[i] = a.String()
	}
	text := "[Resolve]\nDNS=" + strings.Join(words, " ") + "\n"
	if domain != "" {
		text += "Domains=" + domain + "\n"
	}
	return text
}

// networkd keeps systemd-networkd off the NIC (systemd.network(5)); the name sorts before what an image or netplan brings.
func networkd(mac net.HardwareAddr) string {
	return fmt.Sprintf("# The root file system hangs on this NIC.\n[Match]\nMACAddress=%s\n\n[Link]\nUnmanaged=yes\n", mac)
}

// manager keeps NetworkManager off the NIC (NetworkManager.conf(5)). Where we wrote a plain resolv.conf it must not be replaced by an empty one.
func manager(mac net.HardwareAddr, plainResolver bool) string {
	text := fmt.Sprintf("# The root file system hangs on this NIC.\n[keyfile]\nunmanaged-devices+=mac:%s\n\n"+
		"[device-ltsp-boot]\nmatch-device=mac:%s\nmanaged=0\n", mac, mac)
	if plainResolver {
		text += "\n[main]\nrc-manager=unmanaged\n"
	}
	return text
}

// interfaces keeps ifupdown off the NIC (interfaces(5)).
func interfaces(nic string) string {
	return fmt.Sprintf("# The root file system hangs on %s.\nauto lo\niface lo inet loopback\n\niface %s inet manual\n", nic, nic)
}

// waitOnline lets systemd-networkd-wait-online succeed at once: the network is up, and networkd will never say so.
const waitOnline = "[Service]\nExecStart=\nExecStart=/bin/true\n"

// leaveNICAlone writes the above where the image has what reads it.
func (p *preparation) leaveNICAlone() error {
	files := []struct{ path, text, onlyIf string }{
		{networkdFile, networkd(p.cfg.MAC), ""},
		{waitOnlineDropIn, waitOnline, ""},
		{managerFile, manager(p.cfg.MAC, p.wroteResolver), managerDir},
		{interfacesFile, interfaces(p.cfg.NIC), interfacesFile},
	}
	for _, f := range files {
		if f.onlyIf != "" && !p.root.Exists(f.onlyIf) {
			continue
		}
		if err := p.write(f.path, f.text); err != nil {
			return err
		}
	}
	return p.edit(dhcpcdFile, func(old string) string {
		return strings.TrimRight(old, "\n") + "\n\n# The root file system hangs on this NIC.\ndenyinterfaces " + p.cfg.NIC + "\n"
	})
}

func (p *preparation) resolver() error {
	if len(p.cfg.DNS) == 0 {
		return nil
	}
	content, err := p.root.ReadFile(resolvConf)
	if err != nil {
		content = nil // missing or dangling
	} else if content == nil {
		content = []byte{}
	}
	hasResolved := p.root.Exists("/usr/lib/systemd/systemd-resolved") || p.root.Exists("/lib/systemd/systemd-resolved")
	switch planResolver(p.root.Readlink(resolvConf), content, hasResolved) {
	case writeResolver:
		p.wroteResolver = true
		return p.write(resolvConf, plainResolver(p.cfg.DNS, p.cfg.Domain))
	case tellResolved:
		return p.write(resolvedDropIn, resolvedConf(p.cfg.DNS, p.cfg.Domain))
	}
	return nil
}
