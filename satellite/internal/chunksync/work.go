package chunksync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore"
)

// Errors of an attempt, for metrics and for the question what to say.
var (
	errManifest = errors.New("manifest not to be had")
	errSource   = errors.New("chunks not to be had")
)

// proveOne proves the most urgent version on the disk that is not proven: wanted ones first, then those that are still served, then former
// ones. false: there is none.
func (s *Syncer) proveOne(ctx context.Context) bool {
	info, ok := s.unproven()
	if !ok {
		return false
	}
	ctx, done := s.begin(ctx)
	defer done()
	s.mu.Lock()
	e := find(s.wanted, info.ID)
	s.mu.Unlock()
	if e != nil {
		s.set(e, func(e *entry) { e.state, e.total = Proving, info.Manifest.TotalBytes() })
	}
	start := time.Now()
	err := s.cfg.Store.Prove(ctx, info.ID)
	attrs := []any{"image", info.Manifest.Name, "number", info.Manifest.Number, "version", info.ID, "dur", time.Since(start)}
	switch {
	case err == nil:
		s.log.Info("version proven", attrs...)
	case ctx.Err() != nil:
	default:
		s.log.Warn("version failed its proof, damaged chunks will be fetched again", append(attrs, "err", err)...)
	}
	if e != nil {
		s.afterProof(e, err)
	}
	if err == nil {
		s.notify()
	}
	return true
}

func (s *Syncer) afterProof(e *entry, err error) {
	s.set(e, func(e *entry) {
		e.state, e.err = Waiting, nil
		if err == nil {
			e.state, e.failures = Verified, 0
		}
	})
}

// unproven returns the version to prove next.
func (s *Syncer) unproven() (imagestore.Info, bool) {
	s.mu.Lock()
	var order []manifest.ID
	for _, e := range s.wanted {
		order = append(order, e.version.ID)
	}
	order = append(order, s.also...)
	s.mu.Unlock()
	rank := func(id manifest.ID) int {
		if i := slices.Index(order, id); i >= 0 {
			return i
		}
		return len(order)
	}
	var best imagestore.Info
	found := false
	for _, info := range s.cfg.Store.List() {
		if !info.Verified && !info.Arriving && (!found || rank(info.ID) < rank(best.ID)) {
			best, found = info, true
		}
	}
	return best, found
}

// work brings one version as far as it goes and records how it ended. v is e's version, which Want may replace meanwhile by one of the
// same ID.
func (s *Syncer) work(ctx context.Context, e *entry, v config.Version) {
	ctx, done := s.begin(ctx)
	defer done()
	before := s.fetchedBytes(e)
	err := s.advance(ctx, e, v)
	var held *heldError
	name := v.Image
	key := "version/" + v.ID.String()
	switch {
	case err == nil:
		s.problem(key, name, nil)
		s.log.Info("version complete", "image", name, "number", v.Number, "version", v.ID, "fetched_bytes", s.fetchedBytes(e))
		s.set(e, func(e *entry) {
			e.state, e.err, e.failures, e.failure = Verified, nil, 0, ""
			e.course.finish(s.cfg.Now())
		})
		s.notify()
	case ctx.Err() != nil: // interrupted; it goes on later where it stopped
	case errors.As(err, &held):
		s.hold(e, held)
	default:
		s.metrics.failed(err)
		s.fail(e, err, s.fetchedBytes(e) > before)
		s.problem(key, fmt.Sprintf("%s version %d", name, v.Number), err)
	}
}

// fail records a failed attempt and when the next is due. progress tells that the attempt brought something.
func (s *Syncer) fail(e *entry, err error, progress bool) {
	s.set(e, func(e *entry) {
		if progress {
			e.failures = 0
		}
		e.failures++
		e.err, e.state = err, Waiting
		if lasting(err) {
			e.state = Failed
		}
		if e.fill != nil && e.fill.served {
			e.state = Serving
		}
		wait := s.backoff(e.failures)
		if errors.Is(err, imagestore.ErrInconsistent) {
			wait *= 10 // each attempt reads the whole version
		}
		e.next = time.Now().Add(wait)
		if e.in != nil && errors.Is(err, imagestore.ErrNoSpace) {
			_ = e.in.Close() // the next attempt looks for room first
			e.in = nil
		}
	})
}

