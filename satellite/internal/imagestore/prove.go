package imagestore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

func paddedSize(n uint64) uint64 { return verity.PaddedSize(n) }

// Complete proves an incoming version whole and moves it to images: each artifact's SHA-256, the dm-verity root, fsync, rename. Everything
// must be here. An ErrInconsistent means that the manifest's parts contradict each other; of a version that came by a delta, that it was not
// whole after all. Clients that read it go on reading. The Incoming is closed afterwards in any case.
func (in *Incoming) Complete(ctx context.Context) error {
	defer in.Close()
	if done, total := in.Progress(); in.delta == nil && done != total {
		return fmt.Errorf("complete version %s: %d of %d bytes are here", in.id, done, total)
	}
	s := in.store
	if err := in.finishDisk(); err != nil {
		return fmt.Errorf("complete version %s: %w", in.id, noSpace(err))
	}
	if _, err := s.check(ctx, in.m, in.files, true); err != nil {
		if errors.Is(err, ErrDamaged) {
			// Every chunk had the right hash when it was written.
			err = fmt.Errorf("%w: %v", ErrInconsistent, err)
		}
		return fmt.Errorf("complete version %s: %w", in.id, noSpace(err))
	}
	for _, f := range in.files {
		if err := f.Sync(); err != nil {
			return fmt.Errorf("complete version %s: %w", in.id, noSpace(err))
		}
	}
	if in.delta != nil {
		if err := in.forgetDelta(ctx); err != nil {
			return fmt.Errorf("complete version %s: %w", in.id, noSpace(err))
		}
	}
	return s.admit(in)
}

// finishDisk writes the zeros between squashfs and tree: a file that was damaged there may hold something else.
func (in *Incoming) finishDisk() error {
	for i := range in.m.Artifacts {
		a := &in.m.Artifacts[i]
		if fileName(a) != diskFile {
			continue
		}
		pad := make([]byte, paddedSize(a.Size)-a.Size)
		if _, err := in.files[i].WriteAt(pad, int64(a.Size)); err != nil {
			return err
		}
	}
	return nil
}

// admit renames a proven version into images and makes it known.
func (s *Store) admit(in *Incoming) error {
	if err := atomicfile.SyncDir(in.dir); err != nil {
		return err
	}
	if info, known := s.Find(in.id); !known || info.Arriving {
		// What a failed demotion left behind.
		if err := os.RemoveAll(s.dir(in.id)); err != nil {
			return fmt.Errorf("complete version %s: %w", in.id, err)
		}
	}
	s.mu.Lock()
	err := os.Rename(in.dir, s.dir(in.id))
	if err == nil {
		s.knownLocked(in)
	}
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("complete version %s: %w", in.id, err)
	}
	return errors.Join(atomicfile.SyncDir(s.imagesDir()), atomicfile.SyncDir(s.incomingDir()))
}

// knownLocked makes a version known that lies in images now, or has one that was served until now know it.
func (s *Store) knownLocked(in *Incoming) {
	v, ok := s.versions[in.id]
	if !ok {
		v = &version{info: describe(in.id, in.m)}
		s.versions[in.id] = v
	}
	v.place, v.verified, v.serving, v.wanted, v.since = imagesName, true, false, true, s.cfg.Now()
	v.doomed = false
	v.reads.Store(nil)
}

// Prove checks every byte of a version in images. nil: it is verified now. ErrDamaged: it was moved to incoming, where Begin and Scan find
// the chunks that are good. ErrUnknown: there is none. It blocks for as long as reading the files takes.
func (s *Store) Prove(ctx context.Context, id manifest.ID) error {
	info, ok := s.Find(id)
	if !ok || info.Arriving {
		return fmt.Errorf("version %s: %w", id, ErrUnknown)
	}
	err := s.proveFiles(ctx, info)
	switch {
	case err == nil:
		s.setVerified(id)
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		s.metrics.damaged.Inc()
		if moveErr := s.demote(id); moveErr != nil {
			err = errors.Join(err, moveErr)
		}
		return fmt.Errorf("prove version %s: %w", id, err)
	}
}

