package imagestore

import (
	"context"
	"fmt"
	"os"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// Handle is an open export: squashfs, padding and tree of one version. While it is open the version is not removed. Close it once.
type Handle struct {
	store *Store
	v     *version
	file  *os.File
	size  int64
}

// OpenExport opens the disk of a verified version, or of one that is served while it arrives, by its export name, IMAGE@DIGEST. ErrUnknown if
// there is none.
func (s *Store) OpenExport(name string) (*Handle, error) {
	s.mu.Lock()
	v := s.byExportLocked(name)
	return s.openLocked(v, "export "+name)
}

// OpenDisk opens the disk of a verified version. ErrUnknown if there is none.
func (s *Store) OpenDisk(id manifest.ID) (*Handle, error) {
	s.mu.Lock()
	v := s.versions[id]
	if v != nil && (!v.verified || v.info.DiskBytes == 0) {
		v = nil
	}
	return s.openLocked(v, "disk of version "+id.String())
}

// openLocked opens v's disk and unlocks Store.mu. v may be nil.
func (s *Store) openLocked(v *version, what string) (*Handle, error) {
	if v == nil {
		s.mu.Unlock()
		return nil, fmt.Errorf("%s: %w", what, ErrUnknown)
	}
	v.refs++
	s.handles++
	s.mu.Unlock()
	f, err := s.openFile(v.info.ID, diskFile)
	if err != nil {
		s.release(v)
		return nil, fmt.Errorf("open %s: %w", what, err)
	}
	return &Handle{store: s, v: v, file: f, size: int64(v.info.DiskBytes)}, nil
}

// byExportLocked finds a version that can be opened, a verified one if there is one; of several with one digest any will do, their disks are equal.
func (s *Store) byExportLocked(name string) *version {
	var best *version
	for _, v := range s.versions {
		if v.info.DiskBytes > 0 && v.info.Manifest.ExportName() == name && v.openable() && (best == nil || v.verified) {
			best = v
		}
	}
	return best
}

// Wait returns when n bytes from off can be read. It fails if they do not arrive in time. On a version that is complete it costs next to nothing.
func (h *Handle) Wait(ctx context.Context, off, n int64) error {
	if reads := h.v.reads.Load(); reads != nil {
		return (*reads).Wait(ctx, off, n)
	}
	return nil
}

// Arriving tells whether Wait has a meaning.
func (h *Handle) Arriving() bool { return h.v.reads.Load() != nil }

// Version is the version that is open.
func (h *Handle) Version() Info { return h.v.info }

// Size is the size of the export in bytes.
func (h *Handle) Size() int64 { return h.size }

// File returns the file; the export is all of it. It belongs to the handle.
func (h *Handle) File() *os.File { return h.file }

// ReadAt reads from the export; before that, Wait for it.
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
