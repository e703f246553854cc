package rebuild

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// shape is a delta made by hand: what is new is scrambled by exclusive or.
type shape struct {
	old, new []byte
	disk     []byte // of new
	digest   verity.Digest
	layout   []delta.Region
	groups   []delta.Group
	wire     []byte // the delta file
	hashes   map[int64]hash
	level1   []hash
	incoming io.ReaderAt // the disk file, for groups that need others
	hostile  func(g int, emit func(int64, []byte) error) error
	heavy    func(g int) bool
	decodes  map[int]int
	sequence []int // groups as they were decoded
	mu       sync.Mutex
}

const (
	indexBytes = 777
	storedMax  = 70_000
)

func random(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		v := rng.Uint64()
		for k := 0; k < 8 && i+k < n; k++ {
			b[i+k] = byte(v >> (8 * k))
		}
	}
	return b
}

// newShape makes a delta to a squashfs of size bytes: a superblock held by the receiver, then runs of copies and of groups, then held bytes.
// changed is the part in percent that groups bring.
func newShape(tb testing.TB, seed uint64, size, changed int) *shape {
	tb.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	s := &shape{old: random(rng, size), new: make([]byte, size), hashes: make(map[int64]hash), decodes: make(map[int]int)}
	at, head := 0, min(96, size)
	s.held(rng, 0, head)
	for at = head; at < size-5000; {
		n := min(1+rng.IntN(300_000), size-5000-at)
		if rng.IntN(100) < changed {
			s.grouped(rng, at, n)
		} else {
			from := rng.IntN(size - n)
			copy(s.new[at:], s.old[from:from+n])
			s.region(delta.Region{Off: int64(at), Len: int64(n), Kind: delta.RegionCopy, OldOff: int64(from)})
		}
		at += n
	}
	if at < size {
		s.held(rng, at, size-at)
	}
	s.seal(tb)
	return s
}

func (s *shape) region(r delta.Region) { s.layout = append(s.layout, r) }

func (s *shape) held(rng *rand.Rand, off, n int) {
	copy(s.new[off:], random(rng, n))
	s.region(delta.Region{Off: int64(off), Len: int64(n), Kind: delta.RegionBytes})
}

// grouped adds a region to the last group or begins a new one, which may need the first.
func (s *shape) grouped(rng *rand.Rand, off, n int) {
	copy(s.new[off:], random(rng, n))
	g := len(s.groups) - 1
	if g < 0 || rng.IntN(3) == 0 {
		s.groups = append(s.groups, delta.Group{})
		if g++; g > 3 && g%4 == 0 {
			s.groups[g].Needs = []int{0}
		}
	}
	s.groups[g].StoredBytes += int64(n)
	if k := len(s.layout) - 1; s.layout[k].Kind == delta.RegionGroup && s.layout[k].Group == g {
		s.layout[k].Len += int64(n)
		return
	}
	s.region(delta.Region{Off: int64(off), Len: int64(n), Kind: delta.RegionGroup, Group: g})
}

// seal makes wire, tree and index.
func (s *shape) seal(tb testing.TB) {
	tb.Helper()
	s.wire = random(rand.New(rand.NewPCG(9, 9)), indexBytes)
	for g := range s.groups {
		info := &s.groups[g]
		info.Offset, info.Length = int64(len(s.wire)), info.StoredBytes
		for _, r := range s.layout {
			if r.Kind == delta.RegionGroup && r.Group == g {
				s.wire = append(s.wire, s.scramble(g, s.new[r.Off:r.Off+r.Len], bytes.NewReader(s.new))...)
			}
		}
		info.SHA256 = sha256.Sum256(s.wire[info.Offset:])
		info.RawBytes = info.StoredBytes
	}
	geo, err := newGeometry(int64(len(s.new)))
	if err != nil {
		tb.Fatal(err)
	}
	s.disk = make([]byte, geo.end)
	copy(s.disk, s.new)
	if s.digest, err = verity.Compute(tb.Context(), bytes.NewReader(s.disk[:geo.data]), uint64(geo.data), at(s.disk[geo.data:]), 1); err != nil {
		tb.Fatal(err)
	}
	for p := range geo.pieces {
		if s.dirty(int64(p)) && len(geo.levels) > 0 {
			off := geo.levels[0].off + int64(p)*blockBytes
			s.hashes[int64(p)] = sha256.Sum256(s.disk[off : off+blockBytes])
		}
	}
	if len(geo.levels) > 1 {
		for i := range geo.levels[1].blocks {
			off := geo.levels[1].off + i*blockBytes
			s.level1 = append(s.level1, sha256.Sum256(s.disk[off:off+blockBytes]))
		}
	}
}

func (s *shape) dirty(p int64) bool {
	return slices.ContainsFunc(s.layout, func(r delta.Region) bool {
		return r.Kind == delta.RegionGroup && r.Off < (p+1)*pieceBytes && r.Off+r.Len > p*pieceBytes
	})
}

// scramble is its own inverse. A group that needs another is scrambled with that one's first byte too.
func (s *shape) scramble(g int, data []byte, incoming io.ReaderAt) []byte {
	key := byte(0x5a)
	for _, need := range s.groups[g].Needs {
		i := slices.IndexFunc(s.layout, func(r delta.Region) bool { return r.Kind == delta.RegionGroup && r.Group == need })
		var b [1]byte
		_, _ = incoming.ReadAt(b[:], s.layout[i].Off)
		key ^= b[0]
	}
	out := make([]byte, len(data))
	for i := range data {
		out[i] = data[i] ^ key
	}
	return out
}

type at []byte

