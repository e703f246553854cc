package trace

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

type lab struct {
	*Book
	now    time.Time
	traces []Trace
}

func newLab(change func(*Config)) *lab {
	l := &lab{now: time.Unix(1_900_000_000, 0)}
	cfg := Config{Done: func(t Trace) { l.traces = append(l.traces, t) }, Now: func() time.Time { return l.now }}
	if change != nil {
		change(&cfg)
	}
	l.Book = New(cfg)
	return l
}

func client(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }

var lab1 = manifest.ID{1}

const disk = 100<<20 + 4096

func TestRanges(t *testing.T) {
	t.Parallel()
	const g = granule
	tests := []struct {
		name  string
		reads [][2]uint64
		want  []Range
	}{
		{"neighbours become one", [][2]uint64{{0, g}, {g, 2 * g}, {3 * g, 300_000}}, []Range{{0, 13 * g}}},
		{"downwards too", [][2]uint64{{0, 1}, {9 * g, 300_000}, {8 * g, 1}, {7 * g, 1}}, []Range{{0, g}, {7 * g, 12 * g}}},
		{"the order of first reads", [][2]uint64{{0, 4096}, {50 * g, 300_000}, {20 * g, 4096}, {0, 4096}, {50 * g, 4096}},
			[]Range{{0, g}, {50 * g, 10 * g}, {20 * g, g}}},
		{"the end of the disk", [][2]uint64{{0, 300_000}, {disk - 4096, 4096}, {disk - 4096, 1 << 20}}, []Range{{0, 10 * g}, {disk - 4096, 4096}}},
		{"long runs are cut", [][2]uint64{{0, 20 << 20}}, []Range{{0, 16 << 20}, {16 << 20, 4 << 20}}},
		{"behind the end", [][2]uint64{{0, 300_000}, {1 << 63, 1 << 20}}, []Range{{0, 10 * g}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(nil)
			r := l.Open(lab1, disk, client(1))
			for _, x := range tt.reads {
				if !r.Read(x[0], uint32(x[1])) {
					t.Fatal("the recording is over")
				}
			}
			r.Close()
			if diff := cmp.Diff([]Trace{{lab1, tt.want}}, l.traces); diff != "" {
				t.Errorf("trace (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBoundaries(t *testing.T) {
	t.Parallel()
	boot := func(l *lab) *Recording {
		r := l.Open(lab1, disk, client(1))
		r.Read(0, 300_000)
		return r
	}
	t.Run("time", func(t *testing.T) {
		t.Parallel()
		l := newLab(nil)
		r := boot(l)
		l.now = l.now.Add(time.Minute)
		if r.Read(0, 1) {
			t.Error("recording goes on after a minute")
		}
	})
	t.Run("bytes", func(t *testing.T) {
		t.Parallel()
		l := newLab(func(c *Config) { c.Bytes = 300_000 })
		if boot(l).Read(0, 1) {
			t.Error("recording goes on after so many bytes")
		}
	})
	t.Run("ranges", func(t *testing.T) {
		t.Parallel()
		l := newLab(func(c *Config) { c.MaxRanges = 3 })
		r := boot(l)
		n := 1
		for off := uint64(1 << 20); r.Read(off, 1); off += 1 << 20 {
			n++
		}
		r.Close()
		if n != 3 || len(l.traces) != 1 || len(l.traces[0].Ranges) != 3 {
			t.Errorf("%d ranges taken, traces %v", n, l.traces)
		}
	})
	t.Run("versions", func(t *testing.T) {
		t.Parallel()
		l := newLab(nil)
		for n := range 1000 {
			l.now = l.now.Add(time.Second)
			l.Open(manifest.ID{byte(n), byte(n >> 8), 1}, disk, client(n)).Close()
		}
		if len(l.versions) != maxVersions {
			t.Errorf("%d versions are remembered", len(l.versions))
		}
	})
}

func TestOnlyTheFirstBootsCount(t *testing.T) {
	t.Parallel()
	l := newLab(func(c *Config) { c.Boots = 3 })
	var open []*Recording
	for n := range 5 {
		if r := l.Open(lab1, disk, client(n)); r != nil {
			r.Read(0, 300_000)
			open = append(open, r)
		}
	}
	if len(open) != 3 {
		t.Fatalf("%d boots at once are recorded, want 3", len(open))
	}
	for _, r := range open {
		r.Close()
	}
	if l.Open(lab1, disk, client(9)) != nil || len(l.traces) != 3 {
		t.Errorf("a fourth boot is recorded; traces: %d", len(l.traces))
	}
	if l.Open(manifest.ID{2}, disk, client(9)) == nil {
		t.Error("another version is not recorded")
	}
}

func TestWhatIsNoBoot(t *testing.T) {
	t.Parallel()
	l := newLab(func(c *Config) { c.Boots = 1 })
	back := l.Open(lab1, disk, client(1))
	for n := range uint64(100) {
		back.Read(1<<20+n*4096, 4096)
	}
	back.Read(0, 4096) // too late to be a mount
	back.Close()
	look := l.Open(lab1, disk, client(2))
	look.Read(0, 4096)
	look.Close()
	if len(l.traces) != 0 {
		t.Errorf("traces: %v", l.traces)
	}
	if l.Open(lab1, disk, client(3)) == nil {
		t.Error("what was no boot counts as one")
	}
}

func TestConnectionsOfAClientAreOneBoot(t *testing.T) {
	t.Parallel()
	l := newLab(nil)
	a, b := l.Open(lab1, disk, client(1)), l.Open(lab1, disk, client(1))
	a.Read(0, 200_000)
	b.Read(10<<20, 200_000)
	a.Close()
	if len(l.traces) != 0 {
		t.Fatal("the boot ended with its first connection")
	}
	b.Close()
	if len(l.traces) != 1 || fmt.Sprint(l.traces[0].Ranges) != "[{0 229376} {10485760 229376}]" {
		t.Errorf("traces %v", l.traces)
	}
}

func BenchmarkRead(b *testing.B) {
	l := newLab(func(c *Config) { c.Bytes, c.Now = 1<<62, time.Now })
	r := l.Open(lab1, disk, client(1))
	for i := 0; b.Loop(); i++ {
		r.Read(uint64(i%3000)*granule, 4096)
	}
}
