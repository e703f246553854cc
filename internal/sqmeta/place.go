package sqmeta

// maxSearch bounds how many earlier files of the same size are looked through for a duplicate.
const maxSearch = 4096

// placer foresees where the data of a file lies: behind the data of the file before it and the fragment blocks that were full by then; and
// its tail: behind the tail before it, or at the start of the next fragment block when it does not fit. There are two open fragment
// blocks, one for small files and one for the ends of larger ones. A file with the content of an earlier one shares its blocks.
type placer struct {
	pos   uint64      // end of the data so far
	next  int64       // the fragment block that will be opened next
	open  [2]openFrag // for small files, for ends of larger ones
	full  []int32     // fragment blocks that are full and have no place yet, in order
	known []bool      // which fragment blocks were opened

	bySize map[uint64][]int32  // files with blocks of their own, by size
	byTail map[uint64][]uint64 // tails, fragment << 32 | offset, by length
}

// openFrag is a fragment block that is being filled; number is -1 before the first.
type openFrag struct {
	number int64
	fill   uint64
}

func (pl *placer) init(p *predictor) {
	*pl = placer{pos: superLen + uint64(len(p.options)), open: [2]openFrag{{number: -1}, {number: -1}}, known: make([]bool, len(p.frags)),
		bySize: make(map[uint64][]int32), byTail: make(map[uint64][]uint64)}
}

// file codes the place of file i.
func (pl *placer) file(p *predictor, i uint32) {
	n := &p.inodes[i]
	tailed := pl.tailed(p, n)
	count := n.size / uint64(p.super.blockSize)
	if !tailed && n.size%uint64(p.super.blockSize) != 0 {
		count++
	}
	same := int32(-1)
	if count > 0 {
		same = pl.data(p, int32(i), count)
	} else {
		p.guess(colStarts, &n.start, 0)
	}
	switch {
	case p.err != nil:
	case tailed:
		pl.tail(p, n, same)
	default:
		p.guess32(colTails, &n.fragOff, 0)
	}
}

// tailed tells whether the end of the file is in a fragment.
func (pl *placer) tailed(p *predictor, n *inode) bool {
	const noFragments, alwaysFragments = 1 << 4, 1 << 5
	bs := uint64(p.super.blockSize)
	want := n.size%bs != 0 && (n.size < bs || p.super.flags&alwaysFragments != 0) && p.super.flags&noFragments == 0
	var wrong uint64
	if want != (n.frag != noFragment) {
		wrong = 1
	}
	p.rare(colTailed, &wrong)
	return want != (wrong != 0)
}

// data codes start and block list of a file with count blocks. It gives the earlier file that it shares them with, or -1.
func (pl *placer) data(p *predictor, i int32, count uint64) int32 {
	n := &p.inodes[i]
	if p.words -= int64(min(count, 1<<40)); p.words < 0 {
		p.fail(colSizes)
		return -1
	}
	list := pl.bySize[n.size]
	var rank uint64
	if !p.read {
		rank = pl.sameRank(p, n, list)
	}
	p.rare(colSame, &rank)
	if rank > 0 {
		if rank > uint64(len(list)) {
			p.fail(colSame)
			return -1
		}
		same := list[uint64(len(list))-rank]
		of := &p.inodes[same]
		if uint64(len(of.words)) != count {
			p.fail(colSame)
			return -1
		}
		n.start, n.words = of.start, of.words
		return same
	}
	if p.read {
		if count > uint64(len(p.cols[colBlocks])) {
			p.fail(colBlocks)
			return -1
		}
		n.words = make([]uint32, count)
	}
	for k := range n.words {
		p.word(colBlocks, &n.words[k])
	}
	pl.bySize[n.size] = append(list, i)
	pl.start(p, n)
	return -1
}

// sameRank finds an earlier file with the blocks of n: 1 is the last one of its size. 0 if there is none.
func (pl *placer) sameRank(p *predictor, n *inode, list []int32) uint64 {
	if n.start >= pl.pos {
		return 0
	}
	for k := 1; k <= min(len(list), maxSearch); k++ {
		of := &p.inodes[list[len(list)-k]]
		if of.start == n.start && equalWords(of.words, n.words) {
			return uint64(k)
		}
	}
	return 0
}

