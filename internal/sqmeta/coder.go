package sqmeta

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// columnID numbers the predicted columns.
type columnID int

const (
	colForm columnID = iota
	colSuper
	colOptions
	colKinds
	colTimes
	colNewTimes
	colNumbers
	colLinks
	colXattrs
	colSizes
	colTailed
	colSame
	colBlocks
	colStarts
	colFlushes
	colFragStarts
	colHoles
	colTails
	colFragments
	colTargets
	colDevices
	colNames
	colChildren
	colParents
	colIDs
	colXattrRows
	colValues
	colPadding
	colStored
	columns
)

// String gives the column's name.
func (c columnID) String() string {
	return [...]string{"form", "super", "options", "kinds", "times", "new times", "numbers", "links", "xattrs", "sizes", "tailed", "same",
		"blocks", "starts", "flushes", "fragment starts", "holes", "tails", "fragments", "targets", "devices", "names", "children", "parents",
		"ids", "xattr rows", "xattr values", "padding", "stored blocks"}[c]
}

// coder writes values to columns, or reads them back: the same walk over a model does both, and so is its own inverse. The first error sticks;
// everything that is read after it is zero.
type coder struct {
	read bool
	cols [columns][]byte
	gaps [columns]uint64 // of the rare columns: zeros since the last value, or up to the next one
	open [columns]bool   // reading: gaps is valid
	err  error
}

// fail notes that a column is bad.
func (c *coder) fail(col columnID) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: %q ends early or goes on too long", ErrColumns, col.String())
	}
}

// take reads the next n bytes of a column.
func (c *coder) take(col columnID, n uint64) []byte {
	if c.err != nil || n > uint64(len(c.cols[col])) {
		c.fail(col)
		return nil
	}
	b := c.cols[col][:n]
	c.cols[col] = c.cols[col][n:]
	return b
}

func (c *coder) byte(col columnID, v *uint8) {
	if !c.read {
		c.cols[col] = append(c.cols[col], *v)
	} else if b := c.take(col, 1); b != nil {
		*v = b[0]
	}
}

func (c *coder) uint16(col columnID, v *uint16) {
	if !c.read {
		c.cols[col] = binary.LittleEndian.AppendUint16(c.cols[col], *v)
	} else if b := c.take(col, 2); b != nil {
		*v = binary.LittleEndian.Uint16(b)
	}
}

func (c *coder) uint32(col columnID, v *uint32) {
	if !c.read {
		c.cols[col] = binary.LittleEndian.AppendUint32(c.cols[col], *v)
	} else if b := c.take(col, 4); b != nil {
		*v = binary.LittleEndian.Uint32(b)
	}
}

// varint codes v in 1 to 10 bytes (encoding/binary).
func (c *coder) varint(col columnID, v *uint64) {
	if !c.read {
		c.cols[col] = binary.AppendUvarint(c.cols[col], *v)
		return
	}
	*v = 0
	if c.err != nil {
		return
	}
	x, n := binary.Uvarint(c.cols[col])
	if n <= 0 {
		c.fail(col)
		return
	}
	*v, c.cols[col] = x, c.cols[col][n:]
}

// varint32 is varint for a value that has to fit into 32 bits.
func (c *coder) varint32(col columnID, v *uint32) {
	x := uint64(*v)
	c.varint(col, &x)
	if x > 1<<32-1 {
		c.fail(col)
		x = 0
	}
	*v = uint32(x)
}

// rare codes a value that is nearly always zero: pairs of varints, how many zeros went before, and the value.
func (c *coder) rare(col columnID, v *uint64) {
	if !c.read {
		if *v == 0 {
			c.gaps[col]++
			return
		}
		x := c.gaps[col]
		c.varint(col, &x)
		c.varint(col, v)
		c.gaps[col] = 0
		return
	}
	*v = 0
	if !c.open[col] {
		if c.err != nil || len(c.cols[col]) == 0 {
			return
		}
		c.varint(col, &c.gaps[col])
		c.open[col] = true
	}
	if c.gaps[col] > 0 {
		c.gaps[col]--
		return
	}
	c.varint(col, v)
	c.open[col] = false
}

// guess codes v, which is nearly always p.
func (c *coder) guess(col columnID, v *uint64, p uint64) {
	x := zigzag(*v - p)
	c.rare(col, &x)
	*v = p + unzigzag(x)
}

// guess32 is guess for 32 bits.
func (c *coder) guess32(col columnID, v *uint32, p uint32) {
	x := zigzag(uint64(int64(int32(*v - p))))
	c.rare(col, &x)
	*v = p + uint32(unzigzag(x))
}

// text codes a string without zero bytes.
func (c *coder) text(col columnID, b []byte) []byte {
	if !c.read {
		c.cols[col] = append(append(c.cols[col], b...), 0)
		return nil
	}
	i := bytes.IndexByte(c.cols[col], 0)
	if i < 0 {
		c.fail(col)
		return nil
	}
	b = c.take(col, uint64(i))
	c.take(col, 1)
	return b
}

// rest codes all that is left of a column.
func (c *coder) rest(col columnID, b *[]byte) {
	if c.read {
		*b, c.cols[col] = c.cols[col], nil
		return
	}
	c.cols[col] = append(c.cols[col], *b...)
}

// finish checks after reading that nothing is left over.
func (c *coder) finish() error {
	for col := range c.cols {
		if c.err == nil && (len(c.cols[col]) > 0 || c.open[col]) {
			c.fail(columnID(col))
		}
	}
	return c.err
}

// zigzag folds a difference of two values, modulo 2^64, so that small ones of both signs are small.
func zigzag(d uint64) uint64 { return d<<1 ^ uint64(int64(d)>>63) }

func unzigzag(x uint64) uint64 { return x>>1 ^ -(x & 1) }
