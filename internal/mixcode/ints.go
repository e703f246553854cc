package mixcode

import "math/bits"

const intContexts = 6

// An intModel codes unsigned numbers: first the number of their bits, predicted from the numbers before; then the bits themselves.
type intModel struct {
	byteMix
	before [4]uint64
	prefix [65][32]adaptive // the bits below the highest, by their prefix
	lower  [65][64]adaptive
	count  int
}

func (m *intModel) start(env *environment, n int) {
	m.reset(env, intContexts, 0, tableBits(n*2, 8, 14), []int{256, 65}, []int{256, 1})
	m.before = [4]uint64{}
	m.count = 0
	for i := range m.prefix {
		for j := range m.prefix[i] {
			m.prefix[i][j] = adaptiveHalf
		}
		for j := range m.lower[i] {
			m.lower[i][j] = adaptiveHalf
		}
	}
}

func (m *intModel) next(rc *rangeCoder, v uint64) uint64 {
	b := &m.before
	l := [4]uint32{}
	for i, x := range b {
		l[i] = uint32(bits.Len64(x))
	}
	m.hash = [maxContexts]uint32{
		l[0]*0x9E3779B1 + 1, (l[0]<<8|l[1])*0x9E3779B1 + 2, (l[0]<<16|l[1]<<8|l[2])*0x9E3779B1 + 3, l[1]*0x9E3779B1 + 4,
		l[2]*0x9E3779B1 + 5, uint32((b[0]*0x9E3779B97F4A7C15)>>32) + 6,
	}
	m.selector = [maxSets]int{0, int(l[0]), 0}
	n := min(uint(m.code(rc, byte(bits.Len64(v)))), 64) // more than 64 only in a damaged stream
	v = m.mantissa(rc, v, n)
	*b = [4]uint64{v, b[0], b[1], b[2]}
	m.count++
	return v
}

// mantissa codes the bits of v below its highest, the n-th.
func (m *intModel) mantissa(rc *rangeCoder, v uint64, n uint) uint64 {
	if n == 0 {
		return 0
	}
	out := uint64(1)
	node := uint32(1)
	for i := int(n) - 2; i >= 0; i-- {
		p := &m.lower[n][i]
		if node < 16 {
			p = &m.prefix[n][node]
		}
		bit := rc.bit(uint32(v>>i)&1, p.p16())
		p.train(m.env.reciprocals, bit, 60)
		node = node<<1 | bit
		out = out<<1 | uint64(bit)
	}
	return out
}
