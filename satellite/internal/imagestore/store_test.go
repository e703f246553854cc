package imagestore

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore/versiontest"
)

// lab is a store on a temporary directory with a disk whose size and clock the test sets.
type lab struct {
	*Store
	t    *testing.T
	dir  string
	free uint64
	now  time.Time
	key  ed25519.PrivateKey
}

func newLab(t *testing.T) *lab {
	l := &lab{t: t, dir: t.TempDir(), free: 1 << 40, now: time.Unix(1_900_000_000, 0), key: versiontest.Key(1)}
	l.open()
	return l
}

// open opens the store as after a start of the program.
func (l *lab) open() {
	l.t.Helper()
	s, err := Open(Config{Dir: l.dir, Retain: 1, Parallel: 2,
		Keys:  func() []ed25519.PublicKey { return []ed25519.PublicKey{l.key.Public().(ed25519.PublicKey)} },
		Space: func(string) (uint64, uint64, error) { return l.free, 1 << 40, nil },
		Now:   func() time.Time { return l.now }})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = s.Close() })
	l.Store = s
}

func (l *lab) image(name string, number, seed uint64) *versiontest.Version {
	return versiontest.Image(l.t, l.key, name, number, seed, versiontest.Data(seed, 1_000_003), 60_000)
}

func (l *lab) begin(v *versiontest.Version) *Incoming {
	l.t.Helper()
	in, err := l.Begin(v.Signed, v.ID, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := in.Scan(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
	return in
}

func (l *lab) put(in *Incoming, v *versiontest.Version, refs []chunk.Ref) {
	l.t.Helper()
	for _, r := range refs {
		if err := in.Put(r.ID, v.Chunks[r.ID]); err != nil {
			l.t.Fatal(err)
		}
	}
}

// add brings a version in whole.
func (l *lab) add(v *versiontest.Version) {
	l.t.Helper()
	in := l.begin(v)
	l.put(in, v, in.Missing())
	if err := in.Complete(l.t.Context()); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) keep(versions ...*versiontest.Version) {
	l.t.Helper()
	var wishes []Wish
	for _, v := range versions {
		wishes = append(wishes, Wish{v.ID, v.Manifest.Name})
	}
	if err := l.Keep(wishes); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) file(v *versiontest.Version, name string) string {
	return filepath.Join(l.dir, "images", v.ID.String(), name)
}

// flip changes one bit of a file.
func (l *lab) flip(path string, off int64) {
	l.t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		l.t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], off); err != nil {
		l.t.Fatal(err)
	}
}

// same fails unless the store holds v, verified and byte for byte.
func (l *lab) same(v *versiontest.Version) {
	l.t.Helper()
	for _, f := range v.Files {
		a, err := l.OpenArtifact(v.ID, f.Name)
		if err != nil {
			l.t.Fatal(err)
		}
		got, err := io.ReadAll(a)
		_ = a.Close()
		if err != nil || !bytes.Equal(got, f.Data) {
			l.t.Fatalf("file %q differs (%v)", f.Name, err)
		}
	}
	h, err := l.OpenExport(v.Manifest.ExportName())
	if err != nil {
		l.t.Fatal(err)
	}
	defer h.Close()
	got := make([]byte, h.Size())
	if _, err := h.ReadAt(got, 0); err != nil || !bytes.Equal(got, v.Disk) {
		l.t.Fatalf("export differs (%v)", err)
	}
}

func TestCompleteVersionIsServed(t *testing.T) {
	l := newLab(t)
	v := l.image("lab", 1, 7)
	if _, err := l.OpenExport(v.Manifest.ExportName()); !errors.Is(err, ErrUnknown) {
		t.Fatalf("export before the version is there: %v", err)
	}
	l.add(v)
	l.same(v)
	info, ok := l.Find(v.ID)
	if !ok || !info.Verified || info.DataBytes != 1_003_520 || info.DiskBytes != uint64(len(v.Disk)) {
		t.Errorf("version is %+v", info)
	}
	if _, err := os.Stat(filepath.Join(l.dir, "incoming", v.ID.String())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("incoming directory is still there: %v", err)
	}
}

