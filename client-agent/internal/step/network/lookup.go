package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// lookupTimeout bounds one question; the boot waits for it.
const lookupTimeout = 4 * time.Second

// lookupDNS asks the name servers for a host's IPv4 address. The machine that this runs on need not know them: in the initrd it knows none.
func lookupDNS(ctx context.Context, servers []string, name string) (netip.Addr, error) {
	if len(servers) == 0 {
		return netip.Addr{}, errors.New("no name server is known")
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var turn atomic.Uint32 // the resolver's tries go round the servers
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		server := servers[int(turn.Add(1)-1)%len(servers)]
		return d.DialContext(ctx, network, net.JoinHostPort(server, "53"))
	}}
	addrs, err := resolver.LookupNetIP(ctx, "ip4", name)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("look up %s: %w", name, err)
	}
	if len(addrs) == 0 {
		return netip.Addr{}, fmt.Errorf("look up %s: it has no IPv4 address", name)
	}
	return addrs[0].Unmap(), nil
}
