package mixcode

import "encoding/binary"

// Kinds of operands: how the old bytes before a position, or its address, tell that a number of 32 bits begins there.
const (
	kindNone = iota
	kindUnknown
	kindCall
	kindJump
	kindBranch
	kindData // relative to the instruction pointer
	kindPointer
	kindTable  // relative to the start of a table
	kindBack   // distance back
	kindRow    // something in a row of a table that is out of step
	kindSymbol // number of a symbol, in a relocation
	operandKinds
)

// An operand is a number of 32 bits that is being coded, least significant byte first.
type operand struct {
	kind   int
	start  int
	left   int // bytes to come
	old    uint32
	target int64  // what the old number points to
	here   int32  // what the number loses by moving itself
	delta  uint32 // of the bytes so far
	guess  [4]int32
	trust  [4]uint8 // 0: no guess
	valid  uint8    // guesses that agree so far
	missed bool     // no guess was right
}

func (m *patchedModel) kindAt(i int, prev, next uint64) int {
	if i == 0 {
		return kindNone
	}
	if kind := m.frames.kindAt(m, i, prev, next); kind != kindNone {
		return kind
	}
	top := next >> 24 & 0xff
	if top == 0 || top == 0xff {
		b := prev & 0xff
		switch {
		case b == 0xe8:
			return kindCall
		case b == 0xe9:
			return kindJump
		case b&0xf0 == 0x80 && prev>>8&0xff == 0x0f:
			return kindBranch
		case b&0xc7 == 0x05:
			return kindData
		}
	}
	off := m.segs.offset(i)
	if off&7 == 4 && uint32(next) != 0 && uint32(next) < 1<<20 && i >= 4 {
		if kind := binary.LittleEndian.Uint32(m.ref[i-4:]); kind != 0 && kind <= 42 {
			return kindSymbol
		}
	}
	if off&7 == 0 && next>>32 == 0 && next >= 0x200 {
		return kindPointer
	}
	return kindNone
}

// open begins an operand at i.
func (o *operand) open(m *patchedModel, i, kind int, next uint64) {
	*o = operand{kind: kind, start: i}
	if kind == kindNone {
		return
	}
	o.left = 4
	o.old = uint32(next)
	if m.step != 0 {
		if at := i + m.step; at >= 0 && at+4 <= len(m.ref) {
			o.old = binary.LittleEndian.Uint32(m.ref[at:])
		} else {
			m.step = 0
		}
	}
	m.spacing = min(i-m.opStart, 63)
	m.opStart = i
	o.target, o.here = o.meaning(m, i, m.step, o.old)
	for level := range shiftLevels {
		if s, trust := m.shifts.get(level, o.target); trust > 0 {
			o.guess[level], o.trust[level] = o.fromShift(s), trust
		}
	}
	if s, ok := m.segs.at(o.target); ok {
		o.guess[3], o.trust[3] = o.fromShift(s), 1
	}
	o.valid = 15
}

// meaning gives the target of the old number that lies step bytes from i, and what the number loses by moving itself.
func (o *operand) meaning(m *patchedModel, i, step int, old uint32) (target int64, here int32) {
	off := m.segs.offset(i) + int64(step)
	switch o.kind {
	case kindPointer, kindRow:
		return int64(old), 0
	case kindSymbol:
		return int64(old) + symbolSpace, 0
	case kindTable:
		return m.frames.base + int64(int32(old)), m.frames.baseShift
	case kindBack:
		// The number is the distance from a place that moves with it.
		return off - int64(int32(old)), int32(step) - m.segs.shift()
	case kindUnknown:
		return off + int64(int32(old)), m.segs.shift() - int32(step)
	}
	return off + 4 + int64(int32(old)), m.segs.shift() - int32(step)
}

// fromShift is the difference of the number when what it points to moved by s.
func (o *operand) fromShift(s int32) int32 {
	if o.kind == kindBack {
		return -s - o.here
	}
	return s - o.here
}

// at is the place of i in the operand, 0 to 3; 4 when i is in none.
func (o *operand) at(i int) int {
	if o.left == 0 {
		return 4
	}
	return i - o.start
}

// says sums up what the guesses say about the byte at i: nothing, equal or different, each.
func (o *operand) says(i int, old byte) int {
	if o.left == 0 {
		return 0
	}
	k := uint(i-o.start) * 8
	sum := 0
	for g := 3; g >= 0; g-- {
		sum *= 3
		if o.trust[g] == 0 || o.valid&(1<<g) == 0 {
			continue
		}
		if byte((o.old+uint32(o.guess[g]))>>k) == old {
			sum++
		} else {
			sum += 2
		}
	}
	return sum*4 + int(min(o.trust[0], 3))
}

// guesses sets the guesses for the difference at i.
func (o *operand) guesses(m *patchedModel, i int, old byte) {
	v := &m.values
	for g := range valueGuesses {
		v.guess[g].context = -1
	}
	if o.left == 0 {
		return
	}
	k := uint(i - o.start)
	set := func(g int, delta int32, trust uint8) {
		if d := byte((o.old+uint32(delta))>>(8*k)) - old; d != 0 {
			v.guess[g] = guess{d, int(trust)<<6 | int(k)<<4 | o.kind}
		}
	}
	for g := range o.guess {
		if o.trust[g] != 0 && o.valid&(1<<g) != 0 {
			set(g, o.guess[g], min(o.trust[g], 15))
		}
	}
	mask := uint32(1)<<(8*k) - 1
	soFar := o.delta & mask
	n := 4
	if k > 0 {
		if e := m.byLow[o.lowKey()]; uint32(e)&mask == soFar {
			set(n, e, 1)
			n++
		}
	}
	for j, l := range m.last[o.kind] {
		if n < valueGuesses && uint32(l)&mask == soFar {
			set(n, l, uint8(j+2))
			n++
		}
	}
}

