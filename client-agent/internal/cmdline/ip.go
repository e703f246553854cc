package cmdline

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/hw"
)

// IP is the ip= word in the form of the kernel's Documentation/admin-guide/nfs/nfsroot.rst. Addresses that were not given are not valid.
type IP struct {
	// DHCP asks the agent to get the address by itself; Client and Prefix are then not set.
	DHCP bool
	// Client is the address and the length of its network's prefix.
	Client netip.Prefix
	Server netip.Addr
	// Gateway is the default router.
	Gateway  netip.Addr
	Hostname string
	// Device is the name that the sender believes the NIC to have; BOOTIF is the better witness.
	Device string
	DNS    []netip.Addr
}

// Network returns what ip= says. Without ip=, or with one that has no client address, DHCP is set. An address that cannot be
// read is an error: booting with a wrong one would be worse.
func (a Args) Network() (IP, error) {
	text, ok := a.Get("ip")
	if !ok {
		return IP{DHCP: true}, nil
	}
	ip, err := parseIP(text)
	if err != nil {
		return IP{}, fmt.Errorf("kernel parameter ip=%.120s: %w", text, err)
	}
	return ip, nil
}

// BootMAC returns the address of the NIC that the PC booted from, nil if BOOTIF is absent.
func (a Args) BootMAC() (net.HardwareAddr, error) {
	text, ok := a.Get("BOOTIF")
	if !ok || text == "" {
		return nil, nil
	}
	mac, err := hw.ParseBOOTIF(text)
	if err != nil {
		return nil, fmt.Errorf("kernel parameter BOOTIF: %w", err)
	}
	return mac, nil
}

// parseIP knows <client>:<server>:<gateway>:<netmask>:<hostname>:<device>:<autoconf>:<dns0>:<dns1>:<ntp0>, a single <autoconf> word, and
// dracut's <device>:dhcp. Trailing fields may be missing.
func parseIP(text string) (IP, error) {
	fields := strings.Split(text, ":")
	if len(fields) > 10 {
		return IP{}, fmt.Errorf("%d fields, want at most 10 (IPv6 is not supported here)", len(fields))
	}
	if len(fields) == 1 && isAutoconf(text) {
		return IP{DHCP: true}, nil
	}
	if len(fields) == 2 && isAutoconf(fields[1]) {
		return IP{DHCP: true, Device: fields[0]}, nil
	}
	var full [10]string
	copy(full[:], fields)
	return parseFields(full)
}

// isAutoconf knows the words by which ip= asks for an address from the network. "off" and "none" are not among them.
func isAutoconf(s string) bool {
	switch s {
	case "", "dhcp", "on", "any", "both", "bootp", "rarp":
		return true
	}
	return false
}

func parseFields(f [10]string) (IP, error) {
	ip := IP{Hostname: f[4], Device: f[5]}
	for _, field := range []struct {
		text string
		to   *netip.Addr
	}{{f[1], &ip.Server}, {f[2], &ip.Gateway}} {
		addr, err := optionalAddr(field.text)
		if err != nil {
			return IP{}, err
		}
		*field.to = addr
	}
	for _, text := range f[7:9] {
		addr, err := optionalAddr(text)
		if err != nil {
			return IP{}, err
		}
		if addr.IsValid() {
			ip.DNS = append(ip.DNS, addr)
		}
	}
	client, err := optionalAddr(f[0])
	if err != nil {
		return IP{}, err
	}
	if !client.IsValid() {
		ip.DHCP = true
		return ip, nil
	}
	length, err := prefixLength(client, f[3])
	if err != nil {
		return IP{}, err
	}
	ip.Client = netip.PrefixFrom(client, length)
	return ip, nil
}

// optionalAddr reads an IPv4 address; an empty text and 0.0.0.0, which boot loaders write for "none", give the zero Addr.
func optionalAddr(text string) (netip.Addr, error) {
	if text == "" || text == "0.0.0.0" {
		return netip.Addr{}, nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || !addr.Is4() {
		return netip.Addr{}, fmt.Errorf("%.60q is not an IPv4 address", text)
	}
	return addr, nil
}

// prefixLength reads a dotted netmask. Without one the address's old class decides, as in the kernel (net/ipv4/ipconfig.c).
func prefixLength(client netip.Addr, mask string) (int, error) {
	if mask == "" || mask == "0.0.0.0" {
		switch first := client.As4()[0]; {
		case first < 128:
			return 8, nil
		case first < 192:
			return 16, nil
		default:
			return 24, nil
		}
	}
	addr, err := netip.ParseAddr(mask)
	if err != nil || !addr.Is4() {
		return 0, fmt.Errorf("%.60q is not a netmask", mask)
	}
	bytes := addr.As4()
	m := binary.BigEndian.Uint32(bytes[:])
	ones := bits.LeadingZeros32(^m)
	if m<<ones != 0 {
		return 0, fmt.Errorf("%s is not a netmask: its ones are not in front", mask)
	}
	return ones, nil
}
