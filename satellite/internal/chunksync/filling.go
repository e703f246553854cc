package chunksync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/imagestore"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/rebuild"
)

// Opened is a delta whose index is here.
type Opened struct {
	New     delta.Identity
	Groups  []delta.Group
	Proof   rebuild.Proof
	Decoder rebuild.Decoder
	// Close gives back what the decoder holds; nothing may use it any more.
	Close func() error
}

// OpenDelta opens a delta of internal/delta.
func OpenDelta(ctx context.Context, index []byte, base delta.Source, opt delta.Options) (*Opened, error) {
	idx, err := delta.ParseIndex(index)
	if err != nil {
		return nil, err
	}
	r, err := delta.NewReceiver(ctx, idx, base, opt)
	if err != nil {
		return nil, err
	}
	return &Opened{New: idx.New, Groups: idx.Groups, Proof: idx, Decoder: r, Close: r.Close}, nil
}

// filling is a version that is being rebuilt, by a goroutine of its own: clients that read it are served whatever else the Syncer does.
type filling struct {
	in     *imagestore.Incoming
	delta  *config.Delta
	size   uint64 // of the squashfs
	base   *imagestore.Handle
	opened *Opened
	r      *rebuild.Rebuild
	index  uint64 // bytes of the index that were fetched

	served bool          // Run's goroutine sets it, under Syncer.mu
	files  chan struct{} // closed when the other artifacts are here
	cancel context.CancelFunc
	ended  chan struct{}
	err    error // valid when ended is closed
}

// describe adds to a status what the rebuild knows.
func (f *filling) describe(st *Status) {
	p := f.r.Progress()
	done, total := f.in.Progress()
	st.Done, st.Total = done+min(uint64(p.Done), f.size), total
	st.Fetched += uint64(p.Fetched) + f.index
}

// close ends the goroutine and closes all.
func (f *filling) close() {
	if f.cancel != nil {
		f.cancel()
		<-f.ended
	}
	if f.r != nil {
		f.r.Close()
	}
	if f.in != nil {
		_ = f.in.Close() // nothing in it is believed later
	}
	if f.opened != nil {
		_ = f.opened.Close()
	}
	if f.base != nil {
		_ = f.base.Close() // only read
	}
}

// byDelta begins to rebuild a version and stays with it.
func (s *Syncer) byDelta(ctx context.Context, e *entry, v config.Version, plan config.Plan) error {
	if e.in != nil {
		s.drop(e) // it came as chunks until now
	}
	f, err := s.beginFilling(ctx, e, v, plan)
	if err != nil {
		s.deltaFailed(e, &plan.Delta, err)
		return err
	}
	s.set(e, func(e *entry) {
		e.fill, e.state, e.err = f, Fetching, nil
		e.course.begin(s.cfg.Now())
	})
	s.log.Info("rebuilding a version", "image", v.Image, "number", v.Number, "version", v.ID, "base", plan.Base, "delta_bytes", plan.Delta.Size,
		"reason", plan.Reason)
	return s.attend(ctx, e, v)
}

// deltaFailed remembers why a delta was of no use, for the controller, and not to try it again if that can't help.
func (s *Syncer) deltaFailed(e *entry, d *config.Delta, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	is := func(causes ...error) bool {
		return slices.ContainsFunc(causes, func(cause error) bool { return errors.Is(err, cause) })
	}
	if is(rebuild.ErrBase, rebuild.ErrGone) {
		e.failure = err.Error()
	}
	if is(rebuild.ErrWrong, rebuild.ErrSource, delta.ErrFormat, delta.ErrVersion, delta.ErrWrongOld, delta.ErrMismatch, delta.ErrLimit,
		imagestore.ErrDamaged, imagestore.ErrInconsistent) {
		e.failure = err.Error()
		if e.refused == nil {
			e.refused = make(map[[32]byte]bool)
		}
		e.refused[d.SHA256] = true
	}
}

// beginFilling opens all that a rebuild needs, and starts it.
func (s *Syncer) beginFilling(ctx context.Context, e *entry, v config.Version, plan config.Plan) (_ *filling, err error) {
	d := &plan.Delta
	f := &filling{delta: d, files: make(chan struct{}), ended: make(chan struct{})}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	// The base comes first: what is open is not removed to make room.
	if f.base, err = s.cfg.Store.OpenDisk(d.Base); err != nil {
		return nil, err
	}
	if f.in, err = s.openLazy(ctx, e, v, d); err != nil {
		return nil, err
	}
	if err := s.openDelta(ctx, f, v); err != nil {
		return nil, err
	}
	in := f.in
	_, wire := in.Delta()
	s.mu.Lock()
	wait := s.policy.Wait()
	s.mu.Unlock()
	f.r, err = rebuild.Open(ctx, rebuild.Config{Size: int64(f.size), Digest: verity.Digest(in.Manifest().Digest), Groups: f.opened.Groups,
		Proof: f.opened.Proof, Decoder: f.opened.Decoder, Base: f.base, Disk: in.Disk(), Delta: wire, First: d.First, Wait: wait,
		Fetch: s.fetchDelta(v.ID, d), Logger: s.log, Metrics: s.rebuilds})
	if err != nil {
		return nil, err
	}
	s.start(e, f)
	return f, nil
}

