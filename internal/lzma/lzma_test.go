package lzma_test

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/lzma"
)

// golden.txt has what xz makes of the golden data, as hashes; a component test compares it with xz.
//
//go:embed testdata/golden.txt
var golden string

var goldenSizes = []int{0, 1, 3, 300, 25_000}

func goldenParams(tb testing.TB) []lzma.Params {
	small := lzma.Params{Dict: 1 << 16, LC: 0, LP: 2, PB: 1, Nice: 20, Depth: 5, Mode: lzma.Normal, Finder: lzma.BT2}
	list := []lzma.Params{preset(tb, 0, false), preset(tb, 3, false), preset(tb, 4, false), preset(tb, 6, false), preset(tb, 2, true), small}
	for _, f := range []lzma.Finder{lzma.BT3, lzma.HC3} {
		small.Finder, small.LC = f, small.LC+1
		list = append(list, small)
	}
	return list
}

// goldenText renders golden.txt with the streams that make gives.
func goldenText(tb testing.TB, make func(p lzma.Params, data []byte) []byte) string {
	var b strings.Builder
	for _, p := range goldenParams(tb) {
		for _, s := range samples {
			h := sha256.New()
			for _, n := range goldenSizes {
				h.Write(make(p, s.make(n)))
			}
			fmt.Fprintf(&b, "%+v %s: %x\n", p, s.name, h.Sum(nil)[:12])
		}
	}
	return b.String()
}

func TestGolden(t *testing.T) {
	var e lzma.Encoder
	defer e.Close()
	ours := goldenText(t, func(p lzma.Params, data []byte) []byte {
		if err := e.Reset(p); err != nil {
			t.Fatal(err)
		}
		out, err := e.AppendLZMA2(nil, data)
		if err != nil {
			t.Fatal(err)
		}
		return out
	})
	if diff := cmp.Diff(golden, ours); diff != "" {
		t.Error(diff)
	}
}

// TestRoundTrip gives every kind of data in a third of the sizes to encoders of all kinds, which have one input after the other.
func TestRoundTrip(t *testing.T) {
	list := append(goldenParams(t), lzma.Params{Dict: lzma.MinDict, LC: 4, PB: 4, Nice: 2, Depth: 1, Mode: lzma.Normal, Finder: lzma.HC4})
	encoders := make([]*lzma.Encoder, len(list))
	for i, p := range list {
		encoders[i] = encoder(t, p)
	}
	for k, s := range samples {
		for i, n := range sizes {
			if (i+k)%3 == 0 {
				roundTrip(t, s.name, encoders[(i/3+k)%len(list)], s.make(n))
			}
		}
	}
	for _, n := range []int{1<<21 - 273, 1<<21 + 1} {
		roundTrip(t, "zero", encoders[3], make([]byte, n))
	}
	roundTrip(t, "mixed", encoders[3], mixed(400_000))
}

func roundTrip(t *testing.T, name string, e *lzma.Encoder, data []byte) {
	t.Helper()
	prefix := []byte("before")
	packed, err := e.AppendLZMA2(prefix, data)
	if err != nil || !bytes.HasPrefix(packed, prefix) {
		t.Fatalf("%s %d: %v", name, len(data), err)
	}
	packed = packed[len(prefix):]
	plain, err := lzma.DecodeLZMA2(prefix, packed, len(data))
	if err != nil || string(plain) != "before"+string(data) {
		t.Fatalf("%s %d: unpacked %d bytes: %v", name, len(data), len(plain), err)
	}
	if len(data) > 0 {
		if _, err := lzma.DecodeLZMA2(nil, packed, len(data)-1); !errors.Is(err, lzma.ErrFormat) {
			t.Errorf("%s %d: unpacked to less: %v", name, len(data), err)
		}
	}
}