func TestNothingIsServedBeforeItsProof(t *testing.T) {
	l := newLab(t)
	v := l.image("lab", 1, 7)
	l.add(v)
	l.open()
	if _, err := l.OpenExport(v.Manifest.ExportName()); !errors.Is(err, ErrUnknown) {
		t.Fatalf("unproven export: %v", err)
	}
	if _, err := l.OpenArtifact(v.ID, "kernel"); !errors.Is(err, ErrUnknown) {
		t.Fatalf("unproven kernel: %v", err)
	}
	if err := l.Prove(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	l.same(v)
	l.Withdraw(v.ID)
	if _, err := l.OpenExport(v.Manifest.ExportName()); !errors.Is(err, ErrUnknown) {
		t.Fatalf("withdrawn export: %v", err)
	}
}

func TestResumeTrustsOnlyHashes(t *testing.T) {
	l := newLab(t)
	v := l.image("lab", 1, 7)
	in := l.begin(v)
	missing := in.Missing()
	l.put(in, v, missing[:10])
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	// What the page cache lost, or somebody changed: one of the ten.
	l.flip(filepath.Join(l.dir, "incoming", v.ID.String(), diskFile), 3*60_000+5)
	l.open()
	in = l.begin(v)
	got := in.Missing()
	if want := len(missing) - 9; len(got) != want {
		t.Fatalf("%d chunks missing, want %d", len(got), want)
	}
	if got[0] != missing[3] {
		t.Errorf("the first missing chunk is %v, want the damaged one %v", got[0], missing[3])
	}
	l.put(in, v, got)
	if err := in.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.same(v)
}

func TestPutRefuses(t *testing.T) {
	l := newLab(t)
	v := l.image("lab", 1, 7)
	in := l.begin(v)
	defer in.Close()
	ref := in.Missing()[0]
	wrong := bytes.Clone(v.Chunks[ref.ID])
	wrong[100] ^= 1
	if err := in.Put(ref.ID, wrong); !errors.Is(err, ErrCorrupt) {
		t.Errorf("flipped bit: %v", err)
	}
	if err := in.Put(ref.ID, wrong[:100]); !errors.Is(err, ErrCorrupt) {
		t.Errorf("truncated chunk: %v", err)
	}
	if err := in.Put(chunk.Sum([]byte("x")), []byte("x")); !errors.Is(err, ErrUnknown) {
		t.Errorf("foreign chunk: %v", err)
	}
	if done, _ := in.Progress(); done != 0 {
		t.Errorf("%d bytes count as done", done)
	}
	if err := in.Complete(t.Context()); err == nil {
		t.Error("an incomplete version was completed")
	}
}

func TestRepeatedChunksAreWrittenEverywhere(t *testing.T) {
	l := newLab(t)
	piece := versiontest.Data(9, 50_000)
	data := bytes.Repeat(piece, 5)
	v := versiontest.Image(t, l.key, "lab", 1, 9, data, 50_000)
	in := l.begin(v)
	if n := len(in.Missing()); n != 1+1+2 {
		t.Errorf("%d distinct chunks missing, want 4", n)
	}
	l.put(in, v, in.Missing())
	if done, total := in.Progress(); done != total {
		t.Errorf("%d of %d bytes done", done, total)
	}
	if err := in.Complete(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.same(v)
}

func TestDamageIsFoundAndRepaired(t *testing.T) {
	tests := []struct {
		name    string
		damage  func(*lab, *versiontest.Version)
		missing int // chunks to fetch again
	}{
		{"bit in the squashfs", func(l *lab, v *versiontest.Version) { l.flip(l.file(v, diskFile), 123_456) }, 1},
		{"bit in the kernel", func(l *lab, v *versiontest.Version) { l.flip(l.file(v, "kernel"), 1) }, 1},
		{"bit in the padding", func(l *lab, v *versiontest.Version) { l.flip(l.file(v, diskFile), 1_000_003+10) }, 0},
		{"truncated disk", func(l *lab, v *versiontest.Version) { mustTruncate(l.t, l.file(v, diskFile), 600_000) }, 7},
		{"lost initrd", func(l *lab, v *versiontest.Version) { mustRemove(l.t, l.file(v, "initrd-full")) }, 2},
		{"truncated manifest", func(l *lab, v *versiontest.Version) { mustTruncate(l.t, l.file(v, manifestFile), 900) }, 0},
		{"bit in the manifest", func(l *lab, v *versiontest.Version) { l.flip(l.file(v, manifestFile), 300) }, 0},
		{"lost manifest", func(l *lab, v *versiontest.Version) { mustRemove(l.t, l.file(v, manifestFile)) }, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			v := l.image("lab", 1, 7)
			l.add(v)
			tt.damage(l, v)
			l.open()
			if err := l.Prove(t.Context(), v.ID); !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrUnknown) {
				t.Fatalf("proof of a damaged version: %v", err)
			}
			if _, err := l.OpenExport(v.Manifest.ExportName()); !errors.Is(err, ErrUnknown) {
				t.Fatalf("damaged export: %v", err)
			}
			in := l.begin(v)
			missing := in.Missing()
			if len(missing) != tt.missing {
				t.Errorf("%d chunks missing, want %d", len(missing), tt.missing)
			}
			l.put(in, v, missing)
			if err := in.Complete(t.Context()); err != nil {
				t.Fatal(err)
			}
			l.same(v)
		})
	}
}

