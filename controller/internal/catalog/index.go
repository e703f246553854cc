package catalog

import (
	"context"
	"sync"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// Index tells which chunks a version consists of, and how large they are. It never changes.
type Index map[chunk.ID]uint32

// maxIndexes is how many indexes are kept: the versions that a fleet fetches at one time are few.
const maxIndexes = 16

// indexes keeps the indexes that were used last.
type indexes struct {
	mu    sync.Mutex
	byID  map[manifest.ID]Index
	order []manifest.ID // the one used longest ago first
}

func (x *indexes) get(id manifest.ID) (Index, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	index, ok := x.byID[id]
	if ok {
		x.useLocked(id)
	}
	return index, ok
}

func (x *indexes) put(id manifest.ID, index Index) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.byID == nil {
		x.byID = make(map[manifest.ID]Index)
	}
	x.byID[id] = index
	x.useLocked(id)
	if len(x.order) > maxIndexes {
		delete(x.byID, x.order[0])
		x.order = x.order[1:]
	}
}

func (x *indexes) drop(id manifest.ID) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.byID, id)
	for i, other := range x.order {
		if other == id {
			x.order = append(x.order[:i:i], x.order[i+1:]...)
			return
		}
	}
}

func (x *indexes) useLocked(id manifest.ID) {
	for i, other := range x.order {
		if other == id {
			x.order = append(x.order[:i:i], x.order[i+1:]...)
			break
		}
	}
	x.order = append(x.order, id)
}

// Index returns the index of a version. fleet.ErrNotFound if there is no such version.
func (c *Catalog) Index(ctx context.Context, id manifest.ID) (Index, error) {
	if index, ok := c.indexes.get(id); ok {
		return index, nil
	}
	signed, err := c.ManifestByID(ctx, id)
	if err != nil {
		return nil, err
	}
	m, err := c.open(signed)
	if err != nil {
		return nil, err
	}
	index := make(Index)
	for _, a := range m.Artifacts {
		for _, ref := range a.Chunks {
			index[ref.ID] = ref.Size
		}
	}
	c.indexes.put(id, index)
	return index, nil
}
