// Package deltas makes and keeps the deltas between image versions: one for each pair that a satellite has asked for, one at a time, in the
// background. What is kept is bounded in bytes; what was used longest ago goes first.
//
// On the disk, DIR/FROM-TO.delta with FROM-TO.json beside it, FROM and TO being version IDs. A delta enters by one rename, its
// description before it; what an interrupted run left is removed at the start. Nothing trusts the files: satellites check every group
// against the index and everything that they make against the digest that the version's manifest is signed with.
//
// Metrics: ltsp_controller_deltas_made_total{result}, ltsp_controller_delta_make_seconds, ltsp_controller_deltas_bytes,
// ltsp_controller_deltas_queued.
package deltas

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/controller/internal/fleet"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// Defaults of Config.
const (
	DefaultMaxBytes    = 20 << 30
	DefaultMemoryBytes = 512 << 20
	DefaultMaxQueue    = 256
	DefaultRetry       = time.Hour
)

// ErrGone tells that a delta is not here, or not the one that was asked for.
var ErrGone = errors.New("there is no such delta")

// Pair names a delta: the versions that it leads from and to.
type Pair struct{ From, To manifest.ID }

func (p Pair) String() string { return p.From.String() + "-" + p.To.String() }

// State of a delta.
type State string

// States.
const (
	None   State = "none"
	Queued State = "queued"
	Making State = "making"
	Ready  State = "ready"
	Failed State = "failed"
)

// Info describes a delta. Everything from SHA256 on is zero unless it is ready.
type Info struct {
	Pair  Pair   `json:"-"`
	State State  `json:"-"`
	Error string `json:"-"` // why it failed
	// Stage, Done and Total tell how far the making is.
	Stage       string `json:"-"`
	Done, Total int64  `json:"-"`

	SHA256     chunk.ID       `json:"sha256"`
	Size       uint64         `json:"size"`
	IndexBytes uint64         `json:"index_bytes"`
	RawBytes   uint64         `json:"raw_bytes"` // content that a receiver recompresses
	Made       time.Time      `json:"made"`
	CPU        fleet.Duration `json:"cpu"` // of making it
	Stats      *delta.Stats   `json:"stats,omitempty"`
}

// Library opens the squashfs of a version, readable until ctx ends, and tells the digest of its disk.
type Library interface {
	Open(ctx context.Context, id manifest.ID) (delta.Source, verity.Digest, error)
}

// Config configures a Maker. Dir and Library are required.
type Config struct {
	Dir     string
	Library Library
	// MaxBytes bounds what is kept; a delta larger than that is not kept at all. 0 means DefaultMaxBytes.
	MaxBytes int64
	// MemoryBytes and Parallel are those of delta.Options. 0 means DefaultMemoryBytes and one goroutine per processor.
	MemoryBytes int64
	Parallel    int
	// MaxQueue bounds how many pairs wait; 0 means DefaultMaxQueue. Retry is how long a failed pair is not tried again; 0 means DefaultRetry.
	MaxQueue int
	Retry    time.Duration
	Now      func() time.Time
	Log      *slog.Logger
	Metrics  prometheus.Registerer
}

// Maker makes and keeps deltas. All methods are safe for concurrent use.
type Maker struct {
	cfg     Config
	metrics *metrics

	mu      sync.Mutex
	entries map[Pair]*entry
	queue   []Pair
	wake    chan struct{}
	news    chan struct{} // closed and replaced with each change of any entry
}

type entry struct {
	info Info
	used time.Time // when it was read last, or failed
	pins int       // readers that have it open
}

// New opens the directory and makes it if it is not there. Run must follow.
func New(cfg Config) (*Maker, error) {
	if cfg.Dir == "" || cfg.Library == nil {
		return nil, errors.New("deltas: want a directory and a library")
	}
	if cfg.MaxBytes < 0 || cfg.MemoryBytes < 0 || cfg.Parallel < 0 || cfg.MaxQueue < 0 || cfg.Retry < 0 {
		return nil, errors.New("deltas: a limit is negative")
	}
	cfg.MaxBytes = orDefault(cfg.MaxBytes, DefaultMaxBytes)
	cfg.MemoryBytes = orDefault(cfg.MemoryBytes, DefaultMemoryBytes)
	cfg.MaxQueue = orDefault(cfg.MaxQueue, DefaultMaxQueue)
	cfg.Retry = orDefault(cfg.Retry, DefaultRetry)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Maker{cfg: cfg, entries: map[Pair]*entry{}, wake: make(chan struct{}, 1), news: make(chan struct{})}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("deltas: %w", err)
	}
	if err := m.load(); err != nil {
		return nil, fmt.Errorf("deltas: %w", err)
	}
	m.metrics = newMetrics(cfg.Metrics, m)
	return m, nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Find tells about a pair.
