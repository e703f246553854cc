package imagestore

import (
	"bytes"
	"fmt"
	"sort"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// layout says where each chunk of a version lies. A place is one occurrence of a chunk; places count through all artifacts in the
// manifest's order. It is immutable. Memory: 12 bytes per place beside the manifest's 36.
type layout struct {
	m       *manifest.Manifest
	first   []int    // first[i] is the first place of artifact i; one more at the end
	offsets []uint64 // of each place in its file
	order   []uint32 // places sorted by chunk ID, then by place
}

func newLayout(m *manifest.Manifest) *layout {
	l := &layout{m: m, first: make([]int, 1, len(m.Artifacts)+1)}
	total := 0
	for i := range m.Artifacts {
		total += len(m.Artifacts[i].Chunks)
		l.first = append(l.first, total)
	}
	l.offsets = make([]uint64, 0, total)
	l.order = make([]uint32, total)
	for i := range m.Artifacts {
		var off uint64
		for _, c := range m.Artifacts[i].Chunks {
			l.offsets = append(l.offsets, off)
			off += uint64(c.Size)
		}
	}
	for i := range l.order {
		l.order[i] = uint32(i)
	}
	sort.Slice(l.order, func(a, b int) bool {
		x, y := l.ref(l.order[a]).ID, l.ref(l.order[b]).ID
		if c := bytes.Compare(x[:], y[:]); c != 0 {
			return c < 0
		}
		return l.order[a] < l.order[b]
	})
	return l
}

// places returns how many there are.
func (l *layout) places() int { return len(l.offsets) }

func (l *layout) artifact(place uint32) int {
	return sort.SearchInts(l.first, int(place)+1) - 1
}

func (l *layout) ref(place uint32) chunk.Ref {
	a := l.artifact(place)
	return l.m.Artifacts[a].Chunks[int(place)-l.first[a]]
}

// find returns the places of a chunk, the first first; empty if the version has no such chunk.
func (l *layout) find(id chunk.ID) []uint32 {
	lo := sort.Search(len(l.order), func(i int) bool {
		x := l.ref(l.order[i]).ID
		return bytes.Compare(x[:], id[:]) >= 0
	})
	hi := lo
	for hi < len(l.order) && l.ref(l.order[hi]).ID == id {
		hi++
	}
	return l.order[lo:hi]
}

// checkSizes refuses a manifest that gives one chunk two sizes: no bytes could satisfy it.
func (l *layout) checkSizes() error {
	for i := 1; i < len(l.order); i++ {
		a, b := l.ref(l.order[i-1]), l.ref(l.order[i])
		if a.ID == b.ID && a.Size != b.Size {
			return fmt.Errorf("%w: chunk %s has %d and %d bytes", manifest.ErrFormat, a.ID, a.Size, b.Size)
		}
	}
	return nil
}

// diskFile is the name of the file that holds a squashfs with its padding and tree.
const (
	diskFile     = "disk"
	manifestFile = "manifest"
	deltaName    = "delta" // in incoming only: the delta file as it arrives
	planName     = "plan"  // in incoming only: which delta that is
)

// fileName returns the name of an artifact's file in the version's directory.
func fileName(a *manifest.Artifact) string {
	if a.Name == manifest.Squashfs {
		return diskFile
	}
	return a.Name
}

// fileSize returns the size of an artifact's file, which for a squashfs includes padding and tree.
func fileSize(a *manifest.Artifact) uint64 {
	if a.Name != manifest.Squashfs {
		return a.Size
	}
	padded := verity.PaddedSize(a.Size)
	return padded + verity.TreeSize(padded)
}

// checkNames refuses artifacts whose files would collide with the store's own.
func checkNames(m *manifest.Manifest) error {
	for i := range m.Artifacts {
		switch a := &m.Artifacts[i]; {
		case a.Name == manifestFile || a.Name == diskFile || a.Name == deltaName || a.Name == planName:
			return fmt.Errorf("%w: artifact %q has a reserved name", manifest.ErrFormat, a.Name)
		case a.Name == manifest.Squashfs && m.Kind != manifest.Image:
			return fmt.Errorf("%w: %s with a squashfs", manifest.ErrFormat, m.Kind)
		case a.Name == manifest.Squashfs && (a.Size == 0 || a.Size > verity.MaxDataBytes):
			return fmt.Errorf("%w: squashfs of %d bytes", manifest.ErrFormat, a.Size)
		}
	}
	return nil
}

// diskBytes is what a version needs on the disk.
func diskBytes(m *manifest.Manifest) uint64 {
	var n uint64
	for i := range m.Artifacts {
		n += fileSize(&m.Artifacts[i])
	}
	return n
}
