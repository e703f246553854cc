package mixcode

const (
	maxContexts = 16
	maxGuesses  = 6
	slotSize    = 16 // check, then the histories of the 15 nodes of a nibble's tree
)

// A guess is what a model expects the byte to be; the confidence in it is learned by context. context < 0 is no guess.
type guess struct {
	value   byte
	context int
}

const guessContexts = 1024

// First weights and learning rate, found by trial on updates of programs, libraries, kernel modules and texts.
const (
	contextWeight = 8000
	guessWeight   = 22000
	order0Weight  = 8192
	byteRate      = 20
)

// A byteMix codes bytes: each of its hashed contexts gives the history of each binary decision, each guess an expected byte, and a mixer
// weighs them.
type byteMix struct {
	env *environment
	mixer
	contexts int
	guesses  int
	hash     [maxContexts]uint32 // set by the caller before each byte
	guess    [maxGuesses]guess   // likewise
	selector [maxSets]int        // likewise: sets of the mixer; -1 stands for the bits of the byte coded so far
	selScale [maxSets]int

	slots     []byte
	slotShift uint
	at        [maxContexts]int32 // of the chosen slot
	byHistory [maxContexts][maxHistories]adaptive
	order0    [256]adaptive
	byGuess   [maxGuesses][guessContexts]adaptive
}

// environment is what all coders share and none changes.
type environment struct {
	*tables
	*histories
	*reciprocals
}

func newEnvironment() *environment {
	return &environment{newTables(), newHistories(), newReciprocals()}
}

// reset forgets all and takes 1<<bits slots.
func (m *byteMix) reset(env *environment, contexts, guesses int, bits uint, sets []int, scale []int) {
	m.env, m.contexts, m.guesses = env, contexts, guesses
	if n := slotSize << bits; cap(m.slots) < n {
		m.slots = make([]byte, n)
	} else {
		m.slots = m.slots[:n]
		clear(m.slots)
	}
	m.slotShift = 32 - bits
	first := make([]int32, 0, stride)
	for range contexts {
		first = append(first, contextWeight)
	}
	for range guesses {
		first = append(first, guessWeight)
	}
	first = append(first, order0Weight)
	m.setUp(env.tables, sets, first)
	copy(m.selScale[:], scale)
	m.rate = byteRate
	untrained := firstByHistory(env.histories)
	for i := range contexts {
		m.byHistory[i] = untrained
	}
	for i := range m.order0 {
		m.order0[i] = adaptiveHalf
	}
	for i := range guesses {
		for j := range m.byGuess[i] {
			m.byGuess[i][j] = fixed(60000, 2)
		}
	}
}

// firstByHistory is the probability of a one after each history before anything was learned.
func firstByHistory(h *histories) (out [maxHistories]adaptive) {
	for i := range out {
		n0, n1 := uint32(h.n[i][0]), uint32(h.n[i][1])
		p := (n1*65536*2 + 65536/2) / ((n0+n1)*2 + 1)
		out[i] = fixed(max(64, min(65536-64, p)), 6)
	}
	return out
}

// choose finds the slots of a nibble; node is 1 for the first, 16..31 (1 and the first nibble) for the second.
func (m *byteMix) choose(node uint32) {
	for i := range m.contexts {
		h := (m.hash[i] + node*0x9E3779B1) * 0x85EBCA6B
		h ^= h >> 15
		h *= 0xC2B2AE35
		m.at[i] = m.find(h)
	}
}

// find gives the place of the slot for a hash: the one with its check, else the less trained of two, emptied.
func (m *byteMix) find(h uint32) int32 {
	at := h >> m.slotShift << 4
	check := byte(h&0xff) | 1
	s := m.slots
	if s[at] == check {
		return int32(at)
	}
	other := at ^ slotSize
	if s[other] == check {
		return int32(other)
	}
	n0, n1 := m.env.n[s[at+1]], m.env.n[s[other+1]]
	if n1[0]+n1[1] < n0[0]+n0[1] {
		at = other
	}
	clear(s[at : at+slotSize])
	s[at] = check
	return int32(at)
}

// code codes sym, or decodes it when rc decodes.
func (m *byteMix) code(rc *rangeCoder, sym byte) byte {
	node := uint32(1)
	m.choose(node)
	for i := range 8 {
		if i == 4 {
			m.choose(node)
		}
		bit := m.codeBit(rc, uint32(sym>>(7-i))&1, node, i)
		node = node<<1 | bit
	}
	return byte(node)
}

// codeBit codes one decision: node is 1 followed by the bits so far, i their number.
func (m *byteMix) codeBit(rc *rangeCoder, bit, node uint32, i int) uint32 {
	env := m.env
	sub := node
	if i >= 4 {
		sub = node&(1<<(i-4)-1) | 1<<(i-4)
	}
	var hist [maxContexts]uint8
	k := 0
	for c := range m.contexts {
		h := m.slots[uint32(m.at[c])+sub]
		hist[c] = h
		if h == 0 {
			m.x[k] = 0
		} else {
			m.x[k] = int32(env.stretch[m.byHistory[c][h].p16()>>4])
		}
		k++
	}
	agree := m.guessInputs(node, i, k)
	k += m.guesses
	m.x[k] = int32(env.stretch[m.order0[node&255].p16()>>4])
	for s := range m.nsel {
		set := m.selector[s]
		m.chosen[s] = set*m.selScale[s] + int(node)%m.selScale[s]
	}
	p := m.mix()
	bit = rc.bit(bit, max(1, min(65535, p)))
	m.train(bit)
	for c := range m.contexts {
		h := hist[c]
		m.byHistory[c][h].train(env.reciprocals, bit, 255)
		m.slots[uint32(m.at[c])+sub] = env.next[h][bit]
	}
	m.order0[node&255].train(env.reciprocals, bit, 60)
	for g := range m.guesses {
		if agree&(1<<g) != 0 {
			want := uint32(m.guess[g].value>>(7-i)) & 1
			m.byGuess[g][m.guess[g].context].train(env.reciprocals, bit^want^1, 255)
		}
	}
	return bit
}

// guessInputs writes the inputs of the guesses whose byte agrees with the bits so far and gives the set of those.
func (m *byteMix) guessInputs(node uint32, i, k int) (agree uint32) {
	for g := range m.guesses {
		q := &m.guess[g]
		m.x[k+g] = 0
		if q.context < 0 || (uint32(q.value)|256)>>(8-i) != node {
			continue
		}
		agree |= 1 << g
		v := int32(m.env.stretch[m.byGuess[g][q.context].p16()>>4])
		if q.value>>(7-i)&1 == 0 {
			v = -v
		}
		m.x[k+g] = v
	}
	return agree
}
