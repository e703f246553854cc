package imagestore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore/versiontest"
)

// pond gives reads of a version that is arriving.
type pond struct {
	able bool
	err  error
}

func (p *pond) Wait(context.Context, int64, int64) error { return p.err }
func (p *pond) Able() bool                               { return p.able }

// arrive begins a version by a delta, with no chunk lists at all.
func (l *lab) arrive(v *versiontest.Version, d *config.Delta) *Incoming {
	l.t.Helper()
	short, err := manifest.WithLists(v.Signed, v.Manifest, func(string) bool { return false })
	if err != nil {
		l.t.Fatal(err)
	}
	in, err := l.Begin(short, v.ID, d)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := in.Scan(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	return in
}

func (l *lab) files(in *Incoming, v *versiontest.Version) {
	l.t.Helper()
	for _, f := range v.Files[1:] {
		if err := in.PutFile(l.t.Context(), f.Name, bytes.NewReader(f.Data)); err != nil {
			l.t.Fatal(err)
		}
	}
}

func someDelta() *config.Delta {
	return &config.Delta{Base: manifest.ID{9}, SHA256: [32]byte{1}, Size: 50_000, IndexBytes: 100, First: []uint32{1}}
}

func TestArrivingVersionIsServed(t *testing.T) {
	l := newLab(t)
	v := l.image("lab", 1, 7)
	in := l.arrive(v, someDelta())
	water := &pond{able: true}
	if err := in.Serve(t.Context(), water); err == nil {
		t.Fatal("served without a kernel")
	}
	l.files(in, v)
	if done, total := in.Progress(); done != 120_001 || total != v.Manifest.TotalBytes() {
		t.Errorf("%d of %d bytes done", done, total)
	}
	if err := in.Serve(t.Context(), water); err != nil {
		t.Fatal(err)
	}
	h, err := l.OpenExport(v.Manifest.ExportName())
	if err != nil {
		t.Fatal(err)
	}
	water.err = errors.New("late")
	if err := h.Wait(t.Context(), 0, 1); !errors.Is(err, water.err) || !h.Arriving() {
		t.Errorf("wait: %v", err)
	}
	if a, err := l.OpenArtifact(v.ID, manifest.Kernel); err != nil {
		t.Error(err)
	} else {
		_ = a.Close()
	}
	if _, err := l.OpenArtifact(v.ID, manifest.Squashfs); !errors.Is(err, ErrUnknown) {
		t.Errorf("a squashfs that is not whole: %v", err)
	}
	if _, err := l.OpenDisk(v.ID); !errors.Is(err, ErrUnknown) {
		t.Errorf("a base that is not whole: %v", err)
	}
	if err := l.Prove(t.Context(), v.ID); !errors.Is(err, ErrUnknown) {
		t.Errorf("proof: %v", err)
	}
	water.able = false
	if _, err := l.OpenExport(v.Manifest.ExportName()); !errors.Is(err, ErrUnknown) {
		t.Errorf("export that can't be read: %v", err)
	}
	if _, err := in.Disk().WriteAt(v.Disk, 0); err != nil {
		t.Fatal(err)
	}
	if err := in.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.same(v)
	if err := h.Wait(t.Context(), 0, 1); err != nil || h.Arriving() {
		t.Errorf("wait on a complete version: %v", err)
	}
	got, err := io.ReadAll(io.NewSectionReader(h, 0, h.Size()))
	if err != nil || !bytes.Equal(got, v.Disk) {
		t.Errorf("the handle reads something else (%v)", err)
	}
	_ = h.Close()
	for _, name := range []string{deltaName, planName} {
		if _, err := os.Stat(l.file(v, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}

func TestArrivingVersionThatIsNotWhole(t *testing.T) {
	l := newLab(t)
	v := l.image("lab", 1, 7)
	in := l.arrive(v, someDelta())
	l.files(in, v)
	if _, err := in.Disk().WriteAt(v.Disk[:500_000], 0); err != nil {
		t.Fatal(err)
	}
	if err := in.Complete(t.Context()); !errors.Is(err, ErrInconsistent) {
		t.Errorf("error %v, want ErrInconsistent", err)
	}
	if _, ok := l.Find(v.ID); ok {
		t.Error("it is known")
	}
	// As chunks it goes on with what is right.
	in = l.begin(v)
	if n := len(in.Missing()); n != 9 {
		t.Errorf("%d chunks missing, want 9", n)
	}
	l.put(in, v, in.Missing())
	if err := in.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.same(v)
}

func TestPlanOfADelta(t *testing.T) {
	l := newLab(t)
	v := l.image("lab", 1, 7)
	in := l.arrive(v, someDelta())
	if _, f := in.Delta(); f == nil {
		t.Fatal("no delta file")
	} else if _, err := f.WriteAt([]byte("kept"), 10); err != nil {
		t.Fatal(err)
	}
	l.files(in, v)
	_ = in.Close()
	l.open()
	signed, d, err := l.Pending(v.ID)
	if err != nil || d == nil || d.SHA256 != someDelta().SHA256 {
		t.Fatalf("pending %+v, %v", d, err)
	}
	kept := func(d *config.Delta) string {
		in, err := l.Begin(signed, v.ID, d)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if err := in.Scan(t.Context()); err != nil || len(in.Lacks()) != 0 {
			t.Errorf("lacks %v (%v)", in.Lacks(), err)
		}
		p := make([]byte, 4)
		if _, err := in.delta.file.ReadAt(p, 10); err != nil {
			t.Fatal(err)
		}
		return string(p)
	}
	if got := kept(d); got != "kept" {
		t.Errorf("the delta file has %q", got)
	}
	other := *d
	other.SHA256[3] ^= 1
	if got := kept(&other); got == "kept" {
		t.Error("another delta's bytes were kept")
	}
	path := filepath.Join(l.dir, "incoming", v.ID.String(), planName)
	for _, text := range []string{"", "{", `{"Size": -5}`, "null", "[]"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, d, err := l.Pending(v.ID); err != nil || d != nil {
			t.Errorf("plan %q: %+v, %v", text, d, err)
		}
	}
	if _, err := l.Begin(signed, v.ID, nil); !errors.Is(err, ErrUnlisted) {
		t.Errorf("chunks without lists: %v", err)
	}
}

func TestPutFileRefuses(t *testing.T) {
	l := newLab(t)
	v := l.image("lab", 1, 7)
	in := l.arrive(v, someDelta())
	defer in.Close()
	kernel := v.Files[1].Data
	for name, data := range map[string][]byte{"short": kernel[:100], "long": append(bytes.Clone(kernel), 1), "other": v.Files[2].Data[:len(kernel)]} {
		if err := in.PutFile(t.Context(), manifest.Kernel, bytes.NewReader(data)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{manifest.Squashfs, "nothing"} {
		if err := in.PutFile(t.Context(), name, bytes.NewReader(nil)); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if done, _ := in.Progress(); done != 0 || len(in.Lacks()) != 2 {
		t.Errorf("%d bytes done, lacks %d files", done, len(in.Lacks()))
	}
}

func TestSpaceForADelta(t *testing.T) {
	l := newLab(t)
	v := l.image("lab", 1, 7)
	l.free = diskBytes(v.Manifest) + 49_999
	var short *NoSpaceError
	if _, err := l.Begin(v.Signed, v.ID, someDelta()); !errors.As(err, &short) || short.Need != diskBytes(v.Manifest)+50_000 {
		t.Errorf("a byte too few: %v", err)
	}
}

// A base that is read stays, whatever is wanted and however short the room is.
func TestBaseInUseStays(t *testing.T) {
	l := newLab(t)
	base, v := l.image("lab", 1, 1), l.image("lab", 2, 2)
	l.add(base)
	h, err := l.OpenDisk(base.ID)
	if err != nil {
		t.Fatal(err)
	}
	l.cfg.Retain = 0
	l.keep(v)
	l.now = l.now.Add(time.Hour)
	l.sweep()
	l.free = 0
	if _, err := l.Begin(v.Signed, v.ID, someDelta()); !errors.Is(err, ErrNoSpace) {
		t.Errorf("error %v, want ErrNoSpace", err)
	}
	if _, ok := l.Find(base.ID); !ok {
		t.Fatal("the base was removed")
	}
	_ = h.Close()
	l.now = l.now.Add(time.Hour)
	l.sweep()
	if _, ok := l.Find(base.ID); ok {
		t.Error("the base is still there long after its last use")
	}
}
