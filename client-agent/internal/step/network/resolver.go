package network

import (
	"path"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step"
)

const (
	resolvConf     = "/etc/resolv.conf"
	resolvedDropIn = "/etc/systemd/resolved.conf.d/ltsp.conf"
	resolvconfBase = "/etc/resolvconf/resolv.conf.d/base"
)

// dns gives the resolver its servers, in the way that the image has: systemd-resolved, resolvconf, or a plain file. Without servers the image's stay.
func dns(c *step.Context) error {
	servers := c.Values["DNS_SERVER"]
	if server := c.Values["SERVER"]; c.Values["DNS"] == "1" && server != "" {
		servers = server
	}
	if strings.TrimSpace(servers) == "" {
		for _, f := range []string{resolvConf, resolvedDropIn, resolvconfBase} {
			if err := c.Restore(f); err != nil {
				return err
			}
		}
		return nil
	}
	domain := c.Values["SEARCH_DOMAIN"]
	switch {
	case usesResolved(c):
		if err := c.Generate(resolvedDropIn, resolvedConf(servers, domain)); err != nil || !c.Live {
			return err
		}
		return c.System.Systemctl(c.Ctx, "try-reload-or-restart", "systemd-resolved.service")
	case c.Root.IsProgram("/sbin/resolvconf") && (c.Root.Readlink(resolvConf) != "" || c.Root.Exists("/var/lib/resolvconf/convert")):
		return c.Generate(resolvconfBase, plainResolver(servers, domain))
	}
	return c.Generate(resolvConf, plainResolver(servers, domain))
}

func usesResolved(c *step.Context) bool {
	target := c.Root.Readlink(resolvConf)
	if target != "" && !path.IsAbs(target) {
		target = path.Join("/etc", target)
	}
	return strings.HasPrefix(target, "/run/systemd/resolve/") &&
		(c.Root.Exists("/usr/lib/systemd/systemd-resolved") || c.Root.Exists("/lib/systemd/systemd-resolved"))
}

// plainResolver is the text of a resolv.conf (resolv.conf(5)).
func plainResolver(servers, domain string) string {
	var b strings.Builder
	b.WriteString(generated)
	if domain != "" {
		b.WriteString("search " + domain + "\n")
	}
	for s := range strings.FieldsSeq(servers) {
		b.WriteString("nameserver " + s + "\n")
	}
	return b.String()
}

// resolvedConf is the text of a resolved.conf.d file (resolved.conf(5)). The servers are not those of a link: networkd does not know the NIC.
func resolvedConf(servers, domain string) string {
	text := generated + "[Resolve]\nDNS=" + strings.Join(strings.Fields(servers), " ") + "\n"
	if domain != "" {
		text += "Domains=" + domain + "\n"
	}
	return text
}
