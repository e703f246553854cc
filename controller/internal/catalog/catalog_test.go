package catalog_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/catalog"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunkstore"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// bench is a catalog whose clock the test moves.
type bench struct {
	*catalog.Catalog
	t      *testing.T
	store  *store.Store
	chunks *chunkstore.Memory
	reg    *prometheus.Registry

	mu    sync.Mutex
	clock time.Time
}

func (b *bench) now() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.clock
}

func (b *bench) advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clock = b.clock.Add(d)
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, clock: time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)}
	var err error
	if b.store, err = store.Open(store.Config{Path: filepath.Join(t.TempDir(), "db"), NoSync: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.store.Close(); err != nil {
			t.Error(err)
		}
	})
	b.chunks, b.reg = &chunkstore.Memory{Now: b.now}, prometheus.NewRegistry()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b.Catalog, err = catalog.New(catalog.Config{Store: b.store, Chunks: b.chunks, SigningKey: key, Now: b.now, Grace: time.Hour, Metrics: b.reg})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// draft makes a set of boot loaders (no digest to compute) of the given file contents.
func draft(t *testing.T, files ...string) (*manifest.Manifest, [][]byte) {
	t.Helper()
	m := &manifest.Manifest{Kind: manifest.Bootloaders, Name: fleet.BootloadersImage}
	var pieces [][]byte
	for i, file := range files {
		a := manifest.Artifact{Name: "file" + string(rune('a'+i)), Size: uint64(len(file)), SHA256: sha256.Sum256([]byte(file))}
		for piece := range strings.SplitAfterSeq(file, "|") {
			if piece == "" {
				continue
			}
			pieces = append(pieces, []byte(piece))
			a.Chunks = append(a.Chunks, chunk.Ref{ID: chunk.Sum([]byte(piece)), Size: uint32(len(piece))})
		}
		m.Artifacts = append(m.Artifacts, a)
	}
	return m, pieces
}

