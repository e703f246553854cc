package nic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/client-agent/internal/netlink"
)

// DialRoute opens a socket for the functions of this package that take an Executor.
func DialRoute() (*netlink.Conn, error) { return netlink.Dial(unix.NETLINK_ROUTE, 0) }

// Up brings an interface up.
func Up(c netlink.Executor, index int) error {
	b := encode(unix.IfInfomsg{Family: unix.AF_UNSPEC, Index: int32(index), Flags: unix.IFF_UP, Change: unix.IFF_UP})
	if _, err := c.Execute(unix.RTM_NEWLINK, 0, b); err != nil {
		return fmt.Errorf("bring network interface %d up: %w", index, err)
	}
	return nil
}

// SetAddress gives an interface an IPv4 address for ever. One that is there already gets its lifetime renewed.
func SetAddress(c netlink.Executor, index int, addr netip.Prefix) error {
	var a netlink.Attrs
	a.Raw(unix.IFA_LOCAL, addr.Addr().AsSlice())
	a.Raw(unix.IFA_ADDRESS, addr.Addr().AsSlice())
	if addr.Bits() < 31 {
		a.Raw(unix.IFA_BROADCAST, lastAddr(addr).AsSlice())
	}
	const forever = 1<<32 - 1
	a.Raw(unix.IFA_CACHEINFO, encode([4]uint32{forever, forever, 0, 0})) // struct ifa_cacheinfo: preferred, valid
	m := encode(unix.IfAddrmsg{Family: unix.AF_INET, Prefixlen: uint8(addr.Bits()), Index: uint32(index)})
	_, err := c.Execute(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, append(m, a.Bytes()...))
	if err != nil {
		return fmt.Errorf("set address %v on network interface %d: %w", addr, index, err)
	}
	return nil
}

// AddDefaultRoute sends everything else to gateway. A gateway outside of the interface's network is reached directly. A default route that
// is there already is left alone.
func AddDefaultRoute(c netlink.Executor, index int, network netip.Prefix, gateway netip.Addr) error {
	m := unix.RtMsg{Family: unix.AF_INET, Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_BOOT, Scope: unix.RT_SCOPE_UNIVERSE, Type: unix.RTN_UNICAST}
	if !network.Masked().Contains(gateway) {
		m.Flags = unix.RTNH_F_ONLINK
	}
	var a netlink.Attrs
	a.Raw(unix.RTA_GATEWAY, gateway.AsSlice())
	a.Uint32(unix.RTA_OIF, uint32(index))
	_, err := c.Execute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, append(encode(m), a.Bytes()...))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add default route by %v: %w", gateway, err)
	}
	return nil
}

// lastAddr is the network's broadcast address.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	v := binary.BigEndian.Uint32(b[:]) | (1<<32-1)>>p.Bits()
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, v)))
}

// encode writes a fixed-size kernel structure.
func encode(v any) []byte {
	b, err := binary.Append(nil, binary.NativeEndian, v)
	if err != nil {
		panic(err) // only a type without a fixed size gives an error
	}
	return b
}
