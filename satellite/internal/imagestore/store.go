package imagestore

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ltsp-fleet/ltsp-fleet/internal/atomicfile"
	"github.com/ltsp-fleet/ltsp-fleet/internal/manifest"
)

// Errors that can be tested for.
var (
	// ErrUnknown: the store has no such version, export or file, or has not proven it yet.
	ErrUnknown = errors.New("not on this satellite")
	// ErrNoSpace: the disk is too small or full.
	ErrNoSpace = errors.New("no space on the disk")
	// ErrDamaged: a version failed its proof and lies in incoming now.
	ErrDamaged = errors.New("damaged on the disk")
	// ErrCorrupt: bytes that are not what their name says.
	ErrCorrupt = errors.New("chunk does not match its ID")
	// ErrInconsistent: a manifest whose parts contradict each other; fetching again can't help.
	ErrInconsistent = errors.New("manifest contradicts itself")
	// ErrUnlisted: the manifest lacks chunk lists that are needed.
	ErrUnlisted = errors.New("manifest came without its chunk lists")
)

// DefaultLinger is longer than clients wait for a lost root file system (agentproto.DefaultDeadTimeout).
const DefaultLinger = 15 * time.Minute

// Config configures a Store. Dir and Keys are required.
type Config struct {
	// Dir is the data directory; images and incoming are made in it.
	Dir string
	// Keys returns the keys of which one must have signed a manifest.
	Keys func() []ed25519.PublicKey
	// Retain is how many versions of a wanted image that are themselves no longer wanted stay, as long as space allows.
	Retain int
	// Linger is how long after its last use a version that is to go stays: a PC whose connection broke, or whose satellite was started
	// anew, comes back for it. After a start all versions count as just used. Zero: DefaultLinger.
	Linger time.Duration
	// ReserveBytes of the file system stay free.
	ReserveBytes uint64
	// Parallel is how many goroutines hash. Zero: one per processor.
	Parallel int
	// Space returns free and total bytes of the file system of dir. nil: statfs(2).
	Space func(dir string) (free, size uint64, err error)
	// Now is the clock. nil: time.Now.
	Now func() time.Time
	// Logger receives the log; nil discards it. Metrics receives the metrics of the package comment; nil means none.
	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

// Store is the version store. Open, List, Find, OpenExport, OpenDisk, OpenArtifact, Withdraw and Space are safe for concurrent use. Prove,
// Begin, Keep and Sweep belong to one goroutine, the one that synchronises, and so do the methods of Incoming, but that those of one
// Incoming may run beside all else.
type Store struct {
	cfg     Config
	log     *slog.Logger
	root    *os.Root
	metrics *metrics

	mu       sync.Mutex
	versions map[manifest.ID]*version
	handles  int
}

// version is one directory: in images, or in incoming if clients read it while it arrives. Its fields but info and reads are guarded by
// Store.mu.
type version struct {
	info     Info
	place    string // imagesName or incomingName
	verified bool
	serving  bool // with place incoming: new readers may come
	wanted   bool
	doomed   bool // to be removed when nobody can need it any more
	refs     int
	used     time.Time // when the last handle was closed, or the program started; zero: not used yet
	since    time.Time // when it was wanted last

	// reads makes readers wait for what has not arrived; nil for a version in images.
	reads atomic.Pointer[Reads]
}

// Reads gives what is there of a version that is arriving. Its methods are safe for concurrent use.
type Reads interface {
	// Wait returns when n bytes of the disk from off are in the file and proven.
	Wait(ctx context.Context, off, n int64) error
	// Able tells whether a new reader can expect to be served.
	Able() bool
}

// Info describes a version in images, or one that is arriving and was served.
type Info struct {
	ID manifest.ID
	// Manifest lacks the chunks. Don't change it.
	Manifest *manifest.Manifest
	Verified bool
	// Arriving versions lie in incoming; of them those that are Serving can be opened.
	Arriving, Serving bool
	// DataBytes is the size of squashfs and padding, DiskBytes that of the export: data and tree. Zero for boot loaders.
	DataBytes, DiskBytes uint64
}

// Open opens the store, making its directories. Versions are there at once but unproven; directories that are none are moved away.
func Open(cfg Config) (*Store, error) {
	if cfg.Dir == "" || cfg.Keys == nil {
		return nil, errors.New("image store needs a directory and keys")
	}
	if cfg.Linger == 0 {
		cfg.Linger = DefaultLinger
	}
	s := &Store{cfg: cfg, log: cfg.Logger, versions: make(map[manifest.ID]*version)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.cfg.Space == nil {
		s.cfg.Space = statfs
	}
	if s.cfg.Now == nil {
		s.cfg.Now = time.Now
	}
	for _, dir := range []string{s.imagesDir(), s.incomingDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("open image store: %w", err)
		}
	}
	root, err := os.OpenRoot(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	s.root = root
	if err := s.load(); err != nil {
		_ = root.Close()
		return nil, fmt.Errorf("open image store: %w", err)
	}
	if s.metrics, err = newMetrics(cfg.Metrics, s); err != nil {
		_ = root.Close()
		return nil, err
	}
	return s, nil
}

// Close releases the directory; open handles stay usable.
func (s *Store) Close() error { return s.root.Close() }

// The two directories.
const (
	imagesName   = "images"
	incomingName = "incoming"
)

func (s *Store) imagesDir() string   { return filepath.Join(s.cfg.Dir, imagesName) }
func (s *Store) incomingDir() string { return filepath.Join(s.cfg.Dir, incomingName) }
func (s *Store) dir(id manifest.ID) string {
	return filepath.Join(s.imagesDir(), id.String())
}
func (s *Store) incomingPath(id manifest.ID) string {
	return filepath.Join(s.incomingDir(), id.String())
}

// load fills versions and sweeps what a crash left behind.
func (s *Store) load() error {
	if err := sweep(s.incomingDir()); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.imagesDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, err := manifest.ParseID(e.Name())
		if err != nil {
			s.log.Warn("removing what is no version", "path", filepath.Join(s.imagesDir(), e.Name()))
			if err := os.RemoveAll(filepath.Join(s.imagesDir(), e.Name())); err != nil {
				return err
			}
			continue
		}
		if err := s.loadVersion(id); err != nil {
			s.log.Warn("version is damaged", "version", id, "err", err)
			if err := s.demote(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweep removes the remains of removed versions: names in incoming that are no version ID.
func sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, err := manifest.ParseID(e.Name()); err == nil {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) loadVersion(id manifest.ID) error {
	m, err := s.readManifest(s.dir(id), id)
	if err != nil {
		return err
	}
	for i := range m.Artifacts {
		a := &m.Artifacts[i]
		info, err := os.Lstat(filepath.Join(s.dir(id), fileName(a)))
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || uint64(info.Size()) != fileSize(a) {
			return fmt.Errorf("file %q is no file of %d bytes", fileName(a), fileSize(a))
		}
	}
	info, err := os.Stat(s.dir(id))
	if err != nil {
		return err
	}
	s.versions[id] = &version{info: describe(id, m), place: imagesName, since: info.ModTime(), used: s.cfg.Now()}
	return nil
}

// describe makes the Info of a manifest; the chunks are left out, they would cost megabytes per version.
func describe(id manifest.ID, m *manifest.Manifest) Info {
	short := *m
	short.Artifacts = slices.Clone(m.Artifacts)
	info := Info{ID: id, Manifest: &short}
	for i := range short.Artifacts {
		a := &short.Artifacts[i]
		a.Chunks = nil
		if fileName(a) == diskFile {
			info.DiskBytes = fileSize(a)
			info.DataBytes = paddedSize(a.Size)
		}
	}
	return info
}

// readManifest reads and checks the signed manifest in dir.
func (s *Store) readManifest(dir string, id manifest.ID) (*manifest.Manifest, error) {
	path := filepath.Join(dir, manifestFile)
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if info.Size() > manifest.MaxEncodedBytes {
		return nil, fmt.Errorf("read manifest %s: %w: %d bytes", path, manifest.ErrFormat, info.Size())
	}
	signed, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	return s.openManifest(signed, id)
}

// openManifest checks the signature, and that the manifest is the one that id names.
func (s *Store) openManifest(signed []byte, id manifest.ID) (*manifest.Manifest, error) {
	m, err := manifest.Open(signed, s.cfg.Keys()...)
	if err != nil {
		return nil, fmt.Errorf("manifest of version %s: %w", id, err)
	}
	if got := m.ID(); got != id {
		return nil, fmt.Errorf("manifest of version %s: %w: it describes version %s", id, manifest.ErrFormat, got)
	}
	if err := checkNames(m); err != nil {
		return nil, fmt.Errorf("manifest of version %s: %w", id, err)
	}
	return m, nil
}

// demote moves a version's directory to incoming, over what may be there.
func (s *Store) demote(id manifest.ID) error {
	s.mu.Lock()
	delete(s.versions, id)
	s.mu.Unlock()
	if err := os.RemoveAll(s.incomingPath(id)); err != nil {
		return fmt.Errorf("move version %s to incoming: %w", id, err)
	}
	if err := os.Rename(s.dir(id), s.incomingPath(id)); err != nil {
		return fmt.Errorf("move version %s to incoming: %w", id, err)
	}
	return errors.Join(atomicfile.SyncDir(s.imagesDir()), atomicfile.SyncDir(s.incomingDir()))
}

// List returns the versions in images and those that are served while they arrive, by image name, then number.
func (s *Store) List() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Info, 0, len(s.versions))
	for _, v := range s.versions {
		out = append(out, v.snapshot())
	}
	slices.SortFunc(out, func(a, b Info) int {
		return cmp.Or(cmp.Compare(a.Manifest.Name, b.Manifest.Name), cmp.Compare(a.Manifest.Number, b.Manifest.Number),
			slices.Compare(a.ID[:], b.ID[:]))
	})
	return out
}

func (v *version) snapshot() Info {
	info := v.info
	info.Verified = v.verified
	info.Arriving = v.place == incomingName
	info.Serving = v.openable() && !v.verified
	return info
}

// openable tells whether new readers may come.
func (v *version) openable() bool {
	if v.verified || !v.serving {
		return v.verified
	}
	reads := v.reads.Load()
	return reads != nil && (*reads).Able()
}

// Find returns a version in images, or one that is served while it arrives, or false.
func (s *Store) Find(id manifest.ID) (Info, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.versions[id]
	if !ok {
		return Info{}, false
	}
	return v.snapshot(), true
}

// Space returns the free and the total bytes of the data directory's file system.
func (s *Store) Space() (free, size uint64, err error) { return s.cfg.Space(s.cfg.Dir) }

// Withdraw makes a version unproven because reading it failed: it is no longer listed or opened until Prove or a repair.
func (s *Store) Withdraw(id manifest.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.versions[id]; ok {
		v.verified, v.serving = false, false
	}
}

// Manifest reads the whole manifest of a version in images, chunk lists included if they are known.
func (s *Store) Manifest(ctx context.Context, id manifest.ID) (*manifest.Manifest, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.readManifest(s.dir(id), id)
}
