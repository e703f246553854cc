package sqmeta

import (
	"encoding/binary"
	"fmt"
)

// indexPoint is one entry of a large directory's index.
type indexPoint struct {
	at    uint32 // position in the listing
	block uint32 // block of the directory table, relative to its start, that holds it
	name  []byte
}

// lister builds listings, reusing its memory.
type lister struct {
	buf   []byte
	index []indexPoint
}

// build gives the listing of directory n and sets l.index, without blocks. A new header begins where the inode's metadata block changes, the inode
// number is too far from the header's, the run is full, or the listing went 8 KiB beyond the last point of the index, which gets a point then.
// refs are the references of the inodes that are written already.
func (l *lister) build(mo *model, n *inode, refs []uint64) ([]byte, error) {
	le := binary.LittleEndian
	b := l.buf[:0]
	l.index = l.index[:0]
	header, run, lastPoint := 0, 0, 0
	var block, number uint32
	for _, e := range mo.dir(n) {
		if e.child >= uint32(len(refs)) {
			return nil, fmt.Errorf("%w: a directory is before what is in it", ErrColumns)
		}
		child, ref := &mo.inodes[e.child], refs[e.child]
		diff := int64(child.number) - int64(number)
		beyond := len(b)+8+int(e.n)-lastPoint > metaBlock
		if run == 0 || run == runLen || uint32(ref>>16) != block || diff > 32767 || diff < -32768 || beyond {
			if run > 0 {
				le.PutUint32(b[header:], uint32(run-1))
				if beyond {
					l.index = append(l.index, indexPoint{at: uint32(len(b)), name: mo.name(e)})
					lastPoint = len(b)
				}
			}
			header, run, block, number, diff = len(b), 0, uint32(ref>>16), child.number, 0
			b = le.AppendUint32(le.AppendUint32(le.AppendUint32(b, 0), block), number)
		}
		b = le.AppendUint16(le.AppendUint16(b, uint16(ref)), uint16(diff))
		b = le.AppendUint16(le.AppendUint16(b, uint16(child.kind())), e.n-1)
		b = append(b, mo.name(e)...)
		run++
	}
	if run > 0 {
		le.PutUint32(b[header:], uint32(run-1))
	}
	l.buf = b
	return b, nil
}
