//go:build component

package chunksync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore/versiontest"
)

// realWeek has two real images and the delta of room delta between them.
type realWeek struct {
	*lab
	old, new *versiontest.Version
	file     []byte
	plan     config.Delta
}

func newRealWeek(t *testing.T) *realWeek {
	l := newLab(t)
	tr := versiontest.NewTree(t)
	w := &realWeek{lab: l}
	w.old = tr.Image(l.key, 1)
	tr.Update()
	w.new = tr.Image(l.key, 2)
	w.file, w.plan = versiontest.MakeDelta(t, w.old, w.new)
	l.src.deltas[w.plan.SHA256] = &versiontest.Delta{File: w.file}
	l.src.plan = func(q config.PlanQuestion) (config.Plan, error) {
		if q.Version != w.new.ID {
			return config.Plan{Method: config.ByChunks}, nil
		}
		return config.Plan{Method: config.ByDelta, Base: w.old.ID, Delta: w.plan, WireBytes: uint64(len(w.file))}, nil
	}
	l.cfg = func(c *Config) {
		c.Planner, c.Deltas, c.RetryMin, c.RetryMax = l.src, l.src, time.Millisecond, 10*time.Millisecond
	}
	return w
}

// await polls until is holds.
func (w *realWeek) await(what string, is func() bool) {
	w.t.Helper()
	for limit := time.Now().Add(2 * time.Minute); !is(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(limit) {
			w.t.Fatalf("no %s; status %+v, problems %v", what, w.sync.Status(), w.problems)
		}
	}
}

func (w *realWeek) verifiedNow() bool {
	st := w.sync.Status()
	return len(st) == 1 && st[0].State == Verified
}

// read compares the whole export of the new version from several readers that begin at different places.
func (w *realWeek) read(readers int) error {
	h, err := w.store.OpenExport(w.new.Manifest.ExportName())
	if err != nil {
		return err
	}
	defer h.Close()
	var wg sync.WaitGroup
	errs := make([]error, readers)
	for i := range readers {
		wg.Go(func() { errs[i] = w.readFrom(h, h.Size()*int64(i)/int64(readers)) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (w *realWeek) readFrom(h *imagestore.Handle, start int64) error {
	p := make([]byte, 64<<10)
	for done := int64(0); done < h.Size(); {
		off := (start + done) % h.Size()
		n := min(int64(len(p)), h.Size()-off)
		if err := h.Wait(w.t.Context(), off, n); err != nil {
			return err
		}
		if _, err := h.ReadAt(p[:n], off); err != nil || !bytes.Equal(p[:n], w.new.Disk[off:off+n]) {
			return fmt.Errorf("the export differs at %d (%w)", off, err)
		}
		done += n
	}
	return nil
}

func TestRealDelta(t *testing.T) {
	w := newRealWeek(t)
	w.start(w.old)
	defer func() { w.stop() }()
	w.await("old version", w.verifiedNow)
	clear(w.src.fetched)
	w.src.gate = make(chan struct{}) // only what is read comes
	w.want(w.new)
	w.await("serving", func() bool { info, ok := w.store.Find(w.new.ID); return ok && info.Serving })
	w.src.mu.Lock()
	t.Logf("served after %d of %d bytes", w.src.sent, len(w.file))
	w.src.mu.Unlock()
	if err := w.read(8); err != nil {
		t.Fatal(err)
	}
	close(w.src.gate)
	w.await("new version", w.verifiedNow)
	w.verified(w.new)
	if total, _ := w.fetches(); total != 0 {
		t.Errorf("%d chunks fetched; kernel and initrd are here", total)
	}
	m, err := w.store.Manifest(t.Context(), w.new.ID)
	if err != nil || !m.Listed() {
		t.Errorf("the manifest lacks its lists after the delta (%v)", err)
	}
	if signed, err := os.ReadFile(filepath.Join(w.dir, "images", w.new.ID.String(), "manifest")); err != nil || !bytes.Equal(signed, w.new.Signed) {
		t.Errorf("the manifest on the disk is not the one that was published (%v)", err)
	}
	entries, err := os.ReadDir(filepath.Join(w.dir, "images", w.new.ID.String()))
	if err != nil || len(entries) != 4 {
		t.Errorf("files of the version: %v (%v)", entries, err)
	}
}

// A satellite that ends at any moment goes on where it was.
func TestRealDeltaInterrupted(t *testing.T) {
	w := newRealWeek(t)
	w.start(w.old)
	w.await("old version", w.verifiedNow)
	w.stop()
	rng := rand.New(rand.NewPCG(5, 6))
	for life := 0; ; life++ {
		w.src.mu.Lock()
		sent := w.src.sent
		w.src.cut = sent + rng.Int64N(int64(len(w.file)))
		w.src.mu.Unlock()
		w.start(w.new)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(200*(1+life)))*time.Millisecond)
		for ctx.Err() == nil && !w.verifiedNow() {
			<-time.After(time.Millisecond)
		}
		cancel()
		if w.verifiedNow() {
			break
		}
		w.stop()
		if life > 300 {
			t.Fatal("no end")
		}
	}
	w.verified(w.new)
	w.stop()
	t.Logf("%d bytes came for a delta of %d", w.src.sent, len(w.file))
}
