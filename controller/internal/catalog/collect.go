package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunkstore"
)

// DeleteVersion removes a version that no channel and no client needs, and returns how many bytes of chunks no other version needs; the collector
// removes them when their grace time is over.
func (c *Catalog) DeleteVersion(ctx context.Context, actor, image string, number uint64) (freed uint64, err error) {
	change := &store.Change{Actor: actor, Action: "version.delete", Object: fleet.VersionName(image, number)}
	return c.remove(ctx, change, func(tx *store.Tx) ([]fleet.Version, error) {
		v, err := tx.Version(image, number)
		if err != nil {
			return nil, err
		}
		if err := unpinned(tx, v); err != nil {
			return nil, err
		}
		i, err := tx.Images().Get(image)
		if err != nil {
			return nil, err
		}
		if err := i.Forget(number); err != nil {
			return nil, err
		}
		return []fleet.Version{v}, tx.Images().Put(image, i)
	})
}

// DeleteImage removes an image with all its versions, unless a site refers to it. The result is that of DeleteVersion.
func (c *Catalog) DeleteImage(ctx context.Context, actor, image string) (freed uint64, err error) {
	change := &store.Change{Actor: actor, Action: "image.delete", Object: image}
	return c.remove(ctx, change, func(tx *store.Tx) ([]fleet.Version, error) {
		if _, err := tx.Images().Get(image); err != nil {
			return nil, err
		}
		if err := unused(tx, image); err != nil {
			return nil, err
		}
		versions, err := tx.VersionsOf(image)
		if err != nil {
			return nil, err
		}
		return versions, tx.Images().Delete(image)
	})
}

// unpinned refuses a version that a client is pinned to.
func unpinned(tx *store.Tx, v fleet.Version) error {
	clients, err := tx.Clients("")
	if err != nil {
		return err
	}
	for _, client := range clients {
		if client.Boot == v.Name() {
			return fleet.Errorf(fleet.ErrInUse, "client %s of site %s is pinned to %s", client.MAC, client.Site, v.Name())
		}
	}
	return nil
}

// unused refuses an image that a site refers to.
func unused(tx *store.Tx, image string) error {
	sites, err := tx.Sites().List("")
	if err != nil {
		return err
	}
	for _, site := range sites {
		if image == fleet.BootloadersImage {
			return fleet.Errorf(fleet.ErrInUse, "site %s needs the image %s, as all sites do", site.Name, image)
		}
		view, err := tx.SiteView(site.Name)
		if err != nil {
			return err
		}
		for _, ref := range view.References() {
			if ref.Image == image {
				return fleet.Errorf(fleet.ErrInUse, "site %s uses %s; take it out there first (site, subnets, clients)", site.Name, ref)
			}
		}
	}
	return nil
}

// remove deletes the versions that pick names and sums up what only they needed.
func (c *Catalog) remove(ctx context.Context, change *store.Change, pick func(*store.Tx) ([]fleet.Version, error)) (uint64, error) {
	var gone []fleet.Version
	only := make(map[chunk.ID]uint32)
	err := c.cfg.Store.Update(ctx, change, func(tx *store.Tx) error {
		versions, err := pick(tx)
		if err != nil {
			return err
		}
		gone = versions
		for _, v := range versions {
			if err := c.eachChunk(tx, v, func(ref chunk.Ref) { only[ref.ID] = ref.Size }); err != nil {
				return err
			}
			if err := tx.DeleteVersion(v); err != nil {
				return err
			}
		}
		left, err := tx.Versions().List("")
		if err != nil {
			return err
		}
		for _, v := range left {
			if err := c.eachChunk(tx, v, func(ref chunk.Ref) { delete(only, ref.ID) }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, v := range gone {
		c.indexes.drop(v.ID)
	}
	var freed uint64
	for _, size := range only {
		freed += uint64(size)
	}
	select {
	case c.collect <- struct{}{}:
	default:
	}
	return freed, nil
}

func (c *Catalog) eachChunk(tx *store.Tx, v fleet.Version, fn func(chunk.Ref)) error {
	signed, err := tx.Manifest(v.Image, v.Number)
	if err != nil {
		return err
	}
	m, err := c.open(signed)
	if err != nil {
		return fmt.Errorf("manifest of %s: %w", v.Name(), err)
	}
	for _, a := range m.Artifacts {
		for _, ref := range a.Chunks {
			fn(ref)
		}
	}
	return nil
}

// Run collects from time to time, and soon after a version was deleted, until ctx ends.
func (c *Catalog) Run(ctx context.Context) error {
	ticker := time.NewTicker(c.cfg.CollectInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-c.collect:
		}
		if _, err := c.Collect(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Log.Error("chunks that no version needs could not be removed", "err", err)
		}
	}
}

// Collect removes the chunks that no version needs and that nobody has put or asked for within the grace time. It returns their bytes.
func (c *Catalog) Collect(ctx context.Context) (uint64, error) {
	cutoff := c.cfg.Now().Add(-c.cfg.Grace)
	needed, err := c.needed(ctx)
	if err != nil {
		return 0, err
	}
	// A draft whose publication begins from here on is not in needed. Its chunks are safe none the less: Publish marks them as used now.
	var freed uint64
	var batch []chunk.ID
	flush := func() error {
		n, err := c.discard(ctx, batch, cutoff)
		freed += n
		batch = batch[:0]
		return err
	}
	err = c.cfg.Chunks.Walk(ctx, func(info chunkstore.Info) error {
		if needed[info.ID] || !info.Used.Before(cutoff) {
			return nil
		}
		batch = append(batch, info.ID)
		if len(batch) < 64 {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if freed > 0 {
		c.cfg.Log.Info("chunks that no version needs removed", "bytes", freed)
	}
	return freed, err
}

func (c *Catalog) needed(ctx context.Context) (map[chunk.ID]bool, error) {
	needed := make(map[chunk.ID]bool)
	c.mu.Lock() // first the drafts, then the versions: a draft that becomes a version meanwhile is seen twice rather than never
	for m := range c.underway {
		for _, a := range m.Artifacts {
			for _, ref := range a.Chunks {
				needed[ref.ID] = true
			}
		}
	}
	c.mu.Unlock()
	err := c.cfg.Store.View(ctx, func(tx *store.Tx) error {
		versions, err := tx.Versions().List("")
		if err != nil {
			return err
		}
		for _, v := range versions {
			if err := c.eachChunk(tx, v, func(ref chunk.Ref) { needed[ref.ID] = true }); err != nil {
				return err
			}
		}
		return nil
	})
	return needed, err
}

// discard removes those of ids that are still unused since cutoff.
func (c *Catalog) discard(ctx context.Context, ids []chunk.ID, cutoff time.Time) (uint64, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	if err := c.gate.Acquire(ctx, gateWhole); err != nil {
		return 0, err
	}
	defer c.gate.Release(gateWhole)
	var freed uint64
	for _, id := range ids {
		info, err := c.cfg.Chunks.Stat(ctx, id)
		if errors.Is(err, chunkstore.ErrNotFound) || err == nil && !info.Used.Before(cutoff) {
			continue
		}
		if err == nil {
			err = c.cfg.Chunks.Delete(ctx, id)
		}
		if err != nil {
			return freed, err
		}
		freed += uint64(info.SizeBytes)
		c.metrics.collected.Inc()
		c.metrics.collectedBytes.Add(float64(info.SizeBytes))
	}
	return freed, nil
}
