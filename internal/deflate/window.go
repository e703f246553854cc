package deflate

import (
	"encoding/binary"
	"math/bits"
)

// fill tops the window up as the program in question does, after making room when pos is near its end.
func (e *Encoder) fill() {
	for e.look < minLookahead && !e.ended {
		if e.pos >= e.window+e.reach {
			e.slide()
		}
		n := copy(e.buf[e.pos+e.look:2*e.window], e.input)
		e.input = e.input[n:]
		e.look += n
		if n > 0 {
			continue
		}
		if !e.gnu {
			return // zlib comes again, and makes room again
		}
		// From here on GNU gzip leaves the window alone; only the bytes that the last strings' hashes take in are cleared.
		e.ended = true
		clear(e.buf[e.pos+e.look:][:minMatch-1])
	}
}

// slide moves the upper half of the window to the lower. The upper half keeps its bytes, too.
func (e *Encoder) slide() {
	if e.base > maxPosition {
		e.rebase()
	}
	copy(e.buf[:e.window], e.buf[e.window:2*e.window])
	e.pos -= e.window
	e.from -= e.window
	e.base += uint32(e.window)
}

// rebase starts the count of positions anew, which happens once in 2 GiB.
func (e *Encoder) rebase() {
	lower := func(table []uint32) {
		for i, p := range table {
			table[i] = p - min(p, e.base)
		}
	}
	lower(e.head[:])
	lower(e.prev[:])
	e.base = 0
}

// longest follows the chain of strings with equal hash from cand on and returns the length of the longest match for the bytes at
// buf[pos] that is longer than best, and its distance; or best. The length may reach over the end of the input.
func (e *Encoder) longest(cand uint32, pos, best int) (length int, distance uint32) {
	buf, prev, base := &e.buf, &e.prev, e.base
	at := base + uint32(pos)
	lowest := base
	if pos > e.reach {
		lowest = at - uint32(e.reach)
	}
	chain, nice := e.effort.chain, e.effort.nice
	if best >= e.effort.good {
		chain >>= 2
	}
	if !e.gnu {
		nice = min(nice, e.look)
	}
	// A candidate is worth comparing when it has the four bytes up to the one that makes it longer than best. (With best = 2, the
	// first of the four lies before the string.)
	care := ^uint32(0)
	if best < minMatch {
		care <<= 8
	}
	mask := uint32(e.window-1) & (maxWindow - 1)
	want := binary.LittleEndian.Uint32(buf[pos+best-3:]) & care
	for {
		off := int(cand - base)
		if binary.LittleEndian.Uint32(buf[off+best-3:])&care == want {
			if n := common(buf[pos:], buf[off:]); n > best {
				best, distance = n, at-cand
				if n >= nice {
					break
				}
				care = ^uint32(0)
				want = binary.LittleEndian.Uint32(buf[pos+best-3:])
			}
		}
		if cand = prev[cand&mask]; cand <= lowest {
			break
		}
		if chain--; chain == 0 {
			break
		}
	}
	return best, distance
}

// common returns how many of the first maxMatch bytes are equal. Both slices are at least eight bytes longer than that.
func common(a, b []byte) int {
	for n := 0; n < maxMatch; n += 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return min(n+bits.TrailingZeros64(x)>>3, maxMatch)
		}
	}
	return maxMatch
}