func (o *operand) lowKey() uint32 { return o.delta&0xff | uint32(o.kind)<<8 }

// step takes the byte at i into account.
func (o *operand) step(m *patchedModel, i int) {
	if o.left == 0 {
		return
	}
	k := uint(i-o.start) * 8
	now := uint32(m.data[i]) << k
	if k == 0 {
		o.delta = 0
	}
	// The difference of the numbers as far as they are known.
	o.delta = (o.delta+o.old&(1<<k-1))&(1<<k-1) | now
	mask := uint32(1)<<(k+8) - 1
	if k == 24 {
		mask = 1<<32 - 1
	}
	o.delta = (o.delta - o.old) & mask
	for g := range o.guess {
		if (uint32(o.guess[g])^o.delta)&mask != 0 {
			o.valid &^= 1 << g
		}
	}
	o.left--
	if o.left == 0 {
		o.close(m)
	}
}

func (o *operand) close(m *patchedModel) {
	if o.missed {
		o.findStep(m, o.old+o.delta)
	}
	d := int32(o.delta)
	if o.kind == kindBack {
		m.shifts.set(o.target, -d-o.here)
	} else {
		m.shifts.set(o.target, d+o.here)
	}
	m.spaced[m.spacing] = d
	m.opDeltas = [4]int32{d, m.opDeltas[0], m.opDeltas[1], m.opDeltas[2]}
	if d == 0 {
		return
	}
	m.byLow[o.lowKey()] = d
	l := &m.last[o.kind]
	switch d {
	case l[0]:
	case l[1]:
		l[0], l[1] = d, l[0]
	default:
		*l = [3]int32{d, l[0], l[1]}
	}
}

const (
	maxSources = 6
	maxTries   = 3
)

// candidates are what the sources of guesses say, most trusted first.
type candidates struct {
	delta [maxSources]int32
	have  [maxSources]bool
	done  [maxSources]bool
}

func (o *operand) candidates(m *patchedModel, c *candidates) {
	for j, g := range [4]int{0, 3, 1, 2} {
		if o.trust[g] != 0 && o.valid&(1<<g) != 0 {
			c.delta[j], c.have[j] = o.guess[g], true
		}
	}
	if o.kind == kindTable {
		c.delta[4], c.have[4] = m.opDeltas[1], true
	}
	if o.kind == kindUnknown || o.kind == kindPointer {
		c.delta[4], c.have[4] = m.spaced[m.spacing], true
		c.delta[5], c.have[5] = m.last[o.kind][0], true
	}
	if o.kind == kindUnknown {
		for j, d := range c.delta {
			if byte(o.old+uint32(d)) == m.ref[o.start] {
				c.have[j] = false
			}
		}
	}
}

// next gives the next candidate and how the others agree with it: three states for each.
func (c *candidates) next() (delta int32, pattern uint64, ok bool) {
	for j, d := range c.delta {
		switch {
		case !c.have[j]:
			pattern *= 3
			continue
		case !ok && !c.done[j]:
			delta, ok = d, true
		}
		pattern *= 3
		if ok && d == delta {
			pattern++
			c.done[j] = true
		} else {
			pattern += 2
		}
	}
	return delta, pattern, ok
}

// dropEqual drops the guesses that would leave the first byte as it was.
func (o *operand) dropEqual(old byte) {
	for g, d := range o.guess {
		if byte(o.old+uint32(d)) == old {
			o.valid &^= 1 << g
		}
	}
}

// drop drops the guesses of delta.
func (o *operand) drop(delta int32) {
	for g, d := range o.guess {
		if d == delta {
			o.valid &^= 1 << g
		}
	}
}

// symbolSpace keeps the numbers of symbols apart from addresses.
const symbolSpace = 1 << 40

const maxStep = 64 // rows

// findStep looks whether the number is that of another row of a table, after the guesses were wrong.
func (o *operand) findStep(m *patchedModel, now uint32) {
	switch o.kind {
	case kindPointer, kindTable, kindRow, kindUnknown, kindSymbol:
	default:
		return
	}
	if m.segs.offset(o.start)&3 != 0 || m.spacing > 32 {
		return
	}
	m.stepMisses++
	for row := range maxStep {
		for _, width := range [...]int{8, 24} {
			for _, step := range [...]int{-row * width, row * width} {
				if o.fits(m, step, now) {
					m.step, m.stepMisses = step, 0
					return
				}
			}
		}
	}
	if m.stepMisses > 3 {
		m.step = 0
	}
}

// fits tells whether the number follows from the old one step bytes from its place.
func (o *operand) fits(m *patchedModel, step int, now uint32) bool {
	at := o.start + step
	if at < 0 || at+4 > len(m.ref) {
		return false
	}
	old := binary.LittleEndian.Uint32(m.ref[at:])
	d := int32(now - old)
	if d == 0 && step != 0 || d > 1<<20 || d < -1<<20 {
		return false
	}
	target, here := o.meaning(m, o.start, step, old)
	need := d + here
	if o.kind == kindBack {
		need = -need
	}
	if s, ok := m.segs.at(target); ok && s == need {
		return true
	}
	for level := range shiftLevels {
		if s, trust := m.shifts.get(level, target); trust > 0 && s == need {
			return true
		}
	}
	return false
}
