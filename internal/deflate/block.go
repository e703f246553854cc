package deflate

import "bytes"

const (
	maxSymbols    = 1 << 15
	checkEvery    = 1 << 12 // GNU gzip: symbols after which a block may end early
	endOfBlock    = 256
	stored        = 0
	static        = 1
	dynamic       = 2
	storedTrimmed = 4 // bytes that the size of a stored block is weighed with
)

// literal adds a byte to the block.
func (e *Encoder) literal(b byte) {
	e.syms[e.count&(maxSymbols-1)] = uint32(b)
	e.count++
	e.huff.lit.freq[b]++
}

// match adds a repetition of 3 to 258 bytes to the block.
func (e *Encoder) match(length int, distance uint32) {
	e.syms[e.count&(maxSymbols-1)] = distance<<16 | uint32(length)
	e.count++
	e.matches++
	e.huff.lit.freq[endOfBlock+1+int(lengthCodes[uint8(length-minMatch)])]++
	e.huff.dist.freq[distanceCode(distance)]++
}

// newBlock starts a block.
func (e *Encoder) newBlock() {
	e.count, e.matches = 0, 0
	clear(e.huff.lit.freq[:])
	clear(e.huff.dist.freq[:])
	e.ask = e.limit
	if e.gnu && e.params.Level > 2 {
		e.ask = checkEvery
	}
}

// blockEnds tells, when the count of symbols is e.ask, whether the block ends here. GNU gzip ends it early when there are few matches
// and yet an estimate of the compressed size is good: the next data may be different.
func (e *Encoder) blockEnds(pos int) bool {
	if e.count >= e.limit {
		return true
	}
	size := 8 * e.count
	for code, n := range e.huff.dist.freq[:distanceSyms] {
		size += int(n) * (5 + int(distanceExtra[code]))
	}
	if e.matches < e.count/2 && size/8 < (pos-e.from)/2 {
		return true
	}
	e.ask = min(e.ask+checkEvery, e.limit)
	return false
}

// flush writes the block up to pos in its shortest form. It returns false when the output is not what it has to be.
func (e *Encoder) flush(pos int, last bool) bool {
	h := &e.huff
	h.lit.freq[endOfBlock] = 1
	dynamicBytes, staticBytes := h.build()
	size := pos - e.from
	if e.params.Strategy == StrategyFixed || staticBytes <= dynamicBytes {
		dynamicBytes = staticBytes
	}
	e.out.reserve(max(dynamicBytes, size) + 64)
	final := uint64(0)
	if last {
		final = 1
	}
	switch {
	case size+storedTrimmed <= dynamicBytes && e.from >= 0:
		e.out.put(stored<<1|final, 3)
		e.out.align()
		e.out.stored(e.buf[e.from:pos])
	case dynamicBytes == staticBytes:
		e.out.put(static<<1|final, 3)
		e.out.symbols(e.syms[:e.count], staticLit, staticDist)
	default:
		e.out.put(dynamic<<1|final, 3)
		h.writeCodes(&e.out)
		e.out.symbols(e.syms[:e.count], &h.lit.code, &h.dist.code)
	}
	if last {
		e.out.align()
	}
	e.from = pos
	e.newBlock()
	return !e.judge || e.verify()
}

// verify compares the whole bytes written with those wanted, and drops both.
func (e *Encoder) verify() bool {
	got := e.out.bytes
	if !bytes.HasPrefix(e.check, got) {
		e.wrong = true
		return false
	}
	e.check = e.check[len(got):]
	e.out.bytes = got[:0]
	return true
}
