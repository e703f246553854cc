//go:build component

package integration

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/integration/internal/school"
)

// edition makes an edition of an image, once.
func (f *fleet) edition(image school.Synthetic, edition int) string {
	f.t.Helper()
	image.Edition, image.Text = edition, true
	file := filepath.Join(f.Dir, fmt.Sprintf("image%d-%d.squashfs", image.Seed, edition))
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		f.must(f.MakeImage(f.ctx(), file, image))
	}
	return file
}

// deltaInfo is what `ltspctl image delta -o json` says, as far as tests look.
type deltaInfo struct {
	State      string `json:"state"`
	SizeBytes  uint64 `json:"size_bytes"`
	ChunkBytes uint64 `json:"chunk_bytes"`
	Groups     int    `json:"groups"`
}

// delta is what the controller knows of the delta between two versions of the image.
func (f *fleet) delta(from, to uint64, flags ...string) (info deltaInfo) {
	f.t.Helper()
	args := []string{"image", "delta", fmt.Sprintf("%s@%d", school.ImageName, from), fmt.Sprintf("%s@%d", school.ImageName, to)}
	f.must(f.CtlJSON(f.ctx(), &info, append(args, flags...)...))
	return info
}

// checkPublished publishes a file that is published already. The controller must have each of its chunks, whole, and know the version.
func (f *fleet) checkPublished(file string, published *school.Published) {
	f.t.Helper()
	again := f.publish(school.Publishing{File: file})
	sum, _ := f.sum(file)
	if again.Created || again.SentBytes != 0 || again.Version.ID != published.Version.ID || again.Version.Number != published.Version.Number || again.Version.SHA256 != sum {
		f.t.Errorf("publishing once more, without a base: %+v, want %+v with nothing sent", again, published)
	}
	f.chunkFiles()
}

// TestPublishByDelta: with a base only the delta goes up the line, and the controller has the same version as without.
func TestPublishByDelta(t *testing.T) {
	t.Parallel()
	const fresh = 500 << 10
	f := newFleet(t, "fadpub")
	image := school.Synthetic{Seed: 31, Bytes: 4 * megabyte, Fresh: fresh}
	line, address, err := f.Line(t.Context(), "line", "10.77.0.3/24", 0)
	f.must(err)
	contexts, err := f.ContextsThrough(address)
	f.must(err)
	f.publish(school.Publishing{File: f.edition(image, 0)})

	begin := up(line)()
	second := f.publish(school.Publishing{File: f.edition(image, 1), Contexts: contexts, Flags: []string{"--base", f.edition(image, 0)}})
	wire := uint64(up(line)() - begin)
	made := f.delta(1, 2)
	t.Logf("%d bytes sent, %d on the line; the delta has %d, chunks would be %d", second.SentBytes, wire, made.SizeBytes, made.ChunkBytes)
	if second.SentBytes != made.SizeBytes || made.State != "ready" || made.SizeBytes > fresh+fresh/4 {
		t.Errorf("%d bytes were sent of a delta of %+v, of which %d are new", second.SentBytes, made, fresh)
	}
	const besides = 64 << 10 // handshake, lists of chunks, the draft
	if wire < second.SentBytes || wire > second.SentBytes+second.SentBytes/20+besides || wire > made.ChunkBytes {
		t.Errorf("%d bytes went up the line for a delta of %d", wire, second.SentBytes)
	}
	f.checkPublished(f.edition(image, 1), second)
	if left, _ := filepath.Glob(filepath.Join(f.DataDir("controller"), "*", "image-*")); len(left) != 0 {
		t.Errorf("the controller keeps %q", left)
	}

	t.Run("base that the controller lacks", func(t *testing.T) {
		f := f.in(t)
		third := f.publish(school.Publishing{File: f.edition(image, 3), Flags: []string{"--base", f.edition(image, 2)}})
		if !third.Created || third.Version.Number != 3 || third.SentBytes < fresh {
			t.Errorf("it became %+v", third)
		}
		f.checkPublished(f.edition(image, 3), third)
	})
	t.Run("base that is no image", func(t *testing.T) {
		f := f.in(t)
		_, err := f.PublishSynthetic(f.ctx(), school.Publishing{File: f.edition(image, 4), Flags: []string{"--base", f.write("text", []byte("no image at all"))}})
		if code := school.ExitCode(err); code != 7 || !strings.Contains(err.Error(), "squashfs") {
			t.Errorf("exit status %d, want 7: %v", code, err)
		}
	})
	t.Run("base that is the image itself", func(t *testing.T) {
		f := f.in(t)
		again, err := f.PublishSynthetic(f.ctx(), school.Publishing{File: f.edition(image, 3), Flags: []string{"--base", f.edition(image, 3)}})
		if err != nil || again.Created {
			t.Errorf("it became %+v, %v", again, err)
		}
	})
	f.checkAudit("image.publish")
}

