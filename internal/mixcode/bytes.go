package mixcode

import "encoding/binary"

const (
	nearBytes    = 2048 // in front of a gap
	farStep      = 4
	byteContexts = 12
	byteGuesses  = 2
)

// matchLengths are the numbers of equal bytes before the place that a match model needs.
var matchLengths = [byteGuesses]uint{7, 4}

// A Gap is a stretch of content that a decoder does not know yet.
type Gap struct{ Start, Len int }

// A literalModel predicts bytes from those before them.
type literalModel struct {
	byteMix
	text  []byte // primer and data so far
	at    int
	last  uint64 // the last 8 bytes, the latest lowest
	word  uint32
	heads [byteGuesses][]int32 // hash of the last bytes: the place behind where they were seen last; 0 is never
	bits  [byteGuesses]uint
	match [byteGuesses]int // place of the guessed byte in text; 0 is none
	run   [byteGuesses]int // bytes that were guessed right in a row
	miss  [byteGuesses]uint32
}

// start forgets all and takes the primer and the bytes of content outside the gaps, which hold n bytes.
func (m *literalModel) start(env *environment, content []byte, gaps []Gap, n int, primer []byte) {
	m.reset(env, byteContexts, byteGuesses, slotBits(n*byteContexts), []int{256, 64, 256}, []int{256, 1, 1})
	m.text = append(append(m.text[:0], primer...), content...)
	for g := range m.heads {
		m.bits[g] = tableBits(len(m.text), 10, 18)
		m.heads[g] = cleared(m.heads[g], 1<<m.bits[g])
	}
	at := 0
	for _, gap := range gaps {
		from := len(primer) + gap.Start
		m.index(at, from)
		at = from + gap.Len
		clear(m.text[from:at])
	}
	m.index(at, len(m.text))
}

// index makes known bytes findable: those just in front of a gap by each match model, the others at some places by the first.
func (m *literalModel) index(from, to int) {
	near := max(from, to-nearBytes)
	for end := from + 8; end < near; end += farStep {
		m.last = binary.BigEndian.Uint64(m.text[end-8:])
		m.heads[0][m.key(0)] = int32(end)
	}
	m.last = before(m.text, near)
	for i := near; i < to; i++ {
		m.last = m.last<<8 | uint64(m.text[i])
		if i-from >= 7 {
			for g := range m.heads {
				m.heads[g][m.key(g)] = int32(i + 1)
			}
		}
	}
}

// enter goes to a place in the text; what is before it is known.
func (m *literalModel) enter(at int) {
	m.at = at
	m.word = 0
	m.last = before(m.text, at)
	for i := max(0, at-16); i < at; i++ {
		m.addWord(m.text[i])
	}
	for g := range m.match {
		m.match[g], m.run[g], m.miss[g] = 0, 0, 0
		if head := int(m.heads[g][m.key(g)]); head != 0 && head != at {
			m.look(g, head)
		}
	}
}

// tableBits is the size of a table for n entries as a power of two.
func tableBits(n int, low, high uint) uint {
	b := low
	for b < high && 1<<b < n {
		b++
	}
	return b
}

func slotBits(n int) uint { return tableBits(n, 10, 19) }

// cleared gives a zeroed slice of n elements, in the room of s when there is enough.
func cleared[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	s = s[:n]
	clear(s)
	return s
}

func (m *literalModel) key(g int) uint32 {
	v := m.last << (64 - 8*matchLengths[g])
	return uint32(v * 0x9E3779B97F4A7C15 >> (64 - m.bits[g]))
}

// next codes one byte.
func (m *literalModel) next(rc *rangeCoder, sym byte) byte {
	m.setContexts()
	longest := m.guessMatches()
	c1 := int(m.last & 255)
	m.selector = [maxSets]int{0, longest, c1}
	sym = m.code(rc, sym)
	m.append(sym)
	return sym
}

func (m *literalModel) setContexts() {
	l := m.last
	h := &m.hash
	mix := func(i uint32, v uint64) uint32 {
		v = (v + uint64(i)<<56) * 0x9E3779B97F4A7C15
		return uint32(v>>32) ^ uint32(v)*0x2545F491 + i
	}
	h[0] = mix(0, l&0xff)
	h[1] = mix(1, l&0xffff)
	h[2] = mix(2, l&0xffffff)
	h[3] = mix(3, l&0xffffffff)
	h[4] = mix(4, l&0xffffffffffff)
	h[5] = mix(5, uint64(m.word))
	h[6] = mix(6, uint64(m.word)<<8|l&0xff)
	h[7] = mix(7, l&0xff00)
	h[8] = mix(8, l&0xffff00)
	h[9] = mix(9, l&0xf0f0f0ff)
	h[10] = mix(10, uint64(m.at&3)<<32|l&0xff000000)
	h[11] = mix(11, l>>56<<8|l>>24&0xff)
}

// guessMatches sets the guesses of the match models and tells how good the longest is, less than 64.
func (m *literalModel) guessMatches() int {
	quality := 0
	for g := range m.match {
		m.guess[g].context = -1
		if m.match[g] == 0 || m.match[g] >= len(m.text) {
			continue
		}
		want := m.text[m.match[g]]
		run := min(m.run[g], 15)
		if m.run[g] > 15 {
			run = min(15+(m.run[g]-15)>>3, 30)
		}
		m.guess[g] = guess{want, run<<3 | int(min(m.miss[g], 7))}
		if quality == 0 {
			quality = 1 + run + g*31
		}
	}
	return min(quality, 63)
}

func (m *literalModel) addWord(b byte) {
	if b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= 0x80 {
		m.word = (m.word + uint32(b)) * 0x2F0B4C47
	} else {
		m.word = 0
	}
}

// append takes the byte into the history.
func (m *literalModel) append(b byte) {
	m.text[m.at] = b
	m.at++
	m.last = m.last<<8 | uint64(b)
	m.addWord(b)
	for g := range m.match {
		if at := m.match[g]; at != 0 && at < len(m.text) {
			if m.text[at] == b {
				m.run[g]++
				m.match[g]++
				if m.miss[g] > 0 && m.run[g]&15 == 0 {
					m.miss[g]--
				}
			} else {
				m.run[g] = 0
				m.miss[g]++
				m.match[g]++
				if m.miss[g] > 7 {
					m.match[g] = 0
				}
			}
		}
		head := &m.heads[g][m.key(g)]
		if m.match[g] == 0 || m.run[g] == 0 {
			if at := int(*head); at != 0 {
				m.look(g, at)
			}
		}
		*head = int32(m.at)
	}
}

// look takes a candidate for a match when enough bytes before it are equal.
func (m *literalModel) look(g, at int) {
	n := 0
	for n < 32 && n < at && n < m.at && m.text[at-1-n] == m.text[m.at-1-n] {
		n++
	}
	if n >= int(matchLengths[g]) {
		m.match[g], m.run[g], m.miss[g] = at, n, 0
	}
}
