package mixcode

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

const (
	quiet         = 256 // equal bytes in a row after which blocks are coded instead of bytes
	block         = 64  // bytes
	settled       = 16  // equal bytes in a row after which stretches are tried
	maxStretch    = 32  // bytes
	valueContexts = 13
	valueGuesses  = 6
)

// A patchedModel codes bytes whose old counterpart is known: for each whether it differs, and by how much if so. Four shortcuts make that
// fast and small: skip codes blocks of equal bytes after a long equal run, stretch the equal bytes up to the next likely operand, whole an
// operand that is what its target's move says, and value a difference from contexts when nothing else was right.
type patchedModel struct {
	env  *environment
	rc   *rangeCoder
	ref  []byte
	data []byte
	diff []byte // data - ref so far
	segs shiftMap

	values byteMix // differences
	flags  flagMix // does the byte differ
	spans  flagMix // does a stretch differ
	wholes flagMix // was the guess of an operand wrong

	gap       int    // equal bytes before
	gaps      [3]int // the equal runs before that one
	runLen    int    // differing bytes before
	lastRun   int
	lastVal   byte   // first difference of the latest run
	differed  uint64 // one bit for each byte, the latest lowest
	noStretch int    // a stretch up to here is known to differ
	lastLog   int    // size of the latest skip
	runBits   [32][32]adaptive

	op         operand
	frames     frameTables
	shifts     shiftTables
	opStart    int
	spacing    int                    // from the operand before to the latest, at most 63
	spaced     [64]int32              // latest delta by spacing
	opDeltas   [4]int32               // latest deltas
	last       [operandKinds][3]int32 // latest different deltas
	byLow      [1 << 12]int32         // latest delta by its low byte and kind
	hits       uint32                 // wrong guesses of operands, one bit each, the latest lowest
	step       int                    // bytes by which the rows of a table are out of step
	stepMisses int
}

// run codes data, or fills it when rc decodes.
func (m *patchedModel) run(env *environment, rc *rangeCoder, data, ref []byte, segs []Segment) error {
	m.env, m.rc, m.ref, m.data = env, rc, ref, data
	m.start(segs)
	for i := 0; i < len(ref); {
		if m.gap >= quiet && m.op.left == 0 && len(ref)-i >= block {
			i += m.skip(i)
			m.gap = quiet - block
			if rc.overrun() {
				return ErrTruncated
			}
			continue
		}
		i += m.position(i)
		if rc.overrun() {
			return ErrTruncated
		}
	}
	return nil
}

func (m *patchedModel) start(segs []Segment) {
	n := len(m.ref)
	m.values.reset(m.env, valueContexts, valueGuesses, tableBits(n/2, 10, 18), []int{256, 64, 256}, []int{256, 1, 1})
	m.flags.reset(m.env, 12, tableBits(n, 8, 15), []int{256, 256, 64})
	m.spans.reset(m.env, 6, tableBits(n/8, 8, 13), []int{64, 64})
	m.wholes.reset(m.env, 9, tableBits(n/4, 8, 14), []int{729, 64})
	m.frames.start(m.ref)
	m.spaced = [64]int32{}
	m.opStart, m.spacing = 0, 0
	m.step, m.stepMisses = 0, 0
	m.opDeltas = [4]int32{}
	m.noStretch, m.hits = 0, 0
	m.segs.start(segs, n)
	m.diff = cleared(m.diff, n+32)
	m.gap, m.gaps, m.runLen, m.lastRun, m.differed = 0, [3]int{}, 0, 0, 0
	m.op = operand{}
	m.shifts.reset()
	m.last = [operandKinds][3]int32{}
	clear(m.byLow[:])
	m.lastLog, m.lastVal = 0, 0
	for i := range m.runBits {
		for j := range m.runBits[i] {
			m.runBits[i][j] = adaptiveHalf
		}
	}
}

