// Package hw reads what identifies a PC: the MAC address of its boot NIC as firmware and boot loaders write it, and its SMBIOS UUID.
package hw

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
)

// UUIDPath is where Linux shows the SMBIOS system UUID, relative to the root directory. Only root may read it.
const UUIDPath = "sys/class/dmi/id/product_uuid"

// ErrNoMAC tells that a text is no usable Ethernet address.
var ErrNoMAC = errors.New("no Ethernet address")

// ParseMAC reads a 6-byte MAC address written with colons or hyphens, in either case. The broadcast and group addresses and the zero address
// are refused: no NIC has them.
func ParseMAC(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 {
		return nil, fmt.Errorf("%w: %.40q", ErrNoMAC, s)
	}
	if mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
		return nil, fmt.Errorf("%w: %.40q cannot be that of a NIC", ErrNoMAC, s)
	}
	return mac, nil
}

// ParseBOOTIF reads pxelinux's and iPXE's form of a boot NIC, "01-aa-bb-cc-dd-ee-ff": the ARP hardware type (1 is Ethernet), then the MAC.
func ParseBOOTIF(s string) (net.HardwareAddr, error) {
	rest, ok := strings.CutPrefix(s, "01-")
	if !ok {
		return nil, fmt.Errorf("%w: %.40q does not begin with 01-", ErrNoMAC, s)
	}
	return ParseMAC(rest)
}

// UUID reads the SMBIOS UUID below root (os.DirFS("/") on a running system) and returns it in lower case. It is empty, without an error, where
// the machine has none or only a placeholder (all digits equal).
func UUID(root fs.FS) (string, error) {
	text, err := fs.ReadFile(root, UUIDPath)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read SMBIOS UUID: %w", err)
	}
	id := strings.ToLower(strings.TrimSpace(string(text)))
	if !isUUID(id) || strings.Trim(id, id[:1]+"-") == "" {
		return "", nil
	}
	return id, nil
}

func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, r := range s {
		hyphen := i == 8 || i == 13 || i == 18 || i == 23
		digit := r >= '0' && r <= '9' || r >= 'a' && r <= 'f'
		if hyphen && r != '-' || !hyphen && !digit {
			return false
		}
	}
	return true
}
