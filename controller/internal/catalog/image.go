package catalog

import (
	"context"
	"fmt"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// openKeep is how many chunks an open image keeps: a delta reads two images at several places at once.
const openKeep = 64

// Open returns the squashfs of a version, readable until ctx ends, and the digest of its disk. fleet.ErrNotFound if there is no such version,
// fleet.ErrInvalid if it is no image.
func (c *Catalog) Open(ctx context.Context, id manifest.ID) (delta.Source, verity.Digest, error) {
	signed, err := c.ManifestByID(ctx, id)
	if err != nil {
		return nil, verity.Digest{}, err
	}
	m, err := c.open(signed)
	if err != nil {
		return nil, verity.Digest{}, fmt.Errorf("manifest of version %s: %w", id, err)
	}
	a, ok := m.Artifact(manifest.Squashfs)
	if !ok {
		return nil, verity.Digest{}, fleet.Errorf(fleet.ErrInvalid, "version %d of %s holds no root file system", m.Number, m.Name)
	}
	return newReader(ctx, c, a, openKeep), verity.Digest(m.Digest), nil
}

// MissingBytes is how many bytes of chunks a satellite that has some versions lacks for another one: of its root file system, and of all of it.
func (c *Catalog) MissingBytes(ctx context.Context, id manifest.ID, have []manifest.ID) (missing, total uint64, err error) {
	want, err := c.Index(ctx, id)
	if err != nil {
		return 0, 0, err
	}
	var present []Index
	for _, h := range have {
		if index, err := c.Index(ctx, h); err == nil { // a version that was deleted here helps nothing
			present = append(present, index)
		}
	}
	for chunkID, size := range want {
		total += uint64(size)
		held := false
		for _, index := range present {
			if _, held = index[chunkID]; held {
				break
			}
		}
		if !held {
			missing += uint64(size)
		}
	}
	return missing, total, nil
}
