package imagestore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// Incoming is a version that arrives: all of it as chunks, or its squashfs by a delta and the other artifacts as chunks or from files that are
// here. Put, PutFile, Have, Progress and Missing are safe for concurrent use; the rest is for its owner. Close it when done; what arrived stays
// for the next Begin.
type Incoming struct {
	store  *Store
	id     manifest.ID
	m      *manifest.Manifest
	layout *layout
	dir    string
	files  []*os.File // one per artifact
	delta  *deltaFile // nil: the squashfs comes as chunks

	mu    sync.Mutex
	have  []uint64 // bit per place
	done  uint64   // bytes of the places that are had
	whole []bool   // artifacts without a chunk list that are here
}

// Begin opens a version that is to arrive: a new one, or one whose transfer was interrupted. With d its squashfs comes by that delta and
// the chunk list of the squashfs is not used; other artifacts without a list come by PutFile. Without d all artifacts must have their lists,
// else the error is ErrUnlisted. Begin checks the manifest's signature and that it describes the version id, and that the disk has room; a
// *NoSpaceError tells what is missing. Nothing is taken to be there before Scan.
func (s *Store) Begin(signed []byte, id manifest.ID, d *config.Delta) (*Incoming, error) {
	m, err := s.openManifest(signed, id)
	if err != nil {
		return nil, err
	}
	if d != nil {
		if signed, err = withoutSquashfs(signed, m); err != nil {
			return nil, err
		}
	} else if !m.Listed() {
		return nil, fmt.Errorf("manifest of version %s: %w", id, ErrUnlisted)
	}
	l := newLayout(m)
	if err := l.checkSizes(); err != nil {
		return nil, fmt.Errorf("manifest of version %s: %w", id, err)
	}
	in := &Incoming{store: s, id: id, m: m, layout: l, dir: s.incomingPath(id), have: make([]uint64, (l.places()+63)/64),
		whole: make([]bool, len(m.Artifacts))}
	need := in.need(d)
	if err := s.makeRoom(need - min(need, allocated(in.dir))); err != nil {
		return nil, err // names what it is about itself
	}
	if err := in.create(signed, d); err != nil {
		_ = in.Close()
		return nil, fmt.Errorf("begin version %s: %w", id, noSpace(err))
	}
	return in, nil
}

// need is the room that the version takes until it is complete.
func (in *Incoming) need(d *config.Delta) uint64 {
	need := diskBytes(in.m)
	if d != nil {
		need += uint64(d.Size)
	}
	return need
}

// Pending reads what is known of an interrupted transfer: the signed manifest, which was not checked, and the delta that was begun, or nil.
// ErrUnknown if there is none.
func (s *Store) Pending(id manifest.ID) ([]byte, *config.Delta, error) {
	path := filepath.Join(s.incomingPath(id), manifestFile)
	info, err := os.Stat(path)
	if err != nil || info.Size() > manifest.MaxEncodedBytes {
		return nil, nil, fmt.Errorf("incoming version %s: %w", id, ErrUnknown)
	}
	signed, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("incoming version %s: %w", id, err)
	}
	return signed, readPlan(s.incomingPath(id)), nil
}

// allocated returns the disk space that the files of dir take.
func allocated(dir string) uint64 {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	var n uint64
	for _, e := range entries {
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(dir, e.Name()), &st) == nil {
			n += uint64(st.Blocks) * 512
		}
	}
	return n
}

// noSpace marks errors of a full disk as ErrNoSpace.
func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// lacks turns the error of a full disk into one that says how much is missing.
func (in *Incoming) lacks(err error) error {
	if err = noSpace(err); !errors.Is(err, ErrNoSpace) {
		return err
	}
	free, _, statErr := statfs(in.dir)
	if statErr != nil {
		return err
	}
	need := diskBytes(in.m)
	if in.delta != nil {
		need = in.need(&in.delta.plan)
	}
	return &NoSpaceError{Dir: in.dir, Need: need - min(need, allocated(in.dir)), Free: free, Reserve: in.store.cfg.ReserveBytes}
}

