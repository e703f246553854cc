//go:build component

package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

// TestSyncFaults: one satellite behind a slow line, and everything that can happen to the two.
func TestSyncFaults(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "fasync")
	line, address, err := f.Line(t.Context(), "line", "10.77.0.3/24", 0)
	f.must(err)
	f.joined(school.Joining{Name: "sat1", WAN: "10.77.0.11/24", LAN: "192.168.67.1/24", Controller: address})
	s := &syncing{fleet: f, line: line, pc: f.pc("pc1", "192.168.67.201/24")}
	f.must(f.Await(f.ctx(), "the boot loaders are there", func() error {
		if n := len(f.versionsOn("sat1", "images")); n != 1 {
			return fmt.Errorf("%d versions", n)
		}
		return nil
	}))
	t.Run("satellite killed during a sync", func(t *testing.T) { s.with(t).killedDuringSync() })
	t.Run("line cut, controller killed during a sync", func(t *testing.T) { s.with(t).cutDuringSync() })
	t.Run("satellite killed while it serves", func(t *testing.T) { s.with(t).killedWhileServing() })
	t.Run("bits flipped on the satellite's disk", func(t *testing.T) { s.with(t).flippedBits() })
	t.Run("files cut on the satellite's disk", func(t *testing.T) { s.with(t).cutFiles() })
}

// syncing is a satellite behind a line, with the image that it should have.
type syncing struct {
	*fleet
	line *testnet.Relay
	pc   *testnet.Host

	file      string
	published *school.Published
}

const satellite = "192.168.67.1"

// with is s for a subtest, which needs what the subtests before it left.
func (s *syncing) with(t *testing.T) *syncing {
	if s.t.Failed() {
		t.Fatal("the fleet is in an unknown state after an earlier failure")
	}
	s.fleet = s.in(t)
	return s
}

// lost is more than the sockets hold: what was in them at a kill comes again.
const lost = 6 * megabyte

func (s *syncing) killedDuringSync() {
	const size = 60 * megabyte
	s.file = s.image(1, size)
	s.line.SetRate(25 * megabyte)
	begin := down(s.line)()
	s.published = s.publish(school.Publishing{File: s.file})
	random := points(s.t, 2)
	kills := []int64{size/10 + random.Int64N(size/5), size*2/5 + random.Int64N(size/5), size * 3 / 4}
	for _, point := range kills {
		s.awaitBytes("download", down(s.line), begin+point)
		s.must(s.Kill9("sat1"))
		if n := s.versionsOn("sat1", "images"); len(n) != 1 || slices.Contains(n, s.published.Version.ID) {
			s.t.Errorf("images holds %q of an incomplete sync", n)
		}
		if n := s.versionsOn("sat1", "incoming"); !slices.Equal(n, []string{s.published.Version.ID}) {
			s.t.Errorf("incoming holds %q", n)
		}
		s.start("sat1")
		s.must(s.Await(s.ctx(), "the NBD port answers", func() error { _, err := s.exports(s.pc, satellite); return err }))
		if s.offered(s.pc, satellite, s.published.ExportName()) {
			s.t.Error("an incomplete version is exported")
		}
		s.checkNoFiles()
	}
	// One more while it reads the whole, writes to the disk for good and moves the version to its place, or just behind that.
	s.awaitBytes("download", down(s.line), begin+size)
	<-time.After(time.Duration(random.Int64N(int64(800 * time.Millisecond))))
	s.must(s.Kill9("sat1"))
	s.t.Logf("behind the last byte: images holds %d versions, incoming %d", len(s.versionsOn("sat1", "images")), len(s.versionsOn("sat1", "incoming")))
	s.start("sat1")
	s.awaitExport(s.published)
	wire := down(s.line)() - begin
	if most := int64(size+len(kills)*lost) + lost; wire < size || wire > most {
		s.t.Errorf("%d bytes came over the line for an image of %d, want at most %d", wire, size, most)
	}
	s.t.Logf("killed at %v of %d bytes: %d came over the line", kills, size, wire)
	s.checkExport(s.pc, satellite, s.file, s.published)
	s.awaitVersion("sat1", s.published.Version.ID)
}

