package match

// adopt ends the copy on the current alignment, begins one on the best candidate that was found at data offset i, and decides which of
// the bytes before i belong to which.
func (s *scanner) adopt(i int) {
	from := max(s.begin, s.sure)
	x := s.data[from:i]
	fwd := extendForward(x, s.cur.from(from))
	back := extendBackward(x, s.best.until(i))
	if over := fwd + back - len(x); over >= 0 && s.best.same(s.cur) {
		return
	} else if over > 0 {
		at := len(x) - back
		keep := split(x[at:at+over], s.cur.from(from+at), s.best.from(from+at))
		fwd = at + keep
		back = len(x) - fwd
	}
	s.emit(from+fwd, i-back)
	s.cur = s.best
	s.begin, s.sure = i-back, i
}

// emit adds a copy on the current alignment from begin to mid and a literal from mid to end.
func (s *scanner) emit(mid, end int) {
	if mid > s.begin {
		s.ops = append(s.ops, Op{Copy: true, Ref: s.cur.ref(s.begin), Len: mid - s.begin})
	}
	if end > mid {
		s.ops = append(s.ops, Op{Len: end - mid})
	}
}

// finish covers the data to its end.
func (s *scanner) finish() {
	from := max(s.begin, s.sure)
	fwd := extendForward(s.data[from:], s.cur.from(from))
	s.emit(from+fwd, len(s.data))
}

// extendForward returns the length at which 2*equal-length is largest.
func extendForward(x, y []byte) int {
	n := min(len(x), len(y))
	score, best, length := 0, 0, 0
	for i := range n {
		if x[i] != y[i] {
			score--
			continue
		}
		if score++; score > best {
			best, length = score, i+1
		}
	}
	return length
}

// extendBackward is extendForward from the ends of x and y.
func extendBackward(x, y []byte) int {
	n := min(len(x), len(y))
	x, y = x[len(x)-n:], y[len(y)-n:]
	score, best, length := 0, 0, 0
	for i := n - 1; i >= 0; i-- {
		if x[i] != y[i] {
			score--
			continue
		}
		if score++; score > best {
			best, length = score, n-i
		}
	}
	return length
}

// split returns how many bytes of x go to a and the rest to b, so that most of them are equal. Both are at least as long.
func split(x, a, b []byte) int {
	score, best, at := 0, 0, 0
	for i := range x {
		if x[i] == a[i] {
			score++
		}
		if x[i] == b[i] {
			score--
		}
		if score > best {
			best, at = score, i+1
		}
	}
	return at
}
