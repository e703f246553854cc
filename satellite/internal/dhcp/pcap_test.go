package dhcp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// A captured UDP datagram and the frame it came in.
type captured struct {
	frame    []byte
	src, dst netip.AddrPort
	payload  []byte
}

// readPcap returns the UDP over IPv4 datagrams of a little-endian microsecond capture of Ethernet frames (pcap-savefile(5)).
func readPcap(name string) ([]captured, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if len(b) < 24 || binary.LittleEndian.Uint32(b) != 0xa1b2c3d4 || binary.LittleEndian.Uint32(b[20:]) != 1 {
		return nil, fmt.Errorf("%s: no capture of the expected kind", name)
	}
	var all []captured
	for b = b[24:]; len(b) >= 16; {
		n := int(binary.LittleEndian.Uint32(b[8:]))
		if len(b) < 16+n {
			return nil, fmt.Errorf("%s: truncated", name)
		}
		if c, ok := udp4(b[16 : 16+n]); ok {
			all = append(all, c)
		}
		b = b[16+n:]
	}
	return all, nil
}

func udp4(f []byte) (captured, bool) {
	if len(f) < 42 || binary.BigEndian.Uint16(f[12:]) != etherTypeIPv4 || f[14] != 0x45 || f[23] != protocolUDP {
		return captured{}, false
	}
	end := ethernetLen + int(binary.BigEndian.Uint16(f[16:]))
	if end > len(f) || end < 42 {
		return captured{}, false
	}
	port := func(addr, port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(f[addr:addr+4])), binary.BigEndian.Uint16(f[port:]))
	}
	return captured{f[:end], port(26, 34), port(30, 36), f[42:end]}, true
}

func pcapFiles(t testing.TB) []string {
	t.Helper()
	names, err := filepath.Glob("testdata/*.pcap")
	if err != nil || len(names) != 5 {
		t.Fatalf("captures: %v, %v", names, err)
	}
	return names
}

func mustPcap(t testing.TB, name string) []captured {
	t.Helper()
	all, err := readPcap(name)
	if err != nil {
		t.Fatal(err)
	}
	return all
}