// create makes the directory, the manifest and sparse files of the right sizes; files that exist keep their bytes.
func (in *Incoming) create(signed []byte, d *config.Delta) error {
	if err := os.Mkdir(in.dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := atomicfile.Write(filepath.Join(in.dir, manifestFile), signed, 0o644); err != nil {
		return err
	}
	wanted := map[string]bool{manifestFile: true}
	for i := range in.m.Artifacts {
		a := &in.m.Artifacts[i]
		f, err := os.OpenFile(filepath.Join(in.dir, fileName(a)), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
		if err != nil {
			return err
		}
		in.files = append(in.files, f)
		wanted[fileName(a)] = true
		if err := f.Truncate(int64(fileSize(a))); err != nil {
			return err
		}
	}
	if d != nil {
		var err error
		if in.delta, err = openDelta(in.dir, d); err != nil {
			return err
		}
		wanted[deltaName], wanted[planName] = true, true
	}
	return removeOthers(in.dir, wanted)
}

// removeOthers keeps strange files from entering images with the version.
func removeOthers(dir string, wanted map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !wanted[e.Name()] {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close closes the files. If clients read the version, new ones are refused from now on.
func (in *Incoming) Close() error {
	if len(in.files) > 0 {
		in.store.withhold(in.id)
	}
	var errs []error
	if in.delta != nil {
		errs = append(errs, in.delta.file.Close())
		in.delta = nil
	}
	for _, f := range in.files {
		errs = append(errs, f.Close())
	}
	in.files = nil
	return errors.Join(errs...)
}

// Manifest is the version's manifest. Don't change it.
func (in *Incoming) Manifest() *manifest.Manifest { return in.m }

// ID is the version's ID.
func (in *Incoming) ID() manifest.ID { return in.id }

// Progress returns how many bytes of the artifacts are here and verified, and how many there are; what a delta brings is not counted as
// done.
func (in *Incoming) Progress() (done, total uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.done, in.m.TotalBytes()
}

func (in *Incoming) has(place uint32) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.have[place/64]&(1<<(place%64)) != 0
}

func (in *Incoming) mark(place uint32, size uint32) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if bit := uint64(1) << (place % 64); in.have[place/64]&bit == 0 {
		in.have[place/64] |= bit
		in.done += uint64(size)
	}
}

// scanBatch is how many places a goroutine of Scan takes at once: neighbours, so that reads are sequential.
const scanBatch = 64

// Scan hashes what is on the disk and marks the chunks and files that are right. Holes are skipped. It blocks for as long as reading the files takes.
func (in *Incoming) Scan(ctx context.Context) error {
	if err := in.scanFiles(ctx); err != nil {
		return err
	}
	parallel := in.store.cfg.Parallel
	if parallel <= 0 {
		parallel = runtime.GOMAXPROCS(0)
	}
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range parallel {
		g.Go(func() error {
			buf := make([]byte, chunk.MaxSize)
			for ctx.Err() == nil {
				from := next.Add(scanBatch) - scanBatch
				if from >= int64(in.layout.places()) {
					return nil
				}
				to := min(from+scanBatch, int64(in.layout.places()))
				for p := from; p < to; p++ {
					if err := in.scanPlace(uint32(p), buf); err != nil {
						return err
					}
				}
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

func (in *Incoming) scanPlace(place uint32, buf []byte) error {
	ref := in.layout.ref(place)
	off := int64(in.layout.offsets[place])
	f := in.files[in.layout.artifact(place)]
	// A chunk that begins in a hole and ends before its end was never written (or is all zeros, and then comes again).
	if data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA); errors.Is(err, unix.ENXIO) || err == nil && data >= off+int64(ref.Size) {
		return nil
	}
	buf = buf[:ref.Size]
	if _, err := f.ReadAt(buf, off); err != nil && !errors.Is(err, io.EOF) {
		if errors.Is(err, syscall.EIO) {
			return nil // a bad sector: the chunk comes again and is written over it
		}
		return fmt.Errorf("scan version %s: %w", in.id, err)
	}
	if chunk.Sum(buf) == ref.ID {
		in.mark(place, ref.Size)
	}
	return nil
}

// Missing returns the chunks that are not here, each once, in the order of their first place.
func (in *Incoming) Missing() []chunk.Ref {
	var out []chunk.Ref
	for p := range in.layout.places() {
		place := uint32(p)
		if in.has(place) {
			continue
		}
		ref := in.layout.ref(place)
		if in.firstMissing(ref.ID) == place {
			out = append(out, ref)
		}
	}
	return out
}

// firstMissing returns the first place of a chunk that is not here.
func (in *Incoming) firstMissing(id chunk.ID) uint32 {
	places := in.layout.find(id)
	for _, p := range places {
		if !in.has(p) {
			return p
		}
	}
	return uint32(in.layout.places())
}

// Put verifies a chunk and writes it wherever the version has it. ErrCorrupt if data is not the chunk, ErrUnknown if the version
// has no such chunk, ErrNoSpace if the disk is full. data is not kept.
func (in *Incoming) Put(id chunk.ID, data []byte) error {
	places := in.layout.find(id)
	if len(places) == 0 {
		return fmt.Errorf("chunk %s of version %s: %w", id, in.id, ErrUnknown)
	}
	if chunk.Sum(data) != id || len(data) != int(in.layout.ref(places[0]).Size) {
		return fmt.Errorf("chunk %s: %w", id, ErrCorrupt)
	}
	for _, p := range places {
		if in.has(p) {
			continue
		}
		if _, err := in.files[in.layout.artifact(p)].WriteAt(data, int64(in.layout.offsets[p])); err != nil {
			return fmt.Errorf("write chunk %s of version %s: %w", id, in.id, in.lacks(err))
		}
		in.mark(p, uint32(len(data)))
	}
	return nil
}
