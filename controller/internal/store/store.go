// Package store keeps what the controller knows in one bbolt file; it is the only importer of bbolt in the controller. Records are JSON, one bucket
// per kind. Update is one transaction and one entry of the audit log, whose hashes form a chain; Record is a transaction for reports, which
// are no decisions of anybody and are not audited. Nothing here decides: rules are fleet's.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Errors that can be tested for; fleet.ErrNotFound and fleet.ErrExists come from tables.
var (
	ErrLocked = errors.New("the database is in use by another process")
	ErrSchema = errors.New("the database was written by a newer program")
	ErrAudit  = errors.New("the audit log's chain of hashes is broken")
)

// Config says where a store lies.
type Config struct {
	Path string
	// Now is the clock of audit entries; nil means time.Now.
	Now func() time.Time
	// Log gets warnings; nil discards.
	Log *slog.Logger
	// NoSync leaves out fsync, for tests that do not care about power.
	NoSync bool
}

// Store is the open database. Safe for concurrent use; writers queue up.
type Store struct {
	db  *bolt.DB
	now func() time.Time
	log *slog.Logger

	mu        sync.Mutex
	observers []func(Commit)
}

// Commit tells observers what a transaction touched. Kinds and sites have no order and no repeats.
type Commit struct {
	Kinds []Kind
	// Sites are those of touched sites, subnets, satellites, clients and policies; an empty one stands for all.
	Sites []string
	// Audited is false for reports.
	Audited bool
}

// Has tells whether a record of the kind was touched.
func (c Commit) Has(kind Kind) bool {
	return slices.Contains(c.Kinds, kind)
}

// lockTimeout is how long Open waits for another process to let go.
const lockTimeout = time.Second

// Open opens or makes the database file and brings its schema up to date. ErrLocked if another process has it, ErrSchema if this program is
// too old for it.
func Open(cfg Config) (*Store, error) {
	db, err := bolt.Open(cfg.Path, 0o600, &bolt.Options{
		Timeout: lockTimeout, FreelistType: bolt.FreelistMapType, NoSync: cfg.NoSync, NoGrowSync: cfg.NoSync, InitialMmapSize: 64 << 20,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("open %s: %w", cfg.Path, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", cfg.Path, err)
	}
	s := &Store{db: db, now: cfg.Now, log: cfg.Log}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.migrate(); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", cfg.Path, err), db.Close())
	}
	return s, nil
}

// Close waits for transactions to end and closes the file.
func (s *Store) Close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close the database: %w", err)
	}
	return nil
}

// Observe calls fn after each transaction that changed something, on the goroutine of the writer: fn must not block and must not start a
// transaction of its own.
func (s *Store) Observe(fn func(Commit)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.observers = append(s.observers, fn)
}

func (s *Store) notify(c Commit) {
	if len(c.Kinds) == 0 {
		return
	}
	s.mu.Lock()
	observers := s.observers
	s.mu.Unlock()
	for _, fn := range observers {
		fn(c)
	}
}

// View runs fn on a consistent state. The Tx, and nothing got from it but copies, may be used until fn returns.
func (s *Store) View(ctx context.Context, fn func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.db.View(func(btx *bolt.Tx) error { return fn(newTx(btx, modeView)) })
}

// Change says who does what to what, for the audit log.
type Change struct {
	Actor  string // identity URI
	Action string // such as image.publish
	Object string // such as lab@3
}

// Update runs fn in a transaction. If fn returns nil and has written something, all of it and an audit entry become durable at once; else
// nothing changes. fn may set the Change's Object as soon as it knows it.
func (s *Store) Update(ctx context.Context, change *Change, fn func(*Tx) error) error {
	return s.write(ctx, modeUpdate, fn, func(tx *Tx) error {
		return tx.appendAudit(change, s.now())
	})
}

// Record is Update for reports (Statuses, ClientReports, Plans, Traces, client events): other tables can be read, not written.
func (s *Store) Record(ctx context.Context, fn func(*Tx) error) error {
	return s.write(ctx, modeRecord, fn, func(*Tx) error { return nil })
}

func (s *Store) write(ctx context.Context, m mode, fn, finish func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var commit Commit
	err := s.db.Update(func(btx *bolt.Tx) error {
		tx := newTx(btx, m)
		if err := fn(tx); err != nil {
			return err
		}
		commit = tx.commit()
		if len(commit.Kinds) == 0 {
			return errNothing
		}
		return finish(tx)
	})
	if errors.Is(err, errNothing) {
		return nil
	}
	if err != nil {
		return err
	}
	s.notify(commit)
	return nil
}

// errNothing rolls back a transaction that wrote nothing.
var errNothing = errors.New("nothing to write")
