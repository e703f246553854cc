//go:build component

package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
)

// smallDisk puts a file system of its own under the data directory of a daemon. resize changes its size in bytes.
func (f *fleet) smallDisk(daemon string, bytes int64) (resize func(bytes int64)) {
	f.t.Helper()
	dir := f.DataDir(daemon)
	f.must(os.MkdirAll(dir, 0o700))
	f.must(unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)))
	f.t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			f.t.Error(err)
		}
	})
	return func(bytes int64) {
		f.t.Helper()
		f.must(unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d", bytes)))
	}
}

// TestFullDiskOfController: a publish that does not fit ends with a clear error, and goes on when there is room.
func TestFullDiskOfController(t *testing.T) {
	t.Parallel()
	f := newNetworks(t, "fafullc")
	const reserve = 64 * megabyte // the controller keeps so much for its metadata
	resize := f.smallDisk("controller", reserve+30*megabyte)
	f.startFirst()
	f.joined(school.Joining{Name: "sat1", WAN: "10.77.0.11/24", LAN: "192.168.67.1/24"})
	file := f.image(1, 40*megabyte)
	_, err := f.PublishSynthetic(f.ctx(), school.Publishing{File: file})
	if code := school.ExitCode(err); code != 1 || !strings.Contains(err.Error(), "space") || strings.Contains(err.Error(), "internal error") {
		t.Errorf("publish on a full disk: exit status %d: %v", code, err)
	}
	t.Logf("ltspctl says: %v", err)
	if f.showImage(school.ImageName) != nil {
		t.Error("there is an image although its chunks did not fit")
	}
	f.must(f.Do(f.ctx(), "site", "set", school.Site, "--description", "the metadata has room still"))
	had := f.chunkFiles()
	resize(reserve + 60*megabyte)
	published := f.publish(school.Publishing{File: file})
	if published.SentBytes == 0 || published.SentBytes > published.Bytes-20*megabyte {
		t.Errorf("with room again it sent %d of %d bytes although %d were there", published.SentBytes, published.Bytes, had)
	}
	f.checkAudit("image.publish", "site.update")
	f.awaitVersion("sat1", published.Version.ID)
	f.checkExport(f.pc("pc1", "192.168.67.201/24"), satellite, file, published)
}

// TestFullDiskOfSatellite: it says what is missing, goes on serving what it has, and recovers by itself.
func TestFullDiskOfSatellite(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "fafulls")
	const reserve = 8 * megabyte
	size := int64(30 * megabyte)
	resize := f.smallDisk("sat1", size)
	line, address, err := f.Line(t.Context(), "line", "10.77.0.3/24", 0)
	f.must(err)
	f.joined(school.Joining{Name: "sat1", WAN: "10.77.0.11/24", LAN: "192.168.67.1/24", Controller: address, Flags: []string{"--reserve-bytes", fmt.Sprint(reserve)}})
	pc := f.pc("pc1", "192.168.67.201/24")

	file := f.image(1, 30*megabyte)
	published := f.publish(school.Publishing{File: file})
	lacks := f.lacking(f.awaitProblem("sat1", "no space", "lab version 1", "lacks"), reserve)
	if state, _, _, fetched, _ := f.held("sat1", published.Version.ID); state != "failed" || fetched != 0 {
		t.Errorf("the version that does not fit is %q with %d bytes fetched", state, fetched)
	}
	size += lacks + megabyte
	resize(size) // what it said must be enough
	f.awaitVersion("sat1", published.Version.ID)
	f.awaitNoProblem("sat1")
	f.checkExport(pc, satellite, file, published)

	t.Run("second image unassigned", func(t *testing.T) {
		f := f.in(t)
		big := f.publish(school.Publishing{File: f.image(2, 40*megabyte), Name: "big"})
		f.must(f.Do(f.ctx(), "site", "set", school.Site, "--add-image", "big:"+school.Channel))
		f.awaitProblem("sat1", "no space", "big version 1", "lacks")
		f.must(f.Do(f.ctx(), "site", "set", school.Site, "--remove-image", "big:"+school.Channel))
		f.awaitNoProblem("sat1")
		if _, _, _, _, ok := f.held("sat1", big.Version.ID); ok {
			t.Error("the unassigned version is still reported")
		}
		f.checkExport(pc, satellite, file, published)
	})
	t.Run("somebody else fills the disk during a sync", func(t *testing.T) {
		f := f.in(t)
		const more = 30 * megabyte
		resize(size + more + 4*megabyte)
		other := f.image(3, more-4*megabyte)
		line.SetRate(10 * megabyte)
		begin := down(line)()
		second := f.publish(school.Publishing{File: other, Name: "other"})
		f.must(f.Do(f.ctx(), "site", "set", school.Site, "--add-image", "other:"+school.Channel))
		f.awaitBytes("download", down(line), begin+8*megabyte)
		filler := filepath.Join(f.DataDir("sat1"), "filler")
		f.fill(filler)
		t.Logf("problem: %s", f.awaitProblem("sat1", "no space", "other version 1"))
		f.checkExport(pc, satellite, file, published)
		f.must(os.Remove(filler))
		fetched := f.awaitVersion("sat1", second.Version.ID)
		if most := uint64(more + 4*megabyte); fetched > most {
			t.Errorf("%d bytes were fetched for a version of %d", fetched, second.Version.TotalBytes)
		}
		f.awaitNoProblem("sat1")
		f.checkExport(pc, satellite, other, second)
	})
}

var lacksPattern = regexp.MustCompile(`lacks (\d+) MB: needed (\d+) MB, free (\d+) MB, of which (\d+) MB stay reserved`)

// lacking returns the bytes that a problem line says are missing, and checks its sum. Each number in it is rounded up.
func (f *fleet) lacking(line string, reserve int64) int64 {
	f.t.Helper()
	f.t.Logf("problem: %s", line)
	m := lacksPattern.FindStringSubmatch(line)
	if m == nil {
		f.t.Fatalf("%q does not match %s", line, lacksPattern)
	}
	var n [4]int64
	for i := range n {
		n[i], _ = strconv.ParseInt(m[i+1], 10, 64)
	}
	if d := n[1] + n[3] - n[2] - n[0]; d < -2 || d > 2 || n[0] <= 0 || n[3] != (reserve+999_999)/1_000_000 {
		f.t.Errorf("the numbers of %q do not fit together", line)
	}
	return n[0] * 1_000_000
}

// awaitNoProblem waits until a satellite is content.
func (f *fleet) awaitNoProblem(name string) {
	f.t.Helper()
	f.must(f.Await(f.ctx(), name+" has no problems", func() error {
		info, err := f.SatelliteInfo(f.ctx(), name)
		if err == nil && len(info.Problems) > 0 {
			err = fmt.Errorf("it has %q", info.Problems)
		}
		return err
	}))
}

// fill writes to a file until its file system is full.
func (f *fleet) fill(path string) {
	f.t.Helper()
	file, err := os.Create(path)
	f.must(err)
	defer file.Close()
	for block := make([]byte, 64<<10); ; {
		_, err := file.Write(block)
		switch {
		case errors.Is(err, syscall.ENOSPC) && len(block) > 1:
			block = block[:len(block)/2]
		case errors.Is(err, syscall.ENOSPC):
			return
		case err != nil:
			f.t.Fatal(err)
		}
	}
}
