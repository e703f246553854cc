package sqmeta

import (
	"bytes"
	"fmt"
)

// formPredicted, formRaw and formVerbatim are the first byte of the column "form".
const (
	formPredicted = 1 + iota
	formRaw
	formVerbatim
)

// predictor walks a model and codes what cannot be foreseen.
type predictor struct {
	*coder
	*model
	place    placer
	children childStack
	times    recent
	lastID   uint64 // xattr IDs so far
	words    int64  // blocks that files may still have
}

// code walks the whole model: writing, it is read; reading, it is filled in.
func (p *predictor) code() error {
	p.head()
	if p.err != nil {
		return p.err
	}
	p.place.init(p)
	for i := range p.inodes {
		p.inode(uint32(i))
		if p.err != nil {
			return p.err
		}
	}
	p.place.finish(p)
	p.afterTree()
	p.otherTables()
	return p.err
}

// head codes the superblock, the numbers of inodes and fragments, and the fragments' sizes.
func (p *predictor) head() {
	s := &p.super
	p.uint32(colSuper, &s.mkfsTime)
	p.uint32(colSuper, &s.blockSize)
	for _, v := range []*uint16{&s.compressor, &s.blockLog, &s.flags, &s.major, &s.minor} {
		p.uint16(colSuper, v)
	}
	if p.blockSizeBad() {
		p.fail(colSuper)
		return
	}
	p.flag(&s.export)
	p.flag(&s.xattrs)
	p.rest(colOptions, &p.options)
	inodes, frags := uint64(len(p.inodes)), uint64(len(p.frags))
	p.varint(colSuper, &inodes)
	p.varint(colSuper, &frags)
	root := inodes - 1 - uint64(s.root)
	p.varint(colSuper, &root)
	if p.read {
		few := uint64(min(len(p.cols[colKinds])/5, len(p.cols[colTimes])))
		if p.err != nil || inodes > few || frags > uint64(len(p.cols[colFragments])) || root >= inodes {
			p.fail(colSuper)
			return
		}
		p.inodes, p.frags, s.root = make([]inode, inodes), make([]fragment, frags), uint32(inodes-1-root)
	}
	for i := range p.frags {
		p.word(colFragments, &p.frags[i].size)
	}
}

func (p *predictor) blockSizeBad() bool {
	s := &p.super
	return s.blockSize < 4096 || s.blockSize > 1<<20 || s.blockSize&(s.blockSize-1) != 0
}

func (p *predictor) flag(v *bool) {
	var b uint8
	if *v {
		b = 1
	}
	p.byte(colSuper, &b)
	*v = b != 0
}

// word codes the size of a stored block with its bit for raw ones moved to the end.
func (p *predictor) word(col columnID, w *uint32) {
	x := (*w&^blockRaw)<<1 | *w>>24&1
	p.varint32(col, &x)
	*w = x>>1 | x&1<<24
}

// inode codes what is known when inode i is written.
func (p *predictor) inode(i uint32) {
	n := &p.inodes[i]
	p.byte(colKinds, &n.typ)
	if n.typ < typeDir || n.typ > typeSocket+extended {
		p.fail(colKinds)
		return
	}
	p.uint16(colKinds, &n.mode)
	p.owner(n)
	p.times.code(p.coder, &n.mtime)
	if p.read {
		n.nlink, n.xattr, n.frag = 1, noXattr, noFragment
	}
	if n.typ > extended {
		p.xattr(n)
	}
	switch n.kind() {
	case typeDir:
		p.listing(i)
	case typeFile:
		p.file(i)
	case typeSymlink:
		p.symlink(n)
	case typeBlockDev, typeCharDev:
		p.varint32(colDevices, &n.rdev)
	}
}

func (p *predictor) owner(n *inode) {
	for _, id := range []*uint16{&n.uid, &n.gid} {
		x := uint32(*id)
		p.varint32(colKinds, &x)
		*id = uint16(x)
	}
}

// recent holds the times that were last used, the last one first. What a package installs has few times, and they are the same ones together in its
// next version: then only their first use changes.
type recent struct {
	times [8]uint32
	n     int
}

// code codes a time: 0 is a new one, which is in a column of its own, and others count from 1.
func (r *recent) code(c *coder, t *uint32) {
	k := 0
	for k < r.n && r.times[k] != *t {
		k++
	}
	var rank uint8
	if k < r.n {
		rank = uint8(k + 1)
	}
	c.byte(colTimes, &rank)
	switch {
	case rank == 0:
		c.uint32(colNewTimes, t)
		r.n = min(r.n+1, len(r.times))
		k = r.n - 1
	case int(rank) > r.n:
		c.fail(colTimes)
		return
	default:
		k = int(rank) - 1
		*t = r.times[k]
	}
	copy(r.times[1:k+1], r.times[:k])
	r.times[0] = *t
}

