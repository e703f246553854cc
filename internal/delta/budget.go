package delta

import (
	"context"
	"fmt"

	"golang.org/x/sync/semaphore"
)

// Options.MemoryBytes is what the whole process may take, with DefaultMemoryBytes in mind: about a tenth of it is for the program
// itself, the tables of the images and the coders of the goroutines; 25/32 are lent to groups while they are encoded or decoded, and to the old
// content that they are compared with; the rest is divided among small caches and queues.

func groupMemory(o Options) int64    { return o.memory() / 32 * 25 }
func plainsMemory(o Options) int64   { return o.memory() / 64 }
func outputMemory(o Options) int64   { return o.memory() / 32 }
func spoolMemory(o Options) int64    { return o.memory() / 64 }
func oldBlockMemory(o Options) int64 { return o.memory() / 64 }
func newBlockMemory(o Options) int64 { return o.memory() / 64 }
func neededMemory(o Options) int64   { return o.memory() / 32 }

// budget lends memory to goroutines that work at the same time.
type budget struct {
	limit int64
	sem   *semaphore.Weighted
}

func newBudget(memory int64) *budget {
	return &budget{limit: memory, sem: semaphore.NewWeighted(memory)}
}

// take waits for n bytes; release gives them back. More than there is at all is ErrLimit.
func (b *budget) take(ctx context.Context, n int64) (release func(), err error) {
	if n > b.limit {
		return func() {}, memoryError(n, b.limit)
	}
	if err := b.sem.Acquire(ctx, n); err != nil {
		return func() {}, err
	}
	return func() { b.sem.Release(n) }, nil
}

func memoryError(n, limit int64) error {
	return fmt.Errorf("group takes %d bytes of memory, %d are allowed: %w", n, limit, ErrLimit)
}

// HeapLimit is the soft limit (runtime/debug.SetMemoryLimit) for a program that calls Make, Apply or a Receiver with memoryBytes as
// Options.MemoryBytes and does nothing else: with it the process takes about memoryBytes. Without a limit the collector would let garbage pile up to as much as is
// in use. An eighth is left for what the collector does not see: the program, the C encoders, and what has not been given back yet.
func HeapLimit(memoryBytes int64) int64 { return memoryBytes / 8 * 7 }
