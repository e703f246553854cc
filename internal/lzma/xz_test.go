package lzma_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/lzma"
)

var checks = []lzma.Check{lzma.CheckNone, lzma.CheckCRC32, lzma.CheckCRC64, lzma.CheckSHA256}

// streams are .xz streams of all shapes.
func streams(t testing.TB, plain []byte) map[string]lzma.Stream {
	all := map[string]lzma.Stream{}
	for i, c := range checks {
		all[string(rune('a'+i))] = lzma.Stream{Check: c, Params: preset(t, i*2, false), X86: i%2 == 1}
	}
	all["sizes"] = lzma.Stream{Check: lzma.CheckCRC32, Params: preset(t, 1, false), Sizes: true}
	all["wide"] = lzma.Stream{Check: lzma.CheckCRC64, Params: preset(t, 1, false), X86: true, Sizes: true, Header: 32}
	return all
}

func TestXZ(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 4, 5, 300, 70_000} {
		plain := program(n)
		for name, s := range streams(t, plain) {
			packed, err := lzma.AppendXZ([]byte("before"), s, plain)
			if err != nil {
				t.Fatal(err)
			}
			packed = packed[len("before"):]
			info, size, err := lzma.ParseXZ(append(bytes.Clone(packed), 1, 2, 3, 4))
			if err != nil || size != len(packed) {
				t.Fatalf("%s %d: found %d bytes of %d: %v", name, n, size, len(packed), err)
			}
			if info.Check != s.Check || info.Plain != int64(n) {
				t.Errorf("%s %d: %+v", name, n, info)
			}
			if n > 0 && (info.X86 != s.X86 || info.Sizes != s.Sizes || info.Dict != s.Params.Dict || s.Header != 0 && info.Header != s.Header) {
				t.Errorf("%s %d: %+v", name, n, info)
			}
			if n > 100 && (info.LC != 3 || info.LP != 0 || info.PB != 2) {
				t.Errorf("%s %d: %+v", name, n, info)
			}
			got, err := lzma.DecodeXZ(packed, int64(n))
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s %d: unpacked %d bytes: %v", name, n, len(got), err)
			}
			if _, err := lzma.DecodeXZ(packed, int64(n)-1); n > 0 && !errors.Is(err, lzma.ErrFormat) {
				t.Errorf("%s %d: unpacked in spite of the bound: %v", name, n, err)
			}
		}
	}
}

// TestXZDamage: no changed bit and no cut goes unseen.
func TestXZDamage(t *testing.T) {
	plain := program(400)
	for name, s := range streams(t, plain) {
		if s.Check == lzma.CheckNone {
			continue
		}
		packed, err := lzma.AppendXZ(nil, s, plain)
		if err != nil {
			t.Fatal(err)
		}
		for n := range packed {
			if _, err := lzma.DecodeXZ(packed[:n], 1<<20); !errors.Is(err, lzma.ErrFormat) {
				t.Errorf("%s cut to %d: %v", name, n, err)
			}
			for bit := range 8 {
				bad := bytes.Clone(packed)
				bad[n] ^= 1 << bit
				if _, err := lzma.DecodeXZ(bad, 1<<20); !errors.Is(err, lzma.ErrFormat) {
					t.Errorf("%s with byte %d changed: %v", name, n, err)
				}
			}
		}
	}
}

func TestAppendXZRefuses(t *testing.T) {
	good := lzma.Stream{Check: lzma.CheckCRC32, Params: preset(t, 0, false)}
	for name, change := range map[string]func(s *lzma.Stream){
		"check":            func(s *lzma.Stream) { s.Check = 2 },
		"parameters":       func(s *lzma.Stream) { s.Params.Nice = 0 },
		"header too small": func(s *lzma.Stream) { s.Header = 8 },
		"header too large": func(s *lzma.Stream) { s.Header = 1028 },
		"odd header":       func(s *lzma.Stream) { s.Header = 18 },
	} {
		s := good
		change(&s)
		if out, err := lzma.AppendXZ(nil, s, []byte("abc")); err == nil {
			t.Errorf("%s: %d bytes", name, len(out))
		}
	}
}
