package catalog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// DeltaSource says that a draft's squashfs comes as a delta, whose chunks were uploaded.
type DeltaSource struct {
	Base   [32]byte    // SHA-256 of the squashfs that the delta begins at
	SHA256 [32]byte    // of the delta
	Chunks []chunk.Ref // of the delta
	// Adopt, if not nil, is given the delta after it was applied successfully.
	Adopt func(from, to manifest.ID, delta io.Reader)
}

// maxDeltaChunks bounds an uploaded delta; by size alone it may be as large as an image.
const maxDeltaChunks = 1 << 17

// rebuild makes the draft's squashfs from the base and the delta, cuts it into chunks, stores those that are new and gives the draft its list.
func (c *Catalog) rebuild(ctx context.Context, m *manifest.Manifest, source *DeltaSource) error {
	a, ok := m.Artifact(manifest.Squashfs)
	if !ok || m.Kind != manifest.Image {
		return fleet.Errorf(fleet.ErrInvalid, "a delta for a version that has no root file system")
	}
	base, err := c.bySHA256(ctx, source.Base)
	if err != nil {
		return err
	}
	old, digest, err := c.Open(ctx, base.ID)
	if err != nil {
		return err
	}
	work, err := os.CreateTemp(c.cfg.WorkDir, "image-")
	if err != nil {
		return fmt.Errorf("make room to put the image together: %w", err)
	}
	defer func() {
		_ = work.Close() // of no use from here on
		_ = os.Remove(work.Name())
	}()
	uploaded, err := c.uploaded(source)
	if err != nil {
		return err
	}
	packed := newReader(ctx, c, uploaded, openKeep)
	if err := c.sum(ctx, uploaded); err != nil {
		return err
	}
	err = delta.Apply(ctx, old, packed, work, delta.Options{OldDigest: digest, NewDigest: verity.Digest(m.Digest), TempDir: c.cfg.WorkDir})
	if err != nil {
		return deltaError(base, err)
	}
	if err := c.takeIn(ctx, a, work); err != nil {
		return err
	}
	if source.Adopt != nil {
		source.Adopt(base.ID, m.ID(), io.NewSectionReader(packed, 0, packed.Size()))
	}
	return nil
}

// deltaError tells what is the draft's fault from what is ours.
func deltaError(base fleet.Version, err error) error {
	for _, kind := range []error{delta.ErrFormat, delta.ErrVersion, delta.ErrWrongOld, delta.ErrMismatch, delta.ErrLimit} {
		if errors.Is(err, kind) {
			return fleet.Errorf(fleet.ErrInvalid, "delta from %s: %v", base.Name(), err)
		}
	}
	return fmt.Errorf("apply delta from %s: %w", base.Name(), err)
}

// bySHA256 finds a version by the SHA-256 of its squashfs.
func (c *Catalog) bySHA256(ctx context.Context, sum [32]byte) (fleet.Version, error) {
	var found *fleet.Version
	err := c.cfg.Store.View(ctx, func(tx *store.Tx) error {
		versions, err := tx.Versions().List("")
		for i := range versions {
			if versions[i].SHA256 == sum {
				found = &versions[i]
			}
		}
		return err
	})
	if err != nil {
		return fleet.Version{}, err
	}
	if found == nil {
		return fleet.Version{}, fleet.Errorf(fleet.ErrNotFound, "the delta begins at a squashfs (SHA-256 %x) that is no version here; publish without a base", sum)
	}
	return *found, nil
}

// uploaded describes the delta as if it were an artifact, and makes sure that its chunks stay for a while.
func (c *Catalog) uploaded(source *DeltaSource) (*manifest.Artifact, error) {
	if len(source.Chunks) == 0 || len(source.Chunks) > maxDeltaChunks {
		return nil, fleet.Errorf(fleet.ErrInvalid, "a delta of %d chunks: want 1 to %d", len(source.Chunks), maxDeltaChunks)
	}
	a := &manifest.Artifact{Name: "delta", SHA256: source.SHA256, Chunks: source.Chunks}
	for _, ref := range source.Chunks {
		if ref.Size == 0 || ref.Size > chunk.MaxSize {
			return nil, fleet.Errorf(fleet.ErrInvalid, "a delta with a chunk of %d bytes: want 1 to %d", ref.Size, chunk.MaxSize)
		}
		a.Size += uint64(ref.Size)
	}
	return a, nil
}

// sum checks that the chunks are there and make the delta.
func (c *Catalog) sum(ctx context.Context, a *manifest.Artifact) error {
	if err := c.demand(ctx, &manifest.Manifest{Artifacts: []manifest.Artifact{*a}}); err != nil {
		return err
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(newReader(ctx, c, a, 1), 0, int64(a.Size))); err != nil {
		return fmt.Errorf("read the delta: %w", err)
	}
	if [32]byte(h.Sum(nil)) != a.SHA256 {
		return fleet.Errorf(fleet.ErrInvalid, "the delta's chunks do not make the delta that was announced (SHA-256)")
	}
	return nil
}

// takeIn cuts the finished squashfs, stores the chunks that are new and lists them in the artifact.
func (c *Catalog) takeIn(ctx context.Context, a *manifest.Artifact, work *os.File) error {
	stat, err := work.Stat()
	if err != nil {
		return err
	}
	if uint64(stat.Size()) != a.Size {
		return fleet.Errorf(fleet.ErrInvalid, "the delta makes a file of %d bytes, the draft says %d", stat.Size(), a.Size)
	}
	refs, err := chunk.CutSquashfs(ctx, work, stat.Size(), nil)
	if err != nil {
		return fmt.Errorf("cut the image: %w", err)
	}
	var at int64
	buf := make([]byte, chunk.MaxSize)
	for rest := refs; len(rest) > 0; {
		n := min(len(rest), 1024)
		if err := c.putMissing(ctx, work, at, rest[:n], buf); err != nil {
			return err
		}
		at += chunk.TotalSize(rest[:n])
		rest = rest[n:]
	}
	if err := a.SetList(refs); err != nil {
		return fmt.Errorf("draft: %w", err)
	}
	return nil
}

func (c *Catalog) putMissing(ctx context.Context, work io.ReaderAt, at int64, refs []chunk.Ref, buf []byte) error {
	ids := make([]chunk.ID, len(refs))
	for i, ref := range refs {
		ids[i] = ref.ID
	}
	missing, err := c.FindMissing(ctx, ids)
	if err != nil {
		return err
	}
	lacks := make(map[chunk.ID]bool, len(missing))
	for _, id := range missing {
		lacks[id] = true
	}
	for _, ref := range refs {
		if lacks[ref.ID] {
			if _, err := work.ReadAt(buf[:ref.Size], at); err != nil {
				return fmt.Errorf("read the image back: %w", err)
			}
			if err := c.PutChunk(ctx, ref.ID, buf[:ref.Size]); err != nil {
				return err
			}
			delete(lacks, ref.ID)
		}
		at += int64(ref.Size)
	}
	return nil
}
