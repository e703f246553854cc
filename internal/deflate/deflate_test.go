package deflate_test

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/deflate"
)

// golden.txt has what the C programs make of the golden data, as hashes; a component test compares it with them.
//
//go:embed testdata/golden.txt
var golden string

var goldenSizes = []int{0, 1, 3, 300, 65_400, 98_304}

var goldenParams = []deflate.Params{
	{Variant: deflate.GNUGzip, Level: 1},
	{Variant: deflate.GNUGzip, Level: 3},
	{Variant: deflate.GNUGzip, Level: 6},
	{Variant: deflate.GNUGzip, Level: 9},
	{Variant: deflate.Zlib, Level: 1, MemLevel: 8, WindowBits: 15},
	{Variant: deflate.Zlib, Level: 6, MemLevel: 8, WindowBits: 15},
	{Variant: deflate.Zlib, Level: 9, MemLevel: 8, WindowBits: 15},
	{Variant: deflate.Zlib, Level: 9, MemLevel: 9, WindowBits: 15},
	{Variant: deflate.Zlib, Level: 9, MemLevel: 9, WindowBits: 9},
	{Variant: deflate.Zlib, Level: 6, MemLevel: 8, WindowBits: 12, Strategy: deflate.StrategyFiltered},
	{Variant: deflate.Zlib, Level: 9, MemLevel: 8, WindowBits: 15, Strategy: deflate.StrategyHuffman},
	{Variant: deflate.Zlib, Level: 9, MemLevel: 8, WindowBits: 15, Strategy: deflate.StrategyRLE},
	{Variant: deflate.Zlib, Level: 9, MemLevel: 8, WindowBits: 15, Strategy: deflate.StrategyFixed},
}

// goldenText renders golden.txt with the streams that make gives.
func goldenText(make func(p deflate.Params, data []byte) []byte) string {
	data := map[string][][]byte{}
	for _, s := range samples {
		for _, n := range goldenSizes {
			data[s.name] = append(data[s.name], s.make(n))
		}
	}
	var b strings.Builder
	for _, p := range goldenParams {
		for _, s := range samples {
			h := sha256.New()
			for _, d := range data[s.name] {
				h.Write(make(p, d))
			}
			fmt.Fprintf(&b, "%v -%d mem %d window %d strategy %d, %s: %x\n",
				p.Variant, p.Level, p.MemLevel, p.WindowBits, p.Strategy, s.name, h.Sum(nil)[:12])
		}
	}
	return b.String()
}

