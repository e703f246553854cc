package chunksync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/squashfs"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore"
)

// openLazy returns the version's Incoming for a delta, with the files other than the squashfs filled as far as versions here have them. Lists
// are fetched only for files that must come as chunks.
func (s *Syncer) openLazy(ctx context.Context, e *entry, v config.Version, d *config.Delta) (*imagestore.Incoming, error) {
	signed, _, err := s.cfg.Store.Pending(v.ID)
	if err != nil {
		if signed, err = s.cfg.Manifests.Manifest(ctx, v.ID); err != nil {
			return nil, fmt.Errorf("%w: %w", errManifest, err)
		}
	}
	in, err := s.beginLazy(ctx, signed, v.ID, d)
	if err != nil {
		return nil, err
	}
	var lists []string
	for _, a := range in.Lacks() {
		if a.Path == "" || e.byPath {
			lists = append(lists, a.Name)
		}
	}
	if lists == nil {
		return in, nil
	}
	_ = in.Close() // it is opened again with more lists
	if signed, err = s.cfg.Manifests.Manifest(ctx, v.ID, lists...); err != nil {
		return nil, fmt.Errorf("%w: %w", errManifest, err)
	}
	return s.beginLazy(ctx, signed, v.ID, d)
}

func (s *Syncer) beginLazy(ctx context.Context, signed []byte, id manifest.ID, d *config.Delta) (*imagestore.Incoming, error) {
	in, err := s.cfg.Store.Begin(signed, id, d)
	if err != nil {
		return nil, err
	}
	if err := in.Scan(ctx); err != nil {
		_ = in.Close()
		return nil, err
	}
	for _, a := range in.Lacks() {
		if err := s.copyFile(ctx, in, &a); err != nil {
			_ = in.Close()
			return nil, err
		}
	}
	return in, nil
}

// copyFile copies a file from a version that has the same.
func (s *Syncer) copyFile(ctx context.Context, in *imagestore.Incoming, a *manifest.Artifact) error {
	for _, donor := range s.cfg.Store.List() {
		has, ok := donor.Manifest.Artifact(a.Name)
		if !donor.Verified || !ok || has.SHA256 != a.SHA256 || has.Size != a.Size {
			continue
		}
		f, err := s.cfg.Store.OpenArtifact(donor.ID, a.Name)
		if err != nil {
			continue // it was withdrawn meanwhile
		}
		err = in.PutFile(ctx, a.Name, f)
		_ = f.Close() // only read
		if !errors.Is(err, imagestore.ErrCorrupt) {
			return err
		}
	}
	return nil
}

// bringFiles gets the artifacts other than the squashfs and lets clients in.
func (s *Syncer) bringFiles(ctx context.Context, e *entry, f *filling) error {
	for _, a := range f.in.Lacks() {
		if err := s.extract(ctx, f, &a); err != nil {
			return s.noPath(ctx, e, err)
		}
	}
	if err := s.bring(ctx, e, f.in, true); err != nil {
		return err
	}
	select {
	case <-f.files:
	default:
		close(f.files)
	}
	s.mu.Lock()
	only := s.policy.CompleteOnly
	s.mu.Unlock()
	if only {
		return nil
	}
	if err := f.in.Serve(ctx, f.r); err != nil {
		return err
	}
	s.set(e, func(e *entry) { f.served, e.state = true, Serving })
	s.notify()
	return nil
}

// extract reads a file out of the squashfs that is being rebuilt.
func (s *Syncer) extract(ctx context.Context, f *filling, a *manifest.Artifact) error {
	image, err := squashfs.Open(arriving{ctx, f}, int64(f.size))
	if err != nil {
		return err
	}
	file, err := image.OpenFile(a.Path)
	if err != nil {
		return err
	}
	return f.in.PutFile(ctx, a.Name, file)
}

// noPath has files fetched as chunks that the squashfs does not hold as the manifest says.
func (s *Syncer) noPath(ctx context.Context, e *entry, err error) error {
	if ctx.Err() != nil || !errors.Is(err, imagestore.ErrCorrupt) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, squashfs.ErrCorrupt) {
		return err
	}
	s.log.Warn("file is not in the squashfs as its manifest says, it will be fetched", "err", err)
	s.drop(e)
	s.set(e, func(e *entry) { e.byPath = true })
	return err
}

// arriving reads a disk that is being rebuilt.
type arriving struct {
	ctx context.Context //nolint:containedctx // io.ReaderAt has no place for it
	f   *filling
}

func (a arriving) ReadAt(p []byte, off int64) (int, error) {
	if err := a.f.r.Wait(a.ctx, off, int64(len(p))); err != nil {
		return 0, err
	}
	return a.f.in.Disk().ReadAt(p, off)
}
