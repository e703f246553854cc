package chunksync

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// pause lets ten seconds of a bubble's time pass.
func pause() { <-time.After(10 * time.Second) }

func ref(name string, size uint32) chunk.Ref {
	return chunk.Ref{ID: chunk.Sum([]byte(name)), Size: size}
}

func TestBatches(t *testing.T) {
	refs := []chunk.Ref{ref("a", 10), ref("b", 20), ref("c", 30), ref("d", 200), ref("e", 5)}
	got := batches(refs, 3, 50)
	want := [][]chunk.Ref{refs[:2], refs[2:3], refs[3:4], refs[4:]}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("by bytes (-want +got):\n%s", diff)
	}
	want = [][]chunk.Ref{refs[:2], refs[2:4], refs[4:]}
	if diff := cmp.Diff(want, batches(refs, 2, 1000)); diff != "" {
		t.Errorf("by number (-want +got):\n%s", diff)
	}
	if got := batches(nil, 2, 1000); got != nil {
		t.Errorf("batches of nothing: %v", got)
	}
}

func TestPlannerTakesEachChunkOnce(t *testing.T) {
	p := newPlanner([]chunk.Ref{ref("c", 3), ref("a", 1), ref("b", 2)})
	donor := &manifest.Manifest{Artifacts: []manifest.Artifact{
		{Name: "kernel", Chunks: []chunk.Ref{ref("x", 7), ref("b", 2), ref("b", 2)}},
		{Name: "squashfs", Chunks: []chunk.Ref{ref("a", 1), ref("c", 4)}}, // c with another size is not c
	}}
	want := []copyRun{{ref("b", 2), "kernel", 7}, {ref("a", 1), "squashfs", 0}}
	if diff := cmp.Diff(want, p.offer(donor), cmp.AllowUnexported(copyRun{})); diff != "" {
		t.Errorf("first donor (-want +got):\n%s", diff)
	}
	if runs := p.offer(donor); runs != nil {
		t.Errorf("second offer of the same: %v", runs)
	}
}
