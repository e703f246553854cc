package chunksync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/rebuild"
)

// State of a wanted version.
type State int

// States.
const (
	Waiting  State = iota // nothing done yet, or its turn has not come
	Proving               // here, being read and checked
	Fetching              // chunks arrive
	Verified
	Failed  // it can't go on; it is tried again
	Serving // it arrives, and clients read it already
)

// String returns the state in lower case.
func (s State) String() string {
	return [...]string{"waiting", "proving", "fetching", "verified", "failed", "serving"}[s]
}

// Status is how far a wanted version is.
type Status struct {
	Version     config.Version
	State       State
	Done, Total uint64 // bytes of the artifacts; Total is 0 until the manifest is here
	Fetched     uint64 // bytes that came from the source, since the start of the program
	Err         error  // of the last attempt
	// Plan is the way in which it comes, zero before there is one; Started and Finished are when the transfer began and ended; Behind says
	// what makes it slower than planned.
	Plan              config.Plan
	Started, Finished time.Time
	Behind            string
}

// Syncer synchronises. Want, SetPolicy, Kick and Status are safe for concurrent use.
type Syncer struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	wake    chan struct{}

	mu      sync.Mutex
	wanted  []*entry
	dropped []*entry // by Want; Run closes them
	also    []manifest.ID
	changed bool               // Want brought another set
	cancel  context.CancelFunc // ends the work under way
	policy  config.Transfer
	link    rate // of the line to the controller, as measured

	rebuilds *rebuild.Metrics
	life     context.Context //nolint:containedctx // Run's: rebuilds live as long
}

// entry is one wanted version. Its fields are guarded by Syncer.mu; in's and fill's methods are used by Run's goroutine.
type entry struct {
	version  config.Version
	state    State
	err      error
	failures int
	next     time.Time // not before
	fetched  uint64
	total    uint64
	in       *imagestore.Incoming // arriving as chunks
	fill     *filling             // arriving by a delta
	plan     config.Plan
	course   course
	failure  string            // why the last attempt ended, for the controller
	refused  map[[32]byte]bool // deltas that made something else
	byPath   bool              // files can't be had out of the squashfs
}

// New returns a Syncer that wants nothing yet.
func New(cfg Config) (*Syncer, error) {
	if cfg.Store == nil || cfg.Source == nil || cfg.Manifests == nil {
		return nil, errors.New("chunk synchronisation needs a store, a source and manifests")
	}
	if cfg.Streams < 0 || cfg.BatchChunks < 0 || cfg.BatchChunks > MaxBatchChunks || cfg.RetryMin < 0 || cfg.RetryMax < 0 {
		return nil, errors.New("chunk synchronisation has a limit that makes no sense")
	}
	cfg.Streams = orDefault(cfg.Streams, DefaultStreams)
	cfg.BatchBytes = orDefault(cfg.BatchBytes, DefaultBatchBytes)
	cfg.BatchChunks = orDefault(cfg.BatchChunks, DefaultBatchChunks)
	if cfg.Planner != nil && cfg.Deltas == nil {
		return nil, errors.New("chunk synchronisation has plans but no deltas")
	}
	if cfg.OpenDelta == nil {
		cfg.OpenDelta = OpenDelta
	}
	if cfg.Recompress == nil {
		cfg.Recompress = func() uint64 { return 0 }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.RetryMin = orDefault(cfg.RetryMin, DefaultRetryMin)
	cfg.RetryMax = orDefault(cfg.RetryMax, DefaultRetryMax)
	s := &Syncer{cfg: cfg, log: cfg.Logger, wake: make(chan struct{}, 1)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if s.metrics, err = newMetrics(cfg.Metrics, s); err != nil {
		return nil, err
	}
	s.rebuilds, err = rebuild.NewMetrics(cfg.Metrics)
	return s, err
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Want replaces the list of wanted versions, the most urgent first. also are versions that must stay on the disk although they are not
// wanted any more, because clients still get them. It returns at once; work on what is no longer first is interrupted without loss.
func (s *Syncer) Want(versions []config.Version, also []manifest.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.wanted
	s.wanted = nil
	same := len(old) == len(versions)
	for i, v := range versions {
		e := find(old, v.ID)
		if find(s.wanted, v.ID) != nil {
			continue // one version under two numbers is one piece of work
		}
		if e == nil {
			e = &entry{}
		}
		same = same && i < len(old) && old[i] == e
		e.version = v
		s.wanted = append(s.wanted, e)
	}
	for _, e := range old {
		if find(s.wanted, e.version.ID) == nil {
			s.dropped = append(s.dropped, e)
		}
	}
	if same && slices.Equal(s.also, also) {
		return
	}
	s.also = slices.Clone(also)
	s.changed = true
	if !same && s.cancel != nil {
		s.cancel()
	}
	s.signal()
}

func find(entries []*entry, id manifest.ID) *entry {
	for _, e := range entries {
		if e.version.ID == id {
			return e
		}
	}
	return nil
}

func (s *Syncer) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Kick ends all waits: the controller is back, or a version was withdrawn.
func (s *Syncer) Kick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.wanted {
		e.next = time.Time{}
		if e.fill != nil {
			e.fill.r.Kick()
		}
		if e.state == Verified {
			if info, ok := s.cfg.Store.Find(e.version.ID); !ok || !info.Verified {
				e.state = Waiting
			}
		}
	}
	s.signal()
}

// Status returns the state of the wanted versions in their order.
func (s *Syncer) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Status, 0, len(s.wanted))
	for _, e := range s.wanted {
		st := Status{Version: e.version, State: e.state, Total: e.total, Fetched: e.fetched, Err: e.err}
		st.Plan, st.Started, st.Finished, st.Behind = e.plan, e.course.started, e.course.finished, e.course.behind
		if e.in != nil {
			st.Done, st.Total = e.in.Progress()
		}
		if e.fill != nil {
			e.fill.describe(&st)
		}
		if e.state == Verified {
			st.Done, st.Err = st.Total, nil
		}
		out = append(out, st)
	}
	return out
}

