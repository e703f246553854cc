// Package catalog publishes image versions: it takes chunks in, proves that a draft manifest and the chunks on the disk are one and the same
// thing, numbers and signs it, moves channels, and removes the chunks that no version needs any more.
//
// Metrics: ltsp_controller_publishes_total{result}, ltsp_controller_publish_seconds, ltsp_controller_chunks_stored_total,
// ltsp_controller_chunk_stored_bytes_total, ltsp_controller_chunks_damaged_total, ltsp_controller_chunks_collected_total,
// ltsp_controller_chunk_collected_bytes_total.
package catalog

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/store"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunkstore"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// Defaults of Config.
const (
	DefaultGrace           = 24 * time.Hour
	DefaultCollectInterval = 6 * time.Hour
	DefaultPublishes       = 2
)

// Config holds what a catalog works with.
type Config struct {
	Store      *store.Store
	Chunks     chunkstore.Store
	SigningKey ed25519.PrivateKey
	// Grace is how long a chunk that no version needs stays after it was uploaded or asked for: an upload must be done by then. 0 means
	// DefaultGrace.
	Grace time.Duration
	// CollectInterval is the time between two collections; 0 means DefaultCollectInterval.
	CollectInterval time.Duration
	// WorkDir is where images that come as deltas are put together; empty means os.TempDir. It needs room for a whole image.
	WorkDir string
	// Publishes is how many drafts are verified at once, the others wait; 0 means DefaultPublishes.
	Publishes int
	// Now is the clock, nil means time.Now. It must be the clock of Chunks too.
	Now func() time.Time
	// Log nil discards.
	Log *slog.Logger
	// Metrics nil registers none.
	Metrics prometheus.Registerer
}

// Catalog is safe for concurrent use.
type Catalog struct {
	cfg       Config
	metrics   *metrics
	publishes *semaphore.Weighted
	// gate keeps the collector (which takes all of it) from removing a chunk between the look at its age and the removal, while
	// somebody (who takes one) is told that it is there.
	gate    *semaphore.Weighted
	indexes indexes
	collect chan struct{} // asks Run for a collection

	mu       sync.Mutex
	damaged  map[chunk.ID]bool           // found damaged; counts as missing, so that it is uploaded again
	underway map[*manifest.Manifest]bool // drafts that are being published; the collector spares their chunks
}

const (
	gateWhole  = 1 << 20
	maxDamaged = 1 << 16
)

// New checks the configuration and fills in defaults.
func New(cfg Config) (*Catalog, error) {
	if cfg.Store == nil || cfg.Chunks == nil || len(cfg.SigningKey) != ed25519.PrivateKeySize {
		return nil, errors.New("catalog: want a store, a chunk store and a signing key")
	}
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.CollectInterval == 0 {
		cfg.CollectInterval = DefaultCollectInterval
	}
	if cfg.Publishes == 0 {
		cfg.Publishes = DefaultPublishes
	}
	if cfg.Grace < 0 || cfg.CollectInterval < 0 || cfg.Publishes < 0 {
		return nil, errors.New("catalog: a time or a limit is negative")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c := &Catalog{
		cfg: cfg, metrics: newMetrics(cfg.Metrics), publishes: semaphore.NewWeighted(int64(cfg.Publishes)), gate: semaphore.NewWeighted(gateWhole),
		collect: make(chan struct{}, 1), damaged: make(map[chunk.ID]bool), underway: make(map[*manifest.Manifest]bool),
	}
	return c, nil
}

// SigningKey returns the public key that manifests are signed with.
func (c *Catalog) SigningKey() ed25519.PublicKey {
	return c.cfg.SigningKey.Public().(ed25519.PublicKey)
}

// MissingError tells that chunks of a draft are not there.
type MissingError struct {
	Count int
	First chunk.ID
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%d chunks of the draft are not here, the first is %s; upload them, then publish again", e.Count, e.First)
}

// FindMissing returns those of ids that are not there, or damaged. Those that are there stay for the grace time at least.
func (c *Catalog) FindMissing(ctx context.Context, ids []chunk.ID) ([]chunk.ID, error) {
	if err := c.gate.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer c.gate.Release(1)
	has, err := c.cfg.Chunks.Has(ctx, ids)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var missing []chunk.ID
	for i, id := range ids {
		if !has[i] || c.damaged[id] {
			missing = append(missing, id)
		}
	}
	return missing, nil
}

// PutChunk stores an uploaded chunk. Errors are those of chunkstore.Store.Put.
func (c *Catalog) PutChunk(ctx context.Context, id chunk.ID, data []byte) error {
	if err := c.gate.Acquire(ctx, 1); err != nil {
		return err
	}
	defer c.gate.Release(1)
	if err := c.cfg.Chunks.Put(ctx, id, data); err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.damaged, id)
	c.mu.Unlock()
	c.metrics.stored.Inc()
	c.metrics.storedBytes.Add(float64(len(data)))
	return nil
}

// Chunk returns a chunk's verified bytes, in buf if it is large enough. A damaged chunk is noted, so that the next upload brings it again.
func (c *Catalog) Chunk(ctx context.Context, id chunk.ID, buf []byte) ([]byte, error) {
	data, err := c.cfg.Chunks.Get(ctx, id, buf)
	if _, ok := errors.AsType[*chunkstore.CorruptError](err); ok {
		c.noteDamage(id, err)
	}
	return data, err
}

func (c *Catalog) noteDamage(id chunk.ID, err error) {
	c.mu.Lock()
	known := c.damaged[id]
	if len(c.damaged) < maxDamaged {
		c.damaged[id] = true
	}
	c.mu.Unlock()
	if !known {
		c.metrics.damaged.Inc()
		c.cfg.Log.Error("chunk on the disk is damaged; publish an image that holds it again to repair it", "chunk", id, "err", err)
	}
}

// Manifest returns the signed manifest of a version, with all its chunk lists. fleet.ErrNotFound if there is none.
func (c *Catalog) Manifest(ctx context.Context, image string, number uint64) ([]byte, error) {
	var signed []byte
	err := c.cfg.Store.View(ctx, func(tx *store.Tx) (err error) {
		signed, err = tx.Manifest(image, number)
		return err
	})
	return signed, err
}

// ManifestByID is Manifest for a version ID.
func (c *Catalog) ManifestByID(ctx context.Context, id manifest.ID) ([]byte, error) {
	var signed []byte
	err := c.cfg.Store.View(ctx, func(tx *store.Tx) error {
		v, ok, err := tx.VersionByID(id)
		if err != nil {
			return err
		}
		if !ok {
			return fleet.Errorf(fleet.ErrNotFound, "there is no version with the ID %s", id)
		}
		signed, err = tx.Manifest(v.Image, v.Number)
		return err
	})
	return signed, err
}

// Listed returns a signed manifest with the chunk lists of the named artifacts only; "*" names all.
func (c *Catalog) Listed(signed []byte, lists []string) ([]byte, error) {
	if slices.Contains(lists, "*") {
		return signed, nil
	}
	m, err := c.open(signed)
	if err != nil {
		return nil, err
	}
	return manifest.WithLists(signed, m, func(artifact string) bool { return slices.Contains(lists, artifact) })
}

// open decodes a manifest that we signed ourselves.
func (c *Catalog) open(signed []byte) (*manifest.Manifest, error) {
	return manifest.Open(signed, c.SigningKey())
}