// skip codes how many blocks of equal bytes follow and gives their bytes.
func (m *patchedModel) skip(i int) int {
	n := 0
	limit := (len(m.ref) - i) / block
	if !m.rc.decoding {
		for n < limit && bytes.Equal(m.data[i+n*block:][:block], m.ref[i+n*block:][:block]) {
			n++
		}
	}
	// The length in bits of n+1, in unary, then its bits.
	want := bits.Len(uint(n + 1))
	size := 1
	for size < 31 {
		more := m.rc.bit(b2u(want > size), m.runBits[m.lastLog][size].p16())
		m.runBits[m.lastLog][size].train(m.env.reciprocals, more, 100)
		if more == 0 {
			break
		}
		size++
	}
	v := 1
	for k := size - 2; k >= 0; k-- {
		v = v<<1 | int(m.rc.bit(uint32((n+1)>>k)&1, 32768))
	}
	m.lastLog = size
	n = min(v-1, limit)
	if m.rc.decoding {
		copy(m.data[i:i+n*block], m.ref[i:])
	}
	if n > 0 {
		m.differed = 0
	}
	return n * block
}

func b2u(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// old gives the 8 old bytes at i, zeros behind the end.
func (m *patchedModel) old(i int) uint64 {
	if i+8 <= len(m.ref) {
		return binary.LittleEndian.Uint64(m.ref[i:])
	}
	var b [8]byte
	copy(b[:], m.ref[i:])
	return binary.LittleEndian.Uint64(b[:])
}

// before gives the up to 8 bytes of b before i, the latest lowest.
func before(b []byte, i int) uint64 {
	if i >= 8 {
		return binary.BigEndian.Uint64(b[i-8:])
	}
	var v uint64
	for _, c := range b[:i] {
		v = v<<8 | uint64(c)
	}
	return v
}

// position codes the byte at i, or more of them with one decision, and gives their number.
func (m *patchedModel) position(i int) int {
	m.segs.advance(i)
	m.frames.advance(m, i)
	prev, next := before(m.ref, i), m.old(i)
	if m.op.left == 0 {
		kind := m.kindAt(i, prev, next)
		if m.step != 0 {
			if m.gap > 64 || m.segs.fromStart(i) == 0 {
				m.step = 0
			} else if kind == kindNone && m.segs.offset(i)&3 == 0 {
				kind = kindRow
			}
		}
		if kind == kindNone && m.gap >= settled && i >= m.noStretch {
			if n := m.stretch(i, prev, next); n > 0 {
				return n
			}
		}
		m.op.open(m, i, kind, next)
		if m.op.left > 0 && i+4 <= len(m.ref) && m.whole(i, prev) {
			return 4
		}
	}
	m.flagContexts(i, prev, next)
	differs := uint32(0)
	if !m.rc.decoding {
		differs = b2u(m.data[i] != m.ref[i])
	}
	differs = m.flags.code(m.rc, differs)
	d := byte(0)
	if differs != 0 {
		if m.op.left == 0 {
			m.op.open(m, i, kindUnknown, next)
			m.op.dropEqual(byte(next))
			if i+4 <= len(m.ref) && m.whole(i, prev) {
				return 4
			}
		}
		d = m.value(i, prev, next)
	} else if m.rc.decoding {
		m.data[i] = m.ref[i]
	}
	m.after(i, d)
	return 1
}

// stretch codes whether the bytes up to the next likely operand are equal; it gives their number if so.
func (m *patchedModel) stretch(i int, prev, next uint64) int {
	n := 1
	limit := min(maxStretch, len(m.ref)-i, m.segs.toEnd(i))
	p := prev
	for n < limit {
		p = p<<8 | uint64(m.ref[i+n-1])
		if m.kindAt(i+n, p, m.old(i+n)) != kindNone {
			break
		}
		n++
	}
	f := &m.spans
	gapLog := uint64(bits.Len(uint(m.gap)))
	f.index = [maxFlagContexts]uint32{
		hash64(0, uint64(n)<<8|gapLog),
		hash64(1, uint64(min(m.gap, 255))<<32|uint64(min(m.gaps[0], 255))<<16|uint64(min(m.gaps[1], 255))),
		hash64(2, uint64(m.lastRun)<<16|uint64(m.op.kind)<<8|uint64(bits.Len(uint(m.gaps[0])))),
		hash64(3, prev&0xffff),
		hash64(4, next&0xffffffff),
		hash64(5, uint64(min(m.segs.toEnd(i+n-1), 63))<<8|uint64(n)),
	}
	f.selector = [maxSets]int{n, int(gapLog), 0}
	equal := uint32(0)
	if !m.rc.decoding {
		equal = b2u(bytes.Equal(m.data[i:i+n], m.ref[i:i+n]))
	}
	if f.code(m.rc, equal^1) != 0 {
		m.noStretch = i + n
		return 0
	}
	if m.rc.decoding {
		copy(m.data[i:i+n], m.ref[i:])
	}
	m.gap += n
	m.differed <<= uint(n)
	if m.runLen > 0 {
		m.lastRun, m.runLen = m.runLen, 0
	}
	return n
}

// whole codes whether the operand at i is what one of its best guesses says; all of it is known then.
func (m *patchedModel) whole(i int, prev uint64) bool {
	o := &m.op
	var c candidates
	o.candidates(m, &c)
	for try := range uint64(maxTries) {
		delta, pattern, ok := c.next()
		if !ok {
			o.missed = true
			return false
		}
		if m.tryWhole(i, prev, delta, pattern, try) {
			return true
		}
		o.drop(delta)
	}
	o.missed = true
	return false
}

// tryWhole codes whether the old number and delta give the operand at i.
func (m *patchedModel) tryWhole(i int, prev uint64, delta int32, pattern, try uint64) bool {
	o := &m.op
	f := &m.wholes
	k := uint64(o.kind)<<2 | try
	pattern = pattern<<4 | uint64(min(o.trust[0], 3))<<2 | uint64(min(o.trust[1], 3))
	f.index = [maxFlagContexts]uint32{
		hash64(0, pattern<<6|k),
		hash64(1, uint64(o.target)<<6|k),
		hash64(2, uint64(uint32(delta))<<6|k),
		hash64(3, prev&0xffff<<2|try),
		hash64(4, uint64(m.hits&255)<<6|k),
		hash64(5, uint64(o.target>>8)<<2|try),
		hash64(6, uint64(bits.Len(uint(m.gap)))<<16|k<<2|uint64(b2u(delta == 0))<<1),
		hash64(7, pattern<<6|k|uint64(m.hits&7)<<32),
		hash64(8, uint64(m.spacing)<<6|k|uint64(b2u(delta == 0))<<32|uint64(b2u(m.step != 0))<<33),
	}
	f.selector = [maxSets]int{int(pattern>>4) % 729, int(k), 0}
	now := o.old + uint32(delta)
	hit := uint32(0)
	if !m.rc.decoding {
		hit = b2u(binary.LittleEndian.Uint32(m.data[i:]) == now)
	}
	miss := f.code(m.rc, hit^1)
	if try == 0 || miss == 0 {
		m.hits = m.hits<<1 | miss
	}
	if miss != 0 {
		return false
	}
	if m.rc.decoding {
		binary.LittleEndian.PutUint32(m.data[i:], now)
	}
	for j := range 4 {
		m.after(i+j, m.data[i+j]-m.ref[i+j])
	}
	return true
}

// value codes the difference at i, which is not 0.
func (m *patchedModel) value(i int, prev, next uint64) byte {
	v := &m.values
	m.valueContexts(i, prev, next)
	d := byte(0)
	if !m.rc.decoding {
		d = m.data[i] - m.ref[i]
	}
	d = v.code(m.rc, d)
	if m.rc.decoding {
		m.data[i] = m.ref[i] + d
	}
	return d
}

// after updates what is known from the coded byte.
func (m *patchedModel) after(i int, d byte) {
	m.diff[i] = d
	m.differed = m.differed<<1 | uint64(b2u(d != 0))
	if d == 0 {
		if m.runLen > 0 {
			m.lastRun = m.runLen
			m.runLen = 0
		}
		m.gap++
	} else {
		if m.gap > 0 {
			m.gaps = [3]int{m.gap, m.gaps[0], m.gaps[1]}
			m.lastVal = d
		}
		m.gap = 0
		m.runLen++
	}
	m.op.step(m, i)
}
