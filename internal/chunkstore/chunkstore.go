// Package chunkstore keeps chunks by their ID. It knows two places, a directory (Disk) and memory (Memory), behind one contract (Store)
// whose conformance suite is chunkstoretest. It knows nothing of versions or manifests: which chunks are needed is the caller's business.
package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ltsp-fleet/ltsp-fleet/internal/chunk"
)

// Store is a set of chunks. All methods are safe for concurrent use, also for the same ID. They block for as long as the disk does; a
// context that has ended makes them return its error before they begin, it does not break off a single read or write.
type Store interface {
	// Put stores data under id. It returns a *CorruptError, and stores nothing, if data is not what id names, and ErrNoSpace (a
	// *NoSpaceError) if it does not fit. Putting a chunk that is there writes it again, which heals a damaged one, and marks it as used.
	// data is not kept. After Put the chunk survives the end of the process; only after Sync it survives the loss of power.
	Put(ctx context.Context, id chunk.ID, data []byte) error
	// Get returns the bytes of a chunk, verified: in buf if its capacity suffices, else in memory of its own. ErrNotFound if it is not
	// there, *CorruptError if it is there but damaged.
	Get(ctx context.Context, id chunk.ID, buf []byte) ([]byte, error)
	// Has tells for each ID whether the chunk is there, and marks those that are as used now. It does not verify them.
	Has(ctx context.Context, ids []chunk.ID) ([]bool, error)
	// Stat tells about one chunk without marking it as used. ErrNotFound if it is not there.
	Stat(ctx context.Context, id chunk.ID) (Info, error)
	// Delete removes a chunk. That it is not there is no error.
	Delete(ctx context.Context, id chunk.ID) error
	// Walk calls fn for each chunk, in no order. It ends with fn's first error. fn may delete chunks; whether chunks that come or go
	// meanwhile are seen is open.
	Walk(ctx context.Context, fn func(Info) error) error
	// Sync returns when all that was put before survives the loss of power.
	Sync(ctx context.Context) error
}

// Info tells about a stored chunk.
type Info struct {
	ID        chunk.ID
	SizeBytes int64
	// Used is when the chunk was put or asked for by Has last.
	Used time.Time
}

// Errors that can be tested for.
var (
	ErrNotFound = errors.New("chunk not found")
	ErrNoSpace  = errors.New("no space left for chunks")
)

// CorruptError tells of bytes that are not what their ID names: in an upload, or on the disk.
type CorruptError struct {
	ID  chunk.ID
	Err error // what Verify found
}

func (e *CorruptError) Error() string { return fmt.Sprintf("corrupt chunk: %v", e.Err) }

// Unwrap returns the finding.
func (e *CorruptError) Unwrap() error { return e.Err }

// NoSpaceError tells of a full store. It is ErrNoSpace.
type NoSpaceError struct {
	Dir          string
	NeedBytes    uint64 // size of the chunk that did not fit
	FreeBytes    uint64 // what the file system had left for us
	ReserveBytes uint64 // what is kept free for others
}

func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("%v: %s has %d bytes free, %d of them reserved, and needs %d more; free some space or delete versions",
		ErrNoSpace, e.Dir, e.FreeBytes, e.ReserveBytes, e.NeedBytes)
}

// Is makes the error an ErrNoSpace.
func (e *NoSpaceError) Is(target error) bool { return target == ErrNoSpace }

func check(id chunk.ID, data []byte) error {
	if len(data) == 0 || len(data) > chunk.MaxSize {
		return &CorruptError{ID: id, Err: fmt.Errorf("chunk %s: %d bytes, want 1 to %d", id, len(data), chunk.MaxSize)}
	}
	if err := chunk.Verify(id, data); err != nil {
		return &CorruptError{ID: id, Err: err}
	}
	return nil
}
