package manifest_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

func encode(t *testing.T, m *manifest.Manifest) []byte {
	t.Helper()
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	draft := example()
	draft.Number, draft.Created, draft.Publisher = 0, time.Time{}, ""
	loaders := &manifest.Manifest{Kind: manifest.Bootloaders, Name: "bootloaders", Number: 1, Artifacts: []manifest.Artifact{{Name: "ipxe.efi"}}}
	for name, m := range map[string]*manifest.Manifest{"example": example(), "draft": draft, "boot loaders": loaders} {
		got, err := manifest.Decode(encode(t, m))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(m, got, cmpopts.IgnoreUnexported(manifest.Artifact{})); diff != "" {
			t.Errorf("%s (-encoded +decoded):\n%s", name, diff)
		}
	}
}

// The version ID follows content and nothing else.
func TestID(t *testing.T) {
	base := example().ID()
	same := map[string]func(*manifest.Manifest){
		"number": func(m *manifest.Manifest) { m.Number++ }, "time": func(m *manifest.Manifest) { m.Created = time.Time{} },
		"note": func(m *manifest.Manifest) { m.Note = "" }, "source": func(m *manifest.Manifest) { m.Source = "" },
		"publisher": func(m *manifest.Manifest) { m.Publisher = "" }, "cutting": func(m *manifest.Manifest) { m.Artifacts[0].Chunks = nil },
	}
	for name, change := range same {
		m := example()
		if change(m); m.ID() != base {
			t.Errorf("%s changes the ID", name)
		}
	}
	other := map[string]func(*manifest.Manifest){
		"name": func(m *manifest.Manifest) { m.Name = "lab2" }, "kind": func(m *manifest.Manifest) { m.Kind = manifest.Bootloaders },
		"architecture": func(m *manifest.Manifest) { m.Arch = "arm64" }, "digest": func(m *manifest.Manifest) { m.Digest[0]++ },
		"kernel": func(m *manifest.Manifest) { m.Artifacts[1].SHA256[0]++ }, "size": func(m *manifest.Manifest) { m.Artifacts[1].Size++ },
		"one less": func(m *manifest.Manifest) { m.Artifacts = m.Artifacts[:2] },
		"moved text": func(m *manifest.Manifest) { // the lengths keep "lab"+"amd64" and "laba"+"md64" apart
			m.Name, m.Arch = "laba", "md64"
		},
	}
	for name, change := range other {
		m := example()
		if change(m); m.ID() == base {
			t.Errorf("%s does not change the ID", name)
		}
	}
}

