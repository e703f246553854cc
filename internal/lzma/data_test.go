package lzma_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/lzma"
)

// sample is made-up data of one kind.
type sample struct {
	name string
	make func(n int) []byte
}

// samples are the kinds of data that drive the encoder into its different decisions.
var samples = []sample{
	{"zero", func(n int) []byte { return make([]byte, n) }},
	{"random", random},
	{"text", text},
	{"program", program},
	{"few", few},
	{"cycle", cycle},
	{"mixed", mixed},
	{"nearly", nearly},
}

func source(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

func random(n int) []byte {
	r, b := source(1), make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, r.Uint64())
	}
	return b[:n]
}

// text is words by a rank-size law.
func text(n int) []byte {
	r, b := source(2), make([]byte, 0, n+32)
	for len(b) < n {
		rank := int(4000 / (1 + r.ExpFloat64()*800))
		b = append(b, fmt.Sprintf("%x", rank*2654435761%1000003)...)
		if r.IntN(9) == 0 {
			b = append(b, ".\n"...)
		} else {
			b = append(b, ' ')
		}
	}
	return b[:n]
}

// program is instructions, calls among them, and tables of numbers.
func program(n int) []byte {
	r, b := source(3), make([]byte, 0, n+64)
	for i := uint32(0); len(b) < n; i++ {
		b = append(b, 0x48, 0x8b, byte(r.IntN(8)), 0xe8)
		b = binary.LittleEndian.AppendUint32(b, uint32(r.IntN(9)*4096-len(b)))
		if i%100 < 30 {
			b = binary.LittleEndian.AppendUint32(b, i*24)
			b = binary.LittleEndian.AppendUint64(b, uint64(r.IntN(40))<<16|uint64(r.IntN(3)))
		}
	}
	return b[:n]
}

func few(n int) []byte {
	r, b := source(4), make([]byte, n)
	for i := range b {
		b[i] = "ab"[r.IntN(2)]
	}
	return b
}

// cycle repeats itself with now and then another byte.
func cycle(n int) []byte {
	r, b := source(5), random(n)
	for i := 117; i < n; i++ {
		b[i] = b[i-117]
		if r.IntN(300) == 0 {
			b[i]++
		}
	}
	return b
}

// mixed changes its kind every few dozen KiB.
func mixed(n int) []byte {
	r, b := source(6), make([]byte, 0, n)
	pool := [][]byte{random(300_000), text(1_000_000), program(500_000), make([]byte, 100_000), cycle(100_000)}
	for len(b) < n {
		p := pool[r.IntN(len(pool))]
		at := r.IntN(len(p))
		b = append(b, p[at:min(len(p), at+r.IntN(90_000))]...)
		if r.IntN(3) == 0 && len(b) > 70_000 {
			at = len(b) - 1 - r.IntN(70_000)
			b = append(b, b[at:min(len(b), at+r.IntN(5000))]...)
		}
	}
	return b[:n]
}

// nearly is random with rare repetitions, on the edge to being stored.
func nearly(n int) []byte {
	r, b := source(7), random(n)
	for i := 40_000; i+100 < n; i += 500 + r.IntN(3000) {
		copy(b[i:i+6+r.IntN(8)], b[i-r.IntN(33_000):])
	}
	return b
}

// sizes lie around the limits of matches, choices and chunks.
var sizes = []int{
	0, 1, 2, 3, 4, 5, 7, 10, 16, 17, 100, 272, 273, 274, 275, 300, 4094, 4095, 4096, 4097, 4098, 4370, 4371, 8192, 12_000,
	61_000, 61_438, 61_439, 61_440, 61_441, 61_500, 65_535, 65_536, 65_537, 65_700, 70_000, 122_870, 131_072, 200_000,
}

func encoder(tb testing.TB, p lzma.Params) *lzma.Encoder {
	tb.Helper()
	e := new(lzma.Encoder)
	if err := e.Reset(p); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(e.Close)
	return e
}

func preset(tb testing.TB, level int, extreme bool) lzma.Params {
	tb.Helper()
	p, err := lzma.Preset(level, extreme)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}
