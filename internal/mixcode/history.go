package mixcode

// A history is what a context has seen, in one byte: how many zeros and ones (old ones are forgotten when the other kind appears), and
// which came last when both counts are small. History 0 is "nothing yet".

const maxHistories = 256

// histories is the automaton of the history bytes.
type histories struct {
	next [maxHistories][2]uint8
	n    [maxHistories][2]uint8 // zeros and ones
	used int
}

// countLimit[m] is how often the more frequent bit is counted when the rarer one was seen m times.
var countLimit = [...]int{41, 40, 12, 7, 5, 4}

type historyKey struct{ n0, n1, last int }

func allowed(n0, n1 int) bool {
	if n0 < n1 {
		n0, n1 = n1, n0
	}
	return n1 < len(countLimit) && n0 <= countLimit[n1]
}

// discount is what remains of a count when the other bit appears.
func discount(n int) int {
	switch {
	case n > 25:
		return 5
	case n > 11:
		return 4
	case n > 5:
		return 3
	case n > 2:
		return 2
	}
	return n
}

func historyAfter(k historyKey, bit int) historyKey {
	n := [2]int{k.n0, k.n1}
	n[bit]++
	n[1-bit] = discount(n[1-bit])
	for !allowed(n[0], n[1]) {
		big, small := bit, 1-bit
		if n[small] > n[big] {
			big, small = small, big
		}
		if limit := countLimit[min(n[small], len(countLimit)-1)]; n[big] > limit && n[big] > n[small]+1 {
			n[big]--
			continue
		}
		n[big], n[small] = n[big]-1, n[small]-1
	}
	next := historyKey{n[0], n[1], 0}
	if n[0] > 0 && n[1] > 0 && n[0]+n[1] <= 9 {
		next.last = bit
	}
	return next
}

// newHistories enumerates the states breadth-first from the empty one. The limits above give fewer than maxHistories; a test counts them.
func newHistories() *histories {
	h := new(histories)
	index := map[historyKey]int{{}: 0}
	queue := []historyKey{{}}
	for i := 0; i < len(queue); i++ {
		k := queue[i]
		for bit := range 2 {
			to := historyAfter(k, bit)
			j, ok := index[to]
			if !ok {
				j = len(queue)
				index[to] = j
				queue = append(queue, to)
			}
			h.next[i%maxHistories][bit] = uint8(j)
		}
		h.n[i%maxHistories] = [2]uint8{uint8(k.n0), uint8(k.n1)}
	}
	h.used = len(queue)
	return h
}
