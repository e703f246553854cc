package state

import (
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// Served returns which version clients get for each IMAGE:CHANNEL: the last one that the channel pointed to and that was
// complete. While a newer one is still on its way, clients boot this.
func (s *Store) Served() (map[string]manifest.ID, error) {
	out := make(map[string]manifest.ID)
	err := s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(servedBucket)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			id, err := manifest.IDFromBytes(v)
			if err != nil {
				return nil // a damaged entry costs one channel's fallback, not the start
			}
			out[string(k)] = id
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read served versions: %w", err)
	}
	return out, nil
}

// SetServed replaces the whole table of Served.
func (s *Store) SetServed(table map[string]manifest.ID) error {
	return s.update("store served versions", func(tx *bbolt.Tx) error {
		if err := tx.DeleteBucket(servedBucket); err != nil {
			return err
		}
		b, err := tx.CreateBucket(servedBucket)
		if err != nil {
			return err
		}
		for k, id := range table {
			if err := b.Put([]byte(k), id[:]); err != nil {
				return err
			}
		}
		return nil
	})
}
