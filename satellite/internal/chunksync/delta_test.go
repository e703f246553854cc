package chunksync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore/versiontest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/rebuild"
)

// week is a lab with a version and its successor, of which a tenth is new, and a delta between them that the controller offers.
type week struct {
	*lab
	old, new *versiontest.Version
	delta    *versiontest.Delta
}

const weekSize = 6_000_003

func newWeek(t *testing.T) *week {
	l := newLab(t)
	data := versiontest.Data(1, weekSize)
	changed := bytes.Clone(data)
	for off := 200_000; off < weekSize-70_000; off += 600_000 {
		copy(changed[off:], versiontest.Data(uint64(off), 60_000))
	}
	w := &week{lab: l, old: l.image("lab", 1, 1, data), new: l.image("lab", 2, 1, changed)}
	w.delta = versiontest.NewDelta(t, w.old, w.new)
	l.src.deltas[w.delta.Plan.SHA256] = w.delta
	l.src.plan = func(q config.PlanQuestion) (config.Plan, error) {
		if q.Version != w.new.ID || len(q.Have) == 0 || q.Failure != "" {
			return config.Plan{Method: config.ByChunks, Reason: "no base"}, nil
		}
		return config.Plan{Method: config.ByDelta, Base: w.old.ID, Delta: w.delta.Plan, WireBytes: uint64(len(w.delta.File)), Reason: "cheapest",
			Expected: 10 * time.Second}, nil
	}
	l.cfg = func(c *Config) { c.Planner, c.Deltas, c.OpenDelta = l.src, l.src, w.open }
	return w
}

func (w *week) open(_ context.Context, index []byte, _ delta.Source, opt delta.Options) (*Opened, error) {
	if err := w.delta.Check(index, opt); err != nil {
		return nil, err
	}
	return &Opened{New: w.delta.New, Groups: w.delta.Groups, Proof: w.delta, Decoder: w.delta, Close: func() error { return nil }}, nil
}

// begin has the old version complete and wants the new one.
func (w *week) begin() {
	w.t.Helper()
	w.start(w.old)
	synctest.Wait()
	w.verified(w.old)
	clear(w.src.fetched)
	w.want(w.new)
	synctest.Wait()
}

// reads opens the new version's export and compares all of it, in pieces as a client would.
func (w *week) reads() error {
	h, err := w.store.OpenExport(w.new.Manifest.ExportName())
	if err != nil {
		return err
	}
	defer h.Close()
	p := make([]byte, 128<<10)
	for off := int64(0); off < h.Size(); off += int64(len(p)) {
		n := min(int64(len(p)), h.Size()-off)
		if err := h.Wait(w.t.Context(), off, n); err != nil {
			return err
		}
		if _, err := h.ReadAt(p[:n], off); err != nil || !bytes.Equal(p[:n], w.new.Disk[off:off+n]) {
			return fmt.Errorf("export differs at %d (%w)", off, err)
		}
	}
	return nil
}

func TestDeltaBringsAVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeek(t)
		w.begin()
		defer w.stop()
		w.verified(w.new)
		if total, _ := w.fetches(); total != 0 {
			t.Errorf("%d chunks fetched beside the delta", total)
		}
		if w.src.sent != int64(len(w.delta.File)) {
			t.Errorf("%d bytes sent of a delta of %d", w.src.sent, len(w.delta.File))
		}
		st := w.sync.Status()[0]
		if st.Plan.Reason != "cheapest" || st.Started.IsZero() || st.Finished.IsZero() || st.Fetched != uint64(len(w.delta.File)) || st.Behind != "" {
			t.Errorf("status %+v", st)
		}
		if q := w.src.questions[len(w.src.questions)-1]; !cmp.Equal(q.Have, []manifest.ID{w.old.ID}) || q.Version != w.new.ID {
			t.Errorf("question %+v", q)
		}
		if len(w.src.lists[len(w.src.lists)-1]) != 0 {
			t.Errorf("chunk lists were fetched: %v", w.src.lists)
		}
		if info, ok := w.store.Find(w.old.ID); !ok || !info.Verified {
			t.Error("the former version was not retained")
		}
	})
}

func TestServedWhileItArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeek(t)
		w.src.gate = make(chan struct{})
		w.begin()
		defer w.stop()
		if diff := cmp.Diff([]State{Serving}, w.states()); diff != "" {
			t.Fatalf("states (-want +got):\n%s", diff)
		}
		info, ok := w.store.Find(w.new.ID)
		if !ok || !info.Serving || info.Verified {
			t.Fatalf("version is %+v", info)
		}
		if sent := w.src.sent; sent > int64(len(w.delta.File))/5 {
			t.Errorf("%d bytes were sent before a client can begin", sent)
		}
		a, err := w.store.OpenArtifact(w.new.ID, manifest.Kernel)
		if err != nil {
			t.Fatal(err)
		}
		_ = a.Close()
		h, err := w.store.OpenExport(w.new.Manifest.ExportName())
		if err != nil {
			t.Fatal(err)
		}
		if err := w.reads(); err != nil {
			t.Fatal(err)
		}
		close(w.src.gate)
		synctest.Wait()
		w.verified(w.new)
		// A client that came while it was arriving goes on after the rename.
		got := make([]byte, len(w.new.Disk))
		if err := h.Wait(t.Context(), 0, h.Size()); err != nil {
			t.Error(err)
		}
		if _, err := h.ReadAt(got, 0); err != nil || !bytes.Equal(got, w.new.Disk) {
			t.Errorf("the open handle reads something else (%v)", err)
		}
		_ = h.Close()
	})
}

func TestLineLostWhileServing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeek(t)
		w.src.cut = int64(len(w.delta.File)) / 2
		w.begin()
		defer w.stop()
		w.sync.SetPolicy(config.Transfer{LazyWait: 3 * time.Second})
		w.src.mu.Lock()
		w.src.away = true
		w.src.mu.Unlock()
		if _, err := w.store.OpenExport(w.new.Manifest.ExportName()); !errors.Is(err, imagestore.ErrUnknown) {
			t.Errorf("new clients are let in although the line is lost: %v", err)
		}
		if info, _ := w.store.Find(w.new.ID); info.Serving || !info.Arriving {
			t.Errorf("version is %+v", info)
		}
		pause()
		w.src.mu.Lock()
		w.src.away, w.src.cut = false, 0
		w.src.mu.Unlock()
		w.sync.Kick()
		w.untilVerified(1)
		w.verified(w.new)
	})
}

func TestReadersAreToldOfALostLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeek(t)
		w.src.gate = make(chan struct{})
		w.begin()
		defer w.stop()
		w.sync.SetPolicy(config.Transfer{LazyWait: 3 * time.Second})
		synctest.Wait()
		h, err := w.store.OpenExport(w.new.Manifest.ExportName())
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		w.src.mu.Lock()
		w.src.dark = true
		w.src.mu.Unlock()
		start := time.Now()
		if err := h.Wait(t.Context(), 0, h.Size()); !errors.Is(err, rebuild.ErrLate) || time.Since(start) != 3*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

func TestRestartResumesADelta(t *testing.T) {
	for _, offline := range []bool{false, true} {
		t.Run(fmt.Sprint("offline ", offline), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWeek(t)
				w.src.cut = int64(len(w.delta.File)) / 2
				w.begin()
				w.stop()
				sent := w.src.sent
				if offline {
					w.src.away = true
					w.start(w.new)
					synctest.Wait()
					if st := w.sync.Status()[0]; st.State != Serving || st.Plan.Method != config.ByDelta {
						t.Errorf("offline: %+v", st)
					}
					w.src.mu.Lock()
					w.src.away = false
					w.src.mu.Unlock()
					w.sync.Kick()
				} else {
					w.start(w.new)
				}
				w.src.mu.Lock()
				w.src.cut = 0
				w.src.mu.Unlock()
				defer w.stop()
				w.untilVerified(1)
				w.verified(w.new)
				for _, q := range w.src.questions[len(w.src.questions)-1:] {
					if q.Begun != w.delta.Plan.SHA256 {
						t.Error("the controller is not told which delta was begun")
					}
				}
				if most := int64(len(w.delta.File)) + 64<<10; w.src.sent > most || sent == 0 {
					t.Errorf("%d bytes came, %d before the restart, of %d", w.src.sent, sent, len(w.delta.File))
				}
			})
		})
	}
}