func TestDamagedTreeIsMendedInPlace(t *testing.T) {
	l := newLab(t)
	v := l.image("lab", 1, 7)
	l.add(v)
	l.flip(l.file(v, diskFile), int64(len(v.Disk))-100)
	l.open()
	if err := l.Prove(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	l.same(v)
}

func TestBeginRefusesManifests(t *testing.T) {
	l := newLab(t)
	v := l.image("lab", 1, 7)
	forged := l.image("lab", 1, 7)
	l.key = versiontest.Key(2)
	signedByOther := l.image("lab", 1, 7)
	l.key = versiontest.Key(1)
	forged.Signed[100] ^= 1
	badList := l.image("lab", 1, 7)
	badList.Signed[len(badList.Signed)-1] ^= 1
	reserved := versiontest.New(t, l.key, manifest.Bootloaders, "ipxe", 1, []versiontest.File{{Name: "disk", Data: []byte("x")}}, 10)
	twoSizes := v.Resign(t, l.key, func(m *manifest.Manifest) {
		// One ID with two sizes: no bytes satisfy both.
		a := m.Artifacts[1]
		a.Chunks = []chunk.Ref{{ID: a.Chunks[0].ID, Size: 20_000}, {ID: a.Chunks[0].ID, Size: 30_000}}
		m.Artifacts[1] = a
	})
	other := l.image("other", 1, 8)
	tests := []struct {
		name   string
		signed []byte
		id     manifest.ID
		want   error
	}{
		{"forged", forged.Signed, v.ID, manifest.ErrSignature},
		{"signed by another key", signedByOther.Signed, v.ID, manifest.ErrSignature},
		{"with another list", badList.Signed, v.ID, manifest.ErrFormat},
		{"truncated", v.Signed[:len(v.Signed)-100], v.ID, manifest.ErrFormat},
		{"empty", nil, v.ID, manifest.ErrFormat},
		{"another version", other.Signed, v.ID, manifest.ErrFormat},
		{"reserved name", reserved.Signed, reserved.ID, manifest.ErrFormat},
		{"two sizes for a chunk", twoSizes.Signed, twoSizes.ID, manifest.ErrFormat},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := l.Begin(tt.signed, tt.id, nil); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func TestContradictingManifestIsRefusedAtTheEnd(t *testing.T) {
	l := newLab(t)
	v := l.image("lab", 1, 7)
	for name, change := range map[string]func(*manifest.Manifest){
		"digest":  func(m *manifest.Manifest) { m.Digest[0] ^= 1 },
		"SHA-256": func(m *manifest.Manifest) { m.Artifacts[1].SHA256[0] ^= 1 },
	} {
		t.Run(name, func(t *testing.T) {
			liar := v.Resign(t, l.key, change)
			in := l.begin(liar)
			l.put(in, liar, in.Missing())
			if err := in.Complete(t.Context()); !errors.Is(err, ErrInconsistent) {
				t.Errorf("error %v, want ErrInconsistent", err)
			}
			if _, ok := l.Find(liar.ID); ok {
				t.Error("the version is in images")
			}
		})
	}
}

func TestKeepRetainsThePreviousVersion(t *testing.T) {
	l := newLab(t)
	v1, v2, v3 := l.image("lab", 1, 1), l.image("lab", 2, 2), l.image("lab", 3, 3)
	other := l.image("other", 1, 4)
	for _, v := range []*versiontest.Version{v1, v2, v3, other} {
		l.add(v)
	}
	keep := func(versions ...*versiontest.Version) {
		t.Helper()
		l.now = l.now.Add(time.Hour)
		l.keep(versions...)
	}
	numbers := func() (got []uint64) {
		for _, i := range l.List() {
			got = append(got, i.Manifest.Number)
		}
		return got
	}
	keep(v1, v2, v3, other)
	keep(v1, v2, other) // 3 was wanted last
	keep(v2, other)     // now 1 was
	if diff := cmp.Diff([]uint64{1, 2, 1}, numbers()); diff != "" {
		t.Errorf("versions (-want +got):\n%s", diff)
	}
	l.open() // the order of wishes survives a restart
	l.add(v3)
	keep(v2, v3, other)
	keep(v3)
	if diff := cmp.Diff([]uint64{2, 3}, numbers()); diff != "" {
		t.Errorf("versions after a restart (-want +got):\n%s", diff)
	}
}

func TestVersionInUseOutlivesItsRemoval(t *testing.T) {
	l := newLab(t)
	v := l.image("lab", 1, 7)
	l.add(v)
	h, err := l.OpenExport(v.Manifest.ExportName())
	if err != nil {
		t.Fatal(err)
	}
	l.keep()
	l.same(v)
	if l.InUse() != 1 {
		t.Errorf("%d handles open, want 1", l.InUse())
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	// A PC whose connection broke comes back.
	l.now = l.now.Add(DefaultLinger - time.Second)
	l.sweep()
	l.same(v)
	l.now = l.now.Add(DefaultLinger + time.Second)
	l.sweep()
	if _, ok := l.Find(v.ID); ok {
		t.Error("the version is still there long after its last use")
	}
	entries, err := os.ReadDir(filepath.Join(l.dir, "images"))
	if err != nil || len(entries) != 0 {
		t.Errorf("left in images: %v (%v)", entries, err)
	}
}

func TestAfterAStartPCsFindTheVersionsTheyRun(t *testing.T) {
	l := newLab(t)
	v := l.image("lab", 1, 7)
	l.add(v)
	l.open()
	l.keep()
	if err := l.Prove(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	l.same(v)
	l.now = l.now.Add(2 * DefaultLinger)
	l.sweep()
	if _, ok := l.Find(v.ID); ok {
		t.Error("the version is still there although nobody came")
	}
}

func (l *lab) sweep() {
	l.t.Helper()
	if err := l.Sweep(); err != nil {
		l.t.Fatal(err)
	}
}

func TestSpace(t *testing.T) {
	l := newLab(t)
	l.cfg.ReserveBytes = 1_000_000
	v1, v2 := l.image("lab", 1, 1), l.image("lab", 2, 2)
	l.add(v1)
	l.keep(v1)
	need := diskBytes(v2.Manifest)
	l.free = need + 999_999
	var short *NoSpaceError
	if _, err := l.Begin(v2.Signed, v2.ID, nil); !errors.As(err, &short) || !errors.Is(err, ErrNoSpace) {
		t.Fatalf("a byte too few: %v", err)
	}
	if short.Need != need || short.Free != l.free {
		t.Errorf("error says %+v", short)
	}
	if _, ok := l.Find(v1.ID); !ok {
		t.Fatal("a wanted version was removed to make room")
	}
	// A former version makes room when that is enough, and stays when it is not.
	l.keep(v2)
	l.cfg.Space = func(string) (uint64, uint64, error) {
		if _, ok := l.Find(v1.ID); ok {
			return 1_000_000 + need - 500_000, 1 << 40, nil
		}
		return 1_000_000 + need + 600_000, 1 << 40, nil
	}
	in, err := l.Begin(v2.Signed, v2.ID, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	if _, ok := l.Find(v1.ID); ok {
		t.Error("the former version is still there")
	}
}

func TestNoSpaceMarksFullDisks(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT} {
		if err := noSpace(&os.PathError{Op: "write", Path: "x", Err: errno}); !errors.Is(err, ErrNoSpace) {
			t.Errorf("%v is not ErrNoSpace", errno)
		}
	}
	if err := noSpace(syscall.EIO); errors.Is(err, ErrNoSpace) {
		t.Error("EIO is ErrNoSpace")
	}
}

func TestOpenSweepsWhatIsNoVersion(t *testing.T) {
	l := newLab(t)
	for _, dir := range []string{"images/junk", "incoming/removed-abc", "incoming/junk"} {
		if err := os.MkdirAll(filepath.Join(l.dir, dir, "deep"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l.open()
	for _, dir := range []string{"images", "incoming"} {
		if entries, err := os.ReadDir(filepath.Join(l.dir, dir)); err != nil || len(entries) != 0 {
			t.Errorf("left in %s: %v (%v)", dir, entries, err)
		}
	}
}

func TestBootloaders(t *testing.T) {
	l := newLab(t)
	v := versiontest.New(t, l.key, manifest.Bootloaders, "ipxe", 1, []versiontest.File{
		{Name: "undionly.kpxe", Data: versiontest.Data(1, 70_000)}, {Name: "snponly.efi", Data: versiontest.Data(2, 1000)}, {Name: "empty", Data: nil},
	}, 30_000)
	l.add(v)
	l.open()
	if err := l.Prove(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	for _, f := range v.Files {
		a, err := l.OpenArtifact(v.ID, f.Name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(a)
		_ = a.Close()
		if err != nil || !bytes.Equal(got, f.Data) {
			t.Errorf("file %q differs (%v)", f.Name, err)
		}
	}
	if _, err := l.OpenArtifact(v.ID, "../"+manifestFile); !errors.Is(err, ErrUnknown) {
		t.Errorf("file outside: %v", err)
	}
	if _, err := l.OpenExport(v.Manifest.ExportName()); !errors.Is(err, ErrUnknown) {
		t.Errorf("export of boot loaders: %v", err)
	}
}

func mustTruncate(t *testing.T, path string, n int64) {
	t.Helper()
	if err := os.Truncate(path, n); err != nil {
		t.Fatal(err)
	}
}

func mustRemove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