// xattr codes the attribute ID: 0 is none, 1 the next that was not used yet, others count back from there.
func (p *predictor) xattr(n *inode) {
	next := p.lastID
	var x uint64
	if n.xattr != noXattr {
		x = 1 + zigzag(next-uint64(n.xattr))
		if uint64(n.xattr) == next {
			x = 1
		}
	}
	p.varint(colXattrs, &x)
	if p.read && x > 0 {
		n.xattr = uint32(next - unzigzag(x-1))
	}
	if x == 1 {
		p.lastID++
	}
}

func (p *predictor) symlink(n *inode) {
	b := p.text(colTargets, p.target(n))
	if p.read {
		if len(b) >= 1<<16 {
			p.fail(colTargets)
		}
		n.first, n.count = uint32(len(p.targets)), uint32(len(b))
		p.targets = append(p.targets, b...)
	} else if bytes.IndexByte(p.target(n), 0) >= 0 && p.err == nil {
		p.err = fmt.Errorf("%w: target of a symbolic link with a zero byte", ErrUnpredictable)
	}
}

// file codes size, place and block list of a regular file.
func (p *predictor) file(i uint32) {
	n := &p.inodes[i]
	p.varint(colSizes, &n.size)
	if n.size > 1<<62 {
		p.fail(colSizes)
		return
	}
	p.place.file(p, i)
	if n.typ == typeFile {
		if !p.read && (n.nlink != 1 || n.sparse != 0) && p.err == nil {
			p.err = fmt.Errorf("%w: basic inode with values of an extended one", ErrUnpredictable)
		}
		return
	}
	p.guess(colHoles, &n.sparse, p.holes(n))
}

// holes is how many bytes of a file are in blocks that are not stored; mksquashfs leaves one byte of a file that is one hole.
func (p *predictor) holes(n *inode) uint64 {
	bs, left, sum := uint64(p.super.blockSize), n.size, uint64(0)
	for _, w := range n.words {
		raw := min(left, bs)
		left -= raw
		if w == 0 {
			sum += raw
		}
	}
	if sum > 0 && sum == n.size {
		sum--
	}
	return sum
}

// otherTables codes the tables that have no relation to the inodes, and the rest of the file.
func (p *predictor) otherTables() {
	n := uint64(len(p.ids))
	p.varint(colIDs, &n)
	if p.read && (n > uint64(len(p.cols[colIDs]))/4 || n > 1<<16-1) {
		p.fail(colIDs)
		return
	}
	p.ids = resize(p.ids, n)
	for i := range p.ids {
		p.uint32(colIDs, &p.ids[i])
	}
	p.xattrRows()
	p.rest(colValues, &p.values)
	if !p.super.xattrs && len(p.values)+len(p.rows) > 0 {
		p.fail(colValues)
	}
	p.padded()
}

// xattrRows codes the ID table of the extended attributes; the sets lie one behind the other.
func (p *predictor) xattrRows() {
	n := uint64(len(p.rows))
	p.varint(colXattrRows, &n)
	if p.read && n > uint64(len(p.cols[colXattrRows])) {
		p.fail(colXattrRows)
		return
	}
	p.rows = resize(p.rows, n)
	last := uint64(0)
	for i := range p.rows {
		r := &p.rows[i]
		at := zigzag(r.at - last)
		p.varint(colXattrRows, &at)
		p.varint32(colXattrRows, &r.count)
		p.varint32(colXattrRows, &r.size)
		r.at = last + unzigzag(at)
		last = r.at
	}
}

// padded codes what lies behind the tables: a byte that is 0 if it is as usual, or 1 and all of it.
func (p *predictor) padded() {
	explicit := uint8(1)
	if p.aligned {
		explicit = 0
	}
	p.byte(colPadding, &explicit)
	p.aligned = explicit == 0
	p.rest(colPadding, &p.padding)
	if p.aligned && len(p.padding) > 0 {
		p.fail(colPadding)
	}
	p.rest(colStored, &p.stored)
}

func resize[T any](s []T, n uint64) []T {
	if uint64(len(s)) == n {
		return s
	}
	return make([]T, n)
}
