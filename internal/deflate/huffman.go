package deflate

import "math/bits"

// huffCode is the code of a symbol, its first bit lowest; length 0 is a symbol that does not occur.
type huffCode struct {
	bits   uint16
	length uint8
}

// huffman makes the codes of a block out of the frequencies of its symbols.
type huffman struct {
	lit struct {
		freq [litSyms]uint32
		code [litSyms]huffCode
		last int // greatest symbol with a code
	}
	dist struct {
		freq [distanceSyms]uint32
		code [distanceSyms]huffCode
		last int
	}
	lens struct {
		freq [lenSyms]uint32
		code [lenSyms]huffCode
		last int // index in lenOrder of the last length that is written
	}
	tree  treeBuilder
	steps []lenStep // the code lengths as they are written
}

// lenStep is a symbol of the length code with the number in its extra bits.
type lenStep struct{ sym, extra uint8 }

// build makes all codes and returns the size of the block in bytes with them, and with the static codes.
func (h *huffman) build() (dynamicBytes, staticBytes int) {
	h.lit.last = h.tree.build(h.lit.freq[:], h.lit.code[:], maxCodeBits)
	h.dist.last = h.tree.build(h.dist.freq[:], h.dist.code[:], maxCodeBits)
	var own, fixed int
	for i, n := range h.lit.freq {
		extra := 0
		if i > endOfBlock {
			extra = int(lengthExtra[i-endOfBlock-1])
		}
		own += int(n) * (int(h.lit.code[i].length) + extra)
		fixed += int(n) * (int(staticLit[i].length) + extra)
	}
	for i, n := range h.dist.freq {
		own += int(n) * (int(h.dist.code[i].length) + int(distanceExtra[i]))
		fixed += int(n) * (int(staticDist[i].length) + int(distanceExtra[i]))
	}
	own += h.buildLens()
	return (own + 3 + 7) / 8, (fixed + 3 + 7) / 8
}

// buildLens makes the code for the code lengths and returns the number of bits before the symbols.
func (h *huffman) buildLens() int {
	h.steps = h.steps[:0]
	clear(h.lens.freq[:])
	h.runLengths(h.lit.code[:h.lit.last+1])
	h.runLengths(h.dist.code[:h.dist.last+1])
	for _, s := range h.steps {
		h.lens.freq[s.sym]++
	}
	h.tree.build(h.lens.freq[:], h.lens.code[:], maxLenBits)
	last := lenSyms - 1
	for last >= 3 && h.lens.code[lenOrder[last]].length == 0 {
		last--
	}
	h.lens.last = last
	size := 5 + 5 + 4 + 3*(last+1)
	for i, n := range h.lens.freq {
		size += int(n) * (int(h.lens.code[i].length) + int(lenExtra[i]))
	}
	return size
}

// runLengths appends the lengths of a code to steps. Runs do not go on from the literal code to the distance code.
func (h *huffman) runLengths(code []huffCode) {
	prev := uint8(255) // none
	for i := 0; i < len(code); {
		cur := code[i].length
		most, least := 7, 4 // a length, then 3 to 6 repetitions
		switch cur {
		case 0:
			most, least = 138, 3
		case prev:
			most, least = 6, 3
		}
		n := 1
		for n < most && i+n < len(code) && code[i+n].length == cur {
			n++
		}
		i += n
		switch {
		case n < least:
			for range n {
				h.steps = append(h.steps, lenStep{cur, 0})
			}
		case cur != 0:
			if cur != prev {
				h.steps = append(h.steps, lenStep{cur, 0})
				n--
			}
			h.steps = append(h.steps, lenStep{16, uint8(n - 3)})
		case n <= 10:
			h.steps = append(h.steps, lenStep{17, uint8(n - 3)})
		default:
			h.steps = append(h.steps, lenStep{18, uint8(n - 11)})
		}
		prev = cur
	}
}

// writeCodes appends the description of the codes (RFC 1951 section 3.2.7).
func (h *huffman) writeCodes(w *bitWriter) {
	w.put(uint64(h.lit.last-endOfBlock), 5)
	w.put(uint64(h.dist.last), 5)
	w.put(uint64(h.lens.last-3), 4)
	for _, sym := range lenOrder[:h.lens.last+1] {
		w.put(uint64(h.lens.code[sym].length), 3)
	}
	for _, s := range h.steps {
		c := h.lens.code[s.sym]
		w.put(uint64(c.bits), uint(c.length))
		w.put(uint64(s.extra), uint(lenExtra[s.sym]))
	}
}