func encoder(tb testing.TB, p deflate.Params) *deflate.Encoder {
	tb.Helper()
	e, err := deflate.NewEncoder(p)
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

// TestGolden uses one encoder for everything, which must not matter.
func TestGolden(t *testing.T) {
	e := encoder(t, deflate.Params{Variant: deflate.Zlib, Level: 5})
	got := goldenText(func(p deflate.Params, data []byte) []byte {
		if err := e.Reset(p); err != nil {
			t.Fatal(err)
		}
		out, err := e.Compress(nil, data)
		if err != nil {
			t.Fatal(err)
		}
		return out
	})
	if diff := cmp.Diff(golden, got); diff != "" {
		t.Errorf("-theirs +ours\n%s", diff)
	}
}

func TestParams(t *testing.T) {
	good := []deflate.Params{
		{Variant: deflate.GNUGzip, Level: 6, MemLevel: 99, Strategy: -1}, // only the level counts
		{Variant: deflate.Zlib, Level: 1},
		{Variant: deflate.Zlib, Level: 9, MemLevel: 9, WindowBits: 8, Strategy: 4},
	}
	bad := []deflate.Params{
		{},
		{Variant: 3, Level: 6},
		{Variant: deflate.GNUGzip},
		{Variant: deflate.GNUGzip, Level: 10},
		{Variant: deflate.Zlib, Level: -1},
		{Variant: deflate.Zlib, Level: 6, MemLevel: 10},
		{Variant: deflate.Zlib, Level: 6, WindowBits: 16},
		{Variant: deflate.Zlib, Level: 6, WindowBits: 7},
		{Variant: deflate.Zlib, Level: 6, Strategy: 5},
	}
	for _, p := range good {
		if err := p.Check(); err != nil {
			t.Error(err)
		}
	}
	for _, p := range bad {
		if _, err := deflate.Compress(nil, nil, p); !errors.Is(err, deflate.ErrParams) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

func TestCompressZlib(t *testing.T) {
	data := text(50_000)
	for _, p := range goldenParams[4:] {
		out, err := encoder(t, p).CompressZlib([]byte("kept"), data)
		if err != nil {
			t.Fatal(err)
		}
		r, err := zlib.NewReader(bytes.NewReader(out[4:]))
		if err != nil {
			t.Fatalf("%+v: %v", p, err)
		}
		if back, err := io.ReadAll(r); err != nil || !bytes.Equal(back, data) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	if out, _ := encoder(t, goldenParams[5]).CompressZlib(nil, nil); fmt.Sprintf("%x", out) != "789c030000000001" {
		t.Errorf("nothing: %x", out)
	}
}

func TestEqual(t *testing.T) {
	data := mixed(300_000)
	e := encoder(t, deflate.Params{Variant: deflate.GNUGzip, Level: 6})
	stream, err := e.Compress(nil, data)
	if err != nil {
		t.Fatal(err)
	}
	late := bytes.Clone(stream)
	late[len(late)-1] ^= 0x80
	early := bytes.Clone(stream)
	early[10]++
	for _, c := range []struct {
		name         string
		stream, data []byte
		want         bool
	}{
		{"same", stream, data, true},
		{"first block differs", early, data, false},
		{"last byte differs", late, data, false},
		{"longer", append(bytes.Clone(stream), 0), data, false},
		{"shorter", stream[:len(stream)-1], data, false},
		{"empty", nil, data, false},
		{"other data", stream, data[1:], false},
		{"same again", stream, data, true},
	} {
		if got := e.Equal(c.stream, c.data); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if other := encoder(t, deflate.Params{Variant: deflate.Zlib, Level: 6}); other.Equal(stream, data) {
		t.Error("another variant is equal")
	}
}

func TestNoAllocation(t *testing.T) {
	data := mixed(100_000)
	e := encoder(t, deflate.Params{Variant: deflate.Zlib, Level: 6})
	dst, _ := e.Compress(nil, data)
	dst = append(dst, make([]byte, 100_000)...)
	if n := testing.AllocsPerRun(5, func() { _, _ = e.Compress(dst[:0], data) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzRoundTrip unpacks with another implementation what was packed.
func FuzzRoundTrip(f *testing.F) {
	for i, s := range samples {
		f.Add(s.make(700*i), uint8(i), uint8(i*3), uint8(i), uint8(i), uint16(i*3000))
	}
	filler := random(1 << 16)
	e := encoder(f, deflate.Params{Variant: deflate.GNUGzip, Level: 6})
	f.Fuzz(func(t *testing.T, data []byte, level, mem, window, strategy uint8, far uint16) {
		// The fuzzer's data are short: repeat them at a distance that reaches over windows.
		data = slices.Concat(data, filler[:far], data)
		p := deflate.Params{
			Variant: deflate.GNUGzip, Level: 1 + int(level)%9, MemLevel: int(mem) % 10, WindowBits: 8 + int(window)%8, Strategy: int(strategy) % 5,
		}
		if level >= 128 {
			p.Variant = deflate.Zlib
		}
		if err := e.Reset(p); err != nil {
			t.Fatal(err)
		}
		out, err := e.Compress(nil, data)
		if err != nil {
			t.Fatal(err)
		}
		back, err := io.ReadAll(flate.NewReader(bytes.NewReader(out)))
		if err != nil || !bytes.Equal(back, data) {
			t.Fatalf("%+v: %d bytes back instead of %d: %v", p, len(back), len(data), err)
		}
		if !e.Equal(out, data) {
			t.Fatalf("%+v: not equal to itself", p)
		}
	})
}
