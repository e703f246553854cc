package rebuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
)

func TestSizes(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 4096, 4097, 6000, pieceBytes - 5, pieceBytes, pieceBytes + 1, 3*pieceBytes + 77, 130*pieceBytes + 12_345} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, newShape(t, uint64(size), size, 30))
			r := l.open()
			if err := r.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			l.same()
			p := r.Progress()
			if !r.Able() || p.Done != p.Total || p.Missing || p.Wire != p.WireTotal {
				t.Errorf("progress %+v", p)
			}
			if err := r.Wait(t.Context(), 0, int64(len(l.s.disk))); err != nil {
				t.Error(err)
			}
		})
	}
}

// A process that ends at any moment costs nothing that was verified: no group whose bytes arrived is asked for again.
func TestKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	const size = 5*pieceBytes + 4321
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 7))
			l := newLab(t, newShape(t, seed, size, 10+int(seed)))
			if seed%2 == 1 {
				l.s.heavy = func(g int) bool { return g%3 == 0 }
			}
			arrived := make(map[int]bool)
			for life := 0; ; life++ {
				if life > 200 {
					t.Fatal("no end")
				}
				cfg := l.config()
				alive := &lifetime{left: 20 + rng.IntN(150)}
				cfg.Disk, cfg.Delta = &mortal{cfg.Disk, alive}, &mortal{cfg.Delta, alive}
				r, err := Open(t.Context(), cfg)
				if err == nil {
					for g := range l.s.groups {
						if arrived[g] && r.board.groups[g].state < here {
							t.Fatalf("group %d was here and has to be fetched again", g)
						}
					}
					err = r.Run(t.Context())
					for g := range l.s.groups {
						arrived[g] = r.board.groups[g].state >= here
					}
				}
				if err == nil {
					break
				}
				if !errors.Is(err, errKilled) {
					t.Fatal(err)
				}
			}
			l.same()
		})
	}
}

var errKilled = errors.New("killed")

// lifetime ends after so many writes; mortal is a file of a process that has it.
type lifetime struct {
	mu   sync.Mutex
	left int
}

type mortal struct {
	File
	*lifetime
}

func (m *mortal) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	m.left--
	dead, last := m.left < 0, m.left == 0
	m.mu.Unlock()
	if last && len(p) > 1 {
		n, _ := m.File.WriteAt(p[:len(p)/2], off) // a write that the end cut
		return n, errKilled
	}
	if dead {
		return 0, errKilled
	}
	return m.File.WriteAt(p, off)
}

// What is on the disk is not believed: bits flip, ranges are lost.
func TestFilesAreNotTrusted(t *testing.T) {
	t.Parallel()
	for seed := range uint64(15) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 8))
			l := newLab(t, newShape(t, seed, 4*pieceBytes+99, 40))
			ctx, cancel := context.WithCancel(t.Context())
			l.line.killed, l.line.killAt = cancel, 1+rng.IntN(60)
			_ = l.open().Run(ctx)
			cancel()
			for range 30 {
				junk := make([]byte, 1+rng.IntN(5000))
				f, limit := l.disk, len(l.s.disk)
				if rng.IntN(2) == 0 {
					f, limit = l.delta, len(l.s.wire)
				}
				if _, err := f.WriteAt(junk, rng.Int64N(int64(limit-len(junk)))); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.open().Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			l.same()
		})
	}
}

func TestNothingIsDoneTwiceAfterTheEnd(t *testing.T) {
	t.Parallel()
	l := newLab(t, newShape(t, 3, 10*pieceBytes, 40))
	if err := l.open().Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	clear(l.s.decodes)
	clear(l.line.asked)
	r := l.open()
	// The delta file is gone, the disk is right: nothing is missing.
	if err := l.delta.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(l.s.decodes)+len(l.line.asked) != 0 {
		t.Errorf("decoded again: %v, asked again: %v", l.s.decodes, l.line.asked)
	}
	l.same()
}

