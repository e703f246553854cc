package rebuild

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/delta"
	"github.com/ltsp-fleet/ltsp-fleet/internal/verity"
)

// Errors that can be tested for.
var (
	// ErrWrong: what the delta or the base gives is not the version that is wanted. Another way must be taken; what is right in the
	// disk file can be used by it.
	ErrWrong = errors.New("delta and base do not make this version")
	// ErrBase: the base can't be read.
	ErrBase = errors.New("base version can't be read")
	// ErrSource: the source sent wrong bytes for a group again and again.
	ErrSource = errors.New("delta is damaged at its source")
	// ErrGone: the source has this delta no more. Config.Fetch returns it.
	ErrGone = errors.New("delta is not to be had any more")
	// ErrLate: what a reader wants did not arrive in time.
	ErrLate = errors.New("data has not arrived in time")
	// ErrEnded: the rebuild was closed.
	ErrEnded = errors.New("rebuild has ended")
)

// Decoder makes the new squashfs out of the base and groups. *delta.Receiver is one; see there for what each method does.
type Decoder interface {
	Layout() []delta.Region
	Bytes(reg delta.Region) []byte
	Heavy(g int, wire []byte) bool
	DecodeGroup(ctx context.Context, g int, wire []byte, emit func(off int64, stored []byte) error) error
}

// Proof has the hashes that a delta's index brings. *delta.Index is one; see there.
type Proof interface {
	Piece(p int64) (hash [32]byte, ok bool)
	Level1() [][32]byte
}

// Fetch delivers length bytes of the delta from off to sink, in order; p is valid during the call. urgent says that a client waits for them.
// ErrGone says that asking again can't help. It must return when ctx ends and must not wait for ever for a silent peer. It is called from
// several goroutines at once.
type Fetch func(ctx context.Context, off, length int64, urgent bool, sink func(p []byte) error) error

// File is the part of *os.File that a rebuild uses.
type File interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
}

// Defaults of Config.
const (
	DefaultWait   = 20 * time.Second
	DefaultLanes  = 2
	maxRefusals   = 3
	firstBatch    = 256 << 10
	minBatch      = 64 << 10
	maxBatch      = 4 << 20
	batchSeconds  = 1 // a batch should take about this long
	syncBytes     = 16 << 20
	backoffFirst  = time.Second
	backoffLast   = time.Minute
	backoffUrgent = 2 * time.Second // a client waits: the line may be back any moment
	patience      = 500 * time.Millisecond
)

// Config configures a Rebuild. Size, Digest, Groups, Proof, Decoder, Base, Disk, Delta and Fetch are required.
type Config struct {
	// Size of the new squashfs, and Digest of its disk, from the signed manifest.
	Size   int64
	Digest verity.Digest
	Groups []delta.Group
	Proof  Proof
	Decoder
	// Base is the old disk or squashfs.
	Base io.ReaderAt
	// Disk takes the new disk; it must have its full length and may hold what an earlier rebuild or anybody else left there. Delta takes the
	// delta's groups at their offsets.
	Disk, Delta File
	Fetch       Fetch
	// First are the groups to fetch first.
	First []uint32
	// Workers is how many goroutines copy and decode; zero: one per processor. Lanes is how many background requests run at once;
	// zero: DefaultLanes.
	Workers, Lanes int
	// Wait is how long a reader waits; zero: DefaultWait.
	Wait time.Duration
	// Logger receives the log; nil discards it. Metrics may be nil.
	Logger  *slog.Logger
	Metrics *Metrics
}

// Rebuild is one version that is being made. Its methods are safe for concurrent use.
type Rebuild struct {
	cfg     Config
	log     *slog.Logger
	geo     geometry
	level1  []hash
	kept    []bool      // dirty pieces that Open found right in the file
	resumed bool        // the disk file is no single hole
	whole   atomic.Bool // all pieces can be read
	wait    atomic.Int64

	mu      sync.Mutex
	cond    *sync.Cond // something changed that workers or lanes wait for
	board   *board
	fill    bool  // lanes may fetch what nobody waits for
	failed  error // no reader can be served any more
	trouble error // of the last fetch; nil after a success
	kick    chan struct{}
	waiters waiters
	runs    map[*delivery]struct{} // under way
	meter   meter
	unsaved int64 // bytes of the delta file since its last sync
}

// meter is what Progress tells of speed.
type meter struct {
	fetched     int64
	fetchTime   time.Duration // during which at least one lane was fetching
	lanesBusy   int
	busySince   time.Time
	decodedRaw  int64
	decodedTime time.Duration // of all workers together
	batch       int64         // bytes that a background request should have
}

// Progress is how far a rebuild is.
type Progress struct {
	Done, Total     int64 // bytes of data and padding that can be read
	Wire, WireTotal int64 // bytes of groups that are here
	Missing         bool  // groups have still to be fetched
	Fetched         int64 // bytes that came since Open, and
	FetchTime       time.Duration
	DecodedRaw      int64 // bytes of content that groups decoded to since Open, and the processor time of it
	DecodeTime      time.Duration
	Waiting         int   // readers
	Trouble         error // of the last fetch; nil if it succeeded
}

