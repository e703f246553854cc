package delta

import (
	"context"
	"fmt"

	"golang.org/x/sync/semaphore"
)

// How Options.MemoryBytes is divided: half is lent to groups while they are decoded, five sixteenths are for plaintexts of OLD's
// nested streams (an initrd's is the longest), a sixteenth for groups that are read or wait to be written, and
// the rest for expanded blocks and needed groups.

func decodeMemory(o Options) int64   { return o.memory() / 2 }
func plainsMemory(o Options) int64   { return o.memory() / 16 * 5 }
func outputMemory(o Options) int64   { return o.memory() / 16 }
func oldBlockMemory(o Options) int64 { return o.memory() / 16 }
func newBlockMemory(o Options) int64 { return o.memory() / 32 }
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
		return func() {}, fmt.Errorf("group takes %d bytes of memory, %d are allowed: %w", n, b.limit, ErrLimit)
	}
	if err := b.sem.Acquire(ctx, n); err != nil {
		return func() {}, err
	}
	return func() { b.sem.Release(n) }, nil
}

// tablesMemory is for what comes on top of Options.MemoryBytes in Make: tables of the images, coders.
const tablesMemory = 224 << 20

// MakeHeapLimit and ApplyHeapLimit are the soft limits (runtime/debug.SetMemoryLimit) for a program that calls Make, or Apply or a Receiver, with memoryBytes as
// Options.MemoryBytes and does nothing else. What has been read of long files is given back in large portions: without a limit the collector would let twice as
// much pile up. A receiver needs much less than the setting at any time, so that the setting can be all that its process takes.
func MakeHeapLimit(memoryBytes int64) int64 { return memoryBytes + memoryBytes/4 + tablesMemory }

// ApplyHeapLimit is described with MakeHeapLimit.
func ApplyHeapLimit(memoryBytes int64) int64 { return memoryBytes - memoryBytes/8 }