// A reader gets what it lacks before all else, and only that; many readers of one piece cause one fetch and one decode.
func TestReadersComeFirstAndShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShape(t, 5, 24*pieceBytes, 50)
		l := newLab(t, s)
		r := l.open()
		r.SetFill(false)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		last := s.layout[slices.IndexFunc(s.layout, func(r delta.Region) bool { return r.Kind == delta.RegionGroup && r.Off > 12*pieceBytes })]
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := r.Wait(t.Context(), last.Off, last.Len); err != nil {
					t.Error(err)
				}
				got := make([]byte, last.Len)
				if _, err := l.disk.ReadAt(got, last.Off); err != nil || string(got) != string(s.new[last.Off:last.Off+last.Len]) {
					t.Errorf("the bytes are not there (%v)", err)
				}
			})
		}
		wg.Wait()
		synctest.Wait()
		for g, n := range l.line.asked {
			if n != 1 || s.decodes[g] != 1 {
				t.Errorf("group %d was asked for %d times and decoded %d times", g, n, s.decodes[g])
			}
		}
		if n := len(l.line.asked); n == 0 || n > 8 {
			t.Errorf("%d of %d groups were fetched", n, len(s.groups))
		}
		if p := r.Progress(); p.Waiting != 0 || !p.Missing {
			t.Errorf("progress %+v", p)
		}
		r.SetFill(true)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		cancel()
		l.same()
	})
}

// Everything that is not new can be read without the source.
func TestCopiesNeedNoSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShape(t, 6, 24*pieceBytes, 5)
		l := newLab(t, s)
		l.line.away = true
		r := l.open()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		clean := 0
		for p := range r.board.dirty {
			if off, n := r.geo.piece(p); !r.board.dirty[p] {
				clean++
				if err := r.Wait(t.Context(), off, n); err != nil {
					t.Errorf("clean piece %d: %v", p, err)
				}
				if err := r.Wait(t.Context(), r.geo.levels[0].off+int64(p)*blockBytes, blockBytes); err != nil {
					t.Errorf("leaf of clean piece %d: %v", p, err)
				}
			}
		}
		if clean == 0 {
			t.Fatal("there is no clean piece")
		}
		if err := r.Wait(t.Context(), r.geo.levels[1].off, blockBytes); err != nil {
			t.Errorf("level 1: %v", err)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestLostSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, newShape(t, 7, 24*pieceBytes, 50))
		l.line.away = true
		l.cfg = func(c *Config) { c.Wait = 5 * time.Second }
		r := l.open()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		start := time.Now()
		err := r.Wait(t.Context(), 0, r.geo.end)
		if !errors.Is(err, ErrLate) || !errors.Is(err, errAway) || time.Since(start) != 5*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
		if r.Able() {
			t.Error("new readers would be let in although the source is away")
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		if err := r.Wait(gone, 0, r.geo.end); !errors.Is(err, context.Canceled) {
			t.Errorf("a reader that left: %v", err)
		}
		<-time.After(10 * time.Minute)
		l.line.mu.Lock()
		l.line.away = false
		l.line.mu.Unlock()
		r.Kick()
		synctest.Wait() // no time passes
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if !r.Able() {
			t.Error("not able at the end")
		}
		l.same()
	})
}

func TestBadLines(t *testing.T) {
	tests := []struct {
		name   string
		faults faults
		want   error
	}{
		{"cut requests", faults{cut: 7}, nil},
		{"answers that end early", faults{short: 5}, nil},
		{"two wrong frames", faults{corrupt: 2}, nil},
		{"nothing but wrong frames", faults{corrupt: 1 << 30}, ErrSource},
		{"the delta is gone", faults{gone: true}, ErrGone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLab(t, newShape(t, 8, 8*pieceBytes+5, 50))
				l.line.faults = tt.faults
				r := l.open()
				if err := r.Run(t.Context()); !errors.Is(err, tt.want) {
					t.Fatalf("error %v, want %v", err, tt.want)
				}
				if tt.want == nil {
					l.same()
					return
				}
				l.line.faults = faults{}
				for g := range r.board.groups {
					r.board.groups[g].refused = 0
				}
				if err := r.Run(t.Context()); err != nil {
					t.Fatalf("second run: %v", err)
				}
				l.same()
			})
		})
	}
}