// SetPolicy says what bounds transfers from now on.
func (s *Syncer) SetPolicy(p config.Transfer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p == s.policy {
		return
	}
	s.policy = p
	for _, e := range s.wanted {
		e.next = time.Time{}
		if e.fill != nil {
			e.fill.r.SetWait(p.Wait())
		}
	}
	if s.cancel != nil {
		s.cancel()
	}
	s.signal()
}

// Run works until ctx ends. Call it once.
func (s *Syncer) Run(ctx context.Context) error {
	s.life = ctx
	defer s.closeAll()
	for ctx.Err() == nil {
		s.applyWanted()
		s.problem("sweep", "old versions can't be removed", s.cfg.Store.Sweep())
		if s.proveOne(ctx) {
			continue
		}
		e, v, wait := s.nextEntry()
		if e != nil {
			s.work(ctx, e, v)
			continue
		}
		s.sleep(ctx, wait)
	}
	return ctx.Err()
}

// sleep waits until woken, or for wait (0: sweepPeriod) at most.
func (s *Syncer) sleep(ctx context.Context, wait time.Duration) {
	if wait == 0 || wait > sweepPeriod {
		wait = sweepPeriod
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-s.wake:
	case <-t.C:
	}
}

// applyWanted tells the store after a change what to keep.
func (s *Syncer) applyWanted() {
	s.mu.Lock()
	if !s.changed {
		s.mu.Unlock()
		return
	}
	s.changed = false
	var keep []imagestore.Wish
	for _, id := range s.also {
		if info, ok := s.cfg.Store.Find(id); ok {
			keep = append(keep, imagestore.Wish{ID: id, Image: info.Manifest.Name})
		}
	}
	for _, e := range s.wanted {
		keep = append(keep, imagestore.Wish{ID: e.version.ID, Image: e.version.Image})
	}
	dropped := s.dropped
	s.dropped = nil
	s.mu.Unlock()
	for _, e := range dropped {
		s.drop(e)
		s.problem("version/"+e.version.ID.String(), "", nil)
	}
	err := s.cfg.Store.Keep(keep)
	s.problem("keep", "old versions can't be removed", err)
}

// problem reports or, without err, takes back a problem.
func (s *Syncer) problem(key, what string, err error) {
	text := ""
	if err != nil {
		text = fmt.Sprintf("%s: %v", what, err)
		s.log.Warn(what, "err", err)
	}
	if s.cfg.Problem != nil {
		s.cfg.Problem("sync/"+key, text)
	}
}

func (s *Syncer) notify() {
	if s.cfg.Changed != nil {
		s.cfg.Changed()
	}
}

// begin makes the context of a piece of work, which Want cancels.
func (s *Syncer) begin(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	s.cancel = cancel
	if s.changed {
		cancel()
	}
	s.mu.Unlock()
	return ctx, func() {
		s.mu.Lock()
		s.cancel = nil
		s.mu.Unlock()
		cancel()
	}
}

// nextEntry returns the first wanted version that has work and whose time has come, or how long to wait (0: until woken).
func (s *Syncer) nextEntry() (*entry, config.Version, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var wait time.Duration
	for _, e := range s.wanted {
		if e.state == Verified {
			continue
		}
		left := e.next.Sub(now)
		if left <= 0 {
			return e, e.version, 0
		}
		if wait == 0 || left < wait {
			wait = left
		}
	}
	return nil, config.Version{}, wait
}

func (s *Syncer) set(e *entry, fn func(*entry)) {
	s.mu.Lock()
	before := e.state
	fn(e)
	after := e.state
	s.mu.Unlock()
	if before != after {
		s.notify()
	}
}

// backoff returns the wait after so many failures: full jitter below a doubling bound.
func (s *Syncer) backoff(failures int) time.Duration {
	bound := s.cfg.RetryMin << min(max(failures-1, 0), 16)
	bound = min(bound, s.cfg.RetryMax)
	return s.cfg.RetryMin/2 + rand.N(max(bound-s.cfg.RetryMin/2, 1))
}

func (s *Syncer) closeAll() {
	s.mu.Lock()
	entries := slices.Concat(s.wanted, s.dropped)
	s.mu.Unlock()
	for _, e := range entries {
		s.drop(e)
	}
}

// drop ends work on a version and closes its files; what arrived stays on the disk.
func (s *Syncer) drop(e *entry) {
	s.mu.Lock()
	in, fill := e.in, e.fill
	e.in, e.fill = nil, nil
	s.mu.Unlock()
	if in != nil {
		_ = in.Close() // nothing in it is believed later
	}
	if fill != nil {
		fill.close()
	}
}
