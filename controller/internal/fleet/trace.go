package fleet

import "github.com/ltsp-fleet/ltsp-fleet/internal/manifest"

// Bounds of a trace.
const (
	MaxTraceRanges = 4096
	MaxTraceBoots  = 64 // boots that go into a trace; later ones change nothing
	tracePage      = 64 << 10
)

// Trace tells which parts of a version's disk clients read while they booted. Key: the version ID.
type Trace struct {
	Version manifest.ID  `json:"version"`
	Boots   uint32       `json:"boots"`
	Ranges  []TraceRange `json:"ranges"` // in the order of the first reads, without overlaps; offsets and lengths are multiples of 64 KiB
}

// TraceRange is a part of a disk, in bytes.
type TraceRange struct {
	Offset uint64 `json:"o"`
	Length uint32 `json:"l"`
}

// Merge adds what another boot read and this trace does not have; it goes behind. It tells whether anything has changed. Ranges beyond the
// bound are dropped: they were read last.
func (t *Trace) Merge(boots uint32, ranges []TraceRange) bool {
	if t.Boots >= MaxTraceBoots || boots == 0 {
		return false
	}
	seen := make(map[uint64]bool)
	for _, r := range t.Ranges {
		for page := range r.pages {
			seen[page] = true
		}
	}
	for _, r := range head(ranges, MaxTraceRanges) {
		for page := range r.pages {
			if !seen[page] {
				seen[page] = true
				t.append(page)
			}
		}
	}
	t.Boots = min(t.Boots+boots, MaxTraceBoots)
	return true
}

func (t *Trace) append(page uint64) {
	if n := len(t.Ranges); n > 0 {
		last := &t.Ranges[n-1]
		if last.Offset+uint64(last.Length) == page*tracePage && last.Length <= 1<<30 {
			last.Length += tracePage
			return
		}
	}
	if len(t.Ranges) < MaxTraceRanges {
		t.Ranges = append(t.Ranges, TraceRange{Offset: page * tracePage, Length: tracePage})
	}
}

// maxTracePages bounds what one range of a report can cause.
const maxTracePages = 1 << 14

// pages yields the numbers of the 64 KiB pages that a range touches.
func (r TraceRange) pages(yield func(uint64) bool) {
	if r.Length == 0 || r.Offset > 1<<46 {
		return
	}
	first, last := r.Offset/tracePage, (r.Offset+uint64(r.Length)-1)/tracePage
	for page := first; page <= min(last, first+maxTracePages); page++ {
		if !yield(page) {
			return
		}
	}
}
