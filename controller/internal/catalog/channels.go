package catalog

import (
	"context"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
)

// SetChannel points a channel to a version and returns the channel. Pointing it to where it points is no change.
func (c *Catalog) SetChannel(ctx context.Context, actor, image, channel string, number uint64) (fleet.Channel, error) {
	return c.move(ctx, &store.Change{Actor: actor, Action: "image.promote", Object: image + ":" + channel}, image, channel,
		func(tx *store.Tx, i *fleet.Image) error {
			if _, err := tx.Version(image, number); err != nil {
				return err
			}
			_, err := i.Point(channel, number, c.cfg.Now().UTC())
			return err
		})
}

// Rollback points a channel to where it pointed before and returns the channel.
func (c *Catalog) Rollback(ctx context.Context, actor, image, channel string) (fleet.Channel, error) {
	return c.move(ctx, &store.Change{Actor: actor, Action: "image.rollback", Object: image + ":" + channel}, image, channel,
		func(_ *store.Tx, i *fleet.Image) error { return i.Rollback(channel, c.cfg.Now().UTC()) })
}

func (c *Catalog) move(ctx context.Context, change *store.Change, name, channel string, move func(*store.Tx, *fleet.Image) error) (fleet.Channel, error) {
	var moved fleet.Channel
	err := c.cfg.Store.Update(ctx, change, func(tx *store.Tx) error {
		image, err := tx.Images().Get(name)
		if err != nil {
			return err
		}
		if err := move(tx, &image); err != nil {
			return err
		}
		moved = image.Channels[channel]
		return tx.Images().Put(name, image)
	})
	return moved, err
}
