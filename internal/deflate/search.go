package deflate

// lazy encodes with matches that are taken only when the next position has no longer one (levels 4 to 9).
func (e *Encoder) lazy() {
	buf, head, prev := &e.buf, &e.head, &e.prev
	shift, hashMax := e.shift&31, e.hashMax
	mask := uint32(e.window-1) & (maxWindow - 1)
	maxStart := 2*e.window - minLookahead
	filtered := !e.gnu && e.params.Strategy == StrategyFiltered
	e.fill()
	pos, look := e.pos, e.look
	hash := uint32(buf[0])<<shift ^ uint32(buf[1])
	length, distance, pending := minMatch-1, uint32(0), false
	for {
		if look < minLookahead {
			e.pos, e.look = pos, look
			e.fill()
			if pos, look = e.pos, e.look; look == 0 {
				break
			}
		}
		at := e.base + uint32(pos)
		cand := uint32(0)
		if look >= minMatch || e.gnu {
			hash = (hash<<shift ^ uint32(buf[pos+minMatch-1])) & hashMax
			cand = head[uint16(hash)]
			prev[at&mask] = cand
			head[uint16(hash)] = at
		}
		lastLength, lastDistance := length, distance
		length = minMatch - 1
		if cand > e.base && lastLength < e.effort.lazy && at-cand <= uint32(e.reach) && pos <= maxStart {
			e.look = look
			length, distance = e.longest(cand, pos, lastLength)
			length = min(length, look)
			if length <= 5 && (filtered || length == minMatch && distance > tooFar) {
				length = minMatch - 1
			}
		}
		switch {
		case lastLength >= minMatch && length <= lastLength:
			e.match(lastLength, lastDistance)
			ends := e.count >= e.ask && e.blockEnds(pos)
			// The strings inside the match are indexed; zlib leaves out those that reach over the end of the input.
			stop := pos + lastLength - 1
			last := stop - 1
			if !e.gnu {
				last = min(last, pos+look-minMatch)
			}
			look -= lastLength - 1
			hash = e.index(pos+1, last, hash)
			pos = stop
			pending, length = false, minMatch-1
			if ends && !e.flush(pos, false) {
				return
			}
		case pending:
			e.literal(buf[pos-1])
			if e.count >= e.ask && e.blockEnds(pos) && !e.flush(pos, false) {
				return
			}
			pos++
			look--
		default:
			pending = true
			pos++
			look--
		}
	}
	if pending {
		e.literal(buf[pos-1])
	}
	e.pos = pos
}

// index enters the strings at the positions from pos to last of buf, where hash is that of the string before, and returns the hash of
// the last one.
func (e *Encoder) index(pos, last int, hash uint32) uint32 {
	buf, head, prev := &e.buf, &e.head, &e.prev
	shift, hashMax := e.shift&31, e.hashMax
	mask := uint32(e.window-1) & (maxWindow - 1)
	at := e.base + uint32(pos)
	for ; pos <= last; pos++ {
		hash = (hash<<shift ^ uint32(buf[pos+minMatch-1])) & hashMax
		prev[at&mask] = head[uint16(hash)]
		head[uint16(hash)] = at
		at++
	}
	return hash
}

// greedy encodes with the first match of each position (levels 1 to 3).
func (e *Encoder) greedy() {
	buf, head, prev := &e.buf, &e.head, &e.prev
	shift, hashMax := e.shift&31, e.hashMax
	mask := uint32(e.window-1) & (maxWindow - 1)
	maxStart := 2*e.window - minLookahead
	e.fill()
	pos, look := e.pos, e.look
	hash := uint32(buf[0])<<shift ^ uint32(buf[1])
	for {
		if look < minLookahead {
			e.pos, e.look = pos, look
			e.fill()
			if pos, look = e.pos, e.look; look == 0 {
				break
			}
		}
		at := e.base + uint32(pos)
		cand := uint32(0)
		if look >= minMatch || e.gnu {
			hash = (hash<<shift ^ uint32(buf[pos+minMatch-1])) & hashMax
			cand = head[uint16(hash)]
			prev[at&mask] = cand
			head[uint16(hash)] = at
		}
		length, distance := 0, uint32(0)
		if cand > e.base && at-cand <= uint32(e.reach) && pos <= maxStart {
			e.look = look
			length, distance = e.longest(cand, pos, minMatch-1)
			length = min(length, look)
		}
		if length < minMatch {
			e.literal(buf[pos])
			length = 1
		} else {
			e.match(length, distance)
		}
		ends := e.count >= e.ask && e.blockEnds(pos)
		look -= length
		switch {
		case length == 1:
			pos++
		case length <= e.effort.lazy && (look >= minMatch || e.gnu):
			hash = e.index(pos+1, pos+length-1, hash)
			pos += length
		default:
			pos += length
			hash = uint32(buf[pos])<<shift ^ uint32(buf[pos+1])
		}
		if ends && !e.flush(pos, false) {
			return
		}
	}
	e.pos = pos
}

// runs encodes with matches at distance one only.
func (e *Encoder) runs() {
	for {
		if e.look <= maxMatch {
			if e.fill(); e.look == 0 {
				return
			}
		}
		length := 0
		if e.pos > 0 && e.look >= minMatch {
			length = min(common(e.buf[e.pos:], e.buf[e.pos-1:]), e.look)
		}
		if length >= minMatch {
			e.match(length, 1)
		} else {
			e.literal(e.buf[e.pos])
			length = 1
		}
		e.pos += length
		e.look -= length
		if e.count >= e.ask && e.blockEnds(e.pos) && !e.flush(e.pos, false) {
			return
		}
	}
}

// literals encodes without matches.
func (e *Encoder) literals() {
	for {
		if e.look == 0 {
			if e.fill(); e.look == 0 {
				return
			}
		}
		e.literal(e.buf[e.pos])
		e.pos++
		e.look--
		if e.count >= e.ask && e.blockEnds(e.pos) && !e.flush(e.pos, false) {
			return
		}
	}
}