// treeBuilder makes length-limited Huffman codes. Which of several codes of the same quality it makes is a matter of the order in its
// heap, whose moves are those of the programs reproduced.
type treeBuilder struct {
	heap   [2*litSyms + 1]int16 // 1 to size: a heap; done to the end: nodes in falling order of frequency
	key    [2 * litSyms]uint32  // frequency<<8 | height of the tree under the node
	parent [2 * litSyms]int16   //
	length [2 * litSyms]uint8   //
	counts [maxCodeBits + 1]int // codes per length
	size   int
	done   int
}

// build sets the code of each symbol with a frequency, and returns the greatest such symbol. At least two symbols get a code.
func (t *treeBuilder) build(freq []uint32, code []huffCode, limit int) (last int) {
	t.size, last = 0, -1
	for i, n := range freq {
		code[i] = huffCode{}
		if n > 0 {
			t.size++
			t.heap[t.size] = int16(i)
			t.key[i] = n << 8
			last = i
		}
	}
	for t.size < 2 {
		i := 0
		if last < 2 {
			last++
			i = last
		}
		t.size++
		t.heap[t.size] = int16(i)
		t.key[i] = 1 << 8
	}
	t.join(len(freq))
	t.measure(last, len(freq), limit)
	for _, node := range t.heap[t.done:t.end(len(freq))] {
		if int(node) < len(freq) {
			code[node].length = t.length[node]
		}
	}
	assign(code[:last+1])
	return last
}

// end returns the end of the nodes in heap for an alphabet of n symbols.
func (t *treeBuilder) end(n int) int { return 2*n + 1 }

// join makes the tree: the two rarest nodes become one until one is left.
func (t *treeBuilder) join(syms int) {
	for i := t.size / 2; i >= 1; i-- {
		t.sink(i)
	}
	t.done = t.end(syms)
	node := int16(syms)
	for {
		a := t.heap[1]
		t.heap[1] = t.heap[t.size]
		t.size--
		t.sink(1)
		b := t.heap[1]
		t.heap[t.done-1], t.heap[t.done-2] = a, b
		t.done -= 2
		t.key[node] = t.key[a]&^0xff + t.key[b]&^0xff | max(t.key[a]&0xff, t.key[b]&0xff) + 1
		t.parent[a], t.parent[b] = node, node
		t.heap[1] = node
		node++
		t.sink(1)
		if t.size < 2 {
			break
		}
	}
	t.done--
	t.heap[t.done] = t.heap[1]
}

// sink moves the node at position i of the heap to where it belongs.
func (t *treeBuilder) sink(i int) {
	node := t.heap[i]
	key := t.key[node]
	for j := 2 * i; j <= t.size; j *= 2 {
		if j < t.size && t.key[t.heap[j+1]] <= t.key[t.heap[j]] {
			j++
		}
		if key <= t.key[t.heap[j]] {
			break
		}
		t.heap[i] = t.heap[j]
		i = j
	}
	t.heap[i] = node
}

// measure sets the length of each node, none above limit.
func (t *treeBuilder) measure(last, syms, limit int) {
	clear(t.counts[:])
	end := t.end(syms)
	t.length[t.heap[t.done]] = 0
	over := 0
	for _, node := range t.heap[t.done+1 : end] {
		n := int(t.length[t.parent[node]]) + 1
		if n > limit {
			n = limit
			over++
		}
		t.length[node] = uint8(n)
		if int(node) <= last {
			t.counts[n]++
		}
	}
	if over == 0 {
		return
	}
	for ; over > 0; over -= 2 {
		n := limit - 1
		for t.counts[n] == 0 {
			n--
		}
		// A leaf moves down and takes one that is too long as its brother.
		t.counts[n]--
		t.counts[n+1] += 2
		t.counts[limit]--
	}
	at := end
	for n := limit; n > 0; n-- {
		for left := t.counts[n]; left > 0; {
			at--
			if node := t.heap[at]; int(node) <= last {
				t.length[node] = uint8(n)
				left--
			}
		}
	}
}

// assign sets the bits of the codes from their lengths (RFC 1951 section 3.2.2).
func assign(code []huffCode) {
	var counts, next [maxCodeBits + 1]uint16
	for _, c := range code {
		counts[c.length]++
	}
	counts[0] = 0
	for n := 1; n <= maxCodeBits; n++ {
		next[n] = (next[n-1] + counts[n-1]) << 1
	}
	for i := range code {
		if n := code[i].length; n > 0 {
			code[i].bits = bits.Reverse16(next[n]) >> (16 - n)
			next[n]++
		}
	}
}
