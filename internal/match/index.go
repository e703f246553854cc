package match

import (
	"math/bits"
	"slices"
)

const (
	// entryBits are those of a position and a tag together. A tag has maxTagBits, or minTagBits where only a sample is indexed.
	entryBits  = 32
	maxTagBits = 6
	minTagBits = 2
	// entriesPerBucket is the mean; together an indexed position takes 4 + 4/entriesPerBucket bytes.
	entriesPerBucket = 4
	bytesPerEntry    = 5
)

// Index finds the places of a reference that share a window of bytes with the data. It is read-only once built: any number of
// goroutines may call Diff at the same time. It keeps the reference, which must not change, and takes at most
// Options.MemoryBytes beside it (5 bytes per byte of references up to 51 MiB by default).
type Index struct {
	opt    Options
	ref    *reference
	step   int64    // every step-th position is indexed
	tag    int      // bits of a tag
	starts []uint32 // first entry of each bucket, and behind the last bucket the number of entries
	// entries are position/step << tag | the tag, by bucket and position.
	entries []uint32
}

// NewIndex indexes one reference, which may be empty.
func NewIndex(ref []byte, opt Options) *Index { return NewIndexParts([][]byte{ref}, opt) }

// NewIndexParts indexes the virtual concatenation of parts: addresses run through, empty parts are allowed, and no copy that
// Diff returns reaches across the end of a part.
func NewIndexParts(parts [][]byte, opt Options) *Index {
	ref := newReference(parts)
	ix := &Index{opt: opt.withDefaults(), ref: ref}
	ix.tag, ix.step = maxTagBits, 1
	if ix.opt.Sample > 1 {
		ix.tag = min(max(entryBits-bits.Len64(uint64(ref.size)), minTagBits), maxTagBits)
	}
	limit := max(min(ix.opt.MemoryBytes/bytesPerEntry*int64(ix.opt.Sample), 1<<(entryBits-ix.tag)), 1)
	if ref.size > limit {
		ix.step = (ref.size + limit - 1) / limit
	}
	ix.build()
	return ix
}

// Size returns the length of the reference in bytes.
func (ix *Index) Size() int64 { return ix.ref.size }

// MemoryBytes returns what the index takes beside the reference.
func (ix *Index) MemoryBytes() int64 {
	return 4 * int64(len(ix.starts)+len(ix.entries)+len(ix.ref.pages)+2*len(ix.ref.starts))
}

// build sorts the positions by bucket: count, sum, place.
func (ix *Index) build() {
	buckets := ix.ref.size/ix.step/int64(ix.opt.Sample)/entriesPerBucket + 1
	ix.starts = make([]uint32, buckets+1)
	ix.positions(func(bucket, _ uint32) { ix.starts[bucket]++ })
	var sum uint32
	for i, n := range ix.starts {
		sum += n
		ix.starts[i] = sum
	}
	// Each start is the end of its bucket now. Placing the last entry first moves it to the beginning, in order.
	ix.entries = make([]uint32, sum)
	ix.positions(func(bucket, entry uint32) {
		ix.starts[bucket]--
		ix.entries[ix.starts[bucket]] = entry
	})
}

// positions calls add for every indexed position from the last to the first.
func (ix *Index) positions(add func(bucket, entry uint32)) {
	w := ix.opt.Window
	for p, b := range slices.Backward(ix.ref.parts) {
		base := ix.ref.starts[p]
		if len(b) < w {
			continue
		}
		last := int64(len(b) - w)
		last -= (base + last) % ix.step
		for i := int(last); i >= 0; i -= int(ix.step) {
			if !ix.sampled(b[i:]) || i > 0 && i+w < len(b) && insideRun(b[i-1:i+w+1]) {
				continue
			}
			bucket, tag := ix.hash(b[i:])
			add(bucket, uint32((base+int64(i))/ix.step)<<ix.tag|tag)
		}
	}
}

// insideRun reports whether all bytes of b are the same. Such a window can only be found with its run's begin or end, which
// are indexed.
func insideRun(b []byte) bool {
	if b[0] != b[1] || b[0] != b[len(b)-1] {
		return false
	}
	return runLength(b) == len(b)
}

const k1, k2 = 0x9e3779b97f4a7c15, 0xd6e8feb86659fd93

// sampled reports whether the window at the start of b belongs to the sample; its first eight bytes decide.
func (ix *Index) sampled(b []byte) bool {
	const unused = 40 // bits that hash hardly uses
	return load(b)*k1>>unused&uint64(ix.opt.Sample-1) == 0
}

// hash returns bucket and tag of the window at the start of b.
func (ix *Index) hash(b []byte) (bucket, tag uint32) {
	w := ix.opt.Window
	h := load(b) * k1
	for i := 8; i < w; i += 8 {
		h = (bits.RotateLeft64(h, 29) ^ load(b[min(i, w-8):])) * k2
	}
	h ^= h >> 32
	h *= k1
	hi, _ := bits.Mul64(h, uint64(len(ix.starts)-1))
	return uint32(hi), uint32(h) & ix.tagMask()
}

// near calls visit with up to limit positions whose window probably equals that at the start of b, those nearest to want first.
func (ix *Index) near(b []byte, want int64, limit int, visit func(pos int64)) {
	if !ix.sampled(b) {
		return
	}
	bucket, tag := ix.hash(b)
	list := ix.entries[ix.starts[bucket]:ix.starts[bucket+1]]
	up := 0
	if len(list) > limit {
		key := uint32(min(max(want/ix.step, 0), 1<<(entryBits-ix.tag)-1)) << ix.tag
		up, _ = slices.BinarySearch(list, key)
	}
	down := up - 1
	for n := 0; n < scanFactor*limit && limit > 0; n++ {
		var e uint32
		switch {
		case up < len(list) && (down < 0 || ix.position(list[up])-want <= want-ix.position(list[down])):
			e = list[up]
			up++
		case down >= 0:
			e = list[down]
			down--
		default:
			return
		}
		if e&ix.tagMask() == tag {
			limit--
			visit(ix.position(e))
		}
	}
}

// scanFactor is how many entries of a bucket are looked at for one that is compared.
const scanFactor = 4

func (ix *Index) position(entry uint32) int64 { return int64(entry>>ix.tag) * ix.step }

func (ix *Index) tagMask() uint32 { return 1<<ix.tag - 1 }
