// Package manifest describes an image version: from which chunks each of its files is made and how to prove it. It holds the codec
// (FORMAT.md), the version ID and the controller's signature. Controller, satellite and ltspctl import it; it knows no disk, no network.
package manifest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
)

// Kind says what a version is for.
type Kind string

// Kinds of versions.
const (
	Image       Kind = "image"       // a root file system that clients boot
	Bootloaders Kind = "bootloaders" // files that firmware loads: iPXE
)

// Names of the artifacts of a version of kind Image.
const (
	Squashfs     = "squashfs"
	Kernel       = "kernel"
	InitrdFull   = "initrd-full"
	InitrdSchool = "initrd-school"
)

// Limits of a manifest. Decode refuses what exceeds them.
const (
	MaxArtifacts    = 64
	MaxChunks       = 8 << 20   // of all artifacts together
	MaxText         = 1 << 10   // bytes of each text field
	MaxEncodedBytes = 512 << 20 // of the whole encoding
)

// Errors that can be tested for.
var (
	ErrFormat    = errors.New("malformed manifest")
	ErrVersion   = errors.New("manifest of an unknown format version")
	ErrSignature = errors.New("manifest signature does not match")
)

// ID names what a version consists of.
type ID [sha256.Size]byte

// String returns 64 lower-case hex digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero tells whether the ID was never set.
func (id ID) IsZero() bool { return id == ID{} }

// ParseID reads 64 hex digits.
func ParseID(s string) (ID, error) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != sha256.Size {
		return ID{}, fmt.Errorf("version ID %q: want 64 hex digits", s)
	}
	return ID(raw), nil
}

// IDFromBytes reads the 32 bytes of an ID.
func IDFromBytes(b []byte) (ID, error) {
	if len(b) != sha256.Size {
		return ID{}, fmt.Errorf("version ID of %d bytes: want %d", len(b), sha256.Size)
	}
	return ID(b), nil
}

// Manifest describes one version. A draft is a manifest whose Number is 0; the controller numbers and signs it.
type Manifest struct {
	Kind      Kind
	Name      string // of the image
	Number    uint64
	Created   time.Time // UTC, whole seconds
	Arch      string    // GOARCH notation: amd64, arm64; empty for boot loaders
	Release   string    // kernel release (uname -r); empty for boot loaders
	OS        string    // for people: PRETTY_NAME of os-release
	Note      string
	Source    string
	Publisher string
	Digest    [32]byte // dm-verity root hash of the disk; zero for boot loaders
	Artifacts []Artifact
}

// Artifact is one file of a version: the bytes of its chunks, one after the other.
type Artifact struct {
	Name   string
	Path   string // where the same file lies in the image's root file system, such as "boot/vmlinuz"; empty if nowhere
	Size   uint64 // bytes; the sum of the chunks' sizes
	SHA256 [32]byte
	// Chunks is the list of chunks; nil if the manifest came without it, see Listed.
	Chunks []chunk.Ref

	listed List // as decoded
}

// List names a chunk list without holding it: a manifest's signature covers this, so that the lists themselves can travel when they are needed.
type List struct {
	Count  uint32
	SHA256 [32]byte // over the encoded references, 36 bytes each; zero if there are none
}

// List names the artifact's chunk list.
func (a *Artifact) List() List {
	if len(a.Chunks) == 0 {
		return a.listed
	}
	return List{Count: uint32(len(a.Chunks)), SHA256: sha256.Sum256(appendRefs(nil, a.Chunks))}
}

// Listed tells whether the chunk list is here, if there is one at all.
func (a *Artifact) Listed() bool { return len(a.Chunks) > 0 || a.listed.Count == 0 }

// SetList gives the artifact of a decoded manifest its chunk list. A list other than the one that the manifest names is an ErrFormat.
func (a *Artifact) SetList(refs []chunk.Ref) error {
	if given := (&Artifact{Chunks: refs}); given.List() != a.listed {
		return fmt.Errorf("%w: artifact %q: this list of %d chunks is not the one that the manifest names", ErrFormat, a.Name, len(refs))
	}
	a.Chunks = refs
	return nil
}

// Listed tells whether all artifacts have their chunk lists.
func (m *Manifest) Listed() bool {
	for i := range m.Artifacts {
		if !m.Artifacts[i].Listed() {
			return false
		}
	}
	return true
}

// Artifact returns the artifact of that name, or false.
func (m *Manifest) Artifact(name string) (*Artifact, bool) {
	for i := range m.Artifacts {
		if m.Artifacts[i].Name == name {
			return &m.Artifacts[i], true
		}
	}
	return nil, false
}