// Open looks at what lies in the files and writes the upper levels of the tree. It blocks for as long as reading the pieces and groups that
// are there takes. ErrWrong tells that the index is not one of this version.
func Open(ctx context.Context, cfg Config) (*Rebuild, error) {
	if cfg.Proof == nil || cfg.Decoder == nil || cfg.Base == nil || cfg.Disk == nil || cfg.Delta == nil || cfg.Fetch == nil {
		return nil, errors.New("rebuild lacks a collaborator")
	}
	geo, err := newGeometry(cfg.Size)
	if err != nil {
		return nil, err
	}
	if cfg.Workers <= 0 {
		cfg.Workers = runtime.GOMAXPROCS(0)
	}
	if cfg.Lanes <= 0 {
		cfg.Lanes = DefaultLanes
	}
	if cfg.Wait <= 0 {
		cfg.Wait = DefaultWait
	}
	r := &Rebuild{cfg: cfg, log: cfg.Logger, geo: geo, level1: cfg.Proof.Level1(), kick: make(chan struct{}), fill: true,
		runs: make(map[*delivery]struct{})}
	r.cond = sync.NewCond(&r.mu)
	r.meter.batch = firstBatch
	r.SetWait(cfg.Wait)
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.board, err = newBoard(geo, cfg.Groups, cfg.Layout(), cfg.First); err != nil {
		return nil, err
	}
	if err := r.start(); err != nil {
		return nil, err
	}
	return r, r.scan(ctx)
}

// start checks the proof up to the digest and writes what is known without any work: upper levels and padding.
func (r *Rebuild) start() error {
	for p, dirty := range r.board.dirty {
		if _, ok := r.expected(p); dirty && !ok {
			return fmt.Errorf("%w: the index lacks the hash of piece %d", ErrWrong, p)
		}
	}
	if len(r.geo.levels) > 1 {
		if len(r.level1) != r.geo.spans {
			return fmt.Errorf("%w: the index has %d hashes of level 1, want %d", ErrWrong, len(r.level1), r.geo.spans)
		}
		root, err := r.geo.crown(r.level1, r.write)
		if err != nil {
			return err
		}
		if root != r.cfg.Digest {
			return fmt.Errorf("%w: its tree has the root %s", ErrWrong, verity.Digest(root))
		}
	}
	if pad := r.geo.data - r.geo.size; pad > 0 {
		return r.write(r.geo.size, make([]byte, pad))
	}
	return nil
}

// expected returns the hash of a dirty piece. The hash of the only piece of a disk is the digest.
func (r *Rebuild) expected(p int) (hash, bool) {
	if r.geo.pieces == 1 {
		return r.cfg.Digest, true
	}
	return r.cfg.Proof.Piece(int64(p))
}

func (r *Rebuild) write(off int64, data []byte) error {
	if _, err := r.cfg.Disk.WriteAt(data, off); err != nil {
		return fmt.Errorf("write %d bytes at %d of the disk: %w", len(data), off, err)
	}
	return nil
}

// SetFill says whether what nobody waits for may be fetched. It is true after Open.
func (r *Rebuild) SetFill(may bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fill = may
	r.cond.Broadcast()
}

// SetWait says how long readers wait that come from now on.
func (r *Rebuild) SetWait(d time.Duration) { r.wait.Store(int64(d)) }

// Kick ends the pauses after failed fetches: the source is back.
func (r *Rebuild) Kick() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trouble = nil
	close(r.kick)
	r.kick = make(chan struct{})
}

// Able tells whether a new reader can expect to be served: all is here, or the last fetch succeeded.
func (r *Rebuild) Able() bool {
	if r.whole.Load() {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed == nil && (r.trouble == nil || !r.board.missingGroups())
}

// Progress tells how far it is.
func (r *Rebuild) Progress() Progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := &r.meter
	p := Progress{Done: r.board.doneBytes, Total: r.geo.data, Wire: r.board.wireBytes, Missing: r.board.missingGroups(), Fetched: m.fetched,
		FetchTime: m.fetchTime, DecodedRaw: m.decodedRaw, DecodeTime: m.decodedTime, Waiting: r.waiters.count, Trouble: r.trouble}
	if m.lanesBusy > 0 {
		p.FetchTime += time.Since(m.busySince)
	}
	for i := range r.cfg.Groups {
		p.WireTotal += r.cfg.Groups[i].Length
	}
	return p
}

// Close makes all waits end with ErrEnded, unless everything is here. Run must have returned.
func (r *Rebuild) Close() { r.fail(ErrEnded) }

// fail ends all waits, now and later.
func (r *Rebuild) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed == nil && !r.board.complete() {
		r.failed = err
		r.waiters.fail(err)
	}
}

// fileOf returns the *os.File in f, to ask for holes; nil if it is none.
func fileOf(f File) *os.File {
	osf, _ := f.(*os.File)
	return osf
}