func (s *Store) setVerified(id manifest.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.versions[id]; ok {
		v.verified = true
	}
}

func (s *Store) proveFiles(ctx context.Context, info Info) error {
	if _, err := s.readManifest(s.dir(info.ID), info.ID); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	var files []*os.File
	defer func() {
		for _, f := range files {
			_ = f.Close() // whatever was written was synced
		}
	}()
	for i := range info.Manifest.Artifacts {
		f, err := os.OpenFile(filepath.Join(s.dir(info.ID), fileName(&info.Manifest.Artifacts[i])), os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		files = append(files, f)
	}
	mended, err := s.check(ctx, info.Manifest, files, false)
	s.metrics.mended.Add(float64(mended))
	return err
}

// check reads all files of a version: the SHA-256 of each artifact and the dm-verity root of an image. ErrDamaged tells what differs. A
// tree that is not what the data says is written anew, it is a function of the data; mended counts its blocks. For a squashfs the
// root speaks for the bytes; full reads its SHA-256 too, to see that the manifest's two claims agree.
func (s *Store) check(ctx context.Context, m *manifest.Manifest, files []*os.File, full bool) (mended int64, err error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for i := range m.Artifacts {
		a := &m.Artifacts[i]
		if full || fileName(a) != diskFile {
			g.Go(func() error { return checkSum(ctx, a, files[i]) })
		}
		if fileName(a) == diskFile {
			g.Go(func() error {
				var err error
				mended, err = s.checkRoot(ctx, m, a, files[i])
				return err
			})
		}
	}
	err = g.Wait()
	return mended, err
}

func checkSum(ctx context.Context, a *manifest.Artifact, f *os.File) error {
	h := sha256.New()
	r := &ctxReader{ctx: ctx, r: io.NewSectionReader(f, 0, int64(a.Size))}
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, r, make([]byte, 512<<10))
	if err != nil {
		return readFailure(ctx, a.Name, err)
	}
	if n != int64(a.Size) || [32]byte(h.Sum(nil)) != a.SHA256 {
		return fmt.Errorf("%w: SHA-256 of %q differs", ErrDamaged, a.Name)
	}
	return nil
}

// readFailure tells a disk that can't be read (damage) from the end of ctx.
func readFailure(ctx context.Context, name string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: read %q: %w", ErrDamaged, name, err)
}

func (s *Store) checkRoot(ctx context.Context, m *manifest.Manifest, a *manifest.Artifact, f *os.File) (mended int64, err error) {
	data := paddedSize(a.Size)
	mend := &mender{f: f, base: int64(data)}
	root, err := verity.Compute(ctx, f, data, mend, s.cfg.Parallel)
	if err != nil {
		if mend.failed.Load() {
			return 0, err
		}
		return 0, readFailure(ctx, a.Name, err)
	}
	if root != m.Digest {
		return 0, fmt.Errorf("%w: dm-verity root of %q is %s, want %s", ErrDamaged, a.Name, root, verity.Digest(m.Digest))
	}
	if mended = mend.mended.Load(); mended > 0 {
		err = f.Sync()
	}
	return mended, err
}

// mender writes the hash blocks that differ from what is on the disk.
type mender struct {
	f      *os.File
	base   int64 // where the tree begins
	mended atomic.Int64
	failed atomic.Bool
}

// WriteAt is called from several goroutines.
func (m *mender) WriteAt(p []byte, off int64) (int, error) {
	old := make([]byte, len(p))
	if _, err := m.f.ReadAt(old, m.base+off); err == nil && bytes.Equal(old, p) {
		return len(p), nil
	}
	n, err := m.f.WriteAt(p, m.base+off)
	if err != nil {
		m.failed.Store(true)
		return n, err
	}
	m.mended.Add(1)
	return n, nil
}

// ctxReader ends with the context, between two reads.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