// start lets the rebuild run. It ends with the Syncer, or when the version is dropped.
func (s *Syncer) start(e *entry, f *filling) {
	ctx, cancel := context.WithCancel(s.life)
	f.cancel = cancel
	go func() {
		defer close(f.ended)
		if f.err = f.in.Explain(f.r.Run(ctx)); f.err == nil {
			select {
			case <-f.files:
				f.err = f.in.Complete(ctx)
			case <-ctx.Done():
				f.err = ctx.Err()
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		e.next = time.Time{}
		s.signal()
	}()
}

// fetchDelta makes the function by which a rebuild gets a delta's bytes.
func (s *Syncer) fetchDelta(id manifest.ID, d *config.Delta) rebuild.Fetch {
	return func(ctx context.Context, off, length int64, urgent bool, sink func([]byte) error) error {
		err := s.cfg.Deltas.FetchDelta(ctx, id, d, off, length, urgent, sink)
		if errors.Is(err, ErrGone) {
			return fmt.Errorf("%w: %w", rebuild.ErrGone, err)
		}
		return err
	}
}

// openDelta gets the index, from the disk if it is there, and opens the delta with it.
func (s *Syncer) openDelta(ctx context.Context, f *filling, v config.Version) error {
	m := f.in.Manifest()
	a, ok := m.Artifact(manifest.Squashfs)
	base, baseOK := f.base.Version().Manifest.Artifact(manifest.Squashfs)
	if !ok || !baseOK {
		return fmt.Errorf("%w: no squashfs", manifest.ErrFormat)
	}
	f.size = a.Size
	opt := delta.Options{MemoryBytes: s.cfg.MemoryBytes, OldDigest: verity.Digest(f.base.Version().Manifest.Digest), NewDigest: verity.Digest(m.Digest),
		Incoming: f.in.Disk(), TempDir: s.cfg.TempDir}
	source := io.NewSectionReader(f.base, 0, int64(base.Size))
	d, file := f.in.Delta()
	if d.IndexBytes > delta.MaxIndexBytes {
		return fmt.Errorf("%w: index of %d bytes", delta.ErrFormat, d.IndexBytes)
	}
	index := make([]byte, d.IndexBytes)
	_, err := file.ReadAt(index, 0)
	if err == nil {
		f.opened, err = s.cfg.OpenDelta(ctx, index, source, opt)
	}
	if err != nil && ctx.Err() == nil {
		if err = s.fetchIndex(ctx, f, v.ID, index); err == nil {
			f.opened, err = s.cfg.OpenDelta(ctx, index, source, opt)
		}
	}
	if err != nil {
		return fmt.Errorf("open the delta: %w", err)
	}
	if f.opened.New.Size != int64(a.Size) || f.opened.New.SHA256 != a.SHA256 {
		return fmt.Errorf("%w: it makes another squashfs", rebuild.ErrWrong)
	}
	return nil
}

// fetchIndex fetches the index and keeps it in the delta file.
func (s *Syncer) fetchIndex(ctx context.Context, f *filling, id manifest.ID, index []byte) error {
	d, file := f.in.Delta()
	var got bytes.Buffer
	got.Grow(len(index))
	err := s.cfg.Deltas.FetchDelta(ctx, id, d, 0, d.IndexBytes, false, func(p []byte) error {
		_, err := got.Write(p)
		return err
	})
	if err == nil && got.Len() != len(index) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errSource, err)
	}
	f.index += uint64(copy(index, got.Bytes()))
	if _, err := file.WriteAt(index, 0); err != nil {
		return err
	}
	return file.Sync()
}

// attend brings what the rebuild does not, opens the version to clients, and waits for the end.
func (s *Syncer) attend(ctx context.Context, e *entry, v config.Version) error {
	f := e.fill
	var err error
	if !f.served {
		err = s.bringFiles(ctx, e, f)
	}
	if err == nil {
		err = s.watch(ctx, e, f)
	}
	select {
	case <-f.ended:
		return s.settle(ctx, e, v, f)
	default:
		return err // the rebuild goes on
	}
}

// settle cleans up after a rebuild that has ended.
func (s *Syncer) settle(ctx context.Context, e *entry, v config.Version, f *filling) error {
	if e.fill != f {
		return f.err
	}
	p := f.r.Progress()
	_, total := f.in.Progress()
	s.mu.Lock()
	s.link.add(uint64(p.Fetched), p.FetchTime)
	e.fetched += uint64(p.Fetched) + f.index
	e.total = total
	s.mu.Unlock()
	s.drop(e)
	if f.err == nil || ctx.Err() != nil {
		return f.err
	}
	s.log.Warn("rebuilding a version ended", "image", v.Image, "number", v.Number, "version", v.ID, "err", f.err)
	if errors.Is(f.err, rebuild.ErrBase) {
		s.cfg.Store.Withdraw(f.delta.Base) // it is proven anew
	}
	s.deltaFailed(e, f.delta, f.err)
	return f.err
}

// watch lets the rebuild fetch what nobody waits for, until it ends, the time window closes or something else is more urgent.
func (s *Syncer) watch(ctx context.Context, e *entry, f *filling) error {
	defer f.r.SetFill(false)
	look := time.NewTicker(lookPeriod)
	defer look.Stop()
	start := time.Now()
	for {
		p := f.r.Progress()
		held := s.windowClosed()
		if held != nil && p.Missing {
			return held
		}
		f.r.SetFill(held == nil)
		s.lookBehind(e, progress{fetched: uint64(p.Fetched) + f.index, time: time.Since(start), line: p.FetchTime, missing: p.Missing, trouble: p.Trouble})
		select {
		case <-f.ended:
			return f.err
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
		}
	}
}