func (b at) WriteAt(p []byte, off int64) (int, error) { return copy(b[off:], p), nil }

// The methods of Decoder and Proof.

func (s *shape) Layout() []delta.Region { return s.layout }

func (s *shape) Bytes(r delta.Region) []byte { return s.new[r.Off : r.Off+r.Len] }

func (s *shape) Piece(p int64) (hash, bool) { h, ok := s.hashes[p]; return h, ok }

func (s *shape) Level1() [][32]byte { return s.level1 }

func (s *shape) Heavy(g int, _ []byte) bool { return s.heavy != nil && s.heavy(g) }

func (s *shape) DecodeGroup(ctx context.Context, g int, wire []byte, emit func(int64, []byte) error) error {
	s.mu.Lock()
	s.decodes[g]++
	s.sequence = append(s.sequence, g)
	hostile := s.hostile
	s.mu.Unlock()
	if sha256.Sum256(wire) != s.groups[g].SHA256 {
		return fmt.Errorf("group %d: %w", g, delta.ErrMismatch)
	}
	if hostile != nil {
		return hostile(g, emit)
	}
	plain := s.scramble(g, wire, s.incoming)
	for _, r := range s.layout {
		if r.Kind != delta.RegionGroup || r.Group != g {
			continue
		}
		for off := r.Off; off < r.Off+r.Len; {
			n := min(storedMax, r.Off+r.Len-off)
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := emit(off, plain[:n]); err != nil {
				return err
			}
			off, plain = off+n, plain[n:]
		}
	}
	return nil
}

var errAway = errors.New("away")

// line is a source of delta bytes that can be told to fail.
type line struct {
	s  *shape
	mu sync.Mutex
	faults
	asked  map[int]int // groups, by how often their first byte was asked for
	sent   int64
	urgent int // requests
	hold   chan struct{}
	killed func() // called after killAt frames
	killAt int
	frame  int64
}

type faults struct {
	away    bool
	cut     int // so many requests end in their middle with an error
	corrupt int // so many frames have a flipped bit
	gone    bool
	short   int // so many requests end early without an error
}

func (l *line) fetch(ctx context.Context, off, length int64, urgent bool, sink func([]byte) error) error {
	l.mu.Lock()
	for g := range l.s.groups {
		if o := l.s.groups[g].Offset; o >= off && o < off+length {
			l.asked[g]++
		}
	}
	if urgent {
		l.urgent++
	}
	l.mu.Unlock()
	for end := off + length; off < end; {
		n := min(l.frame, end-off)
		p, err := l.next(ctx, off, n, end)
		if err != nil || p == nil {
			return err
		}
		if err := sink(p); err != nil {
			return err
		}
		off += n
	}
	return nil
}

func (l *line) next(ctx context.Context, off, n, end int64) ([]byte, error) {
	l.mu.Lock()
	hold := l.hold
	l.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.killAt > 0 {
		if l.killAt--; l.killAt == 0 {
			l.killed()
		}
	}
	middle := off+n >= end-l.frame
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case l.gone:
		return nil, ErrGone
	case l.away:
		return nil, errAway
	case l.cut > 0 && middle:
		l.cut--
		return nil, errAway
	case l.short > 0 && middle:
		l.short--
		return nil, nil
	}
	p := bytes.Clone(l.s.wire[off : off+n])
	if l.corrupt > 0 {
		l.corrupt--
		p[len(p)/2] ^= 8
	}
	l.sent += n
	return p, nil
}

// lab holds the files of one rebuild.
type lab struct {
	tb    testing.TB
	s     *shape
	line  *line
	dir   string
	disk  *os.File
	delta *os.File
	cfg   func(*Config)
}

func newLab(tb testing.TB, s *shape) *lab {
	return &lab{tb: tb, s: s, dir: tb.TempDir(), line: &line{s: s, asked: make(map[int]int), frame: 16 << 10}}
}

func (l *lab) config() Config {
	l.tb.Helper()
	open := func(name string, size int) *os.File {
		f, err := os.OpenFile(filepath.Join(l.dir, name), os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			l.tb.Fatal(err)
		}
		if err := f.Truncate(int64(size)); err != nil {
			l.tb.Fatal(err)
		}
		l.tb.Cleanup(func() { _ = f.Close() })
		return f
	}
	l.disk, l.delta = open("disk", len(l.s.disk)), open("delta", len(l.s.wire))
	l.s.incoming = l.disk
	cfg := Config{Size: int64(len(l.s.new)), Digest: l.s.digest, Groups: l.s.groups, Proof: l.s, Decoder: l.s, Base: bytes.NewReader(l.s.old),
		Disk: l.disk, Delta: l.delta, Fetch: l.line.fetch, Workers: 2}
	if l.cfg != nil {
		l.cfg(&cfg)
	}
	return cfg
}

func (l *lab) open() *Rebuild {
	l.tb.Helper()
	r, err := Open(l.tb.Context(), l.config())
	if err != nil {
		l.tb.Fatal(err)
	}
	return r
}

// same fails unless the disk file is the new version's disk.
func (l *lab) same() {
	l.tb.Helper()
	got, err := os.ReadFile(filepath.Join(l.dir, "disk"))
	if err != nil {
		l.tb.Fatal(err)
	}
	if !bytes.Equal(got, l.s.disk) {
		for i := range got {
			if got[i] != l.s.disk[i] {
				l.tb.Fatalf("the disk differs at %d of %d", i, len(got))
			}
		}
		l.tb.Fatalf("the disk has %d bytes, want %d", len(got), len(l.s.disk))
	}
}