// lasting tells failures that waiting alone will hardly end.
func lasting(err error) bool {
	return errors.Is(err, imagestore.ErrNoSpace) || errors.Is(err, imagestore.ErrInconsistent) || errors.Is(err, imagestore.ErrCorrupt) ||
		errors.Is(err, manifest.ErrSignature) || errors.Is(err, manifest.ErrFormat) || errors.Is(err, manifest.ErrVersion)
}

func (s *Syncer) fetchedBytes(e *entry) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.fetched
}

// advance does all that is left for a version that is not in images.
func (s *Syncer) advance(ctx context.Context, e *entry, v config.Version) error {
	if info, ok := s.cfg.Store.Find(v.ID); ok && info.Verified {
		s.set(e, func(e *entry) { e.total = info.Manifest.TotalBytes() })
		return nil
	}
	if e.fill != nil {
		return s.attend(ctx, e, v)
	}
	if err := s.windowClosed(); err != nil {
		return err
	}
	plan, err := s.way(ctx, e, v)
	if err != nil {
		return err
	}
	switch plan.Method {
	case config.Wait:
		return &heldError{reason: plan.Reason, again: orDefault(plan.Retry, defaultRetry)}
	case config.ByDelta:
		return s.byDelta(ctx, e, v, plan)
	default:
		return s.byChunks(ctx, e, v, plan.Method == config.Whole)
	}
}

// byChunks brings a version chunk by chunk. With whole it does not look for them in other versions.
func (s *Syncer) byChunks(ctx context.Context, e *entry, v config.Version, whole bool) error {
	in, err := s.open(ctx, e, v)
	if err != nil {
		return err
	}
	s.set(e, func(e *entry) {
		e.state = Fetching
		e.course.begin(s.cfg.Now())
	})
	if err := s.bring(ctx, e, in, !whole); err != nil {
		return err
	}
	_, total := in.Progress()
	err = in.Complete(ctx)
	s.set(e, func(e *entry) { e.in, e.total = nil, total })
	return err
}

// bring gets the chunks that are missing, with local from other versions as far as they have them.
func (s *Syncer) bring(ctx context.Context, e *entry, in *imagestore.Incoming, local bool) error {
	missing := in.Missing()
	if len(missing) == 0 {
		return nil
	}
	if local {
		var err error
		if missing, err = s.copyLocal(ctx, in, missing); err != nil {
			return err
		}
	}
	if err := s.fetch(ctx, e, in, missing); err != nil {
		return err
	}
	if n := len(in.Missing()); n > 0 {
		return fmt.Errorf("%w: %d are still missing although the source said it sent them", errSource, n)
	}
	return nil
}

// open returns the version's Incoming for chunks: the one of the attempt before, one from the disk, or a new one.
func (s *Syncer) open(ctx context.Context, e *entry, v config.Version) (*imagestore.Incoming, error) {
	if e.in != nil {
		return e.in, nil
	}
	id := v.ID
	var in *imagestore.Incoming
	signed, _, err := s.cfg.Store.Pending(id)
	if err == nil {
		in, err = s.cfg.Store.Begin(signed, id, nil)
	}
	if err != nil && !errors.Is(err, imagestore.ErrNoSpace) {
		if signed, err = s.cfg.Manifests.Manifest(ctx, id, "*"); err != nil {
			return nil, fmt.Errorf("%w: %w", errManifest, err)
		}
		in, err = s.cfg.Store.Begin(signed, id, nil)
	}
	if err != nil {
		return nil, err
	}
	if err := in.Scan(ctx); err != nil {
		_ = in.Close()
		return nil, err
	}
	s.set(e, func(e *entry) { e.in = in })
	if done, total := in.Progress(); done > 0 {
		s.log.Info("resuming a version", "image", v.Image, "number", v.Number, "version", id, "done_bytes", done, "total_bytes", total)
	}
	return in, nil
}

