package imagestore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// OpenArtifact opens an artifact of a verified version, or of one that is served while it arrives: a kernel, an initrd, a boot loader. With "squashfs" the
// reader ends before padding and tree, and the version must be verified. ErrUnknown if there is none. The caller closes the file.
func (s *Store) OpenArtifact(id manifest.ID, name string) (*Artifact, error) {
	info, ok := s.Find(id)
	if !ok || !info.Verified && (!info.Serving || name == manifest.Squashfs) {
		return nil, fmt.Errorf("version %s: %w", id, ErrUnknown)
	}
	a, ok := info.Manifest.Artifact(name)
	if !ok {
		return nil, fmt.Errorf("file %q of %s version %d: %w", name, info.Manifest.Name, info.Manifest.Number, ErrUnknown)
	}
	f, err := s.openFile(id, fileName(a))
	if err != nil {
		return nil, fmt.Errorf("open file %q of version %s: %w", name, id, err)
	}
	return &Artifact{SectionReader: io.NewSectionReader(f, 0, int64(a.Size)), File: f, SHA256: a.SHA256, Created: info.Manifest.Created}, nil
}

// openFile opens a file of a version for reading, where the version lies now: it may be on its way from incoming to images.
func (s *Store) openFile(id manifest.ID, name string) (*os.File, error) {
	for {
		place := s.place(id)
		f, err := s.root.Open(filepath.Join(place, id.String(), name))
		if err == nil || !errors.Is(err, os.ErrNotExist) || place == s.place(id) {
			return f, err
		}
	}
}

func (s *Store) place(id manifest.ID) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.versions[id]; ok {
		return v.place
	}
	return imagesName
}

// Artifact is an open artifact. Read it through the SectionReader, which knows its size.
type Artifact struct {
	*io.SectionReader
	File    *os.File
	SHA256  [32]byte
	Created time.Time // of the version
}

// Close closes the file.
func (a *Artifact) Close() error { return a.File.Close() }