func TestWrongDeltaGivesWayToChunks(t *testing.T) {
	tests := []struct {
		name   string
		change func(w *week)
	}{
		{"groups decode to something else", func(w *week) { w.delta.Wrong = true }},
		{"another index", func(w *week) {
			file := bytes.Clone(w.delta.File)
			file[5] ^= 1
			other := &versiontest.Delta{File: file}
			w.src.deltas[w.delta.Plan.SHA256] = other
		}},
		{"it makes another squashfs", func(w *week) { w.delta.New.SHA256[0] ^= 1 }},
		{"the base is not here", func(w *week) { w.delta.Plan.Base = manifest.ID{9} }},
		{"damaged groups", func(w *week) {
			other := &versiontest.Delta{File: bytes.Clone(w.delta.File)}
			other.File[len(other.File)-5] ^= 1
			w.src.deltas[w.delta.Plan.SHA256] = other
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWeek(t)
				tt.change(w)
				insist := w.src.plan
				w.src.plan = func(q config.PlanQuestion) (config.Plan, error) {
					q.Failure = ""
					return insist(q)
				}
				w.begin()
				defer w.stop()
				w.untilVerified(1)
				w.verified(w.new)
				if st := w.sync.Status()[0]; st.Plan.Method != config.ByChunks {
					t.Errorf("plan is %+v", st.Plan)
				}
				if total, twice := w.fetches(); total == 0 || total > len(w.new.Chunks)/2 || twice != 0 {
					t.Errorf("%d chunks fetched, %d twice", total, twice)
				}
			})
		})
	}
}

func TestPlansAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeek(t)
		offer := w.src.plan
		waits := 0
		w.src.plan = func(q config.PlanQuestion) (config.Plan, error) {
			if q.Version == w.old.ID || waits >= 3 {
				return offer(q)
			}
			waits++
			return config.Plan{Method: config.Wait, Reason: "a delta is being made", Retry: 20 * time.Second}, nil
		}
		start := time.Now()
		w.begin()
		defer w.stop()
		if st := w.sync.Status()[0]; st.State != Waiting || !strings.Contains(st.Err.Error(), "a delta is being made") {
			t.Errorf("status %+v", st)
		}
		w.untilVerified(1)
		if d := time.Since(start); waits != 3 || d < time.Minute || d > 90*time.Second {
			t.Errorf("asked %d times in %s", waits, d)
		}
		w.verified(w.new)
	})
}

func TestWholeLooksNowhereElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeek(t)
		w.src.plan = func(config.PlanQuestion) (config.Plan, error) { return config.Plan{Method: config.Whole}, nil }
		w.begin()
		defer w.stop()
		w.verified(w.new)
		if total, _ := w.fetches(); total != len(w.new.Chunks) {
			t.Errorf("%d of %d chunks fetched", total, len(w.new.Chunks))
		}
	})
}

func TestTimeWindow(t *testing.T) {
	for _, method := range []string{"delta", "chunks"} {
		t.Run(method, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWeek(t)
				if method == "chunks" {
					w.src.plan = nil
				}
				cfg := w.cfg
				day := time.Date(2026, 11, 23, 12, 0, 0, 0, time.Local)
				began := time.Now()
				w.cfg = func(c *Config) {
					cfg(c)
					c.Now = func() time.Time { return day.Add(time.Since(began)) }
				}
				w.start(w.old)
				defer w.stop()
				synctest.Wait()
				w.sync.SetPolicy(config.Transfer{Window: config.Window{Start: 22 * time.Hour, End: 6 * time.Hour}})
				clear(w.src.fetched)
				w.want(w.new)
				synctest.Wait()
				if st := w.sync.Status()[0]; st.State != Waiting || st.Fetched != 0 || !strings.Contains(st.Err.Error(), "22:00-06:00") {
					t.Fatalf("status at noon: %+v", st)
				}
				<-time.After(9 * time.Hour)
				synctest.Wait()
				if st := w.sync.Status()[0]; st.State != Waiting || st.Fetched != 0 {
					t.Fatalf("status at nine: %+v", st)
				}
				<-time.After(70 * time.Minute)
				synctest.Wait()
				w.verified(w.new)
			})
		})
	}
}

