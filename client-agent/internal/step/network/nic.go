package network

import (
	"fmt"
	"net"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

const (
	networkdFile     = "/run/systemd/network/00-ltsp-boot.network"
	waitOnlineDropIn = "/run/systemd/system/systemd-networkd-wait-online.service.d/ltsp.conf"
	managerDir       = "/etc/NetworkManager"
	managerFile      = "/etc/NetworkManager/conf.d/zz-ltsp-boot.conf"
	interfacesFile   = "/etc/network/interfaces"
	dhcpcdFile       = "/etc/dhcpcd.conf"
)

// ifupdown keeps ifupdown off the NIC (interfaces(5)), and makes ifdown harmless: it would take the root away.
func ifupdown(c *step.Context) error {
	if c.Root.Exists(interfacesFile) {
		text := fmt.Sprintf("# The root file system hangs on %[1]s.\nauto lo\niface lo inet loopback\n\niface %[1]s inet manual\n", c.Facts.Device)
		if err := c.Generate(interfacesFile, text); err != nil {
			return err
		}
	}
	if c.Root.IsProgram("/sbin/ifdown") {
		return c.Link("/bin/true", "/sbin/ifdown")
	}
	return nil
}

// networkManager keeps NetworkManager off the NIC (NetworkManager.conf(5)), and removes netplan, which would write other configuration over it.
func networkManager(c *step.Context) error {
	for _, p := range []string{"/run/netplan", "/etc/netplan", "/lib/systemd/system-generators/netplan"} {
		if err := c.Root.RemoveAll(p); err != nil {
			return err
		}
	}
	if !c.Root.IsDir(managerDir) {
		return nil
	}
	return c.Generate(managerFile, managerConf(c.Facts.MAC, !usesResolved(c) && c.Values["DNS_SERVER"] != ""))
}

// managerConf is the file. A plain resolv.conf that we have written must not be replaced by an empty one.
func managerConf(mac net.HardwareAddr, plainResolver bool) string {
	text := fmt.Sprintf("# The root file system hangs on this NIC.\n[keyfile]\nunmanaged-devices+=mac:%[1]s\n\n"+
		"[device-ltsp-boot]\nmatch-device=mac:%[1]s\nmanaged=0\n", mac)
	if plainResolver {
		text += "\n[main]\nrc-manager=unmanaged\n"
	}
	return text
}

// networkd keeps systemd-networkd off the NIC (systemd.network(5)); the name sorts before what an image or netplan brings. Its wait-online would wait for ever.
func networkd(c *step.Context) error {
	text := fmt.Sprintf("# The root file system hangs on this NIC.\n[Match]\nMACAddress=%s\n\n[Link]\nUnmanaged=yes\n", c.Facts.MAC)
	if err := c.Generate(networkdFile, text); err != nil {
		return err
	}
	return c.Generate(waitOnlineDropIn, "[Service]\nExecStart=\nExecStart=/bin/true\n")
}

// dhcpcd keeps dhcpcd off the NIC (dhcpcd.conf(5)).
func dhcpcd(c *step.Context) error {
	return c.Edit(dhcpcdFile, func(old string) string {
		return strings.TrimRight(old, "\n") + "\n\n# The root file system hangs on this NIC.\ndenyinterfaces " + c.Facts.Device + "\n"
	})
}
