package delta

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
)

// Images whose metadata cannot be read, such as those compressed with lzo, are compared as bytes: both are cut where their content
// says so, and stretches that are equal are copied.

const (
	// opaqueMin and opaqueMax bound the length of a stretch; opaqueMask makes it about 8 KiB longer than the least on average.
	opaqueMin  = 2 << 10
	opaqueMax  = 64 << 10
	opaqueMask = 8<<10 - 1
)

// unreadable tells whether an image is a squashfs whose inside cannot be read, so that it is treated as bytes.
func unreadable(err error) bool {
	return errors.Is(err, squashfs.ErrCompressor) || errors.Is(err, squashfs.ErrCorrupt)
}

// cutOpaque cuts an image into units by content: a rolling hash over the last 64 bytes decides.
func cutOpaque(ctx context.Context, src Source) ([]unit, error) {
	if _, err := squashfs.ReadSuperblock(src, src.Size()); err != nil {
		return nil, err
	}
	table := gearTable()
	r := bufio.NewReaderSize(&contextReader{ctx: ctx, r: io.NewSectionReader(src, 0, src.Size())}, 1<<20)
	var units []unit
	var start, pos int64
	var h uint64
	for {
		b, err := r.ReadByte()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read image: %w", err)
		}
		pos++
		h = h<<1 + table[b]
		if n := pos - start; n >= opaqueMin && (h>>32)&opaqueMask == 0 || n == opaqueMax {
			units = append(units, opaqueUnit(start, n))
			start = pos
		}
	}
	if pos > start {
		units = append(units, opaqueUnit(start, pos-start))
	}
	return units, nil
}

func opaqueUnit(off, n int64) unit { return unit{off: off, stored: n, raw: n, gap: true} }

// gearTable gives a random number for each byte value (the splitmix64 generator).
func gearTable() *[256]uint64 {
	t := new([256]uint64)
	x := uint64(0)
	for i := range t {
		x += 0x9e3779b97f4a7c15
		z := x
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		t[i] = z ^ z>>31
	}
	return t
}

// byteRuns turns runs of units into runs of bytes, and joins what follows one another in both images.
func byteRuns(runs []run, old, neu []unit) []run {
	var out []run
	u := int64(0)
	for _, r := range runs {
		b := run{changed: unitBytes(neu[u : u+r.changed]), old: old[r.old].off}
		u += r.changed
		b.copied = unitBytes(neu[u : u+r.copied])
		u += r.copied
		if k := len(out) - 1; k >= 0 && b.changed == 0 && out[k].old+out[k].copied == b.old {
			out[k].copied += b.copied
		} else {
			out = append(out, b)
		}
	}
	return out
}

func unitBytes(units []unit) int64 {
	var n int64
	for i := range units {
		n += units[i].stored
	}
	return n
}

// opaqueLayout makes the units and their sources from runs of bytes: a copied stretch is one unit, changed ones are cut.
func opaqueLayout(x *Index) (*layout, error) {
	l := &layout{}
	var pos int64
	for i, r := range x.runs {
		if r.changed > x.New.Size-pos || r.copied > x.New.Size-pos-r.changed || r.old > x.Old.Size-r.copied {
			return nil, fmt.Errorf("copy run %d goes beyond an image: %w", i, ErrFormat)
		}
		pos = l.addChanged(pos, pos+r.changed)
		if r.copied > 0 {
			l.units = append(l.units, opaqueUnit(pos, r.copied))
			l.src = append(l.src, r.old)
			pos += r.copied
		}
	}
	if x.New.Size-pos > maxGroupRaw*int64(len(x.Groups)+1) {
		return nil, fmt.Errorf("groups of %d bytes: %w", x.New.Size-pos, ErrFormat)
	}
	l.addChanged(pos, x.New.Size)
	l.group = make([]int32, len(l.units))
	return l, l.assign(x)
}

// addChanged adds changed units from pos to end.
func (l *layout) addChanged(pos, end int64) int64 {
	for pos < end {
		n := min(maxGapUnit, end-pos)
		l.changed = append(l.changed, int32(len(l.units)))
		l.units = append(l.units, opaqueUnit(pos, n))
		l.src = append(l.src, -1)
		pos += n
	}
	return pos
}