func equalWords(a, b []uint32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// start codes where the blocks of n begin; a file that is one hole begins where its blocks would.
func (pl *placer) start(p *predictor, n *inode) {
	k := len(pl.full)
	if !p.read {
		k = pl.flushes(p, n.start)
	}
	less := uint64(len(pl.full) - k)
	p.rare(colFlushes, &less)
	if less > uint64(len(pl.full)) {
		p.fail(colFlushes)
		return
	}
	pl.flush(p, len(pl.full)-int(less))
	p.guess(colStarts, &n.start, pl.pos)
	if n.start >= pl.pos {
		pl.pos = n.start + n.storedBytes()
	}
}

// flushes finds how many of the full fragment blocks lie before start.
func (pl *placer) flushes(p *predictor, start uint64) int {
	pos := pl.pos
	for k, i := range pl.full {
		if pos == start {
			return k
		}
		if p.frags[i].start != pos {
			break
		}
		pos += uint64(p.frags[i].size &^ blockRaw)
	}
	if start < pl.pos {
		return 0
	}
	return len(pl.full)
}

// flush gives the next k full fragment blocks their places.
func (pl *placer) flush(p *predictor, k int) {
	for _, i := range pl.full[:k] {
		f := &p.frags[i]
		p.guess(colFragStarts, &f.start, pl.pos)
		if f.start >= pl.pos {
			pl.pos = f.start + uint64(f.size&^blockRaw)
		}
	}
	pl.full = append(pl.full[:0], pl.full[k:]...)
}

// finish gives the remaining fragment blocks their places, those that no file uses last, and the inode table.
func (pl *placer) finish(p *predictor) {
	for _, o := range pl.open {
		if o.number >= 0 {
			pl.full = append(pl.full, int32(o.number))
		}
	}
	for i, known := range pl.known {
		if !known {
			pl.full = append(pl.full, int32(i))
		}
	}
	pl.flush(p, len(pl.full))
	p.guess(colStarts, &p.end, pl.pos)
	if p.end > 1<<62 {
		p.fail(colStarts)
	}
}

// tail codes fragment and offset: 0 is the foreseen place, 1 an explicit one, and above that earlier tails of the same length count back.
func (pl *placer) tail(p *predictor, n *inode, same int32) {
	length := n.tail(p.super.blockSize)
	list := pl.byTail[length]
	o := &pl.open[min(len(n.words), 1)]
	frag, off := o.number, o.fill
	if o.number < 0 || o.fill+length > uint64(p.super.blockSize) {
		frag, off = pl.next, 0
	}
	if same >= 0 && p.inodes[same].frag != noFragment {
		frag, off = int64(p.inodes[same].frag), uint64(p.inodes[same].fragOff)
	}
	var code uint64
	if !p.read {
		code = tailCode(n, frag, off, list)
	}
	p.rare(colTails, &code)
	switch {
	case code == 0:
		n.frag, n.fragOff = uint32(frag), uint32(off)
	case code == 1:
		f := zigzag(uint64(int64(n.frag) - pl.next))
		p.varint(colTails, &f)
		p.varint32(colTails, &n.fragOff)
		n.frag = uint32(pl.next + int64(unzigzag(f)))
	case code-2 < uint64(len(list)):
		at := list[uint64(len(list))-1-(code-2)]
		n.frag, n.fragOff = uint32(at>>32), uint32(at)
	default:
		p.fail(colTails)
	}
	if uint64(n.frag) >= uint64(len(p.frags)) {
		p.fail(colTails)
		return
	}
	if code < 2 && same < 0 {
		pl.byTail[length] = append(list, uint64(n.frag)<<32|uint64(n.fragOff))
		pl.fillTo(o, int64(n.frag), uint64(n.fragOff)+length)
	}
}

// fillTo notes that a fragment block has content up to end, and that o is full if that is another one which was not used before.
func (pl *placer) fillTo(o *openFrag, number int64, end uint64) {
	switch {
	case number == o.number:
		o.fill = max(o.fill, end)
	case !pl.known[number]:
		if o.number >= 0 {
			pl.full = append(pl.full, int32(o.number))
		}
		pl.known[number] = true
		pl.next = max(pl.next, number+1)
		*o = openFrag{number, end}
	}
}

func tailCode(n *inode, frag int64, off uint64, list []uint64) uint64 {
	if int64(n.frag) == frag && uint64(n.fragOff) == off {
		return 0
	}
	want := uint64(n.frag)<<32 | uint64(n.fragOff)
	for k := 1; k <= min(len(list), maxSearch); k++ {
		if list[len(list)-k] == want {
			return uint64(k) + 1
		}
	}
	return 1
}
