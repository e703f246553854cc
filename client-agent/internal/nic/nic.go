// Package nic finds the network interface that the PC booted from, brings it up with the address that firmware got, and reads its state. It talks
// rtnetlink (<linux/rtnetlink.h>) and sysfs.
package nic

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ltsp-fleet/ltsp-fleet/internal/hw"
)

// etherType is an Ethernet interface in /sys/class/net/NAME/type (ARPHRD_ETHER).
const etherType = "1"

// ErrNotFound tells that no interface has the wanted address (yet).
var ErrNotFound = errors.New("no such network interface")

// NIC is one Ethernet interface.
type NIC struct {
	Name  string
	Index int
	MAC   net.HardwareAddr
	// device tells that there is hardware behind it, not another interface.
	device bool
}

// List returns the Ethernet interfaces that sysfs (given as its path) shows, hardware first, then by name.
func List(sys string) ([]NIC, error) {
	dir := filepath.Join(sys, "class/net")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	var list []NIC
	for _, e := range entries {
		if n, ok := read(filepath.Join(dir, e.Name())); ok {
			list = append(list, n)
		}
	}
	slices.SortStableFunc(list, func(a, b NIC) int {
		if a.device != b.device {
			if a.device {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list, nil
}

// read returns false for what is no Ethernet interface or has just gone.
func read(dir string) (NIC, bool) {
	if text(dir, "type") != etherType {
		return NIC{}, false
	}
	mac, err := hw.ParseMAC(text(dir, "address"))
	if err != nil {
		return NIC{}, false
	}
	index, err := strconv.Atoi(text(dir, "ifindex"))
	if err != nil {
		return NIC{}, false
	}
	_, err = os.Stat(filepath.Join(dir, "device"))
	return NIC{Name: filepath.Base(dir), Index: index, MAC: mac, device: err == nil}, true
}

func text(dir, file string) string {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Find returns the interface with the MAC address; bridges and VLANs that carry the same address come after hardware. With a nil MAC it returns the
// interface called name, or if name is empty too, the only one with hardware behind it.
func Find(sys string, mac net.HardwareAddr, name string) (NIC, error) {
	list, err := List(sys)
	if err != nil {
		return NIC{}, err
	}
	switch {
	case mac != nil:
		for _, n := range list {
			if bytes.Equal(n.MAC, mac) {
				return n, nil
			}
		}
		return NIC{}, fmt.Errorf("%w: none has the address %v", ErrNotFound, mac)
	case name != "":
		for _, n := range list {
			if n.Name == name {
				return n, nil
			}
		}
		return NIC{}, fmt.Errorf("%w: none is called %.20q", ErrNotFound, name)
	}
	return only(list)
}

func only(list []NIC) (NIC, error) {
	count := 0
	for _, n := range list {
		if n.device {
			count++
		}
	}
	if count == 1 {
		return list[0], nil
	}
	return NIC{}, fmt.Errorf("%w: BOOTIF is not set and there are %d to choose from", ErrNotFound, count)
}

// Carrier tells whether the cable has a link. It is false for an interface that is down.
func Carrier(sys, name string) bool {
	return text(filepath.Join(sys, "class/net", name), "carrier") == "1"
}

// Speed returns the link's speed in Mbit/s, 0 if the driver does not say, and "full", "half" or "".
func Speed(sys, name string) (mbps int, duplex string) {
	dir := filepath.Join(sys, "class/net", name)
	if n, err := strconv.Atoi(text(dir, "speed")); err == nil && n > 0 { // -1 is "unknown"
		mbps = n
	}
	if duplex = text(dir, "duplex"); duplex == "unknown" {
		duplex = ""
	}
	return mbps, duplex
}
