package deltas_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/deltas"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

var (
	idOld, idNew, idGone = manifest.ID{1}, manifest.ID{2}, manifest.ID{3}
	pair                 = deltas.Pair{From: idOld, To: idNew}
)

// library holds two little images; one that idGone names cannot be read.
type library struct {
	mu     sync.Mutex
	opened int
}

func (l *library) Open(_ context.Context, id manifest.ID) (delta.Source, verity.Digest, error) {
	l.mu.Lock()
	l.opened++
	l.mu.Unlock()
	name := map[manifest.ID]string{idOld: "v1", idNew: "v2"}[id]
	if name == "" {
		return nil, verity.Digest{}, fleet.Errorf(fleet.ErrNotFound, "there is no version with the ID %s", id)
	}
	data, err := os.ReadFile("testdata/" + name + ".squashfs")
	return io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data))), verity.Digest{}, err
}

func start(t *testing.T, cfg deltas.Config) *deltas.Maker {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Library == nil {
		cfg.Library = &library{}
	}
	m, err := deltas.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return m
}

func wait(t *testing.T, m *deltas.Maker, p deltas.Pair) deltas.Info {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var last deltas.Info
	if err := m.Follow(ctx, p, func(i deltas.Info) error { last = i; return nil }); err != nil {
		t.Fatal(err)
	}
	return last
}

// apply proves that what is kept is a delta from v1 to v2.
func apply(t *testing.T, m *deltas.Maker, info deltas.Info) {
	t.Helper()
	r, err := m.Open(pair, info.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	raw, err := io.ReadAll(io.NewSectionReader(r, 0, int64(info.Size)))
	if err != nil {
		t.Fatal(err)
	}
	if chunk.Sum(raw) != info.SHA256 {
		t.Error("the file is not what the description says")
	}
	old, _, err := (&library{}).Open(t.Context(), idOld)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	if err := delta.Apply(t.Context(), old, io.NewSectionReader(bytes.NewReader(raw), 0, int64(len(raw))), out, delta.Options{}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/v2.squashfs")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the delta does not make the new image")
	}
}

