//go:build component

package integration

import (
	"slices"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
)

// TestSyncByDeltaKilled kills satellite and controller, alone and both, at random points between the news of a version and its end: while
// they plan, transfer, rebuild and complete it. Each version ends byte by byte as it was published.
func TestSyncByDeltaKilled(t *testing.T) {
	t.Parallel()
	const rounds, kills = 9, 4
	d := newDelivery(t, "fadsk", school.Synthetic{Seed: 61, Bytes: 300 << 10, Ballast: 600 << 10, Fresh: 400 << 10})
	d.policy("--transfer", "delta")
	first := d.next()
	began := time.Now()
	d.await("the first version has come", func() bool { return d.whole(first) })
	usual := max(time.Since(began), time.Second)
	d.complete(first)
	random := points(t, 61)
	victims := [][]string{{"sat1"}, {"controller"}, {"sat1"}, {"sat1", "controller"}}
	early, ways := 0, map[string]int{}
	for round := range rounds {
		d.line.SetRate(100_000 << (round % 4)) // from slow to quick: the kills meet the transfer, or what comes behind it
		p := d.next()
		for k := range kills {
			<-time.After(time.Duration(random.Int64N(int64(usual))))
			if !d.whole(p) {
				early++
			}
			d.killAndStart(victims[(round+k)%len(victims)])
		}
		d.line.SetRate(0)
		d.await("the version has come", func() bool { return d.whole(p) })
		d.checkDisk(p)
		d.awaitVersion("sat1", p.Version.ID)
		d.former = p
		ways[d.sync(p).Method]++
	}
	t.Logf("%d kills, %d of them before the version was complete; ways: %v", rounds*kills, early, ways)
	if early < rounds*kills/4 {
		t.Errorf("only %d of %d kills came in time", early, rounds*kills)
	}
	d.checkExport(d.pc, satellite, d.file(), d.former)
	if n := d.versionsOn("sat1", "incoming"); len(n) != 0 {
		t.Errorf("incoming holds %q at the end", n)
	}
	d.chunkFiles()
}

// killAndStart ends daemons as a power cut would, and starts them again.
func (d *delivery) killAndStart(names []string) {
	d.t.Helper()
	for _, name := range names {
		d.must(d.Kill9(name))
	}
	if slices.Contains(names, "controller") {
		d.startController()
	}
	if slices.Contains(names, "sat1") {
		d.start("sat1")
	}
}