func TestIDText(t *testing.T) {
	id := example().ID()
	parsed, err := manifest.ParseID(id.String())
	if err != nil || parsed != id {
		t.Errorf("parsed %v, %v", parsed, err)
	}
	raw, err := json.Marshal(id)
	var back manifest.ID
	if err != nil || json.Unmarshal(raw, &back) != nil || back != id || string(raw) != `"`+id.String()+`"` {
		t.Errorf("JSON %s, %v", raw, err)
	}
	if got, err := manifest.IDFromBytes(id[:]); err != nil || got != id {
		t.Errorf("from bytes: %v, %v", got, err)
	}
	for _, bad := range []string{"", "xy", id.String() + "00", strings.Repeat("g", 64)} {
		if _, err := manifest.ParseID(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := manifest.IDFromBytes(make([]byte, 31)); err == nil {
		t.Error("31 bytes were taken")
	}
	if id.IsZero() || !(manifest.ID{}).IsZero() {
		t.Error("IsZero")
	}
}

func TestValidate(t *testing.T) {
	tests := map[string]func(*manifest.Manifest){
		"no name":            func(m *manifest.Manifest) { m.Name = "" },
		"path as a name":     func(m *manifest.Manifest) { m.Name = "../etc" },
		"name ends with dot": func(m *manifest.Manifest) { m.Name = "lab." },
		"long name":          func(m *manifest.Manifest) { m.Name = strings.Repeat("x", 64) },
		"long note":          func(m *manifest.Manifest) { m.Note = strings.Repeat("x", manifest.MaxText+1) },
		"unknown kind":       func(m *manifest.Manifest) { m.Kind = "film" },
		"no artifacts":       func(m *manifest.Manifest) { m.Artifacts = nil },
		"many artifacts":     func(m *manifest.Manifest) { m.Artifacts = make([]manifest.Artifact, manifest.MaxArtifacts+1) },
		"artifact twice":     func(m *manifest.Manifest) { m.Artifacts[1].Name = m.Artifacts[0].Name },
		"path as artifact":   func(m *manifest.Manifest) { m.Artifacts[1].Name = "a/b" },
		"hidden artifact":    func(m *manifest.Manifest) { m.Artifacts[1].Name = ".x" },
		"no kernel":          func(m *manifest.Manifest) { m.Artifacts = append(m.Artifacts[:1], m.Artifacts[2]) },
		"no digest":          func(m *manifest.Manifest) { m.Digest = [32]byte{} },
		"wrong size":         func(m *manifest.Manifest) { m.Artifacts[0].Size++ },
		"empty chunk":        func(m *manifest.Manifest) { m.Artifacts[0].Chunks[0].Size = 0 },
		"large chunk":        func(m *manifest.Manifest) { m.Artifacts[0].Chunks[0].Size = chunk.MaxSize + 1 },
		"loaders' digest":    func(m *manifest.Manifest) { m.Kind = manifest.Bootloaders },
	}
	for name, harm := range tests {
		m := example()
		harm(m)
		if err := m.Validate(); !errors.Is(err, manifest.ErrFormat) {
			t.Errorf("%s: %v, want ErrFormat", name, err)
		}
		if _, err := m.Encode(); !errors.Is(err, manifest.ErrFormat) {
			t.Errorf("%s: encoded, error %v", name, err)
		}
	}
}

// Cut anywhere, flipped anywhere: never a panic, and a signed manifest never opens.
func TestHarmedBytes(t *testing.T) {
	signed, err := manifest.Sign(example(), exampleKey())
	if err != nil {
		t.Fatal(err)
	}
	public := exampleKey().Public().(ed25519.PublicKey)
	plain := encode(t, example())
	for n := range plain {
		if _, err := manifest.Decode(plain[:n]); !errors.Is(err, manifest.ErrFormat) {
			t.Fatalf("%d of %d bytes: %v, want ErrFormat", n, len(plain), err)
		}
	}
	for n := range signed {
		if _, err := manifest.Open(signed[:n], public); err == nil {
			t.Fatalf("%d of %d signed bytes were opened", n, len(signed))
		}
		flipped := bytes.Clone(signed)
		flipped[n] ^= 0x20
		if _, err := manifest.Open(flipped, public); err == nil {
			t.Fatalf("opened with byte %d flipped", n)
		}
	}
	if _, err := manifest.Decode(append(bytes.Clone(plain), 0)); !errors.Is(err, manifest.ErrFormat) {
		t.Errorf("a byte behind the end: %v", err)
	}
	newer := bytes.Clone(plain)
	newer[9] = 3
	if _, err := manifest.Decode(newer); !errors.Is(err, manifest.ErrVersion) {
		t.Errorf("newer format: %v, want ErrVersion", err)
	}
}

// Counts are checked against the bytes at hand before memory is taken.
func TestHostileCounts(t *testing.T) {
	plain := encode(t, example())
	count := bytes.Index(plain, []byte("squashfs")) + len("squashfs") + 2 + 8 + 32
	for _, n := range []uint32{4, manifest.MaxChunks, manifest.MaxChunks + 1, math.MaxUint32} {
		hostile := bytes.Clone(plain)
		binary.BigEndian.PutUint32(hostile[count:], n)
		allocated := testing.AllocsPerRun(1, func() {
			if _, err := manifest.Decode(hostile); !errors.Is(err, manifest.ErrFormat) {
				t.Errorf("%d chunks: %v, want ErrFormat", n, err)
			}
		})
		if allocated > 200 {
			t.Errorf("%d chunks: %v allocations", n, allocated)
		}
	}
}

// A signed manifest travels with all lists, some or none; the signature stays, and a list is only taken if it is the one that was signed.
func TestLists(t *testing.T) {
	signed, err := manifest.Sign(example(), exampleKey())
	if err != nil {
		t.Fatal(err)
	}
	public := exampleKey().Public().(ed25519.PublicKey)
	for _, pick := range []string{"", "kernel", "squashfs kernel initrd-full"} {
		some, err := manifest.WithLists(signed, example(), func(name string) bool { return strings.Contains(pick, name) })
		if err != nil {
			t.Fatal(err)
		}
		m, err := manifest.Open(some, public)
		if err != nil {
			t.Fatalf("with lists of %q: %v", pick, err)
		}
		if m.ID() != example().ID() || m.Listed() != (pick == "squashfs kernel initrd-full") {
			t.Errorf("with lists of %q: ID %s, listed %v", pick, m.ID(), m.Listed())
		}
		for i := range m.Artifacts {
			a, want := &m.Artifacts[i], example().Artifacts[i]
			if a.Listed() != strings.Contains(pick, a.Name) {
				t.Errorf("with lists of %q: %s listed %v", pick, a.Name, a.Listed())
			}
			if a.List() != want.List() {
				t.Errorf("%s: list %v, want %v", a.Name, a.List(), want.List())
			}
			if err := a.SetList(example().Artifacts[(i+1)%3].Chunks); !errors.Is(err, manifest.ErrFormat) {
				t.Errorf("%s: another artifact's list: %v, want ErrFormat", a.Name, err)
			}
			if err := a.SetList(want.Chunks); err != nil {
				t.Error(err)
			}
		}
		whole, err := manifest.WithLists(some, m, nil)
		if err != nil || !bytes.Equal(whole, signed) {
			t.Errorf("with lists of %q: the lists put back give other bytes (%v)", pick, err)
		}
	}
	if _, err := manifest.WithLists(signed[:50], example(), nil); !errors.Is(err, manifest.ErrFormat) {
		t.Errorf("no signed manifest: %v", err)
	}
}

func TestOpen(t *testing.T) {
	signed, err := manifest.Sign(example(), exampleKey())
	if err != nil {
		t.Fatal(err)
	}
	public := exampleKey().Public().(ed25519.PublicKey)
	other := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
	if m, err := manifest.Open(signed, other, public); err != nil || m.Number != 7 {
		t.Errorf("one of two keys: %v, %v", m, err)
	}
	for name, keys := range map[string][]ed25519.PublicKey{"no key": nil, "another key": {other}, "half a key": {public[:16]}} {
		if _, err := manifest.Open(signed, keys...); !errors.Is(err, manifest.ErrSignature) {
			t.Errorf("%s: %v, want ErrSignature", name, err)
		}
	}
	if _, err := manifest.Open(encode(t, example()), public); !errors.Is(err, manifest.ErrFormat) {
		t.Errorf("unsigned: %v, want ErrFormat", err)
	}
}

func TestLookup(t *testing.T) {
	m := example()
	if a, ok := m.Artifact(manifest.Kernel); !ok || a.Size != 8 {
		t.Errorf("kernel: %v, %v", a, ok)
	}
	if _, ok := m.Artifact("nothing"); ok {
		t.Error("found nothing")
	}
	if got := m.TotalBytes(); got != 37 {
		t.Errorf("%d bytes in all", got)
	}
	if got := m.ExportName(); !strings.HasPrefix(got, "lab@") || len(got) != 4+64 {
		t.Errorf("export %q", got)
	}
}

// Whatever decodes is valid and encodes to the same bytes again: there is one encoding of a manifest, so signatures and IDs are unambiguous.
func FuzzDecode(f *testing.F) {
	plain, err := example().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add(plain[:len(plain)/2])
	f.Add([]byte("LTSPMANI\x00\x01"))
	loaders, err := (&manifest.Manifest{Kind: manifest.Bootloaders, Name: "b", Artifacts: []manifest.Artifact{{Name: "x"}}}).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(loaders)
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := manifest.Decode(data)
		if err != nil {
			if !errors.Is(err, manifest.ErrFormat) && !errors.Is(err, manifest.ErrVersion) {
				t.Errorf("error of no kind: %v", err)
			}
			return
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatalf("decoded and cannot be encoded: %v", err)
		}
		if !bytes.Equal(again, data) {
			t.Errorf("encodes to other bytes than it came from")
		}
	})
}

func FuzzOpen(f *testing.F) {
	signed, err := manifest.Sign(example(), exampleKey())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add(signed[:80])
	public := exampleKey().Public().(ed25519.PublicKey)
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := manifest.Open(data, public); err == nil && !bytes.Equal(data, signed) {
			t.Error("opened a manifest that nobody signed")
		}
	})
}