// TotalBytes is the size of all artifacts together.
func (m *Manifest) TotalBytes() uint64 {
	var n uint64
	for _, a := range m.Artifacts {
		n += a.Size
	}
	return n
}

// ID computes the version ID: SHA-256 over kind, name, architecture, digest and artifacts, without number, time and remarks
// and without the chunks (how a file is cut changes nothing in what it is). FORMAT.md gives the bytes.
func (m *Manifest) ID() ID {
	h := sha256.New()
	text := func(s string) {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	text("ltsp-version-1")
	text(string(m.Kind))
	text(m.Name)
	text(m.Arch)
	h.Write(m.Digest[:])
	for _, a := range m.Artifacts {
		text(a.Name)
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], a.Size)
		h.Write(n[:])
		h.Write(a.SHA256[:])
	}
	return ID(h.Sum(nil))
}

// ExportName is the NBD export under which a version's disk is served.
func (m *Manifest) ExportName() string { return ExportName(m.Name, m.Digest) }

// ExportName joins an image name and a digest.
func ExportName(name string, digest [32]byte) string {
	return name + "@" + hex.EncodeToString(digest[:])
}

var (
	nameRule     = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)
	artifactRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

// CheckName tells whether s can name an image or a channel: 1 to 63 of a-z, 0-9, ".", "_" and "-", beginning and ending with a letter or digit.
func CheckName(s string) error {
	if !nameRule.MatchString(s) {
		return fmt.Errorf("name %q: want 1 to 63 of a-z, 0-9, '.', '_' and '-', with a letter or digit at both ends", s)
	}
	return nil
}

// Validate reports the first rule that the manifest breaks, as an ErrFormat.
func (m *Manifest) Validate() error {
	if err := m.validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return nil
}

func (m *Manifest) validate() error {
	if err := CheckName(m.Name); err != nil {
		return err
	}
	for _, s := range []string{m.Arch, m.Release, m.OS, m.Note, m.Source, m.Publisher} {
		if len(s) > MaxText {
			return fmt.Errorf("text field of %d bytes, at most %d allowed", len(s), MaxText)
		}
	}
	if n := len(m.Artifacts); n == 0 || n > MaxArtifacts {
		return fmt.Errorf("%d artifacts, want 1 to %d", n, MaxArtifacts)
	}
	seen := make(map[string]bool, len(m.Artifacts))
	for i := range m.Artifacts {
		a := &m.Artifacts[i]
		if seen[a.Name] {
			return fmt.Errorf("artifact %q twice", a.Name)
		}
		seen[a.Name] = true
		if err := a.validate(); err != nil {
			return fmt.Errorf("artifact %q: %w", a.Name, err)
		}
	}
	return m.validateKind(seen)
}

func (m *Manifest) validateKind(has map[string]bool) error {
	switch m.Kind {
	case Bootloaders:
		if m.Digest != [32]byte{} {
			return errors.New("boot loaders with a disk digest")
		}
		return nil
	case Image:
		if m.Digest == [32]byte{} {
			return errors.New("image without a digest")
		}
		for _, name := range []string{Squashfs, Kernel, InitrdFull} {
			if !has[name] {
				return fmt.Errorf("image without artifact %q", name)
			}
		}
		return nil
	default:
		return fmt.Errorf("unknown kind %q", m.Kind)
	}
}

func (a *Artifact) validate() error {
	if !artifactRule.MatchString(a.Name) {
		return errors.New("name is not allowed")
	}
	if len(a.Path) > MaxText {
		return fmt.Errorf("path of %d bytes, at most %d allowed", len(a.Path), MaxText)
	}
	if len(a.Chunks) == 0 && a.listed.Count == 0 && a.listed.SHA256 != [32]byte{} {
		return errors.New("hash of a chunk list that is empty")
	}
	if !a.Listed() {
		return nil
	}
	var sum uint64
	for _, c := range a.Chunks {
		if c.Size == 0 || c.Size > chunk.MaxSize {
			return fmt.Errorf("chunk of %d bytes, want 1 to %d", c.Size, chunk.MaxSize)
		}
		sum += uint64(c.Size)
	}
	if sum != a.Size {
		return fmt.Errorf("chunks hold %d bytes, size says %d", sum, a.Size)
	}
	return nil
}

// MarshalText implements encoding.TextMarshaler with the form of String.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler with the form of ParseID.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	*id = parsed
	return err
}