// copyLocal takes chunks from proven versions on the disk and returns those that no version has. A chunk that can't be read there or
// is damaged counts as missing.
func (s *Syncer) copyLocal(ctx context.Context, in *imagestore.Incoming, missing []chunk.Ref) ([]chunk.Ref, error) {
	p := newPlanner(missing)
	for _, donor := range s.cfg.Store.List() {
		if !donor.Verified {
			continue
		}
		m, err := s.cfg.Store.Manifest(ctx, donor.ID)
		if err != nil {
			s.log.Warn("version on the disk can't give chunks", "version", donor.ID, "err", err)
			continue
		}
		if err := s.copyRuns(ctx, in, donor.ID, p.offer(m)); err != nil {
			return nil, err
		}
	}
	return in.Missing(), ctx.Err()
}

// copyRuns copies chunks of one version, which come sorted by artifact and offset.
func (s *Syncer) copyRuns(ctx context.Context, in *imagestore.Incoming, donor manifest.ID, runs []copyRun) error {
	buf := make([]byte, chunk.MaxSize)
	for len(runs) > 0 {
		name := runs[0].artifact
		n := slices.IndexFunc(runs, func(r copyRun) bool { return r.artifact != name })
		if n < 0 {
			n = len(runs)
		}
		f, err := s.cfg.Store.OpenArtifact(donor, name)
		if err != nil {
			return nil // it was withdrawn meanwhile: what it would have given is fetched
		}
		err = s.copyFrom(ctx, in, f, runs[:n], buf)
		_ = f.Close() // only read
		if err != nil {
			return err
		}
		runs = runs[n:]
	}
	return nil
}

func (s *Syncer) copyFrom(ctx context.Context, in *imagestore.Incoming, f *imagestore.Artifact, runs []copyRun, buf []byte) error {
	for _, r := range runs {
		if err := ctx.Err(); err != nil {
			return err
		}
		data := buf[:r.ref.Size]
		if _, err := f.ReadAt(data, int64(r.offset)); err != nil {
			s.log.Warn("chunk on the disk can't be read, it will be fetched", "chunk", r.ref.ID, "err", err)
			continue
		}
		err := in.Put(r.ref.ID, data)
		switch {
		case errors.Is(err, imagestore.ErrCorrupt):
			s.log.Warn("chunk on the disk is damaged, it will be fetched", "chunk", r.ref.ID)
		case err != nil:
			return err
		default:
			s.metrics.wrote("disk", len(data))
		}
	}
	return nil
}

// fetch gets chunks from the source with the configured number of streams. The first failure ends all; what arrived stays.
func (s *Syncer) fetch(ctx context.Context, e *entry, in *imagestore.Incoming, missing []chunk.Ref) error {
	if len(missing) == 0 {
		return nil
	}
	ctx, closed := s.whileOpen(ctx)
	defer closed()
	stop := s.pace(e)
	defer stop()
	return s.whyEnded(ctx, s.fetchAll(ctx, e, in, missing))
}

func (s *Syncer) fetchAll(ctx context.Context, e *entry, in *imagestore.Incoming, missing []chunk.Ref) error {
	todo := make(chan []chunk.Ref)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(todo)
		for _, b := range batches(missing, s.cfg.BatchChunks, s.cfg.BatchBytes) {
			select {
			case todo <- b:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range s.cfg.Streams {
		g.Go(func() error {
			for b := range todo {
				if err := s.fetchBatch(ctx, e, in, b); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func (s *Syncer) fetchBatch(ctx context.Context, e *entry, in *imagestore.Incoming, batch []chunk.Ref) error {
	var stored error
	err := s.cfg.Source.Fetch(ctx, in.ID(), batch, func(id chunk.ID, data []byte) error {
		if stored = in.Put(id, data); stored != nil {
			return stored
		}
		s.metrics.wrote("controller", len(data))
		s.mu.Lock()
		e.fetched += uint64(len(data))
		s.mu.Unlock()
		return nil
	})
	if stored != nil {
		return stored
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errSource, err)
	}
	return nil
}
