package lzma

import "bytes"

// nearer tells whether a distance is so much less than another one that a match one byte shorter is preferred.
func nearer(small, big uint32) bool { return big>>7 > small }

// glance returns what to encode next, and how many bytes that is, in fast mode.
func (e *Encoder) glance() (back uint32, length int) {
	if e.ahead == 0 {
		e.lookUp()
	}
	src, at := e.src, e.read-1
	avail := min(len(src)-at, maxMatch)
	if avail < minMatch {
		return noMatch, 1
	}
	repLength, rep := 0, 0
	for i, dist := range e.reps {
		from := at - int(dist) - 1
		if src[from] != src[at] || src[from+1] != src[at+1] {
			continue
		}
		n := common(src, from, at, 2, avail)
		if n >= e.nice {
			e.skipped(n - 1)
			return uint32(i), n
		}
		if n > repLength {
			repLength, rep = n, i
		}
	}
	if e.longest >= e.nice {
		e.skipped(e.longest - 1)
		return e.listed[e.count-1].dist + freshDist, e.longest
	}
	length, dist := e.best()
	if repLength >= minMatch && (repLength+1 >= length ||
		repLength+2 >= length && dist > 1<<9 || repLength+3 >= length && dist > 1<<15) {
		e.skipped(repLength - 1)
		return uint32(rep), repLength
	}
	if length < minMatch || avail <= 2 {
		return noMatch, 1
	}
	if e.lookUp(); e.betterNext(length, dist) {
		return noMatch, 1
	}
	n := max(2, length-1)
	for _, rep := range e.reps {
		if from := at - int(rep); bytes.Equal(src[from:from+n], src[at+1:at+1+n]) {
			return noMatch, 1
		}
	}
	e.skipped(length - 2)
	return dist + freshDist, length
}

// best returns the longest listed match, or a shorter one that is much nearer, and a length of 0 or 1 when there is none.
func (e *Encoder) best() (length int, dist uint32) {
	if e.longest < minMatch {
		return e.longest, 0
	}
	k := e.count - 1
	length, dist = e.longest, e.listed[k].dist
	for k > 0 && length == e.listed[k-1].length+1 && nearer(e.listed[k-1].dist, dist) {
		k--
		length, dist = e.listed[k].length, e.listed[k].dist
	}
	if length == 2 && dist >= 1<<7 {
		length = 1
	}
	return length, dist
}

// betterNext tells whether a match listed for the next position is better than that one.
func (e *Encoder) betterNext(length int, dist uint32) bool {
	next := e.longest
	if next < minMatch {
		return false
	}
	nextDist := e.listed[e.count-1].dist
	return next >= length && nextDist < dist ||
		next == length+1 && !nearer(dist, nextDist) ||
		next > length+1 ||
		next+1 >= length && length >= 3 && nearer(nextDist, dist)
}
