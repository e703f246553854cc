package match

import (
	"encoding/binary"
	"math/bits"
)

const (
	low7 = 0x7f7f7f7f7f7f7f7f
	ones = 0x0101010101010101
)

func load(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

// equalMask has the top bit of each byte set in which x and y agree.
func equalMask(x, y uint64) uint64 {
	d := x ^ y
	return ^((d&low7 + low7) | d | low7)
}

// equalIn counts the bytes in which x and y agree.
func equalIn(x, y uint64) int { return bits.OnesCount64(equalMask(x, y)) }

// equalPrefix counts the leading bytes that a and b share.
func equalPrefix(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if d := load(a[i:]) ^ load(b[i:]); d != 0 {
			return i + bits.TrailingZeros64(d)/8
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// equalCount counts the positions of the common length at which a and b agree.
func equalCount(a, b []byte) int {
	n := min(len(a), len(b))
	eq, i := 0, 0
	for ; i+8 <= n; i += 8 {
		eq += equalIn(load(a[i:]), load(b[i:]))
	}
	for ; i < n; i++ {
		if a[i] == b[i] {
			eq++
		}
	}
	return eq
}

// runLength counts how often the first byte of b is repeated at its start, itself included.
func runLength(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	word := uint64(b[0]) * ones
	i := 0
	for ; i+8 <= len(b); i += 8 {
		if d := load(b[i:]) ^ word; d != 0 {
			return i + bits.TrailingZeros64(d)/8
		}
	}
	for i < len(b) && b[i] == b[0] {
		i++
	}
	return i
}
