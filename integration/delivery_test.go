//go:build component

package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

// capped is a line on which a group takes a few seconds.
const capped = 1_000_000

// delivery is a satellite behind a line, whose image gets new editions by delta.
type delivery struct {
	*fleet
	line    *testnet.Relay
	pc      *testnet.Host
	image   school.Synthetic
	edition int               // that was published last
	former  *school.Published // the edition before it
}

// newDelivery brings the first edition of an image to a satellite.
func newDelivery(t *testing.T, prefix string, image school.Synthetic) *delivery {
	t.Helper()
	d := &delivery{fleet: newFleet(t, prefix), image: image}
	var address string
	var err error
	d.line, address, err = d.Line(t.Context(), "line", "10.77.0.3/24", 0)
	d.must(err)
	d.joined(school.Joining{Name: "sat1", WAN: "10.77.0.11/24", LAN: "192.168.67.1/24", Controller: address})
	d.pc = d.fleet.pc("pc1", "192.168.67.201/24")
	d.former = d.publish(school.Publishing{File: d.file()})
	d.awaitVersion("sat1", d.former.Version.ID)
	return d
}

// with is d for a subtest, which needs what the subtests before it left.
func (d *delivery) with(t *testing.T) *delivery {
	if d.t.Failed() {
		t.Fatal("the fleet is in an unknown state after an earlier failure")
	}
	d.fleet = d.in(t)
	return d
}

// file is the edition that was published last.
func (d *delivery) file() string { return d.fleet.edition(d.image, d.edition) }

// next publishes the next edition as a delta from the last one.
func (d *delivery) next() *school.Published {
	d.t.Helper()
	base := d.file()
	d.edition++
	return d.publish(school.Publishing{File: d.file(), Flags: []string{"--base", base}})
}

// sync is what the controller knows of the way of a version to the satellite.
func (d *delivery) sync(p *school.Published) *school.SyncInfo {
	d.t.Helper()
	info, err := d.Sync(d.ctx(), "sat1", fmt.Sprintf("%s@%d", p.Image, p.Version.Number))
	d.must(err)
	return info
}

// complete waits until the satellite has all of a version, compares every byte of its disk, and makes it the base of the next one.
func (d *delivery) complete(p *school.Published) *school.SyncInfo {
	d.t.Helper()
	d.awaitVersion("sat1", p.Version.ID)
	d.checkDisk(p)
	d.former = p
	return d.sync(p)
}

// diskFile is the disk of a version on the satellite.
func (d *delivery) diskFile(p *school.Published) string {
	return filepath.Join(d.DataDir("sat1"), "images", p.Version.ID, "disk")
}

// checkDisk compares every byte of the satellite's file with the published file, its padding and its hash tree.
func (d *delivery) checkDisk(p *school.Published) {
	d.t.Helper()
	want, size := d.disk(d.file(), p)
	if got, n := d.sum(d.diskFile(p)); got != want || n != size {
		d.t.Errorf("the satellite's disk of %s@%d has SHA-256 %s in %d bytes, want %s in %d", p.Image, p.Version.Number, got, n, want, size)
	}
	if left := d.versionsOn("sat1", "incoming"); slices.Contains(left, p.Version.ID) {
		d.t.Errorf("incoming holds %q", left)
	}
}

// awaitServing waits until clients can open a version that is still arriving.
func (d *delivery) awaitServing(p *school.Published) {
	d.t.Helper()
	d.await("the version is served while it arrives", func() bool { return d.offered(d.pc, satellite, p.ExportName()) })
	if d.whole(p) {
		d.t.Fatal("the version has arrived already: the line is too fast for this test")
	}
}

// whole tells whether all of a version is on the satellite.
func (d *delivery) whole(p *school.Published) bool {
	return slices.Contains(d.versionsOn("sat1", "images"), p.Version.ID)
}

// parts is what a version consists of, seen from the one before it.
type parts struct {
	index  *delta.Index
	size   int64          // of the delta
	copied []delta.Region // parts that are proven without any group
	groups []delta.Region // of each group its first part
}

