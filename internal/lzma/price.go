package lzma

const (
	priceBits = 4 // prices are in units of 1/16 bit
	infinity  = 1 << 30

	slotPricesAge  = 128 // matches after which the prices of distances are worked out anew
	alignPricesAge = aligns
	unpriced       = 1 << 30 // an age that asks for it
)

// bitPrices has the price of a bit by the upper seven bits of its probability: -16 log2 p, with the rounding of repeated squaring.
var bitPrices = makeBitPrices()

func makeBitPrices() (t [probOne >> 4]uint8) {
	for i := range t {
		w, log := uint32(i)<<4+8, 0
		for range priceBits {
			w *= w
			log <<= 1
			for ; w >= 1<<16; w >>= 1 {
				log++
			}
		}
		t[i] = uint8(probBits<<priceBits - 15 - log)
	}
	return t
}

func price0(p uint16) uint32 { return uint32(bitPrices[p>>4&127]) }

func price1(p uint16) uint32 { return uint32(bitPrices[(p^(probOne-1))>>4&127]) }

func priceOf(p uint16, bit uint32) uint32 {
	return uint32(bitPrices[(uint32(p)^-bit&(probOne-1))>>4&127])
}

// treePrice is the price of rangeEncoder.tree.
func treePrice(probs []uint16, n int, v uint32) (price uint32) {
	for v |= 1 << n; v != 1; v >>= 1 {
		price += priceOf(probs[v>>1], v&1)
	}
	return price
}

// reversePrice is the price of rangeEncoder.reverse.
func reversePrice(probs []uint16, n int, v uint32) (price uint32) {
	node := uint32(1)
	for ; n > 0; n-- {
		bit := v & 1
		v >>= 1
		price += priceOf(probs[node], bit)
		node = node<<1 | bit
	}
	return price
}

// lengthCoder is a lengthModel with prices. Those of a position state are worked out anew after as many lengths as there are prices.
type lengthCoder struct {
	size   int // lengths that have a price
	left   [posStates]int
	prices [posStates][lens]uint32 // by length - minMatch
}

func (c *lengthCoder) update(m *lengthModel, ps int) {
	c.left[ps] = c.size
	long := price1(m.choice)
	start := [...]uint32{price0(m.choice), long + price0(m.choice2), long + price1(m.choice2)}
	prices := c.prices[ps][:c.size]
	for i := range prices {
		switch v := uint32(i); {
		case i < lenLow:
			prices[i] = start[0] + treePrice(m.low[ps][:], 3, v)
		case i < lenLow+lenMid:
			prices[i] = start[1] + treePrice(m.mid[ps][:], 3, v-lenLow)
		default:
			prices[i] = start[2] + treePrice(m.high[:], 8, v-lenLow-lenMid)
		}
	}
}

// prices are those of distances and lengths.
type prices struct {
	matchLen, repLen lengthCoder

	slotCount int // slots that the dictionary needs
	slotAge   int // matches since slot and dist were worked out
	alignAge  int // far matches since align was
	slot      [distStates][slots]uint32
	dist      [distStates][fullDistances]uint32
	align     [aligns]uint32
}

func (p *prices) updateDistances(m *model) {
	for s := range distStates {
		for slot := range uint32(p.slotCount) {
			p.slot[s][slot] = treePrice(m.slot[s][:], slotBits, slot)
			if slot >= firstDirect {
				n, _ := footer(slot)
				p.slot[s][slot] += uint32(n-alignBits) << priceBits
			}
		}
		copy(p.dist[s][:firstFooter], p.slot[s][:])
	}
	for d := uint32(firstFooter); d < fullDistances; d++ {
		slot := slotOf(d)
		n, base := footer(slot)
		price := reversePrice(m.special[base-slot:], n, d-base)
		for s := range distStates {
			p.dist[s][d] = price + p.slot[s][slot]
		}
	}
	p.slotAge = 0
}

func (p *prices) updateAlign(m *model) {
	for i := range uint32(aligns) {
		p.align[i] = reversePrice(m.align[:], alignBits, i)
	}
	p.alignAge = 0
}

// match is the price of a match after the flags that say it is one.
func (p *prices) match(dist uint32, length, ps int) uint32 {
	price := p.matchLen.prices[ps&(posStates-1)][length-minMatch]
	s := distState(length) & (distStates - 1)
	if dist < fullDistances {
		return price + p.dist[s][dist]
	}
	return price + p.slot[s][slotOf(dist)&(slots-1)] + p.align[dist&(aligns-1)]
}

// rep is the price of the choice of a distance among the last four.
func (m *model) repPrice(which int, state uint8, ps int) uint32 {
	if which == 0 {
		return price0(m.isRep0[state]) + price1(m.isRep0Long[state][ps])
	}
	price := price1(m.isRep0[state])
	if which == 1 {
		return price + price0(m.isRep1[state])
	}
	return price + price1(m.isRep1[state]) + priceOf(m.isRep2[state], uint32(which-2))
}

func (m *model) shortPrice(state uint8, ps int) uint32 {
	return price0(m.isRep0[state]) + price0(m.isRep0Long[state][ps])
}

// plainPrice is the price of a literal after a literal.
func plainPrice(probs *[0x300]uint16, b byte) (price uint32) {
	for v := uint32(b) | 0x100; v != 1; v >>= 1 {
		price += priceOf(probs[v>>1], v&1)
	}
	return price
}

// matchedPrice is the price of a literal after a match, which would have gone on with the byte other.
func matchedPrice(probs *[0x300]uint16, b, other byte) (price uint32) {
	v, o, offset := uint32(b)|0x100, uint32(other), uint32(0x100)
	for v < 1<<16 {
		o <<= 1
		price += priceOf(probs[offset+o&offset+v>>8], v>>7&1)
		v <<= 1
		offset &^= o ^ v
	}
	return price
}
