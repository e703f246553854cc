// Package trace records which parts of a version's disk clients read while they boot, so that these parts of a later transfer can come first. It is
// pure: who reads what, the NBD server tells; where a trace goes is the caller's business.
//
// A boot is what one client reads over all its connections to a version, from the first connection on, until a time or an amount of data has passed
// or all connections have ended. A client that begins without reading the first bytes of the disk, where a file system's superblock
// is, does not boot but has come back, and is not counted. Only the first boots of a version are recorded.
//
// Only the satellite's wiring imports it.
package trace

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// Defaults of Config.
const (
	DefaultBoots     = 8
	DefaultTime      = time.Minute
	DefaultBytes     = 64 << 20
	DefaultMaxRanges = 4096
)

const (
	granule     = 32 << 10 // what a trace is precise to
	maxLength   = 16 << 20 // of a range
	maxVersions = 64       // that are remembered; then the one whose last boot is the longest ago is forgotten
	headReads   = 64       // a boot reads the disk's begin among so many reads
	leastBytes  = 256 << 10
)

// Range is a part of a disk.
type Range struct {
	Offset uint64
	Length uint32
}

// Trace is what one boot read, without repetition, in the order of the first reads.
type Trace struct {
	Version manifest.ID
	Ranges  []Range
}

// Config configures a Book. Done is required.
type Config struct {
	// Done takes the trace of a boot that has ended; it must not block.
	Done func(Trace)
	// Boots is how many boots of a version are recorded; Time and Bytes end one; MaxRanges bounds a trace. Zero means the default.
	Boots     int
	Time      time.Duration
	Bytes     uint64
	MaxRanges int
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Book keeps the recordings. Its methods are safe for concurrent use.
type Book struct {
	cfg Config

	mu       sync.Mutex
	versions map[manifest.ID]*version
}

// version is what is known of one version. Book.mu guards it.
type version struct {
	boots  int // that were recorded
	last   time.Time
	active map[netip.Addr]*boot
}

// boot is one boot under way.
type boot struct {
	book    *Book
	id      manifest.ID
	client  netip.Addr
	size    uint64
	started time.Time
	users   int // guarded by Book.mu

	mu      sync.Mutex
	over    bool
	reads   int
	bytes   uint64
	head    bool // the disk's begin was read
	seen    map[uint64]struct{}
	granule []run
}

// run is a range in granules.
type run struct{ first, end uint64 }

// New returns an empty Book.
func New(cfg Config) *Book {
	cfg.Boots = cmp.Or(cfg.Boots, DefaultBoots)
	cfg.Time = cmp.Or(cfg.Time, DefaultTime)
	cfg.Bytes = cmp.Or(cfg.Bytes, DefaultBytes)
	cfg.MaxRanges = cmp.Or(cfg.MaxRanges, DefaultMaxRanges)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Book{cfg: cfg, versions: make(map[manifest.ID]*version)}
}

// Recording is one connection's part of a boot. Read and Close are for one goroutine.
type Recording struct{ b *boot }

// Open begins to record a connection of a client to a version whose disk has size bytes. nil: it is of no interest.
func (k *Book) Open(id manifest.ID, size uint64, client netip.Addr) *Recording {
	k.mu.Lock()
	defer k.mu.Unlock()
	v := k.versionLocked(id)
	b := v.active[client]
	if b == nil {
		if v.boots+len(v.active) >= k.cfg.Boots {
			return nil
		}
		b = &boot{book: k, id: id, client: client, size: size, started: k.cfg.Now(), seen: make(map[uint64]struct{})}
		v.active[client] = b
	}
	b.users++
	return &Recording{b}
}

func (k *Book) versionLocked(id manifest.ID) *version {
	v := k.versions[id]
	if v == nil {
		if len(k.versions) >= maxVersions {
			k.forgetLocked()
		}
		v = &version{active: make(map[netip.Addr]*boot)}
		k.versions[id] = v
	}
	v.last = k.cfg.Now()
	return v
}

// forgetLocked forgets the version whose last boot is the longest ago.
func (k *Book) forgetLocked() {
	var oldest manifest.ID
	var when time.Time
	for id, v := range k.versions {
		if when.IsZero() || v.last.Before(when) {
			oldest, when = id, v.last
		}
	}
	delete(k.versions, oldest)
}

// Read notes a read. After false nothing more is wanted of this connection.
func (r *Recording) Read(offset uint64, length uint32) (more bool) {
	b := r.b
	b.mu.Lock()
	defer b.mu.Unlock()
	cfg := &b.book.cfg
	if b.over || b.bytes >= cfg.Bytes || cfg.Now().Sub(b.started) >= cfg.Time {
		b.over = true
		return false
	}
	b.reads++
	b.bytes += uint64(length)
	b.head = b.head || offset == 0 && b.reads <= headReads
	end := min(offset+uint64(length), b.size)
	for g := offset / granule; g*granule < end; g++ {
		if !b.touch(g) {
			b.over = true
			return false
		}
	}
	return true
}

// touch notes a granule; false: there is no room for another range.
func (b *boot) touch(g uint64) bool {
	if _, known := b.seen[g]; known {
		return true
	}
	n := len(b.granule)
	if n > 0 {
		last := &b.granule[n-1]
		if room := last.end-last.first < maxLength/granule; room && last.end == g {
			last.end++
			b.seen[g] = struct{}{}
			return true
		} else if room && last.first == g+1 {
			last.first--
			b.seen[g] = struct{}{}
			return true
		}
	}
	if n >= b.book.cfg.MaxRanges {
		return false
	}
	b.granule = append(b.granule, run{g, g + 1})
	b.seen[g] = struct{}{}
	return true
}

// Close ends the connection's recording. When the last of the client's connections is closed, the boot is over and Config.Done gets its trace.
func (r *Recording) Close() {
	b := r.b
	k := b.book
	k.mu.Lock()
	if b.users--; b.users > 0 {
		k.mu.Unlock()
		return
	}
	b.mu.Lock()
	b.over = true
	counts := b.head && b.bytes >= leastBytes
	trace := Trace{Version: b.id, Ranges: b.ranges()}
	b.mu.Unlock()
	if v := k.versions[b.id]; v != nil && v.active[b.client] == b {
		delete(v.active, b.client)
		if counts {
			v.boots++
		}
	}
	k.mu.Unlock()
	if counts {
		k.cfg.Done(trace)
	}
}

// ranges returns what was read, cut at the disk's end.
func (b *boot) ranges() []Range {
	out := make([]Range, 0, len(b.granule))
	for _, g := range b.granule {
		end := min(g.end*granule, b.size)
		out = append(out, Range{Offset: g.first * granule, Length: uint32(end - g.first*granule)})
	}
	return slices.Clip(out)
}
