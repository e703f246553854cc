// Package state is the satellite's database: the last desired state, the leases (leases.go) and small registries of other rooms. It is the
// only importer of bbolt in the satellite. Identity and images do not live here.
package state

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/ltsp-fleet/ltsp-fleet/satellite/internal/config"
)

// FileName is the database's file in the data directory.
const FileName = "state.db"

// schemaVersion is what this program writes; databases of a newer program are refused.
const schemaVersion = 1

// lockTimeout is how long Open waits for another process to let go of the file.
const lockTimeout = 5 * time.Second

// Errors that can be tested for.
var (
	ErrNotFound = errors.New("not in the database")
	ErrSchema   = errors.New("the database was written by a newer ltsp-satellite")
	ErrLocked   = errors.New("another ltsp-satellite uses the database")
)

var (
	metaBucket    = []byte("meta")
	schemaKey     = []byte("schema")
	desiredKey    = []byte("desired")
	servedBucket  = []byte("served")
	registryNames = []byte("registry/") // prefix of the buckets that Put and ForEach use
)

// Store is an open database. Its methods are safe for concurrent use; each write is durable when the method returns.
type Store struct {
	db *bbolt.DB
}

// Open opens or creates the database file. ErrLocked if another process holds it, ErrSchema if it is from the future.
func Open(path string) (*Store, error) { return open(path, false) }

// OpenReadOnly opens an existing database for reading only.
func OpenReadOnly(path string) (*Store, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return open(path, true)
}

func open(path string, readOnly bool) (*Store, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout, ReadOnly: readOnly, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		if errors.Is(err, bolterrors.ErrTimeout) {
			return nil, fmt.Errorf("open database %s: %w", path, ErrLocked)
		}
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	s := &Store{db: db}
	if readOnly {
		err = db.View(checkSchema)
	} else {
		err = db.Update(prepare)
	}
	if err != nil {
		_ = db.Close()
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	return s, nil
}

func prepare(tx *bbolt.Tx) error {
	if err := checkSchema(tx); err != nil {
		return err
	}
	for _, name := range [][]byte{metaBucket, servedBucket} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return tx.Bucket(metaBucket).Put(schemaKey, binary.BigEndian.AppendUint64(nil, schemaVersion))
}

func checkSchema(tx *bbolt.Tx) error {
	b := tx.Bucket(metaBucket)
	if b == nil {
		return nil
	}
	v := b.Get(schemaKey)
	if v == nil {
		return nil
	}
	if len(v) != 8 || binary.BigEndian.Uint64(v) > schemaVersion {
		return ErrSchema
	}
	return nil
}

// DB returns the database, for the files of this package's users that keep their own buckets (leases).
func (s *Store) DB() *bbolt.DB { return s.db }

// Close closes the database after transactions under way have ended.
func (s *Store) Close() error { return s.db.Close() }

// Desired returns the last desired state, or ErrNotFound.
func (s *Store) Desired() (*config.Desired, error) {
	d := new(config.Desired)
	err := s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(metaBucket)
		if b == nil {
			return ErrNotFound
		}
		text := b.Get(desiredKey)
		if text == nil {
			return ErrNotFound
		}
		return json.Unmarshal(text, d)
	})
	if err != nil {
		return nil, fmt.Errorf("read desired state: %w", err)
	}
	return d, nil
}

// SetDesired replaces the desired state.
func (s *Store) SetDesired(d *config.Desired) error {
	text, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode desired state: %w", err)
	}
	return s.update("store desired state", func(tx *bbolt.Tx) error { return tx.Bucket(metaBucket).Put(desiredKey, text) })
}

func (s *Store) update(what string, fn func(*bbolt.Tx) error) error {
	if err := s.db.Update(fn); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func registryName(bucket string) []byte {
	return append(slices.Clip(registryNames), bucket...)
}

// Put stores value under key in a registry; the bucket is made when missing. Neither bucket nor key may be empty.
func (s *Store) Put(bucket string, key, value []byte) error {
	return s.update("store in "+bucket, func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(registryName(bucket))
		if err != nil {
			return err
		}
		return b.Put(key, value)
	})
}

// Delete removes a key from a registry; a missing one is no error.
func (s *Store) Delete(bucket string, key []byte) error {
	return s.update("delete from "+bucket, func(tx *bbolt.Tx) error {
		b := tx.Bucket(registryName(bucket))
		if b == nil {
			return nil
		}
		return b.Delete(key)
	})
}

// ForEach calls fn for each pair of a registry in the order of the keys. The slices are valid during the call only. The first error
// of fn ends it and is returned. A missing registry is empty.
func (s *Store) ForEach(bucket string, fn func(key, value []byte) error) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(registryName(bucket))
		if b == nil {
			return nil
		}
		return b.ForEach(fn)
	})
}