func (b *bench) upload(pieces [][]byte) {
	b.t.Helper()
	for _, piece := range pieces {
		if err := b.PutChunk(b.t.Context(), chunk.Sum(piece), piece); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bench) publish(m *manifest.Manifest, channels ...string) fleet.Version {
	b.t.Helper()
	encoded, err := m.Encode()
	if err != nil {
		b.t.Fatal(err)
	}
	p, err := b.Publish(b.t.Context(), "ltsp://admin/anna", "anna", encoded, channels, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return p.Version
}

func (b *bench) collect(want uint64) {
	b.t.Helper()
	freed, err := b.Collect(b.t.Context())
	if err != nil || freed != want {
		b.t.Errorf("collected %d bytes, error %v; want %d", freed, err, want)
	}
}

func (b *bench) missing(pieces ...string) int {
	b.t.Helper()
	var ids []chunk.ID
	for _, piece := range pieces {
		ids = append(ids, chunk.Sum([]byte(piece)))
	}
	missing, err := b.FindMissing(b.t.Context(), ids)
	if err != nil {
		b.t.Fatal(err)
	}
	return len(missing)
}

func TestCollect(t *testing.T) {
	b := newBench(t)
	one, pieces := draft(t, "shared|only one|")
	b.upload(pieces)
	b.publish(one)
	two, pieces := draft(t, "shared|two|")
	b.upload(pieces)
	b.publish(two, "stable")
	b.upload([][]byte{[]byte("never published")})

	b.collect(0) // all is young
	b.advance(2 * time.Hour)
	b.collect(uint64(len("never published")))
	b.collect(0)
	freed, err := b.DeleteVersion(t.Context(), "anna", fleet.BootloadersImage, 1)
	if err != nil || freed != uint64(len("only one|")) {
		t.Errorf("freed %d, error %v", freed, err)
	}
	b.collect(freed)
	if got := b.missing("shared|", "two|", "only one|"); got != 1 {
		t.Errorf("%d chunks are missing, want only that of version 1", got)
	}
}

// What an upload was told to be there stays there until it can be published.
func TestCollectSparesWhatWasAskedFor(t *testing.T) {
	b := newBench(t)
	m, pieces := draft(t, "first|second|third|")
	b.upload(pieces)
	b.advance(2 * time.Hour)
	if got := b.missing("first|", "second|"); got != 0 {
		t.Fatalf("%d chunks are missing", got)
	}
	b.collect(uint64(len("third|"))) // nobody has asked for it
	encoded, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Publish(t.Context(), "anna", "anna", encoded, nil, nil)
	var missing *catalog.MissingError
	if !errors.As(err, &missing) || missing.Count != 1 || missing.First != chunk.Sum([]byte("third|")) {
		t.Errorf("publish: %v, want a MissingError with the third chunk", err)
	}
	b.upload(pieces[2:])
	b.publish(m)
	b.advance(2 * time.Hour)
	b.collect(0)
}

// Uploads, publications, deletions and the collector at the same time: what is published is whole.
func TestCollectWhilePublishing(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	var collector, publishers sync.WaitGroup
	collector.Go(func() {
		for ctx.Err() == nil {
			b.advance(10 * time.Minute)
			if _, err := b.Collect(ctx); err != nil && ctx.Err() == nil {
				t.Errorf("collect: %v", err)
			}
		}
	})
	m, pieces := draft(t, "a|b|c|d|e|f|g|h|")
	encoded, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	published := 0
	publishers.Go(func() {
		for range 200 {
			b.upload(pieces)
			p, err := b.Publish(ctx, "anna", "anna", encoded, nil, nil)
			if _, ok := errors.AsType[*catalog.MissingError](err); ok {
				continue // the clock jumped past the grace time between upload and publication
			}
			if err != nil {
				t.Errorf("publish: %v", err)
				return
			}
			published++
			for _, piece := range pieces {
				if _, err := b.Chunk(ctx, chunk.Sum(piece), nil); err != nil {
					t.Errorf("chunk of a published version: %v", err)
				}
			}
			if _, err := b.DeleteVersion(ctx, "anna", m.Name, p.Version.Number); err != nil {
				t.Errorf("delete: %v", err)
			}
		}
	})
	publishers.Wait()
	cancel()
	collector.Wait()
	if published == 0 {
		t.Error("nothing was ever published")
	}
}

func TestRunCollectsAfterDeletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		m, pieces := draft(t, "x|")
		b.upload(pieces)
		b.publish(m)
		b.advance(2 * time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		if _, err := b.DeleteVersion(ctx, "anna", m.Name, 1); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if _, err := b.chunks.Stat(ctx, chunk.Sum([]byte("x|"))); !errors.Is(err, chunkstore.ErrNotFound) {
			t.Errorf("chunk of a deleted version: %v, want ErrNotFound", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func TestIndex(t *testing.T) {
	b := newBench(t)
	m, pieces := draft(t, "x|yy|", "zzz|")
	b.upload(pieces)
	v := b.publish(m)
	for range 2 { // from the store, then from memory
		index, err := b.Index(t.Context(), v.ID)
		if err != nil || len(index) != 3 || index[chunk.Sum([]byte("yy|"))] != 3 {
			t.Errorf("index %v, error %v", index, err)
		}
	}
	if _, err := b.Index(t.Context(), manifest.ID{1}); !errors.Is(err, fleet.ErrNotFound) {
		t.Errorf("index of no version: %v", err)
	}
	for i := range 40 { // more than are kept
		m, pieces := draft(t, strings.Repeat("v", i+1))
		b.upload(pieces)
		if _, err := b.Index(t.Context(), b.publish(m).ID); err != nil {
			t.Fatal(err)
		}
	}
	if index, err := b.Index(t.Context(), v.ID); err != nil || len(index) != 3 {
		t.Errorf("index after it was forgotten: %v, %v", index, err)
	}
}

// An image that is cut at odd places has the digest of the same image cut otherwise.
func TestDigestOverOddChunks(t *testing.T) {
	b := newBench(t)
	data := make([]byte, 1_234_567)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	digest, err := verity.Compute(t.Context(), verity.Padded(bytes.NewReader(data), int64(len(data))), verity.PaddedSize(uint64(len(data))), nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	m := &manifest.Manifest{Kind: manifest.Image, Name: "lab", Arch: "arm64", Digest: digest}
	for _, name := range []string{manifest.Squashfs, manifest.Kernel, manifest.InitrdFull} {
		a := manifest.Artifact{Name: name, Size: uint64(len(data)), SHA256: sha256.Sum256(data)}
		for rest, size := data, 1; len(rest) > 0; size = size*3 + 1 {
			n := min(len(rest), size, chunk.MaxSize)
			b.upload([][]byte{rest[:n]})
			a.Chunks = append(a.Chunks, chunk.Ref{ID: chunk.Sum(rest[:n]), Size: uint32(n)})
			rest = rest[n:]
		}
		m.Artifacts = append(m.Artifacts, a)
	}
	if v := b.publish(m, "stable"); v.Digest != fleet.Hash(digest) || v.SizeBytes != uint64(len(data)) {
		t.Errorf("version %+v", v)
	}
	m.Digest[0] ^= 1
	encoded, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(t.Context(), "anna", "anna", encoded, nil, nil); !errors.Is(err, fleet.ErrInvalid) {
		t.Errorf("wrong digest: %v, want ErrInvalid", err)
	}
}

func TestConfig(t *testing.T) {
	good := newBench(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]catalog.Config{
		"nothing": {}, "no key": {Store: good.store, Chunks: good.chunks}, "grace": {Store: good.store, Chunks: good.chunks, SigningKey: key, Grace: -1},
	} {
		if _, err := catalog.New(cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// The package comment lists the metrics that are registered.
func TestMetrics(t *testing.T) {
	b := newBench(t)
	m, pieces := draft(t, "x|")
	b.upload(pieces)
	b.publish(m)
	families, err := b.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		got = append(got, f.GetName())
	}
	source, err := os.ReadFile("catalog.go")
	if err != nil {
		t.Fatal(err)
	}
	comment, _, _ := strings.Cut(string(source), "\npackage ")
	want := regexp.MustCompile(`ltsp_controller_[a-z_]+`).FindAllString(comment, -1)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-comment +registered):\n%s", diff)
	}
}
