package sqmeta

// childStack holds the inodes that no directory named yet. mksquashfs writes a directory when all below it is written, so what it names is
// on the top, in order; only further names of a file (hard links) are not.
type childStack struct {
	named []bool
	stack []uint32
}

// push adds an inode that was just written.
func (s *childStack) push(i uint32) {
	s.named = append(s.named, false)
	s.stack = append(s.stack, i)
}

// trim drops what was named from the top.
func (s *childStack) trim() {
	for len(s.stack) > 0 && s.named[s.stack[len(s.stack)-1]] {
		s.stack = s.stack[:len(s.stack)-1]
	}
}

// top takes the topmost n unnamed inodes and gives them in order of writing; nil if there are not so many.
func (s *childStack) top(n int) []uint32 {
	s.trim()
	at := len(s.stack)
	for left := n; left > 0; {
		if at == 0 {
			return nil
		}
		if at--; !s.named[s.stack[at]] {
			left--
		}
	}
	var taken []uint32
	for _, i := range s.stack[at:] {
		if !s.named[i] {
			taken = append(taken, i)
			s.named[i] = true
		}
	}
	s.stack = s.stack[:at]
	return taken
}

// listing codes the names of directory i and which inodes they are for.
func (p *predictor) listing(i uint32) {
	n := &p.inodes[i]
	for k := len(p.children.named); k < int(i); k++ {
		p.children.push(uint32(k))
	}
	if p.read {
		n.first = uint32(len(p.entries))
		p.readNames()
		n.count = uint32(len(p.entries)) - n.first
	} else {
		for _, e := range p.dir(n) {
			p.text(colNames, p.name(e))
		}
		p.text(colNames, nil)
	}
	if p.err == nil {
		p.link(i, p.dir(n))
	}
}

// readNames reads the names of one directory up to the empty one.
func (p *predictor) readNames() {
	for {
		b := p.text(colNames, nil)
		if p.err != nil || len(b) == 0 {
			return
		}
		if len(b) > maxName || badName(b) {
			p.fail(colNames)
			return
		}
		p.entries = append(p.entries, entry{name: uint32(len(p.names)), n: uint16(len(b))})
		p.names = append(p.names, b...)
	}
}

// link codes which inodes the entries of directory i stand for: 0 is the next one of the stack, others are 1 + the distance to the child of the
// entry before, folded.
func (p *predictor) link(i uint32, entries []entry) {
	codes := make([]uint64, len(entries))
	if !p.read {
		p.linkCodes(i, entries, codes)
	}
	free, last := 0, i
	for k := range codes {
		p.rare(colChildren, &codes[k])
		if codes[k] == 0 {
			free++
		}
	}
	taken := p.children.top(free)
	if free > 0 && taken == nil {
		p.fail(colChildren)
		return
	}
	for k := range entries {
		if codes[k] == 0 {
			entries[k].child, taken = taken[0], taken[1:]
		} else {
			entries[k].child = uint32(uint64(last) + 1 + unzigzag(codes[k]-1))
		}
		if last = entries[k].child; last >= i {
			p.fail(colChildren)
			return
		}
	}
	for _, e := range entries {
		p.children.named[e.child] = true
	}
}

// linkCodes finds which entries are not the next ones of the stack. If the stack is of no use, it codes all of them.
func (p *predictor) linkCodes(i uint32, entries []entry, codes []uint64) {
	fresh := make(map[uint32]bool)
	var order []uint32
	for _, e := range entries {
		if e.child < i && !p.children.named[e.child] && !fresh[e.child] {
			fresh[e.child] = true
			order = append(order, e.child)
		}
	}
	use := p.children.peek(order)
	last := i
	for k, e := range entries {
		if use && fresh[e.child] {
			delete(fresh, e.child)
		} else {
			codes[k] = 1 + zigzag(uint64(e.child)-uint64(last)-1)
		}
		last = e.child
	}
}

// peek tells whether want is what top would give.
func (s *childStack) peek(want []uint32) bool {
	s.trim()
	at := len(s.stack)
	for k := len(want) - 1; k >= 0; {
		if at == 0 {
			return false
		}
		at--
		if s.named[s.stack[at]] {
			continue
		}
		if s.stack[at] != want[k] {
			return false
		}
		k--
	}
	return true
}

// afterTree codes what follows from the whole tree: inode numbers, which mksquashfs gives name by name from the root, each directory before
// what is in it and the root last; the directories above; and the numbers of links.
func (p *predictor) afterTree() {
	if p.err != nil {
		return
	}
	numbers, above, links := p.census()
	for i := range p.inodes {
		n := &p.inodes[i]
		p.guess32(colNumbers, &n.number, numbers[i])
		if n.typ != typeFile {
			p.guess32(colLinks, &n.nlink, links[i])
		}
	}
	for i := range p.inodes {
		n := &p.inodes[i]
		if n.kind() != typeDir {
			continue
		}
		parent := uint32(len(p.inodes)) + 1
		if above[i] > 0 {
			parent = p.inodes[above[i]-1].number
		}
		p.guess32(colParents, &n.parent, parent)
	}
}

// census foresees the numbers of all inodes and of their links; above has 1 + the index of the directory that a directory is in, 0 for none.
func (p *predictor) census() (numbers, above, links []uint32) {
	n := len(p.inodes)
	numbers, above, links = make([]uint32, n), make([]uint32, n), make([]uint32, n)
	root, next := p.super.root, uint32(1)
	numbers[root] = uint32(n)
	for i := range p.inodes {
		if d := &p.inodes[i]; d.kind() == typeDir {
			links[i] += 2
			for _, e := range p.dir(d) {
				p.count(uint32(i), e.child, above, links)
			}
		}
	}
	if p.inodes[root].kind() != typeDir {
		return numbers, above, links
	}
	stack := [][]entry{p.dir(&p.inodes[root])}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if len(*top) == 0 {
			stack = stack[:len(stack)-1]
			continue
		}
		child := (*top)[0].child
		*top = (*top)[1:]
		if numbers[child] != 0 {
			continue
		}
		numbers[child] = next
		next++
		if c := &p.inodes[child]; c.kind() == typeDir {
			stack = append(stack, p.dir(c))
		}
	}
	return numbers, above, links
}

// count notes that directory i names child.
func (p *predictor) count(i, child uint32, above, links []uint32) {
	if p.inodes[child].kind() == typeDir {
		links[i]++
		above[child] = i + 1
	} else {
		links[child]++
	}
}
