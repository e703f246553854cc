package lzma

import (
	"encoding/binary"
	"math/bits"
)

// descend makes read the root of its tree, which is ordered by the strings, and lists the strings on the way that are equal for more
// than best bytes, each more than the one before. With best = limit it lists none.
func (f *finder) descend(limit, best int, c candidates) {
	src, links, read := f.src, f.links, f.read
	slot, cycle, cand := f.slot, f.cycle, c.main
	at := f.base + uint32(read)
	less, more := 2*slot, 2*slot+1 // where the next string goes that is less, or more
	sameLess, sameMore := 0, 0     // bytes that it is sure to have in common
	own := src[read : read+limit]
	roomy := read+limit+8 <= len(src)
	for depth := f.depth; ; depth-- {
		delta := at - cand
		if depth == 0 || delta >= cycle {
			links[less], links[more] = 0, 0
			return
		}
		pair := slot - delta
		if delta > slot {
			pair += cycle
		}
		pair *= 2
		n := min(sameLess, sameMore)
		from := read - int(delta)
		if src[from+n] == own[n] {
			if roomy {
				for n++; n < limit; n += 8 {
					x := binary.LittleEndian.Uint64(src[from+n:]) ^ binary.LittleEndian.Uint64(src[read+n:])
					if x != 0 {
						n += bits.TrailingZeros64(x) >> 3
						break
					}
				}
				n = min(n, limit)
			} else {
				n = common(src, from, read, n+1, limit)
			}
			if n > best {
				best = n
				f.listed[f.count] = found{n, delta - 1}
				f.count++
			}
			if n == limit {
				links[less], links[more] = links[pair], links[pair+1]
				return
			}
		}
		if src[from+n] < own[n] {
			links[less] = cand
			less = pair + 1
			cand = links[less]
			sameLess = n
		} else {
			links[more] = cand
			more = pair
			cand = links[more]
			sameMore = n
		}
	}
}

// follow lists the strings of a chain that are equal for more than best bytes, each more than the one before.
func (f *finder) follow(limit, best int, cand uint32) {
	src, links, read := f.src, f.links, f.read
	at := f.base + uint32(read)
	links[f.slot] = cand
	for depth := f.depth; depth > 0; depth-- {
		delta := at - cand
		if delta >= f.cycle {
			return
		}
		slot := f.slot - delta
		if delta > f.slot {
			slot += f.cycle
		}
		cand = links[slot]
		from := read - int(delta)
		if src[from+best] != src[read+best] || src[from] != src[read] {
			continue
		}
		if n := common(src, from, read, 1, limit); n > best {
			best = n
			f.listed[f.count] = found{n, delta - 1}
			f.count++
			if n == limit {
				return
			}
		}
	}
}

// common returns how many bytes are equal at a and at the later b of src, up to limit, when the first n are known to be. From b on,
// src has at least limit bytes.
func common(src []byte, a, b, n, limit int) int {
	for n < limit && b+n+8 <= len(src) {
		if x := binary.LittleEndian.Uint64(src[a+n:]) ^ binary.LittleEndian.Uint64(src[b+n:]); x != 0 {
			return min(n+bits.TrailingZeros64(x)>>3, limit)
		}
		n += 8
	}
	for n < limit && src[a+n] == src[b+n] {
		n++
	}
	return min(n, limit)
}
