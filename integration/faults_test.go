//go:build component

package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

// seed makes the random points of the fault tests; a failure names it by its place in this file.
const seed = 20260509

// TestControllerKilledDuringPublish kills the controller at random points of an upload and of the check behind it.
func TestControllerKilledDuringPublish(t *testing.T) {
	t.Parallel()
	const size = 60 * megabyte
	f := newFleet(t, "fapub")
	f.joined(school.Joining{Name: "sat1", WAN: "10.77.0.11/24", LAN: "192.168.67.1/24"})
	file := f.image(1, size)
	line, address, err := f.Line(t.Context(), "line", "10.77.0.3/24", 40*megabyte)
	f.must(err)
	contexts, err := f.ContextsThrough(address)
	f.must(err)
	loaders := f.chunkFiles()

	random := rand.New(rand.NewPCG(seed, 1))
	var points []int64
	for range 3 {
		points = append(points, size/10+random.Int64N(size*8/10))
	}
	slices.Sort(points)
	had := uint64(0)
	for _, point := range points {
		if code := f.killDuringPublish(school.Publishing{File: file, Contexts: contexts}, line, point-int64(had), 0); code != 6 {
			t.Errorf("ltspctl ended with status %d when its controller was gone, want 6", code)
		}
		now := f.chunkFiles() - loaders
		if now < had || now < uint64(point)/2 {
			t.Errorf("killed at %d bytes: %d bytes of chunks are on the disk, %d were before", point, now, had)
		}
		had = now
		f.startController()
		if info := f.showImage(school.ImageName); info != nil {
			t.Errorf("an interrupted upload made an image: %+v", info)
		}
	}
	upload := f.publish(school.Publishing{File: file, Contexts: contexts, Name: "other"})
	if want := upload.Bytes - had; upload.SentBytes != want {
		t.Errorf("the upload after the kills sent %d of %d bytes, want %d as %d were there", upload.SentBytes, upload.Bytes, want, had)
	}
	t.Logf("killed at %v bytes: %d of %d bytes were there already at the end", points, had, upload.Bytes)

	// Now nothing is left to upload: these kills meet the controller while it reads back, signs, stores or answers.
	const handshake = 16 << 10
	for range 4 {
		after := time.Duration(random.Int64N(int64(1500 * time.Millisecond)))
		code := f.killDuringPublish(school.Publishing{File: file, Contexts: contexts}, line, handshake, after)
		f.startController()
		info := f.showImage(school.ImageName)
		t.Logf("killed %v behind the handshake: ltspctl ended with %d, the image is %+v", after, code, info)
		if code != 0 && code != 6 || code == 0 && info == nil {
			t.Errorf("ltspctl ended with status %d, the image is %+v", code, info)
		}
	}

	published := f.publish(school.Publishing{File: file, Contexts: contexts})
	again := f.publish(school.Publishing{File: file})
	if again.Created || again.SentBytes != 0 || again.Version.ID != published.Version.ID {
		t.Errorf("publishing once more: %+v", again)
	}
	info := f.showImage(school.ImageName)
	if info == nil || len(info.Versions) != 1 || info.Versions[0].Number != 1 || len(info.Channels) != 1 || info.Channels[0].Version != 1 {
		t.Errorf("the image is %+v, want one version", info)
	}
	if sum, _ := f.sum(file); published.Version.SHA256 != sum {
		t.Errorf("published SHA-256 %s, the file's is %s", published.Version.SHA256, sum)
	}
	f.checkAudit("token.create", "satellite.enrol", "image.publish")
	f.awaitVersion("sat1", published.Version.ID)
	f.checkExport(f.pc("pc1", "192.168.67.201/24"), "192.168.67.1", file, published)
}

// killDuringPublish publishes and kills the controller a while after so many more bytes have gone up the line. It returns the exit
// status of ltspctl.
func (f *fleet) killDuringPublish(p school.Publishing, line *testnet.Relay, bytes int64, after time.Duration) int {
	f.t.Helper()
	begin := up(line)()
	ended := make(chan error, 1)
	go func() {
		_, err := f.PublishSynthetic(f.ctx(), p)
		ended <- err
	}()
	f.awaitBytes("upload", up(line), begin+bytes)
	<-time.After(after)
	f.must(f.Kill9("controller"))
	select {
	case err := <-ended:
		return school.ExitCode(err)
	case <-time.After(patience):
		f.t.Fatal("ltspctl does not notice that the controller is gone")
		return -1
	}
}

// auditEntry has the fields of an entry in the order in which the chain counts them.
type auditEntry struct {
	Sequence uint64          `json:"sequence"`
	Time     time.Time       `json:"time"`
	Actor    string          `json:"actor"`
	Action   string          `json:"action"`
	Object   string          `json:"object"`
	Before   json.RawMessage `json:"before,omitempty"`
	After    json.RawMessage `json:"after,omitempty"`
}

