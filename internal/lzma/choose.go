package lzma

// step is how a node is reached from the one before it.
type step uint8

const (
	single      step = iota // by one literal, match or repetition
	literalRep              // by a literal and a repetition of the last distance
	matchAndRep             // by a match or repetition, a literal and a repetition of its distance
)

// node stands for a number of bytes from where the choice began, and has the cheapest known way to encode them.
type node struct {
	price uint32
	from  uint32 // where the last literal, match or repetition of the way starts
	back  uint32 // what that is
	from2 uint32 // of matchAndRep: where the match starts
	back2 uint32 // what it is
	step  step
	state uint8     // after the way
	reps  [4]uint32 // after the way
}

// set makes a way of one step the cheapest.
func (n *node) set(price, from, back uint32) {
	n.price, n.from, n.back, n.step = price, from, back, single
}

// offer proposes a way of one step.
func (n *node) offer(price, from, back uint32) {
	if price < n.price {
		n.set(price, from, back)
	}
}

func (e *Encoder) node(i int) *node { return &e.nodes[i&(horizon-1)] }

// reach makes sure that the nodes up to i have a price.
func (e *Encoder) reach(i int) {
	for e.last < i {
		e.last++
		e.node(e.last).price = infinity
	}
}

// lookUp asks the finder.
func (e *Encoder) lookUp() {
	e.longest = e.finder.next()
	e.ahead++
}

// skipped moves the finder over the rest of a match.
func (e *Encoder) skipped(n int) {
	e.finder.skip(n)
	e.ahead += n
}

// choose returns what to encode next, and how many bytes that is.
func (e *Encoder) choose() (back uint32, length int) {
	if e.taken != e.planned {
		n := e.node(e.taken)
		length = int(n.from) - e.taken
		e.taken = int(n.from)
		return n.back, length
	}
	if e.ahead == 0 {
		if e.slotAge >= slotPricesAge {
			e.updateDistances(&e.model)
		}
		if e.alignAge >= alignPricesAge {
			e.updateAlign(&e.model)
		}
		e.lookUp()
	}
	if back, length = e.open(); length != 0 {
		return back, length
	}
	i := 1
	for ; i < e.last; i++ {
		e.lookUp()
		if e.longest >= e.nice {
			break
		}
		e.settle(i)
		e.extend(i)
	}
	return e.trace(i)
}

// open gives prices to what can be reached from the current position in one step. When there is no choice worth it, open returns what
// to encode; otherwise length is 0.
func (e *Encoder) open() (back uint32, length int) {
	src, at := e.src, e.read-1
	avail := min(len(src)-at, maxMatch)
	if avail < minMatch {
		return noMatch, 1
	}
	var lengths [4]int
	best := 0
	for i, dist := range e.reps {
		from := at - int(dist) - 1
		if src[from] != src[at] || src[from+1] != src[at+1] {
			continue
		}
		lengths[i] = common(src, from, at, 2, avail)
		if lengths[i] > lengths[best] {
			best = i
		}
	}
	if n := lengths[best]; n >= e.nice {
		e.skipped(n - 1)
		return uint32(best), n
	}
	if e.longest >= e.nice {
		e.skipped(e.longest - 1)
		return e.listed[e.count-1].dist + freshDist, e.longest
	}
	other := src[at-int(e.reps[0])-1]
	e.last = max(e.longest, lengths[best])
	if e.last < minMatch && src[at] != other {
		return noMatch, 1
	}
	ps := at & (1<<e.params.PB - 1)
	match := price1(e.isMatch[e.state][ps])
	rep := match + price1(e.isRep[e.state])
	first := &e.nodes[1]
	first.set(price0(e.isMatch[e.state][ps])+e.literalPrice(at, src[at-1], e.state >= literalStates, other), 0, noMatch)
	if src[at] == other {
		first.offer(rep+e.shortPrice(e.state, ps), 0, 0)
	}
	if e.last < minMatch {
		return first.back, 1
	}
	e.nodes[0].state, e.nodes[0].reps = e.state, e.reps
	for i := minMatch; i <= e.last; i++ {
		e.node(i).price = infinity
	}
	for i, n := range lengths {
		if n >= minMatch {
			e.offerReps(0, i, n, rep+e.repPrice(i, e.state, ps), ps)
		}
	}
	e.openMatches(max(lengths[0]+1, minMatch), match+price0(e.isRep[e.state]), ps)
	return 0, 0
}

// openMatches offers the listed matches with all lengths from one on.
func (e *Encoder) openMatches(length int, price uint32, ps int) {
	if length > e.longest {
		return
	}
	for _, m := range e.listed[:e.count] {
		for ; length <= m.length; length++ {
			e.node(length).offer(price+e.prices.match(m.dist, length, ps), 0, m.dist+freshDist)
		}
	}
}

// offerReps offers a repetition of all lengths up to length; price is that of saying which.
func (e *Encoder) offerReps(from, which, length int, price uint32, ps int) {
	lens := &e.prices.repLen.prices[ps&(posStates-1)]
	for n := length; n >= minMatch; n-- {
		e.node(from+n).offer(price+lens[n-minMatch], uint32(from), uint32(which))
	}
}

// literalPrice is the price of the literal at a position; matched tells that it comes after a match, which would have gone on with
// the byte other.
func (e *Encoder) literalPrice(at int, before byte, matched bool, other byte) uint32 {
	probs := e.literalProbs(at, before)
	if matched {
		return matchedPrice(probs, e.src[at], other)
	}
	return plainPrice(probs, e.src[at])
}

// settle works out the state and the distances after the way to a node, which is final now.
func (e *Encoder) settle(i int) {
	n := e.node(i)
	var from *node
	back := n.back
	switch n.step {
	case literalRep:
		from = e.node(int(n.from) - 1)
		n.state = afterRep(afterLiteral(from.state))
	case matchAndRep:
		from = e.node(int(n.from2))
		back = n.back2
		if back < freshDist {
			n.state = afterRep(from.state)
		} else {
			n.state = afterMatch(from.state)
		}
		n.state = afterRep(afterLiteral(n.state))
	default:
		from = e.node(int(n.from))
		switch {
		case int(n.from) == i-1 && back != 0:
			n.state = afterLiteral(from.state)
		case int(n.from) == i-1:
			n.state = afterShort(from.state)
		case back < freshDist:
			n.state = afterRep(from.state)
		default:
			n.state = afterMatch(from.state)
		}
	}
	switch {
	case back == noMatch:
		n.reps = from.reps
	case back < freshDist:
		n.reps = promote(&from.reps, int(back))
	default:
		n.reps = [4]uint32{back - freshDist, from.reps[0], from.reps[1], from.reps[2]}
	}
}

// trace turns the ways' pointers around, up to node i, and returns the first thing to encode.
func (e *Encoder) trace(i int) (back uint32, length int) {
	e.planned = i
	n := e.node(i)
	from, back := n.from, n.back
	for i != 0 {
		n = e.node(i)
		if n.step != single {
			e.node(int(from)).set(0, from-1, noMatch)
		}
		if n.step == matchAndRep {
			e.node(int(from)-1).set(0, n.from2, n.back2)
		}
		before := e.node(int(from))
		next := int(from)
		from, before.from = before.from, uint32(i)
		back, before.back = before.back, back
		i = next
	}
	e.taken = int(e.nodes[0].from)
	return e.nodes[0].back, e.taken
}
