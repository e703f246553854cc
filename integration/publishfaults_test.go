//go:build component

package integration

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
	"github.com/ltsp-fleet/ltsp-fleet/internal/testnet"
)

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

	random := points(t, 1)
	var kills []int64
	for range 3 {
		kills = append(kills, size/10+random.Int64N(size*8/10))
	}
	slices.Sort(kills)
	had := uint64(0)
	for _, point := range kills {
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
	t.Logf("killed at %v bytes: %d of %d bytes were there already at the end", kills, had, upload.Bytes)

	// Now nothing is left to upload: these kills meet the controller while it reads back, signs, stores or answers.
	const handshake = 16 << 10
	var delays []time.Duration
	for range 4 {
		delays = append(delays, time.Duration(random.Int64N(int64(time.Second))))
	}
	slices.Sort(delays) // the first are likely to come before the version is there
	for _, after := range delays {
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

// TestDamagedChunksOfController: chunks that rot on the controller's disk reach no satellite; publishing the image again mends them.
func TestDamagedChunksOfController(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "farot")
	file := f.image(9, 4*megabyte)
	before := f.chunkPaths()
	published := f.publish(school.Publishing{File: file})
	chunks := slices.DeleteFunc(f.chunkPaths(), func(path string) bool { return slices.Contains(before, path) })
	random := points(t, 5)
	flipped, cut := chunks[len(chunks)/3], chunks[len(chunks)*2/3]
	_, size := f.sum(flipped)
	_, cutSize := f.sum(cut)
	flip(f, flipped, random.Int64N(size), random)
	f.must(os.Truncate(cut, cutSize/2))

	f.joined(school.Joining{Name: "sat1", WAN: "10.77.0.11/24", LAN: "192.168.67.1/24"})
	t.Logf("problem: %s", f.awaitProblem("sat1", "lab version 1"))
	if n := f.versionsOn("sat1", "images"); slices.Contains(n, published.Version.ID) {
		t.Error("the version is complete on the satellite although chunks of it are damaged")
	}
	// The controller knows of a chunk's damage when it has read it. Both are read sooner or later.
	var sent uint64
	f.must(f.Await(f.ctx(), "both chunks are mended", func() error {
		again, err := f.PublishSynthetic(f.ctx(), school.Publishing{File: file})
		if err != nil {
			return err
		}
		if again.Created || again.Version.ID != published.Version.ID {
			return fmt.Errorf("publishing once more made %+v", again)
		}
		if sent += again.SentBytes; sent < uint64(size+cutSize) {
			return fmt.Errorf("%d bytes of the damaged %d were sent", sent, size+cutSize)
		}
		return nil
	}))
	if sent != uint64(size+cutSize) {
		t.Errorf("%d bytes were sent to mend two chunks of %d", sent, size+cutSize)
	}
	f.awaitVersion("sat1", published.Version.ID)
	f.chunkFiles()
	f.checkExport(f.pc("pc1", "192.168.67.201/24"), satellite, file, published)
}

// chunkPaths lists the files of the controller's chunk store.
func (f *fleet) chunkPaths() []string {
	f.t.Helper()
	paths, err := filepath.Glob(filepath.Join(f.DataDir("controller"), "chunks", "[0-9a-f][0-9a-f]", "*"))
	f.must(err)
	return paths
}
