//go:build component

package integration

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// TestSyncByDelta: new editions come to a satellite as deltas, are read while they arrive, and survive what happens to line and machine.
func TestSyncByDelta(t *testing.T) {
	t.Parallel()
	d := newDelivery(t, "fadsync", school.Synthetic{Seed: 41, Bytes: 2 * megabyte, Ballast: 4 * megabyte, Fresh: 10 * megabyte})
	t.Run("the cheapest way is a delta", func(t *testing.T) { d.with(t).planned() })
	t.Run("read while it arrives", func(t *testing.T) { d.with(t).readArriving() })
	t.Run("line cut while it arrives", func(t *testing.T) { d.with(t).cutArriving() })
	t.Run("satellite killed while it arrives", func(t *testing.T) { d.with(t).killedArriving() })
	t.Run("the controller makes the delta", func(t *testing.T) { d.with(t).madeBehind() })
}

// planned leaves the choice to the controller. The cap makes the line the slowest part, whatever it was measured to be.
func (d *delivery) planned() {
	d.must(d.Do(d.ctx(), "site", "set", school.Site, "--bandwidth", "8Mbit"))
	begin := down(d.line)()
	p := d.next()
	sync := d.complete(p)
	wire := down(d.line)() - begin
	made := d.delta(d.former.Version.Number-1, p.Version.Number)
	d.t.Logf("%s by %s: %s; %d bytes fetched, %d on the line", sync.Version, sync.Method, sync.Reason, sync.Fetched, wire)
	if sync.Method != "delta" || sync.Base != "lab@1" || !strings.Contains(sync.Reason, "delta from lab@1") || sync.Wire != made.SizeBytes {
		d.t.Errorf("the plan is %+v, the delta %+v", sync, made)
	}
	if chunks := sync.Option("chunks"); sync.Wire >= chunks || wire >= int64(chunks) || chunks != made.ChunkBytes || sync.Option("whole") <= chunks {
		d.t.Errorf("%d bytes came over the line, %d were planned; the ways were %+v", wire, sync.Wire, sync.Options)
	}
	const besides = 128 << 10 // desired state, manifests, kernel: whatever is no delta
	if sync.Fetched > made.SizeBytes+besides || wire > int64(made.SizeBytes+made.SizeBytes/20+besides) {
		d.t.Errorf("%d bytes were fetched and %d came over the line for a delta of %d", sync.Fetched, wire, made.SizeBytes)
	}
	d.checkExport(d.pc, satellite, d.file(), p)
	d.must(d.Do(d.ctx(), "site", "set", school.Site, "--bandwidth", "0", "--transfer", "delta"))
}

// readArriving copies the export through other people's programs while its bytes are still on the line.
func (d *delivery) readArriving() {
	d.line.SetRate(capped)
	defer d.line.SetRate(0)
	p := d.next()
	d.awaitServing(p)
	for _, name := range []string{"kernel", "initrd-full"} {
		url := "http://" + satellite + "/boot/v/" + p.Version.ID + "/" + name
		if _, err := d.Run(d.ctx(), d.pc, "curl", "-sSf", "-o", "/dev/null", url); err != nil {
			d.t.Errorf("%s of a version that is served: %v", name, err)
		}
	}
	want := d.wanted(p)
	if d.whole(p) {
		d.t.Error("all had arrived before the copy began")
	}
	copied := make(chan error, 1)
	go func() {
		_, err := d.Run(d.ctx(), d.pc, "nbdcopy", "nbd://"+satellite+"/"+p.ExportName(), filepath.Join(d.Dir, "arriving"))
		copied <- err
	}()
	d.readRandomly(p, want, points(d.t, 41), 40)
	d.must(<-copied)
	got, err := os.ReadFile(filepath.Join(d.Dir, "arriving"))
	d.must(err)
	if !bytes.Equal(got, want) {
		d.t.Error("what nbdcopy read of a version that was arriving is not the version")
	}
	sync := d.complete(p)
	d.t.Logf("%s by %s, read while it arrived; %d bytes fetched for a delta of %d", sync.Version, sync.Method, sync.Fetched, sync.Wire)
	if sync.Method != "delta" {
		d.t.Errorf("it came by %+v", sync)
	}
	d.checkExport(d.pc, satellite, d.file(), p)
}

// wanted is the disk of a version: file, padding, tree.
func (d *delivery) wanted(p *school.Published) []byte {
	d.t.Helper()
	in, err := os.Open(d.file())
	d.must(err)
	defer in.Close()
	info, err := in.Stat()
	d.must(err)
	tree, err := os.Create(filepath.Join(d.Dir, "tree"))
	d.must(err)
	defer tree.Close()
	disk := make([]byte, verity.PaddedSize(uint64(info.Size())))
	_, err = in.ReadAt(disk[:info.Size()], 0)
	d.must(err)
	root, err := verity.Compute(d.ctx(), bytes.NewReader(disk), uint64(len(disk)), tree, 0)
	d.must(err)
	if root.String() != p.Version.Digest {
		d.t.Fatalf("the digest of %s is %s, published was %s", d.file(), root, p.Version.Digest)
	}
	hashes, err := os.ReadFile(tree.Name())
	d.must(err)
	return append(disk, hashes...)
}

