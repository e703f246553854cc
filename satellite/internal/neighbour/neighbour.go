// Package neighbour asks the kernel which MAC address an IPv4 address of the local network has: the neighbour table that ARP fills. It tells what the wire
// says, which a machine can only bend by sending frames with another's MAC address. Only the satellite's wiring imports it.
package neighbour

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/hw"
)

// tablePath is the table of the network that the calling thread is in: proc_net(5), /proc/net/arp.
const tablePath = "/proc/thread-self/net/arp"

// complete is the flag of an entry whose MAC address is known: linux/if_arp.h, ATF_COM.
const complete = 0x2

// maxTable bounds what is read: a table of some 100,000 neighbours.
const maxTable = 8 << 20

// Lookup returns the MAC address (aa:bb:cc:dd:ee:ff) of a neighbour. It is empty if the kernel has no complete entry for addr, which is so for machines behind a
// router, for this machine's own addresses, and for IPv6.
func Lookup(addr netip.Addr) (string, error) {
	f, err := os.Open(tablePath)
	if err != nil {
		return "", fmt.Errorf("neighbour table: %w", err)
	}
	defer f.Close()
	mac, err := find(io.LimitReader(f, maxTable), addr.Unmap())
	if err != nil {
		return "", fmt.Errorf("neighbour table: %w", err)
	}
	return mac, nil
}

// find reads a table: a line of headings, then lines of address, hardware type, flags, MAC address, mask and device.
func find(r io.Reader, addr netip.Addr) (string, error) {
	s := bufio.NewScanner(r)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) < 4 || f[0] != addr.String() {
			continue
		}
		flags, err := strconv.ParseUint(f[2], 0, 32)
		if err != nil || flags&complete == 0 {
			continue
		}
		if mac, err := hw.ParseMAC(f[3]); err == nil {
			return mac.String(), nil
		}
	}
	return "", s.Err()
}
