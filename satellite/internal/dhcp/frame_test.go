package dhcp

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestFrameIsWhatClientsSend builds the frames of the captured clients again, whose checksums are somebody else's work.
func TestFrameIsWhatClientsSend(t *testing.T) {
	n := 0
	for _, name := range pcapFiles(t) {
		for _, c := range mustPcap(t, name) {
			if c.src.Port() == serverPort || c.src.Addr() == netip.MustParseAddr("192.168.67.1") {
				continue // the kernel that captured them left the checksum to the network card
			}
			got := frame([6]byte(c.frame[6:]), [6]byte(c.frame[0:]), c.src, c.dst, c.payload)
			// Identification, "don't fragment" and with them the IP checksum are ours.
			want := bytes.Clone(c.frame)
			copy(want[18:22], got[18:22])
			copy(want[24:26], got[24:26])
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s: frame differs (-want +got):\n%s", name, d)
			}
			if s := fold(sum(0, got[14:34])); s != 0xffff {
				t.Errorf("%s: IP header sums to %#x", name, s)
			}
			n++
		}
	}
	if n < 15 {
		t.Errorf("only %d frames compared", n)
	}
}

func TestFrameOddLengthAndZeroChecksum(t *testing.T) {
	src, dst := netip.MustParseAddrPort("10.0.0.1:67"), netip.MustParseAddrPort("10.0.0.2:68")
	for n := range 8 {
		f := frame([6]byte{2}, [6]byte{4}, src, dst, make([]byte, n))
		pseudo := sum(sum(0, f[26:34]), []byte{0, protocolUDP, 0, byte(8 + n)})
		if s := fold(sum(pseudo, f[34:])); s != 0xffff {
			t.Errorf("%d bytes: datagram sums to %#x", n, s)
		}
	}
	// A payload that makes the sum come out as zero must be sent as all ones.
	f := frame([6]byte{}, [6]byte{}, src, dst, []byte{0, 0})
	word := uint16(f[40])<<8 | uint16(f[41])
	f = frame([6]byte{}, [6]byte{}, src, dst, []byte{byte(word >> 8), byte(word)})
	if f[40] != 0xff || f[41] != 0xff {
		t.Errorf("checksum %x, want ffff", f[40:42])
	}
}

func TestARP(t *testing.T) {
	mine := [6]byte{2, 0, 0, 0, 0, 9}
	addr := netip.MustParseAddr("10.0.0.7")
	p := arpProbe(mine, addr)
	if _, _, ok := arpOwner(p); ok {
		t.Error("a request was taken for a reply")
	}
	// The reply that a host with that address gives.
	r := bytes.Clone(p)
	r[21] = arpReply
	copy(r[22:], []byte{4, 0, 0, 0, 0, 1, 10, 0, 0, 7})
	mac, got, ok := arpOwner(r)
	if !ok || got != addr || mac.String() != "04:00:00:00:00:01" {
		t.Errorf("%s %s %t", mac, got, ok)
	}
	for n := range r {
		if _, _, ok := arpOwner(r[:n]); ok {
			t.Errorf("accepted %d bytes", n)
		}
	}
}