// readRandomly reads parts of an export, by four connections at a time as clients do.
func (d *delivery) readRandomly(p *school.Published, want []byte, random *rand.Rand, reads int) {
	d.t.Helper()
	type result struct {
		off int64
		err error
	}
	done := make(chan result)
	const readers = 4
	for range readers {
		r, err := d.openNBD(d.pc, satellite, p.ExportName())
		d.must(err)
		if r.size != int64(len(want)) {
			d.t.Errorf("the export has %d bytes, want %d", r.size, len(want))
		}
		var offsets []int64
		for range reads / readers {
			offsets = append(offsets, random.Int64N(r.size-4096)&^511)
		}
		go func() {
			for _, off := range offsets {
				data, err := r.read(off, 4096)
				if err == nil && !bytes.Equal(data, want[off:off+4096]) {
					err = errors.New("the bytes are wrong")
				}
				done <- result{off, err}
			}
		}()
	}
	for range reads / readers * readers {
		if r := <-done; r.err != nil {
			d.t.Errorf("4096 bytes at %d of a version that is arriving: %v", r.off, r.err)
		}
	}
}

// cutArriving cuts the line in the middle: what is copied from the version before is still served, what is lacking is refused in time, and
// when the line is back nothing comes twice that had come whole.
func (d *delivery) cutArriving() {
	d.must(d.Do(d.ctx(), "site", "set", school.Site, "--lazy-wait", "3s"))
	before := d.groups("fetched")
	d.line.SetRate(capped)
	defer d.line.SetRate(0)
	begin := down(d.line)()
	p := d.next()
	parts, want := d.parts(p), d.wanted(p)
	d.awaitServing(p)
	reader, err := d.openNBD(d.pc, satellite, p.ExportName())
	d.must(err)
	d.line.CutAfter(parts.size / 4)
	d.awaitState("sat1", "disconnected")

	for _, r := range parts.copied[:min(len(parts.copied), 8)] {
		n := min(r.Len, 64<<10)
		data, err := reader.read(r.Off, n)
		if err != nil || !bytes.Equal(data, want[r.Off:r.Off+n]) {
			d.t.Fatalf("%d bytes at %d, which are those of the version before, while the line is cut: %v", n, r.Off, err)
		}
	}
	lacking := parts.groups[len(parts.groups)-1]
	began := time.Now()
	if _, err := reader.read(lacking.Off, 4096); err == nil {
		d.t.Error("bytes were read that can't be there")
	}
	if took := time.Since(began); took > 3*time.Second+20*time.Second { // the limit, and what a busy machine may add
		d.t.Errorf("the read of what is lacking ended after %v, the policy says 3 s", took)
	}
	if d.offered(d.pc, satellite, p.ExportName()) {
		d.t.Error("the version is offered to new clients although nobody can read all of it")
	}
	if d.whole(p) {
		d.t.Error("all of it is there although the line is cut")
	}

	d.line.SetRate(0)
	d.line.Restore()
	d.complete(p)
	wire := down(d.line)() - begin
	if n := d.groups("fetched") - before; n != int64(len(parts.groups)) {
		d.t.Errorf("%d groups were fetched of %d", n, len(parts.groups))
	}
	// What was on its way when the line was cut had not been verified.
	if most := parts.size + 4*parts.longest() + parts.size/20 + 256<<10; wire > most {
		d.t.Errorf("%d bytes came over the line for a delta of %d, want at most %d", wire, parts.size, most)
	}
	d.t.Logf("cut after a quarter of %d bytes in %d groups: %d came over the line", parts.size, len(parts.groups), wire)
	d.checkExport(d.pc, satellite, d.file(), p)
}

// killedArriving kills the satellite twice. It goes on where it was.
func (d *delivery) killedArriving() {
	d.line.SetRate(capped)
	defer d.line.SetRate(0)
	before, begin := d.groups("kept")+d.groups("fetched"), down(d.line)()
	p := d.next()
	parts := d.parts(p)
	random := points(d.t, 42)
	for i := range 2 {
		target := begin + parts.size/4 + random.Int64N(parts.size/8)
		d.awaitBytes("delta", down(d.line), target)
		sure := d.groups("kept") + d.groups("fetched") - before
		d.must(d.Kill9("sat1"))
		before = 0
		begin = down(d.line)()
		d.start("sat1")
		d.await("it goes on", func() bool { return d.groups("kept")+d.groups("fetched") > 0 })
		if kept := d.groups("kept"); kept < sure {
			d.t.Errorf("after kill %d %d groups are kept of %d that were there", i+1, kept, sure)
		}
	}
	d.line.SetRate(0)
	d.complete(p)
	kept, fetched := d.groups("kept"), d.groups("fetched")
	d.t.Logf("%d groups: %d kept over the last kill, %d fetched behind it", len(parts.groups), kept, fetched)
	if kept+fetched != int64(len(parts.groups)) {
		d.t.Errorf("%d groups were kept and %d fetched of %d", kept, fetched, len(parts.groups))
	}
}

// madeBehind publishes without a base: the controller makes the delta when the satellite asks for it.
func (d *delivery) madeBehind() {
	d.edition++
	p := d.publish(school.Publishing{File: d.file()})
	sync := d.complete(p)
	if sync.Method != "delta" || sync.Wire >= sync.Option("chunks") {
		d.t.Errorf("it came by %+v", sync)
	}
}
