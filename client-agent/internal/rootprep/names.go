package rootprep

import (
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/agentproto"
)

// Hostname chooses the PC's name: the first of the given names that is one (the administrator's, then what came with the address), else "ltsp" and the
// host part of the address as one integer: 192.168.67.20/24 is ltsp20, 10.161.254.38/16 is ltsp65062.
func Hostname(addr netip.Prefix, names ...string) string {
	for _, name := range names {
		name, _, _ = strings.Cut(name, ".") // DHCP servers may send a full name
		if agentproto.IsHostname(name) {
			return name
		}
	}
	return "ltsp" + strconv.FormatUint(uint64(hostPart(addr)), 10)
}

func hostPart(addr netip.Prefix) uint32 {
	if !addr.Addr().Is4() {
		return 0
	}
	b := addr.Addr().As4()
	return binary.BigEndian.Uint32(b[:]) & uint32((1<<32-1)>>addr.Bits())
}

// MachineID is the PC's /etc/machine-id, the same at each boot: the MAC address and twenty zeros.
func MachineID(mac net.HardwareAddr) string {
	return hex.EncodeToString(mac) + strings.Repeat("0", 32-2*len(mac))
}

// editHosts returns the hosts file with localhost and the PC's own name on 127.0.1.1. Lines for other addresses stay as they are.
func editHosts(old, name, domain string) string {
	var kept []string
	var has4, has6 bool
	for line := range strings.Lines(old) {
		line = strings.TrimRight(line, "\r\n")
		text, _, _ := strings.Cut(line, "#")
		f := strings.Fields(text)
		if len(f) > 0 && f[0] == "127.0.1.1" {
			continue
		}
		if len(f) > 1 && slices.Contains(f[1:], "localhost") {
			has4 = has4 || f[0] == "127.0.0.1"
			has6 = has6 || f[0] == "::1"
		}
		kept = append(kept, line)
	}
	names := name
	if domain != "" {
		names = name + "." + domain + " " + name
	}
	var head []string
	if !has4 {
		head = append(head, "127.0.0.1\tlocalhost")
	}
	head = append(head, "127.0.1.1\t"+names)
	if !has6 {
		head = append(head, "::1\tlocalhost ip6-localhost ip6-loopback")
	}
	return strings.Join(append(head, kept...), "\n") + "\n"
}

// editFstab comments out what a diskless PC cannot or must not mount: the root, local disks and swap. What is not mounted at boot (noauto) may stay.
func editFstab(old string) string {
	var out strings.Builder
	for line := range strings.Lines(old) {
		if isDiskEntry(line) {
			out.WriteString("# not on a diskless client: ")
		}
		out.WriteString(line)
	}
	return out.String()
}

func isDiskEntry(line string) bool {
	f := strings.Fields(line)
	if len(f) < 2 || f[0][0] == '#' {
		return false
	}
	if f[1] == "/" || len(f) > 2 && f[2] == "swap" {
		return true
	}
	if len(f) > 3 && slices.Contains(strings.Split(f[3], ","), "noauto") {
		return false
	}
	for _, prefix := range []string{"/dev/", "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL=", "ID="} {
		if strings.HasPrefix(f[0], prefix) {
			return true
		}
	}
	return len(f) > 2 && (f[2] == "zfs" || f[2] == "btrfs")
}

// editCrypttab comments everything out: the disks that it names belong to the machine that the image was made from.
func editCrypttab(old string) string {
	var out strings.Builder
	for line := range strings.Lines(old) {
		if f := strings.Fields(line); len(f) > 0 && f[0][0] != '#' {
			out.WriteString("# not on a diskless client: ")
		}
		out.WriteString(line)
	}
	return out.String()
}