// In a closed window those who read are served, and nothing else comes.
func TestReadersAreServedInAClosedWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeek(t)
		w.src.gate = make(chan struct{})
		w.begin()
		defer w.stop()
		now := time.Now().Local().Add(2 * time.Hour)
		at := time.Duration(now.Hour()) * time.Hour
		w.sync.SetPolicy(config.Transfer{Window: config.Window{Start: at, End: (at + time.Hour) % (24 * time.Hour)}})
		synctest.Wait()
		close(w.src.gate)
		synctest.Wait()
		before := w.src.sent
		<-time.After(time.Minute)
		synctest.Wait()
		if w.src.sent > before {
			t.Errorf("%d bytes came in a closed window", w.src.sent-before)
		}
		if st := w.sync.Status()[0]; st.State != Serving || st.Done == st.Total {
			t.Fatalf("status %+v", st)
		}
		if err := w.reads(); err != nil {
			t.Fatal(err)
		}
		w.untilVerified(1)
		w.verified(w.new)
	})
}

// A client that reads a version keeps it, even when it is no longer wanted.
func TestUnwantedVersionOutlivesItsReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeek(t)
		w.src.gate = make(chan struct{})
		w.begin()
		defer w.stop()
		h, err := w.store.OpenExport(w.new.Manifest.ExportName())
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Wait(t.Context(), 0, 1000); err != nil {
			t.Fatal(err)
		}
		w.want(w.old)
		synctest.Wait()
		if _, err := w.store.OpenExport(w.new.Manifest.ExportName()); !errors.Is(err, imagestore.ErrUnknown) {
			t.Errorf("new clients are let in: %v", err)
		}
		p := make([]byte, 1000)
		if err := h.Wait(t.Context(), 0, 1000); err != nil {
			t.Errorf("what is here can't be read: %v", err)
		}
		if _, err := h.ReadAt(p, 0); err != nil || !bytes.Equal(p, w.new.Disk[:1000]) {
			t.Errorf("what is here differs (%v)", err)
		}
		if err := h.Wait(t.Context(), 0, h.Size()); !errors.Is(err, rebuild.ErrEnded) {
			t.Errorf("what is not here: %v", err)
		}
		_ = h.Close()
		<-time.After(time.Hour)
		synctest.Wait()
		if info, ok := w.store.Find(w.new.ID); ok {
			t.Errorf("it is still there: %+v", info)
		}
		// Wanted again, it comes as it should.
		close(w.src.gate)
		w.want(w.new)
		w.untilVerified(1)
		w.verified(w.new)
	})
}

func TestCompleteOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeek(t)
		w.src.gate = make(chan struct{})
		w.start(w.old)
		synctest.Wait()
		w.sync.SetPolicy(config.Transfer{CompleteOnly: true})
		w.want(w.new)
		defer w.stop()
		synctest.Wait()
		if _, err := w.store.OpenExport(w.new.Manifest.ExportName()); !errors.Is(err, imagestore.ErrUnknown) {
			t.Errorf("it is exported while it arrives: %v", err)
		}
		close(w.src.gate)
		synctest.Wait()
		w.verified(w.new)
	})
}

func TestOtherFilesComeAsChunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWeek(t)
		w.new = w.image("lab", 2, 2, w.new.Files[0].Data) // another kernel and initrd
		w.delta = versiontest.NewDelta(t, w.old, w.new)
		w.src.deltas[w.delta.Plan.SHA256] = w.delta
		w.begin()
		defer w.stop()
		w.verified(w.new)
		if total, _ := w.fetches(); total != 4 {
			t.Errorf("%d chunks fetched, want the 4 of kernel and initrd", total)
		}
	})
}
