package lzma

// spot is what the ways from one node have in common.
type spot struct {
	i     int // the node
	at    int // its position in the input
	avail int // bytes from there on that have nodes
	state uint8
	ps    int
	match uint32 // price of the way to here and of saying that a match follows
	rep   uint32 // and that it is a repetition
}

// extend offers the ways that go on from a settled node. The finder has just listed the matches there.
func (e *Encoder) extend(i int) {
	n := e.node(i)
	src, at := e.src, e.read-1
	ps := at & (1<<e.params.PB - 1)
	s := spot{i: i, at: at, avail: min(len(src)-at, horizon-1-i), state: n.state, ps: ps}
	isMatch := e.isMatch[s.state][ps]
	s.match = n.price + price1(isMatch)
	s.rep = s.match + price1(e.isRep[s.state])

	other := src[at-int(n.reps[0])-1]
	literal := n.price + price0(isMatch) + e.literalPrice(at, src[at-1], s.state >= literalStates, other)
	after := e.node(i + 1)
	better := literal < after.price
	after.offer(literal, uint32(i), noMatch)
	if src[at] == other && (int(after.from) >= i || after.back != 0) {
		if price := s.rep + e.shortPrice(s.state, ps); price <= after.price {
			after.set(price, uint32(i), 0)
			better = true
		}
	}
	if s.avail < minMatch {
		return
	}
	if !better && src[at] != other {
		e.tryLiteralRep(&s, literal, n.reps[0])
	}
	e.tryMatches(&s, e.tryReps(&s, &n.reps))
}

// tryLiteralRep offers a literal and a repetition of the last distance.
func (e *Encoder) tryLiteralRep(s *spot, price, dist uint32) {
	length := common(e.src, s.at-int(dist)-1+1, s.at+1, 0, min(s.avail, e.nice+1)-1)
	if length < minMatch {
		return
	}
	to := s.i + 1 + length
	e.reach(to)
	price += e.longRepPrice(s.at+1, afterLiteral(s.state), length)
	if n := e.node(to); price < n.price {
		n.set(price, uint32(s.i+1), 0)
		n.step = literalRep
	}
}

// longRepPrice is the price of a repetition of the last distance.
func (e *Encoder) longRepPrice(at int, state uint8, length int) uint32 {
	ps := at & (1<<e.params.PB - 1)
	return price1(e.isMatch[state][ps]) + price1(e.isRep[state]) + e.repPrice(0, state, ps) +
		e.prices.repLen.prices[ps&(posStates-1)][length-minMatch]
}

// tryReps offers repetitions, and those with a literal and a further repetition. It returns the least length worth trying for
// matches.
func (e *Encoder) tryReps(s *spot, reps *[4]uint32) int {
	src, at, least := e.src, s.at, minMatch
	limit := min(s.avail, e.nice)
	for which, dist := range reps {
		from := at - int(dist) - 1
		if src[from] != src[at] || src[from+1] != src[at+1] {
			continue
		}
		length := common(src, from, at, 2, limit)
		e.reach(s.i + length)
		price := s.rep + e.repPrice(which, s.state, s.ps)
		e.offerReps(s.i, which, length, price, s.ps)
		if which == 0 {
			least = length + 1
		}
		price += e.prices.repLen.prices[s.ps&(posStates-1)][length-minMatch]
		e.tryAnother(s, uint32(which), dist, length, price, afterRep(s.state))
	}
	return least
}

// tryAnother offers a literal and a repetition after a match or repetition, given its price and the state after it.
func (e *Encoder) tryAnother(s *spot, back, dist uint32, length int, price uint32, state uint8) {
	src, at := e.src, s.at+length // of the literal
	from := at - int(dist) - 1
	limit := min(s.avail-length-1, e.nice)
	if limit < minMatch || src[from+1] != src[at+1] || src[from+2] != src[at+2] {
		return
	}
	again := common(src, from+1, at+1, 2, limit)
	price += price0(e.isMatch[state][at&(1<<e.params.PB-1)]) + e.literalPrice(at, src[at-1], true, src[from])
	price += e.longRepPrice(at+1, afterLiteral(state), again)
	to := s.i + length + 1 + again
	e.reach(to)
	if n := e.node(to); price < n.price {
		n.set(price, uint32(s.i+length+1), 0)
		n.step, n.from2, n.back2 = matchAndRep, uint32(s.i), back
	}
}

// tryMatches offers the listed matches with all lengths from least on, and those with a literal and a repetition.
func (e *Encoder) tryMatches(s *spot, least int) {
	if limit := min(s.avail, e.nice); e.longest > limit {
		e.longest = limit
		k := 0
		for e.listed[k].length < limit {
			k++
		}
		e.listed[k].length = limit
		e.count = k + 1
	}
	if e.longest < least {
		return
	}
	e.reach(s.i + e.longest)
	price := s.match + price0(e.isRep[s.state])
	length := least
	for _, m := range e.listed[:e.count] {
		if length > m.length {
			continue
		}
		var p uint32
		for ; length <= m.length; length++ {
			p = price + e.prices.match(m.dist, length, s.ps)
			e.node(s.i+length).offer(p, uint32(s.i), m.dist+freshDist)
		}
		e.tryAnother(s, m.dist+freshDist, m.dist, m.length, p, afterMatch(s.state))
	}
}
