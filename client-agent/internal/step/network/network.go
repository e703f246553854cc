// Package network is the step 45-networking: the PC's name, /etc/hosts, the resolver, and configuration that keeps network managers away from the NIC that
// the root hangs on.
package network

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

// Step returns the step.
func Step() step.Step {
	return step.Step{Name: "45-networking", Main: "networking_main", Functions: []step.Function{
		{Name: "import_ipconfig", Always: true, Do: importLease},
		{Name: "detect_server"}, // the satellite tells SERVER; it is never guessed from a connection
		{Name: "config_hostname", Needs: []string{"HOSTNAME"}, Do: hostname},
		{Name: "config_hosts", Needs: []string{"HOSTS_*", "SERVER", "SEARCH_DOMAIN"}, Live: true, Do: hosts},
		{Name: "config_dns", Needs: []string{"DNS", "DNS_SERVER", "SEARCH_DOMAIN", "SERVER"}, Live: true, Do: dns},
		{Name: "config_ifupdown", Do: ifupdown},
		{Name: "config_network_manager", Do: networkManager},
		{Name: "config_networkd", Do: networkd},
		{Name: "config_dhcpcd", Do: dhcpcd},
		{Name: "config_validlft"}, // the agent renews the lease itself
	}}
}

// importLease takes what came with the address where the configuration says nothing.
func importLease(c *step.Context) error {
	if c.Values["DNS_SERVER"] == "" {
		var servers []string
		for _, a := range c.Facts.DNS {
			if !a.IsUnspecified() {
				servers = append(servers, a.String())
			}
		}
		c.Values["DNS_SERVER"] = strings.Join(servers, " ")
	}
	c.Values["SEARCH_DOMAIN"] = cmp.Or(c.Values["SEARCH_DOMAIN"], c.Facts.Domain)
	c.Values["HOSTNAME"] = cmp.Or(c.Values["HOSTNAME"], c.Facts.Hostname)
	return nil
}

// defaultName names a PC by the host part of its address.
const defaultName = "ltsp%{IP}"

func hostname(c *step.Context) error {
	name, _, _ := strings.Cut(c.Values["HOSTNAME"], " ")
	name = cmp.Or(name, defaultName)
	expanded, err := expandName(c, name)
	if err != nil {
		return fmt.Errorf("expand HOSTNAME %q: %w", name, err)
	}
	if !valid(expanded) {
		c.Remark("HOSTNAME %q is no name for a host, %s is taken", expanded, plainName(c.Facts.Addr))
		expanded = plainName(c.Facts.Addr)
	}
	c.Values["HOSTNAME"] = expanded
	if err := c.Generate("/etc/hostname", expanded+"\n"); err != nil {
		return err
	}
	return c.System.SetHostname(expanded)
}

// expandName replaces %{IP} and %{MAC}; what else there is, %{HOSTNAME#pc} for example, is the shell's.
func expandName(c *step.Context, name string) (string, error) {
	name = strings.ReplaceAll(name, "%{IP}", HostPart(c.Facts.Addr))
	name = strings.ReplaceAll(name, "%{MAC}", hex.EncodeToString(c.Facts.MAC))
	if !strings.ContainsAny(name, "%$`\\") {
		return name, nil
	}
	return c.Expand(name)
}

func plainName(addr netip.Prefix) string { return "ltsp" + HostPart(addr) }

// valid tells whether the kernel and a hosts file can take the name. LTSP does not look; it is more than RFC 1123 allows.
func valid(name string) bool {
	return name != "" && len(name) <= 64 && name[0] != '-' && !strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '#' || c == '/' })
}

// HostPart is the host part of an address as one integer: 192.168.67.20/24 gives 20, 10.161.254.38/16 gives 65062.
func HostPart(addr netip.Prefix) string {
	if !addr.Addr().Is4() {
		return "0"
	}
	b := addr.Addr().As4()
	return strconv.FormatUint(uint64(binary.BigEndian.Uint32(b[:])&uint32((1<<32-1)>>addr.Bits())), 10)
}

// generated heads the files that the agent makes.
const generated = "# Made by ltsp-agent from ltsp.conf; the next boot makes it anew.\n"

func hosts(c *step.Context) error {
	name := c.Values["HOSTNAME"]
	if domain := c.Values["SEARCH_DOMAIN"]; domain != "" {
		// The first of several domains is the PC's own.
		name = name + "." + strings.Fields(domain)[0] + " " + name
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s127.0.0.1\tlocalhost\n127.0.1.1\t%s\n", generated, name)
	if server := c.Values["SERVER"]; server != "" {
		addr, err := serverAddr(c, server)
		if err == nil {
			fmt.Fprintf(&b, "%s\tserver\n", addr)
		} else {
			c.Remark("the name \"server\" is not in /etc/hosts: SERVER %q: %v", server, err)
		}
	}
	b.WriteString("\n::1\tip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	for _, line := range c.Values.Family("HOSTS_") {
		b.WriteString(strings.TrimRight(line, "\n") + "\n")
	}
	return c.Generate("/etc/hosts", b.String())
}

// serverAddr is the address that the name "server" means. LTSP's SERVER is always one; a login host of the fleet may be given by its name.
func serverAddr(c *step.Context, server string) (netip.Addr, error) {
	if addr, err := netip.ParseAddr(server); err == nil {
		return addr, nil
	}
	for _, lines := range c.Values.Family("HOSTS_") {
		for line := range strings.Lines(lines) {
			line, _, _ = strings.Cut(line, "#")
			f := strings.Fields(line)
			if len(f) < 2 || !slices.Contains(f[1:], server) {
				continue
			}
			if addr, err := netip.ParseAddr(f[0]); err == nil {
				return addr, nil
			}
		}
	}
	lookup := c.Lookup
	if lookup == nil {
		lookup = lookupDNS
	}
	return lookup(c.Ctx, strings.Fields(c.Values["DNS_SERVER"]), server)
}
