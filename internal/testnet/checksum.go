package testnet

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// completeChecksums switches off transmit checksum offload of an interface in the namespace of the calling thread. A veth
// pair never computes the UDP and TCP checksums that are offloaded to it, so packet sockets (DHCP clients, raw frames) and
// captures on the far side would see wrong ones.
func completeChecksums(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("checksums of %s: %w", name, err)
	}
	defer func() { _ = unix.Close(fd) }()
	// struct ethtool_value and struct ifreq of linux/ethtool.h and linux/if.h.
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_STXCSUM, data: 0}
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the rest of the union, which the kernel copies but does not read
	}
	copy(request.name[:unix.IFNAMSIZ-1], name)
	request.data = unsafe.Pointer(&value)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("switch off transmit checksum offload of %s: %w", name, errno)
	}
	return nil
}