func (m *Maker) Find(p Pair) Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.findLocked(p)
}

func (m *Maker) findLocked(p Pair) Info {
	if e := m.entries[p]; e != nil {
		return e.info
	}
	return Info{Pair: p, State: None}
}

// Request makes sure that a delta is made, and tells how far it is. One that failed is tried again when Config.Retry is over, or at once if
// again is true.
func (m *Maker) Request(p Pair, again bool) Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[p]
	if e != nil && e.info.State == Failed && (again || m.cfg.Now().Sub(e.used) >= m.cfg.Retry) {
		delete(m.entries, p)
		e = nil
	}
	if e != nil {
		return e.info
	}
	if p.From == p.To || len(m.queue) >= m.cfg.MaxQueue {
		return Info{Pair: p, State: Failed, Error: "too many deltas are waiting to be made"}
	}
	m.entries[p] = &entry{info: Info{Pair: p, State: Queued}}
	m.queue = append(m.queue, p)
	m.changedLocked()
	select {
	case m.wake <- struct{}{}:
	default:
	}
	return m.entries[p].info
}

// Retry tells whether the delta of a pair that failed may be requested again.
func (m *Maker) Retry(p Pair) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[p]
	return e == nil || e.info.State == Failed && m.cfg.Now().Sub(e.used) >= m.cfg.Retry
}

// Follow calls fn with what Find tells, now and after each change, until the delta is ready or has failed or ctx ends. An error of fn ends it.
func (m *Maker) Follow(ctx context.Context, p Pair, fn func(Info) error) error {
	for {
		m.mu.Lock()
		info, news := m.findLocked(p), m.news
		m.mu.Unlock()
		if err := fn(info); err != nil {
			return err
		}
		if info.State == None || info.State == Ready || info.State == Failed {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-news:
		}
	}
}

// changedLocked wakes those who follow.
func (m *Maker) changedLocked() {
	close(m.news)
	m.news = make(chan struct{})
}

// Reader is an open delta. It stays whole while it is open. Close it once.
type Reader struct {
	*os.File
	Info  Info
	maker *Maker
}

// Open opens a delta that is ready. ErrGone if it is not, or if sha is not zero and the delta is another one.
func (m *Maker) Open(p Pair, sha chunk.ID) (*Reader, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[p]
	if e == nil || e.info.State != Ready || !sha.IsZero() && e.info.SHA256 != sha {
		return nil, fmt.Errorf("delta %s: %w", p, ErrGone)
	}
	f, err := os.Open(m.path(p, ".delta"))
	if err != nil {
		return nil, fmt.Errorf("delta: %w", err)
	}
	e.used = m.cfg.Now()
	e.pins++
	return &Reader{File: f, Info: e.info, maker: m}, nil
}

// Close ends the use of the delta.
func (r *Reader) Close() error {
	r.maker.mu.Lock()
	if e := r.maker.entries[r.Info.Pair]; e != nil {
		e.pins--
	}
	r.maker.mu.Unlock()
	return r.File.Close()
}

// Forget drops all deltas from or to a version, which was deleted.
func (m *Maker) Forget(id manifest.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for p, e := range m.entries {
		if (p.From == id || p.To == id) && e.info.State != Making {
			m.dropLocked(p)
		}
	}
	m.queue = slices.DeleteFunc(m.queue, func(p Pair) bool { return p.From == id || p.To == id })
	m.changedLocked()
}

func (m *Maker) dropLocked(p Pair) {
	delete(m.entries, p)
	for _, suffix := range []string{".delta", ".json"} {
		if err := os.Remove(m.path(p, suffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
			m.cfg.Log.Warn("a delta that is not needed could not be removed", "delta", p, "err", err)
		}
	}
}

func (m *Maker) path(p Pair, suffix string) string {
	return filepath.Join(m.cfg.Dir, p.String()+suffix)
}

// bytesLocked is what is kept.
func (m *Maker) bytesLocked() int64 {
	var n int64
	for _, e := range m.entries {
		if e.info.State == Ready {
			n += int64(e.info.Size)
		}
	}
	return n
}

// makeRoomLocked drops what was used longest ago until need more bytes fit; what is open is spared.
func (m *Maker) makeRoomLocked(need int64) error {
	if need > m.cfg.MaxBytes {
		return fmt.Errorf("a delta of %d bytes, at most %d bytes of deltas are kept", need, m.cfg.MaxBytes)
	}
	for m.bytesLocked()+need > m.cfg.MaxBytes {
		var oldest *entry
		for _, e := range m.entries {
			if e.info.State == Ready && e.pins == 0 && (oldest == nil || e.used.Before(oldest.used)) {
				oldest = e
			}
		}
		if oldest == nil {
			return fmt.Errorf("no room for a delta of %d bytes: all others are being read", need)
		}
		m.dropLocked(oldest.info.Pair)
	}
	return nil
}
