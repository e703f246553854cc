package ra

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"testing"
	"time"
)

// solicitation is iPXE's, as captured: a router solicitation with a source link-layer address.
func solicitation(t testing.TB) []byte {
	b, err := hex.DecodeString("8500" + "0000" + "00000000" + "0101" + "525400670010")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCheckSolicitation(t *testing.T) {
	host, none := netip.MustParseAddr("fe80::5054:ff:fe67:10"), netip.IPv6Unspecified()
	good := solicitation(t)
	with := func(f func([]byte) []byte) []byte { return f(bytes.Clone(good)) }
	for name, tc := range map[string]struct {
		msg  []byte
		src  netip.Addr
		hops int
		ok   bool
	}{
		"captured":               {good, host, 255, true},
		"without options":        {good[:8], none, 255, true},
		"unknown option":         {append(good[:8:8], 200, 1, 0, 0, 0, 0, 0, 0), none, 255, true},
		"forwarded":              {good, host, 254, false},
		"code":                   {with(func(b []byte) []byte { b[1] = 1; return b }), host, 255, false},
		"type":                   {with(func(b []byte) []byte { b[0] = 134; return b }), host, 255, false},
		"short":                  {good[:7], host, 255, false},
		"empty":                  {nil, host, 255, false},
		"option of length zero":  {with(func(b []byte) []byte { b[9] = 0; return b }), host, 255, false},
		"option too long":        {with(func(b []byte) []byte { b[9] = 2; return b }), host, 255, false},
		"half an option":         {good[:9], host, 255, false},
		"nobody with an address": {good, none, 255, false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := checkSolicitation(tc.msg, tc.src, tc.hops); (err == nil) != tc.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAdvertisementPromisesNothing(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	want := append([]byte{134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1}, mac...)
	if got := advertisement(mac); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	if got := advertisement(nil); len(got) != advertisementLen {
		t.Errorf("without hardware address: %x", got)
	}
}

func TestLimits(t *testing.T) {
	host, none := netip.MustParseAddr("fe80::1"), netip.IPv6Unspecified()
	now := time.Unix(1_800_000_000, 0)
	l := &link{}
	n := 0
	for range 20 {
		if l.allow(host, 5, now) {
			n++
		}
	}
	if n != 5 {
		t.Errorf("%d of 20 answered in one moment, want 5", n)
	}
	now = now.Add(time.Second)
	if !l.allow(none, 5, now) || l.allow(none, 5, now.Add(2*time.Second)) || !l.allow(none, 5, now.Add(3*time.Second)) {
		t.Error("multicast answers must be three seconds apart")
	}
	if !l.allow(host, 5, now) {
		t.Error("a host with an address waits for the multicast limit")
	}
}

func FuzzCheckSolicitation(f *testing.F) {
	f.Add(solicitation(f), true)
	f.Add([]byte{133, 0, 0, 0, 0, 0, 0, 0}, false)
	f.Fuzz(func(t *testing.T, msg []byte, named bool) {
		src := netip.IPv6Unspecified()
		if named {
			src = netip.MustParseAddr("fe80::1")
		}
		if checkSolicitation(msg, src, hopLimit) == nil && (len(msg) < solicitationLen || len(msg)%8 != 0) {
			t.Errorf("accepted %d bytes", len(msg))
		}
	})
}
