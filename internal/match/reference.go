package match

import "sort"

const pageBits = 12

// reference is a virtual concatenation of parts.
type reference struct {
	parts  [][]byte // none is empty
	starts []int64  // offset of each part, and behind the last one the size
	pages  []int32  // for each 4 KiB the part that its first byte lies in
	size   int64
}

func newReference(parts [][]byte) *reference {
	r := &reference{}
	for _, p := range parts {
		if len(p) == 0 {
			continue
		}
		r.parts = append(r.parts, p)
		r.starts = append(r.starts, r.size)
		r.size += int64(len(p))
	}
	r.starts = append(r.starts, r.size)
	if len(r.parts) < 2 {
		return r
	}
	r.pages = make([]int32, (r.size+1<<pageBits-1)>>pageBits)
	part := 0
	for i := range r.pages {
		for r.starts[part+1] <= int64(i)<<pageBits {
			part++
		}
		r.pages[i] = int32(part)
	}
	return r
}

// part returns the number of the part that holds offset pos, which lies within the reference.
func (r *reference) part(pos int64) int {
	if len(r.parts) < 2 {
		return 0
	}
	page := pos >> pageBits
	first := int(r.pages[page])
	last := len(r.parts) - 1
	if int(page)+1 < len(r.pages) {
		last = int(r.pages[page+1])
	}
	return first + sort.Search(last-first, func(i int) bool { return r.starts[first+i+1] > pos })
}

// align returns the alignment that puts data offset at on reference offset pos.
func (r *reference) align(pos int64, at int) alignment {
	p := r.part(pos)
	return alignment{bytes: r.parts[p], base: r.starts[p], shift: int(pos-r.starts[p]) - at}
}

// alignment lays one part of the reference beside the data: data[i] beside bytes[i+shift]. The zero value lies beside nothing.
type alignment struct {
	bytes []byte
	base  int64 // offset of bytes in the reference
	shift int
}

// same reports whether both put the same part on the same bytes.
func (a alignment) same(b alignment) bool { return a.base == b.base && a.shift == b.shift }

// ref returns the reference offset beside data offset i.
func (a alignment) ref(i int) int64 { return a.base + int64(i+a.shift) }

// from returns the reference bytes beside data[i:], none if that is outside the part.
func (a alignment) from(i int) []byte {
	if j := i + a.shift; j >= 0 && j < len(a.bytes) {
		return a.bytes[j:]
	}
	return nil
}

// until returns the reference bytes that end beside data[i] (exclusive), none if that is outside the part.
func (a alignment) until(i int) []byte {
	if j := i + a.shift; j > 0 && j <= len(a.bytes) {
		return a.bytes[:j]
	}
	return nil
}