// A delta is made once, in the background, and is there after a restart; what an interrupted run left is gone.
func TestMakeAndKeep(t *testing.T) {
	dir, lib := t.TempDir(), &library{}
	m := start(t, deltas.Config{Dir: dir, Library: lib})
	if got := m.Find(pair).State; got != deltas.None {
		t.Errorf("before anything: %s", got)
	}
	if got := m.Request(pair, false).State; got != deltas.Queued {
		t.Errorf("requested: %s", got)
	}
	m.Request(pair, false)
	info := wait(t, m, pair)
	if info.State != deltas.Ready || info.Size == 0 || info.IndexBytes == 0 || info.Stats == nil {
		t.Fatalf("%+v", info)
	}
	apply(t, m, info)
	if lib.opened != 2 {
		t.Errorf("%d images opened for one delta", lib.opened)
	}
	for _, name := range []string{"making-1", "x.delta", idOld.String() + "-" + idGone.String() + ".json"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("left"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again := start(t, deltas.Config{Dir: dir, Library: lib})
	kept := again.Find(pair)
	if kept.State != deltas.Ready || kept.SHA256 != info.SHA256 || kept.Stats == nil {
		t.Errorf("after a restart: %+v", kept)
	}
	apply(t, again, kept)
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 2 {
		t.Errorf("%d files are left, want the delta and its description", len(files))
	}
	again.Forget(idOld)
	if got := again.Find(pair).State; got != deltas.None {
		t.Errorf("forgotten, but %s", got)
	}
	if _, err := again.Open(pair, info.SHA256); !errors.Is(err, deltas.ErrGone) {
		t.Errorf("forgotten: %v", err)
	}
}

func TestFailure(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	lib := &library{}
	m := start(t, deltas.Config{Library: lib, Retry: time.Hour, Now: func() time.Time { mu.Lock(); defer mu.Unlock(); return now }})
	gone := deltas.Pair{From: idGone, To: idNew}
	m.Request(gone, false)
	info := wait(t, m, gone)
	if info.State != deltas.Failed || info.Error == "" {
		t.Fatalf("%+v", info)
	}
	if m.Request(gone, false).State != deltas.Failed || m.Retry(gone) || lib.opened != 1 {
		t.Error("it is tried again at once")
	}
	mu.Lock()
	now = now.Add(time.Hour)
	mu.Unlock()
	if !m.Retry(gone) || m.Request(gone, false).State != deltas.Queued {
		t.Error("it is not tried again")
	}
	wait(t, m, gone)
	if m.Request(gone, true).State != deltas.Queued {
		t.Error("it is not tried again when told to")
	}
	wait(t, m, gone)
}

// What was used longest ago goes; what is being read stays.
func TestBound(t *testing.T) {
	first := start(t, deltas.Config{})
	first.Request(pair, false)
	size := int64(wait(t, first, pair).Size)
	m := start(t, deltas.Config{MaxBytes: size + size/2})
	m.Request(pair, false)
	info := wait(t, m, pair)
	back := deltas.Pair{From: idNew, To: idOld}
	r, err := m.Open(pair, info.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	m.Request(back, false)
	if got := wait(t, m, back); got.State != deltas.Failed {
		t.Errorf("no room, but %s", got.State)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	m.Request(back, true)
	if got := wait(t, m, back); got.State != deltas.Ready {
		t.Errorf("%s: %s", got.State, got.Error)
	}
	if got := m.Find(pair).State; got != deltas.None {
		t.Errorf("the older one is %s", got)
	}
	tiny := start(t, deltas.Config{MaxBytes: 10})
	tiny.Request(pair, false)
	if got := wait(t, tiny, pair); got.State != deltas.Failed {
		t.Errorf("larger than all room, but %s", got.State)
	}
}

func TestQueueIsBounded(t *testing.T) {
	m, err := deltas.New(deltas.Config{Dir: t.TempDir(), Library: &library{}, MaxQueue: 2}) // nobody works on it
	if err != nil {
		t.Fatal(err)
	}
	for i := range byte(2) {
		if got := m.Request(deltas.Pair{From: idOld, To: manifest.ID{9, i}}, false).State; got != deltas.Queued {
			t.Errorf("%d: %s", i, got)
		}
	}
	if got := m.Request(pair, false).State; got != deltas.Failed {
		t.Errorf("one too many: %s", got)
	}
}

func TestAdopt(t *testing.T) {
	first := start(t, deltas.Config{})
	first.Request(pair, false)
	info := wait(t, first, pair)
	r, err := first.Open(pair, info.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	m := start(t, deltas.Config{})
	if err := m.Adopt(pair, io.NewSectionReader(r, 0, int64(info.Size)-1)); err == nil {
		t.Error("a delta without its last byte was adopted")
	}
	if err := m.Adopt(pair, io.NewSectionReader(r, 0, int64(info.Size))); err != nil {
		t.Fatal(err)
	}
	got := m.Find(pair)
	if got.State != deltas.Ready || got.SHA256 != info.SHA256 || got.RawBytes != info.RawBytes {
		t.Errorf("%+v, want %+v", got, info)
	}
	apply(t, m, got)
}

// Groups that hold what booting clients read come first.
func TestFirst(t *testing.T) {
	m := start(t, deltas.Config{})
	m.Request(pair, false)
	wait(t, m, pair)
	if got, err := m.First(t.Context(), pair, fleet.Trace{}, fleet.Trace{}); err != nil || got != nil {
		t.Errorf("without a trace: %v, %v", got, err)
	}
	all := fleet.Trace{Ranges: []fleet.TraceRange{{Offset: 0, Length: 1 << 20}}}
	for name, traces := range map[string][2]fleet.Trace{"of the new version": {all, {}}, "of the old version": {{}, all}, "of both": {all, all}} {
		got, err := m.First(t.Context(), pair, traces[0], traces[1])
		if err != nil || len(got) != 1 || got[0] != 0 {
			t.Errorf("%s: %v, %v, want the one group", name, got, err)
		}
	}
}
