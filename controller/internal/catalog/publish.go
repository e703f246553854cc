package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// Publication is what Publish made or found.
type Publication struct {
	Version fleet.Version
	// Created is false if a version that consists of just that was there already.
	Created bool
}

// Publish makes a version of a draft: an encoded unsigned manifest, whose number, time and publisher do not count. All chunks must be there.
// It reads every byte back and blocks until that is done. If the image has a version that consists of the same, that one is returned. In
// both cases the channels point to it afterwards. Numbering, signing, storing and the channels are one transaction.
//
// Errors: manifest.ErrFormat, manifest.ErrVersion and fleet.ErrInvalid for a draft that is no good, *MissingError, *chunkstore.CorruptError.
//
// With source not nil the squashfs, whose chunk list the draft then need not have, is made by a delta from a version that is here.
func (c *Catalog) Publish(ctx context.Context, actor, publisher string, draft []byte, channels []string, source *DeltaSource) (Publication, error) {
	start := c.cfg.Now()
	p, err := c.publish(ctx, actor, publisher, draft, channels, source)
	switch {
	case err == nil && p.Created:
		c.metrics.publishes.WithLabelValues("created").Inc()
		c.metrics.publishSeconds.Observe(c.cfg.Now().Sub(start).Seconds())
		c.cfg.Log.Info("version published", "image", p.Version.Image, "version", p.Version.Number, "bytes", p.Version.TotalBytes, "dur", c.cfg.Now().Sub(start))
	case err == nil:
		c.metrics.publishes.WithLabelValues("same").Inc()
	case errors.Is(err, manifest.ErrFormat), errors.Is(err, manifest.ErrVersion), errors.Is(err, fleet.ErrInvalid):
		c.metrics.publishes.WithLabelValues("refused").Inc()
	default:
		c.metrics.publishes.WithLabelValues("failed").Inc()
	}
	return p, err
}

func (c *Catalog) publish(ctx context.Context, actor, publisher string, draft []byte, channels []string, source *DeltaSource) (Publication, error) {
	m, err := manifest.Decode(draft)
	if err != nil {
		return Publication{}, fmt.Errorf("draft: %w", err)
	}
	if err := fleet.CheckChannels(channels); err != nil {
		return Publication{}, err
	}
	known, err := c.precheck(ctx, m)
	if err != nil {
		return Publication{}, err
	}
	if known {
		p, err := c.enter(ctx, actor, publisher, m, channels, false)
		if !errors.Is(err, errUnproven) { // it was deleted a moment ago
			return p, err
		}
	}
	if err := c.publishes.Acquire(ctx, 1); err != nil {
		return Publication{}, err
	}
	defer c.publishes.Release(1)
	if source != nil {
		if err := c.rebuild(ctx, m, source); err != nil {
			return Publication{}, err
		}
	}
	if err := listed(m); err != nil {
		return Publication{}, err
	}
	defer c.protect(m)()
	if err := c.prove(ctx, m); err != nil {
		return Publication{}, err
	}
	return c.enter(ctx, actor, publisher, m, channels, true)
}

// listed refuses a draft without its chunk lists.
func listed(m *manifest.Manifest) error {
	for i := range m.Artifacts {
		if a := &m.Artifacts[i]; !a.Listed() {
			return fleet.Errorf(fleet.ErrInvalid, "the draft has no chunk list of its artifact %s", a.Name)
		}
	}
	return nil
}

// protect keeps the collector away from a draft's chunks until done is called, however long its proof takes.
func (c *Catalog) protect(m *manifest.Manifest) (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.underway[m] = true
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.underway, m)
	}
}

// errUnproven keeps a version out whose bytes were not read back.
var errUnproven = errors.New("version is not proven")

// precheck refuses at once what the transaction would refuse, and tells whether the version is there already.
func (c *Catalog) precheck(ctx context.Context, m *manifest.Manifest) (known bool, err error) {
	err = c.cfg.Store.View(ctx, func(tx *store.Tx) error {
		image, ok, err := tx.Images().Find(m.Name)
		if err != nil {
			return err
		}
		var present *fleet.Image
		if ok {
			present = &image
		}
		if err := fleet.CheckDraft(m, present); err != nil {
			return err
		}
		_, known, err = tx.VersionByID(m.ID())
		return err
	})
	return known, err
}

// prove makes sure that the chunks are here, are what the draft says, and will be after a loss of power.
func (c *Catalog) prove(ctx context.Context, m *manifest.Manifest) error {
	if err := c.demand(ctx, m); err != nil {
		return err
	}
	for i := range m.Artifacts {
		if err := c.verify(ctx, m, &m.Artifacts[i]); err != nil {
			return err
		}
	}
	return c.cfg.Chunks.Sync(ctx)
}

// demand checks that all chunks are there, which also keeps a collection that has begun before away from them.
func (c *Catalog) demand(ctx context.Context, m *manifest.Manifest) error {
	var missing *MissingError
	for _, a := range m.Artifacts {
		for refs := a.Chunks; len(refs) > 0; {
			n := min(len(refs), 4096)
			ids := make([]chunk.ID, n)
			for i, ref := range refs[:n] {
				ids[i] = ref.ID
			}
			lack, err := c.FindMissing(ctx, ids)
			if err != nil {
				return err
			}
			if len(lack) > 0 && missing == nil {
				missing = &MissingError{First: lack[0]}
			}
			if missing != nil {
				missing.Count += len(lack)
			}
			refs = refs[n:]
		}
	}
	if missing != nil {
		return missing
	}
	return nil
}

// enter is the transaction: the version that is there already, or a new one.
func (c *Catalog) enter(ctx context.Context, actor, publisher string, m *manifest.Manifest, channels []string, proven bool) (Publication, error) {
	var p Publication
	change := &store.Change{Actor: actor, Action: "image.publish"}
	err := c.cfg.Store.Update(ctx, change, func(tx *store.Tx) error {
		p = Publication{}
		now := c.cfg.Now().UTC()
		image, ok, err := tx.Images().Find(m.Name)
		if err != nil {
			return err
		}
		if !ok {
			image = fleet.Image{Name: m.Name, Kind: m.Kind, Created: now}
		}
		if err := fleet.CheckDraft(m, &image); err != nil {
			return err
		}
		if p.Version, ok, err = tx.VersionByID(m.ID()); err != nil {
			return err
		}
		if !ok && !proven {
			return errUnproven
		}
		if !ok {
			p.Created = true
			if p.Version, err = c.add(tx, &image, m, publisher, now); err != nil {
				return err
			}
		}
		change.Object = p.Version.Name()
		for _, channel := range channels {
			if _, err := image.Point(channel, p.Version.Number, now); err != nil {
				return err
			}
		}
		return tx.Images().Put(image.Name, image)
	})
	return p, err
}

// add numbers, signs and stores a version.
func (c *Catalog) add(tx *store.Tx, image *fleet.Image, draft *manifest.Manifest, publisher string, now time.Time) (fleet.Version, error) {
	m := *draft
	m.Number = image.LastNumber + 1
	m.Created = now.Truncate(time.Second)
	m.Publisher = publisher
	signed, err := manifest.Sign(&m, c.cfg.SigningKey)
	if err != nil {
		return fleet.Version{}, fmt.Errorf("sign version %d of %s: %w", m.Number, m.Name, err)
	}
	image.LastNumber = m.Number
	v := fleet.VersionOf(&m)
	return v, tx.PutVersion(v, signed)
}