// TestDamage: a stream that was changed or cut fails or unpacks to something else, within its bound.
func TestDamage(t *testing.T) {
	data := append(text(5000), random(300)...)
	packed, err := encoder(t, preset(t, 6, false)).AppendLZMA2(nil, data)
	if err != nil {
		t.Fatal(err)
	}
	for n := range packed {
		if _, err := lzma.DecodeLZMA2(nil, packed[:n], 1<<20); !errors.Is(err, lzma.ErrFormat) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
	if _, err := lzma.DecodeLZMA2(nil, append(packed, 0), 1<<20); !errors.Is(err, lzma.ErrFormat) {
		t.Errorf("with a byte more: %v", err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		bad := bytes.Clone(packed)
		bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
		out, err := lzma.DecodeLZMA2(nil, bad, 6000)
		if len(out) > 6000 || err == nil && bytes.Equal(out, data) || err != nil && !errors.Is(err, lzma.ErrFormat) {
			t.Fatalf("damaged: %d bytes, %v", len(out), err)
		}
	}
}

// TestBadStreams are streams whose chunks come in no valid order.
func TestBadStreams(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":               {},
		"no reset":              {2, 0, 0, 'a', 0},
		"unknown control":       {3, 0, 0, 'a', 0},
		"no properties":         {1, 0, 0, 'a', 0x80, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0},
		"properties too great":  {0xe0, 0, 0, 0, 4, 225, 0, 0, 0, 0, 0, 0},
		"lc and lp too great":   {0xe0, 0, 0, 0, 4, 8, 0, 0, 0, 0, 0, 0},
		"chunk too short":       {0xe0, 0, 0, 0, 3, 93, 0, 0, 0, 0, 0},
		"chunk does not begin":  {0xe0, 0, 0, 0, 4, 93, 1, 0, 0, 0, 0, 0},
		"repeats what is not":   {0xe0, 0, 9, 0, 5, 93, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0},
		"says more than it has": {0xff, 0xff, 0xff, 0, 5, 93, 0, 0, 0, 0, 0, 0, 0},
	} {
		if out, err := lzma.DecodeLZMA2(nil, b, 1<<22); !errors.Is(err, lzma.ErrFormat) {
			t.Errorf("%s: %d bytes, %v", name, len(out), err)
		}
	}
}

func TestParams(t *testing.T) {
	good := preset(t, 6, false)
	var e lzma.Encoder
	defer e.Close()
	if _, err := e.AppendLZMA2(nil, nil); !errors.Is(err, lzma.ErrParams) {
		t.Errorf("without parameters: %v", err)
	}
	for name, change := range map[string]func(p *lzma.Params){
		"small dictionary": func(p *lzma.Params) { p.Dict = lzma.MinDict - 1 },
		"large dictionary": func(p *lzma.Params) { p.Dict = lzma.MaxDict + 1 },
		"lc + lp":          func(p *lzma.Params) { p.LC, p.LP = 3, 2 },
		"negative lc":      func(p *lzma.Params) { p.LC = -1 },
		"pb":               func(p *lzma.Params) { p.PB = 5 },
		"short nice":       func(p *lzma.Params) { p.Nice = 1 },
		"long nice":        func(p *lzma.Params) { p.Nice = 274 },
		"depth":            func(p *lzma.Params) { p.Depth = -1 },
		"mode":             func(p *lzma.Params) { p.Mode = 0 },
		"finder":           func(p *lzma.Params) { p.Finder = 5 },
	} {
		p := good
		change(&p)
		if err := e.Reset(p); !errors.Is(err, lzma.ErrParams) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, level := range []int{-1, 10} {
		if _, err := lzma.Preset(level, false); !errors.Is(err, lzma.ErrParams) {
			t.Errorf("preset %d: %v", level, err)
		}
	}
}

// TestEncoderMemory: preset 6 takes 16 MiB, and 8 for each MiB of the input or the dictionary.
func TestEncoderMemory(t *testing.T) {
	p := preset(t, 6, false)
	for n, mib := range map[int64]int64{0: 16, 1 << 20: 24, 8 << 20: 80, 1 << 30: 80} {
		if got := lzma.EncoderMemory(p, n) >> 20; got != mib {
			t.Errorf("%d bytes: %d MiB, want %d", n, got, mib)
		}
	}
}
