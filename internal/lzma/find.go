package lzma

import (
	"encoding/binary"
	"hash/crc32"
)

const (
	hash2Size = 1 << 10
	hash3Size = 1 << 16
)

// found is a match: the bytes at the position are those dist+1 before it.
type found struct {
	length int
	dist   uint32
}

// finder is an index of the strings before a position of the input, which moves on as strings are looked for. Matches depend on
// the whole history of the index, therefore it must have the same sizes as liblzma's.
//
// Positions are counted from base, which moves on with each input so that what earlier inputs left in the tables is out of reach.
// 0 is never reached either.
type finder struct {
	src  []byte
	read int // next position to look up
	base uint32

	kind   Finder
	nice   int
	depth  int
	mask   uint32 // of the hash
	cycle  uint32 // positions in links; a candidate as far away as this is forgotten
	slot   uint32 // of read in links
	heads  []uint32
	links  []uint32 // per slot, both children of a tree's node or the next of a chain
	head2  [hash2Size]uint32
	head3  [hash3Size]uint32
	listed [maxMatch + 3]found // by growing length
	count  int                 // in listed

	headTable, linkTable table
}

// entries returns how many heads and links there are for an input of n bytes.
func (p Params) entries(n int) (heads, links int) {
	links = min(int(p.Dict), n) + 1
	if p.Finder.tree() {
		links *= 2
	}
	return p.hashSize(), links
}

// start prepares for an input. The memory of the last one is kept when it is enough.
func (f *finder) start(p Params, src []byte) (err error) {
	heads, links := p.entries(len(src))
	f.src, f.read, f.slot = src, 0, 0
	f.kind, f.nice, f.depth = p.Finder, p.Nice, p.Depth
	f.mask = uint32(heads - 1)
	cycle := uint32(min(int(p.Dict), len(src)) + 1)
	if len(f.linkTable.bytes) < 4*links {
		f.links = nil
		if f.links, err = f.linkTable.make(links); err != nil {
			return err
		}
	}
	next := uint64(f.base) + uint64(cycle)
	fresh := len(f.heads) != heads || next+uint64(len(src)) >= 1<<32
	switch {
	case len(f.heads) != heads:
		f.heads = nil
		if f.heads, err = f.headTable.make(heads); err != nil {
			return err
		}
	case fresh:
		clear(f.heads)
	}
	if fresh {
		clear(f.head2[:])
		clear(f.head3[:])
		next = uint64(cycle)
	}
	f.base, f.cycle = uint32(next), cycle
	return nil
}

// end forgets the input.
func (f *finder) end() {
	f.base += uint32(len(f.src))
	f.src = nil
}

func (f *finder) free() {
	f.headTable.free()
	f.linkTable.free()
	f.heads, f.links, f.base = nil, nil, 0
}

// avail returns how many bytes are left from read on.
func (f *finder) avail() int { return len(f.src) - f.read }

// next lists the matches at read, moves on, and returns the length of the longest match or 0. The longest may go on beyond what
// the list says when that is nice.
func (f *finder) next() int {
	f.count = 0
	limit := min(f.avail(), f.nice)
	if limit < f.kind.bytes() {
		f.read++
		return 0
	}
	f.look(limit)
	f.move()
	if f.count == 0 {
		return 0
	}
	longest := f.listed[f.count-1]
	if longest.length < f.nice {
		return longest.length
	}
	at := f.read - 1
	return common(f.src, at-int(longest.dist)-1, at, longest.length, min(len(f.src)-at, maxMatch))
}

// skip moves over n positions without listing matches.
func (f *finder) skip(n int) {
	for ; n > 0; n-- {
		limit := min(f.avail(), f.nice)
		if limit < f.kind.bytes() {
			f.read += n
			return
		}
		switch f.kind {
		case BT4:
			f.descend(limit, limit, f.enter4())
		case BT3:
			f.descend(limit, limit, f.enter3())
		case BT2:
			f.descend(limit, limit, f.enter2())
		case HC3:
			f.links[f.slot] = f.enter3().main
		case HC4:
			f.links[f.slot] = f.enter4().main
		}
		f.move()
	}
}

func (f *finder) move() {
	f.read++
	if f.slot++; f.slot == f.cycle {
		f.slot = 0
	}
}

// candidates are the last positions with the same hash of two, three and all bytes that the finder's kind looks at.
type candidates struct{ two, three, main uint32 }

var hashTable = crc32.MakeTable(crc32.IEEE)

// enter4 puts read into the hash tables and returns what was there before.
func (f *finder) enter4() candidates {
	b := f.src[f.read : f.read+4]
	at := f.base + uint32(f.read)
	h := hashTable[b[0]] ^ uint32(b[1])
	h2 := &f.head2[h%hash2Size]
	h ^= uint32(b[2]) << 8
	h3 := &f.head3[h%hash3Size]
	head := &f.heads[(h^hashTable[b[3]]<<5)&f.mask]
	c := candidates{*h2, *h3, *head}
	*h2, *h3, *head = at, at, at
	return c
}

func (f *finder) enter3() candidates {
	b := f.src[f.read : f.read+3]
	at := f.base + uint32(f.read)
	h := hashTable[b[0]] ^ uint32(b[1])
	h2 := &f.head2[h%hash2Size]
	head := &f.heads[(h^uint32(b[2])<<8)&f.mask]
	c := candidates{two: *h2, main: *head}
	*h2, *head = at, at
	return c
}

func (f *finder) enter2() candidates {
	head := &f.heads[binary.LittleEndian.Uint16(f.src[f.read:])]
	c := candidates{main: *head}
	*head = f.base + uint32(f.read)
	return c
}

// look lists the matches at read, none longer than limit.
func (f *finder) look(limit int) {
	var c candidates
	best := 1
	switch f.kind {
	case BT4, HC4:
		c = f.enter4()
		best = max(f.short4(limit, c), 3)
	case BT3, HC3:
		c = f.enter3()
		best = max(f.short3(limit, c), 2)
	case BT2:
		c = f.enter2()
	}
	switch {
	case f.kind.tree():
		f.descend(limit, best, c)
	case f.count > 0 && best == limit:
		f.links[f.slot] = c.main
	default:
		f.follow(limit, best, c.main)
	}
}

// near tells whether a candidate is within reach and starts with the same byte as the string at read, and how far away it is. As
// the hash contains further bytes as they are, those are equal then, too.
func (f *finder) near(cand uint32) (delta uint32, ok bool) {
	delta = f.base + uint32(f.read) - cand
	return delta, delta < f.cycle && f.src[f.read-int(delta)] == f.src[f.read]
}

// short4 lists the last string with the same two bytes, and the last one with the same three.
func (f *finder) short4(limit int, c candidates) (best int) {
	delta, ok := f.near(c.two)
	if ok {
		best = 2
		f.listed[0] = found{2, delta - 1}
		f.count = 1
	}
	if delta3, ok := f.near(c.three); ok && delta3 != delta {
		best = 3
		f.listed[f.count].dist = delta3 - 1
		f.count++
		delta = delta3
	}
	if best != 0 {
		best = common(f.src, f.read-int(delta), f.read, best, limit)
		f.listed[f.count-1].length = best
	}
	return best
}

// short3 lists the last string with the same two bytes.
func (f *finder) short3(limit int, c candidates) int {
	delta, ok := f.near(c.two)
	if !ok {
		return 0
	}
	best := common(f.src, f.read-int(delta), f.read, 2, limit)
	f.listed[0] = found{best, delta - 1}
	f.count = 1
	return best
}
