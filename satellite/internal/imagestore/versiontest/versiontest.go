// Package versiontest makes image versions for tests: random files, cut into chunks, with a true dm-verity root and a signed manifest. Only tests
// import it.
package versiontest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// File is one artifact.
type File struct {
	Name string
	Data []byte
	Path string // in the squashfs
}

// Version is a version with all its bytes.
type Version struct {
	ID       manifest.ID
	Manifest *manifest.Manifest
	Signed   []byte
	Files    []File
	Chunks   map[chunk.ID][]byte
	// Disk is what its export shows: squashfs, padding, tree. Nil for boot loaders.
	Disk []byte
}

// Key returns a signing key; equal seeds give equal keys.
func Key(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

// Data returns n random bytes; equal seeds give equal bytes.
func Data(seed uint64, n int) []byte {
	var s [32]byte
	s[0], s[1], s[2], s[3] = byte(seed), byte(seed>>8), byte(seed>>16), byte(seed>>24)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(s).Read(b) // it never fails
	return b
}

// Image makes an image version from a squashfs, which is cut into chunks of chunkSize bytes, and a small kernel and initrd made from seed.
func Image(tb testing.TB, key ed25519.PrivateKey, name string, number, seed uint64, squashfs []byte, chunkSize int) *Version {
	tb.Helper()
	return New(tb, key, manifest.Image, name, number, []File{
		{Name: manifest.Squashfs, Data: squashfs},
		{Name: manifest.Kernel, Data: Data(seed<<8|1, 50_000)},
		{Name: manifest.InitrdFull, Data: Data(seed<<8|2, 70_001)},
	}, chunkSize)
}

// cut cuts a file into chunks of size bytes; with size 0 as publishing does, which takes a real squashfs.
func cut(tb testing.TB, f File, size int) []chunk.Ref {
	tb.Helper()
	if size == 0 {
		cut := chunk.CutFixed
		if f.Name == manifest.Squashfs {
			cut = chunk.CutSquashfs
		}
		refs, err := cut(tb.Context(), bytes.NewReader(f.Data), int64(len(f.Data)), nil)
		if err != nil {
			tb.Fatal(err)
		}
		return refs
	}
	var refs []chunk.Ref
	for data := f.Data; len(data) > 0; {
		n := min(size, len(data))
		refs = append(refs, chunk.Ref{ID: chunk.Sum(data[:n]), Size: uint32(n)})
		data = data[n:]
	}
	return refs
}

// New makes a version of any kind.
func New(tb testing.TB, key ed25519.PrivateKey, kind manifest.Kind, name string, number uint64, files []File, chunkSize int) *Version {
	tb.Helper()
	v := &Version{Files: files, Chunks: make(map[chunk.ID][]byte)}
	m := &manifest.Manifest{Kind: kind, Name: name, Number: number, Arch: "amd64", Release: "6.1.0-test", Created: time.Unix(1_800_000_000, 0).UTC()}
	if kind == manifest.Bootloaders {
		m.Arch, m.Release = "", ""
	}
	for _, f := range files {
		a := manifest.Artifact{Name: f.Name, Path: f.Path, Size: uint64(len(f.Data)), SHA256: sha256.Sum256(f.Data)}
		data := f.Data
		for _, ref := range cut(tb, f, chunkSize) {
			a.Chunks = append(a.Chunks, ref)
			v.Chunks[ref.ID] = data[:ref.Size]
			data = data[ref.Size:]
		}
		m.Artifacts = append(m.Artifacts, a)
		if kind == manifest.Image && f.Name == manifest.Squashfs {
			v.Disk, m.Digest = disk(tb, f.Data)
		}
	}
	signed, err := manifest.Sign(m, key)
	if err != nil {
		tb.Fatal(err)
	}
	v.Manifest, v.Signed, v.ID = m, signed, m.ID()
	return v
}

// disk makes the bytes of an export and their root.
func disk(tb testing.TB, squashfs []byte) ([]byte, [32]byte) {
	tb.Helper()
	padded := verity.PaddedSize(uint64(len(squashfs)))
	b := make(buffer, padded+verity.TreeSize(padded))
	copy(b, squashfs)
	root, err := verity.Compute(tb.Context(), bytes.NewReader(b[:padded]), padded, b[padded:], 1)
	if err != nil {
		tb.Fatal(err)
	}
	return b, root
}

type buffer []byte

func (b buffer) WriteAt(p []byte, off int64) (int, error) { return copy(b[off:], p), nil }

// Resign signs a changed copy of the manifest and takes over its ID: a manifest that is signed but lies.
func (v *Version) Resign(tb testing.TB, key ed25519.PrivateKey, change func(*manifest.Manifest)) *Version {
	tb.Helper()
	m := *v.Manifest
	m.Artifacts = append([]manifest.Artifact(nil), m.Artifacts...)
	change(&m)
	signed, err := manifest.Sign(&m, key)
	if err != nil {
		tb.Fatal(err)
	}
	out := *v
	out.Manifest, out.Signed, out.ID = &m, signed, m.ID()
	return &out
}
