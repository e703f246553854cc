package lzma_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/lzma"
)

const fuzzLimit = 1 << 20

func FuzzDecodeLZMA2(f *testing.F) {
	for _, s := range samples {
		packed, err := encoder(f, preset(f, 1, true)).AppendLZMA2(nil, s.make(700))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := lzma.DecodeLZMA2(nil, b, fuzzLimit)
		if len(out) > fuzzLimit || err != nil && !errors.Is(err, lzma.ErrFormat) {
			t.Fatalf("%d bytes: %v", len(out), err)
		}
	})
}

func FuzzXZ(f *testing.F) {
	for _, s := range streams(f, nil) {
		packed, err := lzma.AppendXZ(nil, s, program(300))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		info, n, err := lzma.ParseXZ(b)
		if err != nil && !errors.Is(err, lzma.ErrFormat) {
			t.Fatal(err)
		}
		plain, decodeErr := lzma.DecodeXZ(b, fuzzLimit)
		if err != nil && decodeErr == nil || len(plain) > fuzzLimit {
			t.Fatalf("unpacked %d bytes in spite of %v", len(plain), err)
		}
		if decodeErr == nil && (int64(len(plain)) != info.Plain || n > len(b)) {
			t.Fatalf("unpacked %d bytes, %+v", len(plain), info)
		}
	})
}

// FuzzEncode packs anything with anything.
func FuzzEncode(f *testing.F) {
	f.Add([]byte("abcabcabcabcabd"), uint8(6), uint8(0x14), uint8(10))
	f.Fuzz(func(t *testing.T, b []byte, bits, finder, nice uint8) {
		p := lzma.Params{Dict: lzma.MinDict, LC: int(bits % 3), LP: int(bits / 3 % 3), PB: int(bits / 9 % 5), Nice: 2 + int(nice),
			Mode: lzma.Mode(1 + bits>>7), Finder: lzma.Finder(finder)}
		var e lzma.Encoder
		defer e.Close()
		if e.Reset(p) != nil {
			return
		}
		packed, err := e.AppendLZMA2(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := lzma.DecodeLZMA2(nil, packed, len(b))
		if err != nil || !bytes.Equal(plain, b) {
			t.Fatalf("unpacked %d bytes of %d: %v", len(plain), len(b), err)
		}
	})
}