// checkAudit recomputes the chain of the audit log from what ltspctl lists, and wants the actions to be in it.
func (f *fleet) checkAudit(actions ...string) {
	f.t.Helper()
	var entries []struct {
		auditEntry
		Hash string `json:"hash"`
	}
	f.must(f.CtlJSON(f.ctx(), &entries, "audit", "list", "--limit", "1000"))
	slices.Reverse(entries)
	seen := map[string]bool{}
	var head [sha256.Size]byte
	for i, e := range entries {
		seen[e.Action] = true
		body, err := json.Marshal(e.auditEntry)
		f.must(err)
		head = sha256.Sum256(append(bytes.Clone(head[:]), body...))
		if e.Sequence != uint64(i+1) || e.Hash != fmt.Sprintf("%x", head) {
			f.t.Errorf("audit entry %d (%s %s) has number %d and hash %s, want %x", i+1, e.Action, e.Object, e.Sequence, e.Hash, head)
			return
		}
	}
	for _, action := range actions {
		if !seen[action] {
			f.t.Errorf("no %s among %d audit entries", action, len(entries))
		}
	}
}

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
	t.Run("line cut during a sync", func(t *testing.T) { s.with(t).cutDuringSync() })
	t.Run("satellite killed while it serves", func(t *testing.T) { s.with(t).killedWhileServing() })
	t.Run("bits flipped on the satellite's disk", func(t *testing.T) { s.with(t).flippedBits() })
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

func (s *syncing) killedDuringSync() {
	const size = 60 * megabyte
	s.file = s.image(1, size)
	s.line.SetRate(25 * megabyte)
	begin := down(s.line)()
	s.published = s.publish(school.Publishing{File: s.file})
	random := rand.New(rand.NewPCG(seed, 2))
	points := []int64{size/10 + random.Int64N(size/5), size*2/5 + random.Int64N(size/5), size * 3 / 4}
	for _, point := range points {
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
	fetched := s.awaitVersion("sat1", s.published.Version.ID)
	wire := down(s.line)() - begin
	// What was in the sockets at each kill is lost.
	const lost = 8 * megabyte
	if most := uint64(size - points[2] + lost); fetched == 0 || fetched > most {
		s.t.Errorf("the last of four runs fetched %d bytes, want at most %d", fetched, most)
	}
	if most := int64(size + 3*lost + megabyte); wire > most {
		s.t.Errorf("%d bytes came over the line for an image of %d, want at most %d", wire, size, most)
	}
	s.t.Logf("killed at %v of %d bytes: the last run fetched %d, all together %d", points, size, fetched, wire)
	s.checkExport(s.pc, satellite, s.file, s.published)
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
	s.awaitState("sat1", "connected")
	fetched := s.awaitVersion("sat1", s.published.Version.ID)
	if most := uint64(size + size/4); fetched < size || fetched > most {
		s.t.Errorf("the satellite fetched %d bytes of a version of %d, want at most %d", fetched, size, most)
	}
	s.t.Logf("cut in an image of %d bytes: fetched %d", size, fetched)
	s.checkExport(s.pc, satellite, s.file, s.published)
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
	if most := uint64(size + size/4); fetched < size || fetched > most {
		t.Errorf("the satellite fetched %d bytes of a version of %d, want at most %d", fetched, size, most)
	}
	f.awaitState("sat1", "connected")
	f.checkExport(f.pc("pc1", "192.168.67.201/24"), satellite, file, published)
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
	s.must(s.Stop(s.ctx(), "sat1"))
	s.must(s.Stop(s.ctx(), "controller"))
	random := rand.New(rand.NewPCG(seed, 3))
	dir := filepath.Join(s.DataDir("sat1"), "images", s.published.Version.ID)
	s.flip(filepath.Join(dir, "disk"), random.Int64N(int64(s.published.Version.SizeBytes)), random)
	s.flip(filepath.Join(dir, "kernel"), random.Int64N(64<<10), random)
	begin := down(s.line)()
	s.start("sat1")
	s.must(s.Await(s.ctx(), "the damage is found", func() error {
		if !s.logHas("sat1", "failed its proof", s.published.Version.ID) {
			return fmt.Errorf("the log says nothing of it")
		}
		return nil
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
	if wire := down(s.line)() - begin; fetched == 0 || fetched > 2*megabyte || wire > 4*megabyte {
		s.t.Errorf("two flipped bits cost %d bytes fetched and %d on the line", fetched, wire)
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

// flip changes one bit of a file.
func (s *syncing) flip(path string, offset int64, random *rand.Rand) {
	s.t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	s.must(err)
	defer file.Close()
	var b [1]byte
	_, err = file.ReadAt(b[:], offset)
	s.must(err)
	b[0] ^= 1 << random.IntN(8)
	_, err = file.WriteAt(b[:], offset)
	s.must(err)
}