// checkNoFiles wants nothing of the version by HTTP.
func (s *syncing) checkNoFiles() {
	s.t.Helper()
	for _, name := range []string{"kernel", "initrd-full"} {
		url := "http://" + satellite + "/boot/v/" + s.published.Version.ID + "/" + name
		out, err := s.Run(s.ctx(), s.pc, "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url)
		if err != nil || out != "404" && out != "503" {
			s.t.Errorf("%s of an incomplete version: %s, %v", name, out, err)
		}
	}
}

func (s *syncing) cutDuringSync() {
	const size = 40 * megabyte
	s.file = s.image(2, size)
	s.line.SetRate(20 * megabyte)
	s.line.CutAfter(size / 3)
	begin := down(s.line)()
	s.published = s.publish(school.Publishing{File: s.file})
	s.awaitBytes("download", down(s.line), begin+size/3)
	s.awaitState("sat1", "disconnected")
	if fetched := down(s.line)() - begin; fetched > size/3 {
		s.t.Errorf("%d bytes came through a line that is cut", fetched)
	}
	s.line.Restore()
	s.awaitBytes("download", down(s.line), begin+size*2/3)
	s.must(s.Kill9("controller"))
	s.startController()
	fetched := s.awaitVersion("sat1", s.published.Version.ID)
	if most := uint64(size + 2*lost); fetched < size || fetched > most {
		s.t.Errorf("the satellite fetched %d bytes of a version of %d, want at most %d", fetched, size, most)
	}
	s.t.Logf("cut, and the controller killed, in an image of %d bytes: fetched %d", size, fetched)
	s.checkExport(s.pc, satellite, s.file, s.published)
}

// killedWhileServing copies through a slow line in the classroom, so that the kill comes in the middle.
func (s *syncing) killedWhileServing() {
	slow, err := testnet.NewRelay(s.t.Context(), testnet.RelayConfig{From: s.pc, Listen: "192.168.67.201:10809", To: s.pc,
		Target: satellite + ":10809", BytesPerSecond: 20 * megabyte, Log: s.t.Logf})
	s.must(err)
	s.t.Cleanup(slow.Close)
	ended := make(chan error, 1)
	go func() {
		_, err := s.Run(s.ctx(), s.pc, "nbdcopy", "nbd://192.168.67.201/"+s.published.ExportName(), filepath.Join(s.Dir, "broken"))
		ended <- err
	}()
	s.awaitBytes("copy", down(slow), 10*megabyte)
	s.must(s.Kill9("sat1"))
	slow.Close()
	select {
	case err := <-ended:
		if err == nil {
			s.t.Error("nbdcopy does not notice that its server is gone")
		}
	case <-time.After(patience):
		s.t.Fatal("nbdcopy hangs")
	}
	s.must(s.Stop(s.ctx(), "controller"))
	s.start("sat1")
	s.awaitExport(s.published)
	s.checkExport(s.pc, satellite, s.file, s.published)
	out, err := s.Run(s.ctx(), s.pc, "curl", "-sSf", "http://"+satellite+"/boot/v/"+s.published.Version.ID+"/kernel")
	if err != nil || len(out) != 64<<10 {
		s.t.Errorf("kernel: %d bytes, %v", len(out), err)
	}
	s.startController()
	s.awaitState("sat1", "connected")
}

func (s *syncing) flippedBits() {
	random := points(s.t, 3)
	s.damagedWhileStopped(2*megabyte, func(dir string) {
		flip(s.fleet, filepath.Join(dir, "disk"), random.Int64N(int64(s.published.Version.SizeBytes)), random)
		flip(s.fleet, filepath.Join(dir, "kernel"), random.Int64N(64<<10), random)
	})
}

// cutFiles: what a file system may leave of files after a loss of power.
func (s *syncing) cutFiles() {
	s.damagedWhileStopped(s.published.Version.SizeBytes/2+2*megabyte, func(dir string) {
		s.must(os.Truncate(filepath.Join(dir, "manifest"), 100))
		s.must(os.Truncate(filepath.Join(dir, "disk"), int64(s.published.Version.SizeBytes/2)))
		s.must(os.Truncate(filepath.Join(dir, "initrd-full"), 0))
	})
}

// damagedWhileStopped damages files of the version while the satellite is stopped and the controller away: it must serve nothing of
// the version until the controller has given it the damaged chunks, at most so many bytes.
func (s *syncing) damagedWhileStopped(most uint64, damage func(dir string)) {
	s.t.Helper()
	s.must(s.Stop(s.ctx(), "sat1"))
	s.must(s.Stop(s.ctx(), "controller"))
	damage(filepath.Join(s.DataDir("sat1"), "images", s.published.Version.ID))
	begin := down(s.line)()
	s.start("sat1")
	s.must(s.Await(s.ctx(), "the damage is found", func() error {
		if slices.Contains(s.versionsOn("sat1", "images"), s.published.Version.ID) {
			return errors.New("the version is among the complete ones")
		}
		_, err := s.exports(s.pc, satellite)
		return err
	}))
	if s.offered(s.pc, satellite, s.published.ExportName()) {
		s.t.Error("a damaged version is exported")
	}
	if _, err := s.copyExport(s.pc, satellite, s.published.ExportName()); err == nil {
		s.t.Error("a damaged version can be copied")
	}
	s.checkNoFiles()
	s.startController()
	// The controller knows the version as verified since before the stop: first see the export itself.
	s.awaitExport(s.published)
	fetched := s.awaitFetched(s.published)
	if wire := down(s.line)() - begin; fetched > most || wire > int64(most)+2*megabyte {
		s.t.Errorf("the repair cost %d bytes fetched and %d on the line, want at most %d", fetched, wire, most)
	}
	s.checkExport(s.pc, satellite, s.file, s.published)
}

func (s *syncing) awaitExport(p *school.Published) {
	s.t.Helper()
	s.must(s.Await(s.ctx(), "the export "+p.ExportName()[:12]+" is offered", func() error {
		if !s.offered(s.pc, satellite, p.ExportName()) {
			return errors.New("it is not")
		}
		return nil
	}))
}

// awaitFetched waits for a report of a satellite that has fetched something for the version since its start.
func (s *syncing) awaitFetched(p *school.Published) (fetched uint64) {
	s.t.Helper()
	s.must(s.Await(s.ctx(), "a report of bytes fetched", func() error {
		var state string
		if state, _, _, fetched, _ = s.held("sat1", p.Version.ID); state != "verified" || fetched == 0 {
			return fmt.Errorf("state %q, %d bytes", state, fetched)
		}
		return nil
	}))
	return fetched
}

// TestLineGoesSilent: nobody closes anything, bytes just stop in the middle of a sync.
func TestLineGoesSilent(t *testing.T) {
	t.Parallel()
	const size = 20 * megabyte
	f := newFleet(t, "fahole")
	line, address, err := f.Line(t.Context(), "line", "10.77.0.3/24", 5*megabyte)
	f.must(err)
	file := f.image(7, size)
	published := f.publish(school.Publishing{File: file})
	begin := down(line)()
	f.joined(school.Joining{Name: "sat1", WAN: "10.77.0.11/24", LAN: "192.168.67.1/24", Controller: address})
	f.awaitBytes("download", down(line), begin+size/2)
	line.Blackhole()
	f.awaitState("sat1", "disconnected") // by keepalive
	if state, _, _, _, _ := f.held("sat1", published.Version.ID); state == "verified" {
		t.Error("the version is verified already: the line was silent too late")
	}
	line.Restore()
	fetched := f.awaitVersion("sat1", published.Version.ID)
	if most := uint64(size + lost); fetched < size || fetched > most {
		t.Errorf("the satellite fetched %d bytes of a version of %d, want at most %d", fetched, size, most)
	}
	f.awaitState("sat1", "connected")
	f.checkExport(f.pc("pc1", "192.168.67.201/24"), satellite, file, published)
}
