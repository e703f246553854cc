package imagestore

import (
	"fmt"
	"os"
	"path/filepath"
)

// Handle is an open export: squashfs, padding and tree of one version. While it is open the version is not removed. Close it once.
type Handle struct {
	store *Store
	v     *version
	file  *os.File
	size  int64
}

// OpenExport opens the disk of a verified version by its export name, IMAGE@DIGEST. ErrUnknown if there is none.
func (s *Store) OpenExport(name string) (*Handle, error) {
	s.mu.Lock()
	v := s.byExportLocked(name)
	if v == nil {
		s.mu.Unlock()
		return nil, fmt.Errorf("export %q: %w", name, ErrUnknown)
	}
	v.refs++
	s.handles++
	s.mu.Unlock()
	f, err := s.images.Open(filepath.Join(v.info.ID.String(), diskFile))
	if err != nil {
		s.release(v)
		return nil, fmt.Errorf("open export %q: %w", name, err)
	}
	return &Handle{store: s, v: v, file: f, size: int64(v.info.DiskBytes)}, nil
}

// byExportLocked finds a verified version; of several with one digest any will do, their disks are equal.
func (s *Store) byExportLocked(name string) *version {
	for _, v := range s.versions {
		if v.verified && v.info.DiskBytes > 0 && v.info.Manifest.ExportName() == name {
			return v
		}
	}
	return nil
}

// Version is the version that is open.
func (h *Handle) Version() Info { return h.v.info }

// Size is the size of the export in bytes.
func (h *Handle) Size() int64 { return h.size }

// File returns the file; the export is all of it. It belongs to the handle.
func (h *Handle) File() *os.File { return h.file }

// ReadAt reads from the export.
func (h *Handle) ReadAt(p []byte, off int64) (int, error) { return h.file.ReadAt(p, off) }

// Close ends the use of the version.
func (h *Handle) Close() error {
	err := h.file.Close()
	h.store.release(h.v)
	return err
}

// InUse tells how many handles are open.
func (s *Store) InUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handles
}

func (s *Store) release(v *version) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.refs--
	s.handles--
	v.used = s.cfg.Now()
}

// busyLocked tells whether a version is in use, or was until a moment ago.
func (s *Store) busyLocked(v *version) bool {
	return v.refs > 0 || !v.used.IsZero() && s.cfg.Now().Sub(v.used) < s.cfg.Linger
}
