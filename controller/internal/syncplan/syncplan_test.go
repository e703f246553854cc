package syncplan_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/syncplan"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

const (
	mega  = 1_000_000
	dsl   = 10 * mega / 8
	fiber = 1000 * mega / 8
)

var base, other = manifest.ID{1}, manifest.ID{2}

// weekly is a site that has last week's version: 750 MB in all, 29 MB of chunks, a delta of 1.7 MB with 87 MB to recompress.
func weekly() syncplan.Input {
	return syncplan.Input{
		Link: dsl, Recompress: 14 * mega, Whole: 750 * mega, Chunks: 29 * mega,
		Deltas: []syncplan.Delta{{Base: base, BaseName: "lab@4", Readiness: syncplan.Ready, Bytes: 1_700_000, Raw: 87 * mega}},
	}
}

func TestDecide(t *testing.T) {
	tests := []struct {
		name     string
		change   func(*syncplan.Input)
		method   fleet.SyncMethod
		wire     uint64
		expected time.Duration
		reason   string
		make     manifest.ID
	}{
		{"a school's line", func(*syncplan.Input) {}, fleet.SyncDelta, 1_700_000, 6214 * time.Millisecond, "delta from lab@4: 1.7 MB", manifest.ID{}},
		{"a fast line and a slow core", func(in *syncplan.Input) { in.Link, in.Recompress = fiber, 4*mega },
			fleet.SyncChunks, 29 * mega, 232 * time.Millisecond, "the delta from lab@4 (1.7 MB) would take 21.8s", manifest.ID{}},
		{"a fast line with a cap", func(in *syncplan.Input) { in.Link, in.Cap = fiber, mega/4 }, fleet.SyncDelta, 1_700_000, 6800 * time.Millisecond, "2.0 Mbit/s", manifest.ID{}},
		{"about as quick: fewer bytes", func(in *syncplan.Input) { in.Link = 6 * mega }, fleet.SyncDelta, 1_700_000, 6214 * time.Millisecond, "delta", manifest.ID{}},
		{"nothing to begin at", func(in *syncplan.Input) { in.Deltas, in.Chunks = nil, in.Whole },
			fleet.SyncChunks, 750 * mega, 600 * time.Second, "no version that a delta could begin at", manifest.ID{}},
		{"nobody has made it", func(in *syncplan.Input) { in.Deltas[0].Readiness, in.Chunks = syncplan.Possible, 280*mega },
			fleet.SyncWait, 1_700_000, 186214 * time.Millisecond, "is being made", base},
		{"it is being made", func(in *syncplan.Input) { in.Deltas[0].Readiness, in.Chunks = syncplan.Making, 280*mega },
			fleet.SyncWait, 1_700_000, 186214 * time.Millisecond, "is being made", manifest.ID{}},
		{"not worth the making", func(in *syncplan.Input) { in.Deltas[0].Readiness, in.Chunks = syncplan.Possible, 3*mega },
			fleet.SyncChunks, 3 * mega, 2400 * time.Millisecond, "would take 3m6s", manifest.ID{}},
		{"it can't be made", func(in *syncplan.Input) { in.Deltas[0].Readiness, in.Deltas[0].Why = syncplan.Impossible, "disk full" },
			fleet.SyncChunks, 29 * mega, 23200 * time.Millisecond, "no delta from lab@4: disk full", manifest.ID{}},
		{"the smaller of two", func(in *syncplan.Input) {
			in.Deltas = append(in.Deltas, syncplan.Delta{Base: other, BaseName: "lab@3", Readiness: syncplan.Ready, Bytes: 1_200_000, Raw: 90 * mega})
		}, fleet.SyncDelta, 1_200_000, 6428 * time.Millisecond, "lab@3", manifest.ID{}},
		{"what was begun goes on", func(in *syncplan.Input) {
			in.Deltas = append(in.Deltas, syncplan.Delta{Base: other, BaseName: "lab@3", Readiness: syncplan.Ready, Bytes: 90 * mega, Raw: 90 * mega, Begun: true})
		}, fleet.SyncDelta, 90 * mega, 72 * time.Second, "which was begun", manifest.ID{}},
		{"policy: whole", func(in *syncplan.Input) { in.Policy = fleet.SyncWhole }, fleet.SyncWhole, 750 * mega, 600 * time.Second, "by policy", manifest.ID{}},
		{"policy: chunks", func(in *syncplan.Input) { in.Policy = fleet.SyncChunks }, fleet.SyncChunks, 29 * mega, 23200 * time.Millisecond, "by policy", manifest.ID{}},
		{"policy: delta, on a line where chunks are quicker", func(in *syncplan.Input) { in.Policy, in.Link, in.Recompress = fleet.SyncDelta, fiber, 4*mega },
			fleet.SyncDelta, 1_700_000, 21750 * time.Millisecond, "delta from lab@4", manifest.ID{}},
		{"policy: delta without a base", func(in *syncplan.Input) { in.Policy, in.Deltas = fleet.SyncDelta, nil },
			fleet.SyncChunks, 29 * mega, 23200 * time.Millisecond, "chunks", manifest.ID{}},
		{"nothing measured", func(in *syncplan.Input) { in.Link, in.Recompress = 0, 0 }, fleet.SyncDelta, 1_700_000, 13828 * time.Millisecond, "recompressing 6.3 MB a second", manifest.ID{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			in := weekly()
			test.change(&in)
			d := syncplan.Decide(in)
			if d.Plan.Method != test.method || d.Plan.WireBytes != test.wire {
				t.Errorf("%s with %d bytes, want %s with %d (%s)", d.Plan.Method, d.Plan.WireBytes, test.method, test.wire, d.Plan.Reason)
			}
			if got := time.Duration(d.Plan.Expected).Truncate(time.Millisecond); got != test.expected {
				t.Errorf("expected %s, want %s", got, test.expected)
			}
			if !strings.Contains(d.Plan.Reason, test.reason) {
				t.Errorf("reason %q, want %q in it", d.Plan.Reason, test.reason)
			}
			if d.Make != test.make {
				t.Errorf("make %v, want %v", d.Make, test.make)
			}
			if len(d.Plan.Options) != len(in.Deltas)+2 {
				t.Errorf("%d options", len(d.Plan.Options))
			}
			if wait := test.method == fleet.SyncWait; wait != (d.Plan.RetryAfter > 0) {
				t.Errorf("retry after %s", d.Plan.RetryAfter)
			}
		})
	}
}