func TestWrongDeltas(t *testing.T) {
	t.Parallel()
	other := newShape(t, 99, 10*pieceBytes, 40)
	group := func(s *shape) delta.Region {
		for _, r := range s.layout {
			if r.Kind == delta.RegionGroup && r.Off > 2*pieceBytes && r.Len > 1000 {
				return r
			}
		}
		panic("no group")
	}
	tests := []struct {
		name   string
		change func(s *shape, c *Config)
	}{
		{"another digest", func(_ *shape, c *Config) { c.Digest[0] ^= 1 }},
		{"wrong level 1", func(s *shape, _ *Config) { s.level1[0][5] ^= 1 }},
		{"too few hashes of level 1", func(s *shape, _ *Config) { s.level1 = nil }},
		{"wrong hash of a dirty piece", func(s *shape, _ *Config) {
			for p, h := range s.hashes {
				h[0] ^= 1
				s.hashes[p] = h
				return
			}
		}},
		{"no hash of a dirty piece", func(s *shape, _ *Config) { clear(s.hashes) }},
		{"another base", func(_ *shape, c *Config) { c.Base = bytes.NewReader(other.old) }},
		{"a gap in the layout", func(s *shape, _ *Config) { s.layout = append(s.layout[:2:2], s.layout[3:]...) }},
		{"an overlap", func(s *shape, _ *Config) { s.layout[3].Off-- }},
		{"a region beyond the end", func(s *shape, _ *Config) { s.layout[len(s.layout)-1].Len++ }},
		{"a layout that ends early", func(s *shape, _ *Config) { s.layout = s.layout[:len(s.layout)-1] }},
		{"an unknown group", func(s *shape, _ *Config) {
			for i := range s.layout {
				if s.layout[i].Kind == delta.RegionGroup {
					s.layout[i].Group = len(s.groups)
				}
			}
		}},
		{"groups that need each other", func(s *shape, _ *Config) { s.groups[0].Needs, s.groups[1].Needs = []int{1}, []int{0} }},
		{"a group that needs none such", func(s *shape, _ *Config) { s.groups[0].Needs = []int{-1} }},
		{"a block outside", func(s *shape, _ *Config) {
			s.hostile = func(_ int, emit func(int64, []byte) error) error { return emit(int64(len(s.disk)), make([]byte, 10)) }
		}},
		{"a negative offset", func(s *shape, _ *Config) {
			s.hostile = func(_ int, emit func(int64, []byte) error) error { return emit(-5, make([]byte, 10)) }
		}},
		{"a block that reaches into a copy", func(s *shape, _ *Config) {
			r := group(s)
			s.hostile = func(_ int, emit func(int64, []byte) error) error { return emit(r.Off, make([]byte, r.Len+1)) }
		}},
		{"no blocks at all", func(s *shape, _ *Config) {
			s.hostile = func(int, func(int64, []byte) error) error { return nil }
		}},
		{"a block twice", func(s *shape, _ *Config) {
			r := group(s)
			s.hostile = func(_ int, emit func(int64, []byte) error) error {
				return errors.Join(emit(r.Off, make([]byte, 500)), emit(r.Off, make([]byte, 500)))
			}
		}},
		{"zeros", func(s *shape, _ *Config) {
			s.hostile = func(g int, emit func(int64, []byte) error) error {
				for _, r := range s.layout {
					if r.Kind == delta.RegionGroup && r.Group == g {
						if err := emit(r.Off, make([]byte, r.Len)); err != nil {
							return err
						}
					}
				}
				return nil
			}
		}},
		{"a malformed group", func(s *shape, _ *Config) {
			s.hostile = func(int, func(int64, []byte) error) error { return delta.ErrFormat }
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, newShape(t, 9, 10*pieceBytes, 40))
			l.cfg = func(c *Config) { tt.change(l.s, c) }
			cfg := l.config()
			cfg.Groups = l.s.groups
			r, err := Open(t.Context(), cfg)
			if err == nil {
				if err = r.Run(t.Context()); !errors.Is(r.Wait(t.Context(), 0, r.geo.end), ErrWrong) {
					t.Error("readers are not told")
				}
			}
			if !errors.Is(err, ErrWrong) {
				t.Errorf("error %v, want ErrWrong", err)
			}
		})
	}
}

// failing is a file that has no room after so many writes, or can't be read.
type failing struct {
	File
	mu   sync.Mutex
	room int
	err  error
}

