package chunksync

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

func TestBehind(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		at      progress
		plan    time.Duration
		assumed uint64
		want    string // part of the line; empty: not behind
	}{
		{"no plan", progress{time: time.Hour, missing: true}, 0, 0, ""},
		{"in time", progress{time: 40 * time.Second, missing: true}, 40 * time.Second, 1000, ""},
		{"a little", progress{time: 49 * time.Second, missing: true}, 40 * time.Second, 1000, ""},
		{"short plans have grace", progress{time: 11 * time.Second, missing: true}, time.Second, 1000, ""},
		{"exactly a quarter", progress{time: 125 * time.Second, missing: true}, 100 * time.Second, 1000, ""},
		{"slow line", progress{time: 160 * time.Second, fetched: 16_000, missing: true}, 100 * time.Second, 1000, "1m0s behind the plan of 1m40s: the line gives 100 bytes a second where 1000 bytes"},
		{"only the time on the line counts", progress{time: 160 * time.Second, line: 10 * time.Second, fetched: 16_000, missing: true}, 100 * time.Second, 1000, "something else"},
		{"line fails", progress{time: 160 * time.Second, trouble: errors.New("no route"), missing: true}, 100 * time.Second, 1000, "the line fails: no route"},
		{"rebuilding", progress{time: 160 * time.Second, fetched: 500_000}, 100 * time.Second, 1000, "slower in rebuilding"},
		{"cap", progress{time: 160 * time.Second, fetched: 160 * 450, missing: true, limit: 500}, 100 * time.Second, 1000, "the site's cap is 500 bytes"},
		{"more than planned", progress{time: 160 * time.Second, fetched: 50_000_000, missing: true}, 100 * time.Second, 1000, "50 MB came where 200 kB were planned"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var c course
			c.plan(config.Plan{Expected: tt.plan, WireBytes: 200_000}, tt.assumed)
			if got := c.late(tt.at); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("said %q, want %q", got, tt.want)
			}
		})
	}
}

func TestRate(t *testing.T) {
	t.Parallel()
	var r rate
	r.add(1000, time.Millisecond) // too little to tell
	if r.bytesPerSecond() != 0 {
		t.Errorf("rate %d of a small transfer", r.bytesPerSecond())
	}
	r.add(1_000_000, time.Second)
	r.add(4_000_000, time.Second)
	if got := r.bytesPerSecond(); got != 2_000_000 {
		t.Errorf("rate %d, want 2000000", got)
	}
	r.add(1_000_000, 0)
}

func TestCourse(t *testing.T) {
	t.Parallel()
	var c course
	t1, t2, t3 := time.Unix(1, 0), time.Unix(2, 0), time.Unix(3, 0)
	c.finish(t1)
	c.begin(t1)
	c.begin(t2)
	c.finish(t3)
	if !c.started.Equal(t1) || !c.finished.Equal(t3) {
		t.Errorf("%+v", c)
	}
	c.begin(t3)
	if !c.started.Equal(t3) || !c.finished.IsZero() {
		t.Errorf("second transfer: %+v", c)
	}
}
