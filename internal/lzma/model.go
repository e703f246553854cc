package lzma

import "math/bits"

const (
	minMatch = 2
	maxMatch = 273

	maxLiteralBits = 4 // context and position bits together
	maxPosBits     = 4
	posStates      = 1 << maxPosBits

	states        = 12
	literalStates = 7 // states below this follow a literal

	lenLow  = 8 // lengths from minMatch on that are coded with three bits
	lenMid  = 8
	lenHigh = 256
	lens    = lenLow + lenMid + lenHigh

	distStates    = 4 // sets of slot codes, by the length
	slotBits      = 6
	slots         = 1 << slotBits
	firstFooter   = 4   // slots from here on have footer bits
	firstDirect   = 14  // and from here on, footer bits of which all but four are not modelled
	fullDistances = 128 // distances below that of slot firstDirect
	alignBits     = 4
	aligns        = 1 << alignBits

	probBits = 11
	probOne  = 1 << probBits
	probHalf = probOne / 2
	moveBits = 5

	topRange = 1 << 24 // the coder shifts a byte when its range is below
)

// What follows are the states that come after a literal, a match, a long and a short repetition.

func afterLiteral(s uint8) uint8 { return nextLiteral[s&15] }

var nextLiteral = [16]uint8{0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 4, 5}

func afterMatch(s uint8) uint8 {
	if s < literalStates {
		return 7
	}
	return 10
}

func afterRep(s uint8) uint8 {
	if s < literalStates {
		return 8
	}
	return 11
}

func afterShort(s uint8) uint8 {
	if s < literalStates {
		return 9
	}
	return 11
}

// slotOf returns the slot of a distance, which is counted from 0.
func slotOf(dist uint32) uint32 {
	if dist < firstFooter {
		return dist
	}
	n := uint32(bits.Len32(dist)) - 1
	return n<<1 + dist>>(n-1)&1
}

// footer returns the number of footer bits of a slot and the least distance.
func footer(slot uint32) (n int, base uint32) {
	n = int(slot>>1) - 1
	return n, (2 | slot&1) << n
}

// distState returns which set of slot codes a length has.
func distState(length int) int { return min(length-minMatch, distStates-1) }

// lengthModel holds the probabilities of lengths. Trees start at index 1.
type lengthModel struct {
	choice, choice2 uint16
	low             [posStates][lenLow]uint16
	mid             [posStates][lenMid]uint16
	high            [lenHigh]uint16
}

// model holds the probabilities, in units of 1/probOne, that the next bit is 0.
type model struct {
	isMatch    [states][posStates]uint16
	isRep      [states]uint16
	isRep0     [states]uint16
	isRep1     [states]uint16
	isRep2     [states]uint16
	isRep0Long [states][posStates]uint16
	slot       [distStates][slots]uint16
	special    [fullDistances]uint16 // the tree of a slot starts at its least distance minus the slot
	align      [aligns]uint16
	matchLen   lengthModel
	repLen     lengthModel
	literal    [0x300 << maxLiteralBits]uint16
}

// reset makes all bits equally likely.
func (m *model) reset(literalBits int) {
	half := func(p []uint16) {
		for i := range p {
			p[i] = probHalf
		}
	}
	for s := range states {
		half(m.isMatch[s][:])
		half(m.isRep0Long[s][:])
	}
	half(m.isRep[:])
	half(m.isRep0[:])
	half(m.isRep1[:])
	half(m.isRep2[:])
	for s := range distStates {
		half(m.slot[s][:])
	}
	half(m.special[:])
	half(m.align[:])
	for _, l := range []*lengthModel{&m.matchLen, &m.repLen} {
		l.choice, l.choice2 = probHalf, probHalf
		for s := range posStates {
			half(l.low[s][:])
			half(l.mid[s][:])
		}
		half(l.high[:])
	}
	half(m.literal[:0x300<<literalBits])
}