// within is the length of the groups of which the first part lies between begin and end of the new image, be it in part.
func (p *parts) within(begin, end int64) (bytes int64) {
	for group, r := range p.groups {
		if r.Off < end && r.Off+r.Len > begin {
			bytes += p.index.Groups[group].Length
		}
	}
	return bytes
}

// parts looks into the controller's delta from the former edition.
func (d *delivery) parts(p *school.Published) parts {
	d.t.Helper()
	wire, source := d.openFile(filepath.Join(d.DataDir("controller"), "deltas", d.former.Version.ID+"-"+p.Version.ID+".delta"))
	defer wire.Close()
	index, err := delta.ReadIndex(source)
	d.must(err)
	old, base := d.openFile(d.fleet.edition(d.image, d.edition-1))
	defer old.Close()
	receiver, err := delta.NewReceiver(d.ctx(), index, base, delta.Options{Parallel: 1})
	d.must(err)
	defer receiver.Close()
	out := parts{index: index, size: source.Size(), groups: make([]delta.Region, len(index.Groups))}
	dirty := map[int64]bool{}
	for _, r := range receiver.Layout() {
		if r.Kind != delta.RegionGroup {
			continue
		}
		if out.groups[r.Group].Len == 0 {
			out.groups[r.Group] = r
		}
		for piece := r.Off / delta.PieceBytes; piece <= (r.Off+r.Len-1)/delta.PieceBytes; piece++ {
			dirty[piece] = true
		}
	}
	for _, r := range receiver.Layout() {
		for off := r.Off; r.Kind == delta.RegionCopy && off < r.Off+r.Len; off += delta.PieceBytes - off%delta.PieceBytes {
			if !dirty[off/delta.PieceBytes] {
				out.copied = append(out.copied, delta.Region{Off: off, Len: min(r.Off+r.Len-off, delta.PieceBytes-off%delta.PieceBytes)})
			}
		}
	}
	if len(out.copied) == 0 || len(out.groups) < 3 {
		d.t.Fatalf("%d parts are copied, there are %d groups: this image says nothing", len(out.copied), len(out.groups))
	}
	return out
}

// longest is the length of the longest group.
func (p parts) longest() (n int64) {
	for _, g := range p.index.Groups {
		n = max(n, g.Length)
	}
	return n
}

func (d *delivery) openFile(name string) (*os.File, delta.Source) {
	d.t.Helper()
	f, err := os.Open(name)
	d.must(err)
	info, err := f.Stat()
	d.must(err)
	return f, sized{f, info.Size()}
}

// sized is a file as a delta.Source.
type sized struct {
	*os.File
	size int64
}

func (s sized) Size() int64 { return s.size }

// metric reads a counter of the satellite; 0 if it has none of the name, or does not run yet. Labels belong to the name.
func (d *delivery) metric(name string) int64 {
	d.t.Helper()
	text, err := d.Run(d.ctx(), d.Satellite("sat1"), "curl", "-sSf", "http://127.0.0.1:7402/metrics")
	if err != nil {
		return 0
	}
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` ([0-9.e+]+)$`).FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	value, err := strconv.ParseFloat(m[1], 64)
	d.must(err)
	return int64(value)
}

// arrived is how many bytes of deltas the satellite has fetched since its start.
func (d *delivery) arrived() int64 {
	d.t.Helper()
	return d.metric("ltsp_satellite_rebuild_fetched_bytes_total")
}

// groups is how many groups had a fate ("fetched", "kept", "refused") since the satellite's start.
func (d *delivery) groups(fate string) int64 {
	d.t.Helper()
	return d.metric(`ltsp_satellite_rebuild_groups_total{result="` + fate + `"}`)
}

// await waits until check holds.
func (d *delivery) await(what string, check func() bool) {
	d.t.Helper()
	d.must(d.Await(d.ctx(), what, func() error {
		if !check() {
			return errors.New("not yet")
		}
		return nil
	}))
}