func (f *failing) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.room == 0 {
		return 0, f.err
	}
	f.room--
	return f.File.WriteAt(p, off)
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	full := errors.New("no room")
	for room := 5; room < 120; room += 19 {
		for _, which := range []string{"disk", "delta"} {
			t.Run(fmt.Sprint(which, room), func(t *testing.T) {
				t.Parallel()
				l := newLab(t, newShape(t, 10, 5*pieceBytes, 40))
				cfg := l.config()
				disk, wire := &failing{File: cfg.Disk, room: -1}, &failing{File: cfg.Delta, room: -1}
				cfg.Disk, cfg.Delta = disk, wire
				f := disk
				if which == "delta" {
					f = wire
				}
				f.room, f.err = room, full
				r, err := Open(t.Context(), cfg)
				if err != nil {
					t.Fatal(err)
				}
				if err := r.Run(t.Context()); err != nil && !errors.Is(err, full) {
					t.Fatalf("error %v, want %v", err, full)
				}
				f.mu.Lock()
				f.room = -1
				f.mu.Unlock()
				if err := r.Run(t.Context()); err != nil {
					t.Fatalf("with room again: %v", err)
				}
				l.same()
			})
		}
	}
}

type brokenBase struct{ err error }

func (b brokenBase) ReadAt([]byte, int64) (int, error) { return 0, b.err }

func TestUnreadableBase(t *testing.T) {
	t.Parallel()
	l := newLab(t, newShape(t, 11, 10*pieceBytes, 40))
	bad := errors.New("bad sector")
	l.cfg = func(c *Config) { c.Base = brokenBase{bad} }
	if err := l.open().Run(t.Context()); !errors.Is(err, ErrBase) || !errors.Is(err, bad) {
		t.Errorf("error %v, want ErrBase", err)
	}
}

func TestCloseEndsWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t, newShape(t, 12, 10*pieceBytes, 40))
		r := l.open()
		ended := make(chan error, 1)
		go func() { ended <- r.Wait(t.Context(), 0, r.geo.end) }()
		synctest.Wait()
		r.Close()
		if err := <-ended; !errors.Is(err, ErrEnded) {
			t.Errorf("error %v, want ErrEnded", err)
		}
		if err := r.Wait(t.Context(), 0, 1); !errors.Is(err, ErrEnded) {
			t.Errorf("error %v, want ErrEnded", err)
		}
	})
}

func TestFirstGroupsComeFirst(t *testing.T) {
	t.Parallel()
	s := newShape(t, 13, 20*pieceBytes, 60)
	l := newLab(t, s)
	last := uint32(len(s.groups) - 1)
	l.cfg = func(c *Config) { c.First = []uint32{last, 9999, last, 5} }
	r := l.open()
	got := [][]int{r.board.nextFetch(false, 1), r.board.nextFetch(false, 1), r.board.nextFetch(false, 1), r.board.nextFetch(true, 1)}
	if want := fmt.Sprint([][]int{{int(last)}, {5}, {0}, nil}); fmt.Sprint(got) != want {
		t.Errorf("fetched in the order %v, want %v", got, want)
	}
}

// TestHeavyGroupsComeLast: a group that keeps others from being decoded waits for all that do not need it; a reader does not wait for the others.
func TestHeavyGroupsComeLast(t *testing.T) {
	t.Parallel()
	heavy := func(g int) bool { return g == 0 || g == 2 }
	s := newShape(t, 13, 20*pieceBytes, 60)
	s.heavy = heavy
	l := newLab(t, s)
	if err := l.open().Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.same()
	first := slices.IndexFunc(s.sequence, heavy)
	for i, g := range s.sequence {
		if !heavy(g) && len(s.groups[g].Needs) == 0 && i > first {
			t.Errorf("group %d was decoded after a heavy one: %v", g, s.sequence)
		}
	}
	if len(s.sequence) != len(s.groups) {
		t.Errorf("%d groups were decoded %d times", len(s.groups), len(s.sequence))
	}

	s = newShape(t, 13, 20*pieceBytes, 60)
	s.heavy = heavy
	l = newLab(t, s)
	r := l.open()
	r.SetFill(false)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	wanted := s.layout[slices.IndexFunc(s.layout, func(r delta.Region) bool { return r.Kind == delta.RegionGroup && r.Group == 2 })]
	if err := r.Wait(t.Context(), wanted.Off, wanted.Len); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