// TestPublishByDeltaKilled kills ltspctl and the controller in turn, at random points of a publication by delta. Run again, it ends in the
// exact version.
func TestPublishByDeltaKilled(t *testing.T) {
	t.Parallel()
	const editions, kills = 8, 3
	f := newFleet(t, "fadkill")
	image := school.Synthetic{Seed: 32, Bytes: 300 << 10, Fresh: 60 << 10}
	f.publish(school.Publishing{File: f.edition(image, 0)})
	began := time.Now()
	f.publish(school.Publishing{File: f.edition(image, 1), Flags: []string{"--base", f.edition(image, 0)}})
	usual := time.Since(began)
	random := points(t, 22)
	late := 0
	for e := 2; e < 2+editions; e++ {
		p := school.Publishing{File: f.edition(image, e), Flags: []string{"--base", f.edition(image, e-1)}}
		for k := range kills {
			after := time.Duration(random.Int64N(int64(usual)))
			var code int
			if (e+k)%2 == 0 {
				code = f.killPublisher(p, after)
			} else {
				code = f.killReceiver(p, after)
			}
			if code == 0 {
				late++
			}
			info := f.showImage(school.ImageName)
			if n := len(info.Versions); n != e && n != e+1 || code == 0 && n != e+1 {
				t.Errorf("ltspctl ended with %d; the image has %d versions, want %d or one more", code, n, e)
			}
		}
		published := f.publish(p)
		if published.Version.Number != uint64(e+1) {
			t.Errorf("edition %d became version %d", e, published.Version.Number)
		}
		f.checkPublished(p.File, published)
	}
	t.Logf("%d kills within %v; %d came too late", editions*kills, usual, late)
	if late == editions*kills {
		t.Error("no kill came in time")
	}
	f.checkAudit("image.publish")
}

// killPublisher publishes and kills ltspctl after a while. It returns its exit status, -1 if it was killed.
func (f *fleet) killPublisher(p school.Publishing, after time.Duration) int {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx(), after)
	defer cancel()
	_, err := f.PublishSynthetic(ctx, p)
	if ctx.Err() == nil && err != nil {
		f.t.Error(err)
	}
	return school.ExitCode(err)
}

// killReceiver publishes, kills the controller after a while and starts it again. It returns the exit status of ltspctl.
func (f *fleet) killReceiver(p school.Publishing, after time.Duration) int {
	f.t.Helper()
	ended := make(chan error, 1)
	go func() {
		_, err := f.PublishSynthetic(f.ctx(), p)
		ended <- err
	}()
	<-time.After(after)
	f.must(f.Kill9("controller"))
	var code int
	select {
	case err := <-ended:
		if code = school.ExitCode(err); code != 0 && code != 6 {
			f.t.Errorf("ltspctl whose controller is gone: %v", err)
		}
	case <-time.After(patience):
		f.t.Fatal("ltspctl does not notice that its controller is gone")
	}
	f.startController()
	return code
}

// TestDeltaMakingKilled kills the controller while it makes deltas in the background. Under the name of a delta there is nothing then, or all of it,
// and asked again it makes one that leads to the exact image.
func TestDeltaMakingKilled(t *testing.T) {
	t.Parallel()
	const editions, kills = 4, 3
	f := newFleet(t, "fadmake")
	image := school.Synthetic{Seed: 33, Bytes: 300 << 10, Fresh: 60 << 10}
	var versions []*school.Published
	for e := range 2 + editions {
		versions = append(versions, f.publish(school.Publishing{File: f.edition(image, e)}))
	}
	began := time.Now()
	f.delta(1, 2, "--stat")
	usual := time.Since(began)
	random := points(t, 23)
	late := 0
	for e := 2; e < 2+editions; e++ {
		old, next := f.edition(image, e-1), f.edition(image, e)
		name := filepath.Join(f.DataDir("controller"), "deltas", versions[e-1].Version.ID+"-"+versions[e].Version.ID+".delta")
		for range kills {
			if f.killMaker(uint64(e), time.Duration(random.Int64N(int64(usual)*2/3))) {
				late++
			}
			if _, err := os.Stat(name); err == nil {
				f.checkDelta(old, name, next)
			}
			f.startController()
		}
		if info := f.delta(uint64(e), uint64(e+1), "--stat"); info.State != "ready" {
			t.Errorf("asked again the delta is %+v", info)
		}
		f.checkDelta(old, name, next)
	}
	t.Logf("%d kills within %v; %d came too late", editions*kills, usual, late)
	if late == editions*kills {
		t.Error("no kill came in time")
	}
	left, err := filepath.Glob(filepath.Join(f.DataDir("controller"), "deltas", "*"))
	f.must(err)
	if len(left) != 2*(1+editions) {
		t.Errorf("the controller keeps %q for %d deltas", left, 1+editions)
	}
}

// killMaker asks for the delta to version number+1 and kills the controller after a while. It tells whether the answer had come before.
func (f *fleet) killMaker(number uint64, after time.Duration) (late bool) {
	f.t.Helper()
	ended := make(chan error, 1)
	go func() {
		_, err := f.Ctl(f.ctx(), "image", "delta", fmt.Sprintf("%s@%d", school.ImageName, number), fmt.Sprint(number+1), "--stat")
		ended <- err
	}()
	<-time.After(after)
	f.must(f.Kill9("controller"))
	select {
	case err := <-ended:
		if code := school.ExitCode(err); code != 0 && code != 6 {
			f.t.Errorf("ltspctl whose controller is gone: %v", err)
		}
		return err == nil
	case <-time.After(patience):
		f.t.Fatal("ltspctl does not notice that its controller is gone")
		return false
	}
}

// checkDelta applies a delta to files.
func (f *fleet) checkDelta(old, delta, next string) {
	f.t.Helper()
	out := filepath.Join(f.Dir, "applied")
	f.must(f.Do(f.ctx(), "delta", "apply", old, delta, "-o", out))
	got, _ := f.sum(out)
	if want, _ := f.sum(next); got != want {
		f.t.Errorf("%s makes a file with SHA-256 %s, want %s", filepath.Base(delta), got, want)
	}
}
