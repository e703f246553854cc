package delta

import (
	"errors"
	"fmt"
	"slices"
	"sort"
)

// layout says where each unit of NEW comes from.
type layout struct {
	units   []unit
	src     []int64 // of each unit: position in OLD, -1 if it is changed
	group   []int32 // of each changed unit its group
	changed []int32 // in physical order
	first   []int   // of each group: the index in changed of its first unit; one more at the end
	regions []Region
}

// errUnassigned tells that the groups do not hold all changed units.
var errUnassigned = errors.New("groups are missing")

// newLayout places the units by the runs and gives the changed ones to the groups.
func newLayout(x *Index, neu, old []unit) (*layout, error) {
	l := &layout{units: neu, src: make([]int64, len(neu)), group: make([]int32, len(neu))}
	u := int64(0)
	for i, r := range x.runs {
		if r.changed > int64(len(neu))-u || r.copied > int64(len(neu))-u-r.changed || r.old > int64(len(old))-r.copied {
			return nil, fmt.Errorf("copy run %d goes beyond an image: %w", i, ErrFormat)
		}
		l.markChanged(u, u+r.changed)
		u += r.changed
		for k := range r.copied {
			o := &old[r.old+k]
			if o.stored != neu[u].stored || o.packed != neu[u].packed {
				return nil, fmt.Errorf("copy run %d joins different blocks: %w", i, ErrFormat)
			}
			l.src[u] = o.off
			u++
		}
	}
	l.markChanged(u, int64(len(neu)))
	return l, l.assign(x)
}

func (l *layout) markChanged(from, to int64) {
	for u := from; u < to; u++ {
		l.src[u] = -1
		l.changed = append(l.changed, int32(u))
	}
}

// assign gives the changed units to the groups.
func (l *layout) assign(x *Index) error {
	k := 0
	for g := range x.Groups {
		d := &x.Groups[g]
		l.first = append(l.first, k)
		if d.Blocks > len(l.changed)-k {
			return fmt.Errorf("group %d has too many blocks: %w", g, ErrFormat)
		}
		var raw, stored int64
		for _, u := range l.changed[k : k+d.Blocks] {
			l.group[u] = int32(g)
			raw += l.units[u].raw
			stored += l.units[u].stored
		}
		if raw != d.RawBytes || stored != d.StoredBytes {
			return fmt.Errorf("group %d holds %d bytes, not %d: %w", g, raw, d.RawBytes, ErrFormat)
		}
		k += d.Blocks
	}
	l.first = append(l.first, k)
	if k != len(l.changed) {
		return fmt.Errorf("%d changed blocks are in no group: %w: %w", len(l.changed)-k, errUnassigned, ErrFormat)
	}
	return nil
}

// cut makes the regions: bytes before and behind the units, the units between.
func (l *layout) cut(head, tail, size int64) error {
	l.add(Region{Off: 0, Len: head, Kind: RegionBytes})
	end := head
	for i, un := range l.units {
		if un.off != end {
			return fmt.Errorf("%d bytes before offset %d belong to nothing: %w", un.off-end, un.off, ErrFormat)
		}
		r := Region{Off: un.off, Len: un.stored, Kind: RegionCopy, OldOff: l.src[i]}
		if l.src[i] < 0 {
			r.Kind, r.OldOff, r.Group = RegionGroup, 0, int(l.group[i])
		}
		l.add(r)
		end += un.stored
	}
	if end != tail || tail > size {
		return fmt.Errorf("blocks end at %d, metadata begins at %d: %w", end, tail, ErrFormat)
	}
	l.add(Region{Off: tail, Len: size - tail, Kind: RegionBytes})
	return nil
}

// add appends a region, joined with the one before it if that goes on.
func (l *layout) add(r Region) {
	if r.Len == 0 {
		return
	}
	if n := len(l.regions); n > 0 {
		p := &l.regions[n-1]
		if p.Kind == r.Kind && (r.Kind == RegionGroup && p.Group == r.Group || r.Kind == RegionCopy && p.OldOff+p.Len == r.OldOff) {
			p.Len += r.Len
			return
		}
	}
	l.regions = append(l.regions, r)
}

// unitsOf lists the units of a group.
func (l *layout) unitsOf(g int) []int32 { return l.changed[l.first[g]:l.first[g+1]] }

// regionIndex finds the region that holds off, which must be within the image.
func (l *layout) regionIndex(off int64) int {
	return sort.Search(len(l.regions), func(i int) bool { return l.regions[i].Off+l.regions[i].Len > off })
}

// groupsAt lists the groups of a range with the groups that they need.
func (l *layout) groupsAt(x *Index, off, length int64) []int {
	var out []int
	for i := l.regionIndex(max(off, 0)); i < len(l.regions) && l.regions[i].Off < off+length; i++ {
		if l.regions[i].Kind == RegionGroup {
			out = append(out, l.regions[i].Group)
			out = append(out, x.Groups[l.regions[i].Group].Needs...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// storedBefore is how many stored bytes of group g lie before off in the image.
func (l *layout) storedBefore(g int, off int64) int64 {
	var n int64
	for _, u := range l.unitsOf(g) {
		if un := &l.units[u]; un.off+un.stored <= off {
			n += un.stored
		} else {
			return n + max(0, off-un.off)
		}
	}
	return n
}
