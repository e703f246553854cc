package deflate_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
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
	{"binary", records},
	{"few", func(n int) []byte { return alphabet(n, "ab") }},
	{"skewed", skewed},
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

// records is a table of numbers, as in programs.
func records(n int) []byte {
	r, b := source(3), make([]byte, 0, n+32)
	for i := uint32(0); len(b) < n; i++ {
		b = binary.LittleEndian.AppendUint32(b, i*24)
		b = binary.LittleEndian.AppendUint64(b, uint64(r.IntN(40))<<16|uint64(r.IntN(3)))
		b = append(b, 0x48, 0x8b, byte(r.IntN(8)), 0xe8)
	}
	return b[:n]
}

func alphabet(n int, letters string) []byte {
	r, b := source(4), make([]byte, n)
	for i := range b {
		b[i] = letters[r.IntN(len(letters))]
	}
	return b
}

// skewed has bytes so unequal that Huffman codes exceed their length limit.
func skewed(n int) []byte {
	r, b := source(5), make([]byte, n)
	for i := range b {
		for b[i] = 'a'; r.IntN(5) < 2 && b[i] < 'z'; b[i]++ {
		}
	}
	return b
}

// mixed changes its kind every few dozen KiB.
func mixed(n int) []byte {
	r, b := source(6), make([]byte, 0, n)
	pool := [][]byte{random(300_000), text(1_000_000), records(500_000), make([]byte, 100_000), skewed(100_000)}
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
	return bytes.Clone(b)
}

// sizes lie around the borders of symbols, blocks and windows.
var sizes = []int{
	0, 1, 2, 3, 4, 5, 10, 257, 258, 259, 260, 261, 262, 263, 300, 4095, 4096, 4097, 8191, 8192,
	16382, 16383, 16384, 16385, 32505, 32506, 32507, 32766, 32767, 32768, 32769, 33029, 65273, 65274, 65275, 65276, 65300,
	65400, 65500, 65534, 65535, 65536, 65537, 65538, 65700, 65797, 65798, 98000, 98042, 98043, 98303, 98304, 98305, 98400, 131072,
	131073, 200_000, 262_144, 1 << 20,
}
