package chunksync

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore"
)

// Source delivers chunks of a version. It calls deliver for each, from one goroutine, in this order; data is valid during the call. An error
// of deliver ends Fetch, which returns it. Fetch must return when ctx ends and must not wait for ever for a silent peer. It is
// called from several goroutines at once.
type Source interface {
	Fetch(ctx context.Context, version manifest.ID, refs []chunk.Ref, deliver func(id chunk.ID, data []byte) error) error
}

// Manifests delivers signed manifests with the chunk lists of the named artifacts, "*" meaning all; the signature is checked here.
type Manifests interface {
	Manifest(ctx context.Context, version manifest.ID, lists ...string) ([]byte, error)
}

// Planner says how a version should come. ErrGone says that the controller does not give it to this site.
type Planner interface {
	PlanSync(ctx context.Context, q config.PlanQuestion) (config.Plan, error)
}

// Deltas delivers length bytes from off of a delta file to sink, in order; p is valid during the call. An error of sink ends it and is returned.
// ErrGone says that there is no such delta. Otherwise it is as Source.
type Deltas interface {
	FetchDelta(ctx context.Context, version manifest.ID, d *config.Delta, off, length int64, urgent bool, sink func(p []byte) error) error
}

// ErrGone is returned by Planner and Deltas for what they have no more.
var ErrGone = errors.New("the controller has it no more")

// Defaults and bounds of Config.
const (
	DefaultStreams     = 4
	DefaultBatchBytes  = 8 << 20
	DefaultBatchChunks = 512
	MaxBatchChunks     = 1024 // ltsp.chunk.v1 FetchRequest.Chunks
	DefaultRetryMin    = time.Second
	DefaultRetryMax    = time.Minute
)

// sweepPeriod is how often versions that were in use are looked at again.
const sweepPeriod = time.Minute

// Config configures a Syncer. Store, Source and Manifests are required.
type Config struct {
	Store     *imagestore.Store
	Source    Source
	Manifests Manifests
	// Planner decides how images come; nil: by chunks. With a Planner there must be Deltas.
	Planner Planner
	Deltas  Deltas
	// OpenDelta opens the index of a delta; nil: OpenDelta.
	OpenDelta func(ctx context.Context, index []byte, base delta.Source, opt delta.Options) (*Opened, error)
	// TempDir is where decoding a delta keeps what is too long for memory, in files without a name; empty: os.TempDir.
	TempDir string
	// MemoryBytes bounds what the decoding of a delta takes; zero: delta.DefaultMemoryBytes.
	MemoryBytes int64
	// Recompress tells how many bytes a second this machine recompresses; nil: not known.
	Recompress func() uint64
	// Now is the clock of time windows and reports; nil: time.Now.
	Now func() time.Time
	// Streams is how many Fetch calls run at once; BatchBytes and BatchChunks bound each. Zero means the default.
	Streams     int
	BatchBytes  uint64
	BatchChunks int
	// RetryMin and RetryMax bound the wait after a failure. Zero means the default.
	RetryMin, RetryMax time.Duration
	// Changed, if not nil, is called when a version's state changes: from Run's goroutine; it must not block.
	Changed func()
	// Problem, if not nil, is told what a person should look at, by key; an empty text says that it is over. It must not block.
	Problem func(key, text string)
	// Logger receives the log; nil discards it. Metrics receives the metrics of the package comment; nil means none.
	Logger  *slog.Logger
	Metrics prometheus.Registerer
}
