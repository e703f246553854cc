package rootprep

import (
	"net/netip"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/step/network"
	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Hostname is the PC's name until its policy says another: the first of the given names that is one (the administrator's, then what came with the address),
// else "ltsp" and the host part of the address as one integer.
func Hostname(addr netip.Prefix, names ...string) string {
	for _, name := range names {
		name, _, _ = strings.Cut(name, ".") // DHCP servers may send a full name
		if agentproto.IsHostname(name) {
			return name
		}
	}
	return "ltsp" + network.HostPart(addr)
}
